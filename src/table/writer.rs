//! The one writer: takes in configuration and discovery, publishes generations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::balance::BalancerFactory;
use crate::config::plan::NodePlan;
use crate::model::{Instance, Membership, Rejected, ServiceName, ServiceSnapshot, Trust};

use super::config::{ServiceSpec, Settings, Specs, TableConfig};
use super::gate::Gate;
use super::matcher::Matcher;
use super::members::Maker;
use super::routing_table::{BaseState, RoutingTable};
use super::shard::ShardRings;
use super::swap::{Publisher, TableReader};
use super::upstream::{Left, Upstream};
use super::upstream_map::ShardedMap;

/// Builds the table. There is one, it is not `Clone`, and no request waits for it.
///
/// `configure`, `apply`, `gone` and `trust` only note what is new. `publish` builds what they touched
/// (each service once, however often it was told of) and swaps the table.
#[derive(Debug)]
pub struct TableWriter {
    publisher: Publisher,
    published: Arc<RoutingTable>,
    workers: usize,
    maker: Maker,
    standard: Arc<dyn BalancerFactory>,
    specs: Specs,
    settings: Arc<Settings>,
    matcher: Arc<Matcher>,
    gates: HashMap<NodePlan, Arc<Gate>>,
    bases: ShardedMap<BaseState>,
    /// Whether they differ from what is published.
    bases_changed: bool,
    /// What `publish` has to build.
    pending: BTreeMap<ServiceName, Pending>,
    removals: bool,
    garbage: Garbage,
    /// Services with instances that left.
    departing: BTreeSet<ServiceName>,
    /// Services in which shares grow, and when the next does.
    warming: BTreeMap<ServiceName, u64>,
    /// What routes shard, and its rings.
    sharded: BTreeSet<(ServiceName, u32)>,
    shards: ShardRings,
    /// Whether the rings may have to change.
    regroup: bool,
}

/// What a service becomes.
#[derive(Debug)]
enum Pending {
    Update {
        snapshot: Arc<ServiceSnapshot>,
        /// Its directory is another: nobody in it is who they were.
        fresh: bool,
        /// Its directory had not been listed before: who is in it was there before us.
        first: bool,
    },
    Remove,
}

/// What was replaced, until nobody else holds it: a worker that is last would have to free it.
#[derive(Debug, Default)]
struct Garbage {
    tables: Vec<Arc<RoutingTable>>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Garbage {
    fn collect(&mut self) {
        // Tables first: they hold upstreams.
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        self.upstreams.retain(|upstream| Arc::strong_count(upstream) > 1);
    }
}

impl TableWriter {
    /// An empty table for so many workers, and its reader.
    pub fn new(workers: usize) -> (Self, TableReader) {
        let settings = Arc::new(Settings::nothing());
        let (matcher, bases) = (Arc::<Matcher>::default(), ShardedMap::default());
        let first = Arc::new(RoutingTable {
            generation: 0,
            settings: Arc::clone(&settings),
            matcher: Arc::clone(&matcher),
            upstreams: ShardedMap::default(),
            bases: bases.clone(),
            shards: ShardRings::default(),
            catalogs: Arc::default(),
        });
        let publisher = Publisher::new(Arc::clone(&first));
        let reader = publisher.reader();
        let writer = Self {
            publisher,
            published: first,
            workers,
            maker: Maker { epoch: Instant::now(), next_target: 0, now_ms: 0, first_listing: false },
            standard: Specs::standard(),
            specs: Specs::default(),
            settings,
            matcher,
            gates: HashMap::new(),
            bases,
            bases_changed: false,
            pending: BTreeMap::new(),
            removals: false,
            garbage: Garbage::default(),
            departing: BTreeSet::new(),
            warming: BTreeMap::new(),
            sharded: BTreeSet::new(),
            shards: ShardRings::default(),
            regroup: false,
        };
        (writer, reader)
    }

    /// The time in milliseconds since 1970, by which new instances warm up. Without it they do not.
    pub fn set_time(&mut self, now_ms: u64) {
        self.maker.now_ms = now_ms;
    }

    /// Another reader.
    pub fn reader(&self) -> TableReader {
        self.publisher.reader()
    }

    /// The gates of the barriers that the next configuration's routes have.
    pub fn gates(&mut self, gates: HashMap<NodePlan, Arc<Gate>>) {
        self.gates = gates;
    }

    /// Takes a whole configuration. Returns the services that it does away with, or starts anew in
    /// another place, each with the members that it had.
    ///
    /// A service that still reads the same directory keeps its members, and their endpoints their
    /// state; only what its configuration changes is made anew.
    pub fn configure(&mut self, config: TableConfig) -> Vec<(ServiceName, Membership)> {
        let TableConfig { settings, services, catalogs, routes, deny, balancers } = config;
        let specs = Specs::new(services, catalogs, &deny, &balancers, &self.standard);
        self.bases = self.next_bases(&specs);
        self.bases_changed = true;
        let old = std::mem::replace(&mut self.specs, specs);
        self.settings = Arc::new(settings);
        self.sharded = ShardRings::wanted(&routes);
        self.regroup = true;
        self.matcher = Arc::new(Matcher::gated(routes, &self.gates, &self.matcher));
        let mut names: BTreeSet<ServiceName> = self.specs.services.keys().cloned().collect();
        names.extend(self.published.upstreams.iter().map(|(name, _)| name.clone()));
        names.extend(self.pending.keys().cloned());
        let mut gone = Vec::new();
        for name in names {
            let (before, after) = (old.of(&name), self.specs.of(&name));
            let Some(after) = after else {
                gone.extend(self.remove(&name).map(|members| (name, members)));
                continue;
            };
            let same_place = before.as_ref().is_some_and(|before| before.same_place(&after));
            if before.as_deref() == Some(&*after) && self.current(&name).is_some() {
                continue;
            }
            match self.current(&name) {
                Some(snapshot) if same_place => self.update(name, snapshot, false),
                // The child of a catalog that now means another directory is not known there yet.
                Some(_) if after.base != after.name => {
                    gone.extend(self.remove(&name).map(|members| (name, members)));
                }
                Some(snapshot) => {
                    self.update(name.clone(), Arc::default(), true);
                    gone.push((name, snapshot.diff(&ServiceSnapshot::default())));
                }
                None => self.update(name, Arc::default(), true),
            }
        }
        gone
    }

    fn next_bases(&self, specs: &Specs) -> ShardedMap<BaseState> {
        let state = |spec: &Arc<ServiceSpec>| {
            let catalog = specs.catalogs.contains_key(&spec.name);
            let before = if catalog { &*self.specs.catalogs } else { &self.specs.services }.get(&spec.name);
            let kept = before
                .filter(|before| before.same_place(spec))
                .and_then(|_| self.bases.get(spec.name.as_str()));
            let kept = kept.filter(|state| state.catalog == catalog).cloned();
            let rejected = Arc::default();
            let unknown = BaseState { listed: false, trust: Trust::Stale, reason: None, catalog, rejected };
            (spec.name.clone(), kept.unwrap_or(unknown))
        };
        let mut bases = ShardedMap::default();
        for (name, state) in specs.bases().map(state) {
            bases.insert(name, state);
        }
        bases
    }

    /// A service's members are these now. Returns what that changes; for a service that nobody
    /// configured, nothing.
    pub fn apply(&mut self, service: &ServiceName, snapshot: Arc<ServiceSnapshot>) -> Membership {
        if !self.specs.knows(service) {
            return Membership::default();
        }
        let current = self.current(service);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &snapshot) || **current == *snapshot) {
            return Membership::default();
        }
        let primary = current.as_ref().map(|current| current.primary.clone());
        let membership = current.unwrap_or_default().diff(&snapshot);
        self.removals |= takes_away(&membership);
        // Who is not the primary any more must not be taken for it any longer.
        self.removals |= primary.is_some_and(|primary| primary != snapshot.primary);
        self.update(service.clone(), snapshot, false);
        self.forget_if_back(service);
        membership
    }

    /// What went and came back before anybody saw it is no change.
    fn forget_if_back(&mut self, service: &ServiceName) {
        if let Some(Pending::Update { snapshot, fresh: false, .. }) = self.pending.get(service)
            && let Some(published) = self.published.upstream(service.as_str())
            && published.snapshot() == snapshot
            && self.specs.of(service).as_ref() == Some(published.spec())
        {
            self.pending.remove(service);
        }
    }

    /// A catalog's child is gone. (A configured service is merely empty then.)
    pub fn gone(&mut self, service: &ServiceName) -> Membership {
        if self.specs.services.contains_key(service) {
            return self.apply(service, Arc::default());
        }
        self.remove(service).unwrap_or_default()
    }

    /// Whether a configured service, or a catalog with all its children, is what its registry holds.
    /// `Live` also says that it has been listed. Returns whether that is news.
    pub fn trust(&mut self, base: &ServiceName, trust: Trust, reason: Option<Arc<str>>) -> bool {
        let Some(before) = self.bases.get(base.as_str()) else { return false };
        let listed = before.listed || trust == Trust::Live;
        let rejected = Arc::clone(&before.rejected);
        let after = BaseState { listed, trust, reason, catalog: before.catalog, rejected };
        let news = after != *before;
        if news {
            self.bases.insert(base.clone(), after);
            self.bases_changed = true;
        }
        news
    }

    /// Directories of a catalog that are no services, sorted by path below its root.
    pub fn reject(&mut self, catalog: &ServiceName, rejected: Arc<[Rejected]>) {
        if let Some(state) =
            self.bases.get(catalog.as_str()).filter(|state| state.rejected != rejected).cloned()
        {
            self.bases.insert(catalog.clone(), BaseState { rejected, ..state });
            self.bases_changed = true;
        }
    }

    /// A base that was believed is not any more, until it is told of again.
    pub fn unsure(&mut self, base: &ServiceName, reason: &str) {
        if self.bases.get(base.as_str()).is_some_and(|state| state.trust == Trust::Live) {
            self.trust(base, Trust::Stale, Some(reason.into()));
        }
    }

    /// Whether a service's base was listed at some time.
    pub fn is_listed(&self, service: &ServiceName) -> bool {
        let base = service.as_str().split('/').next().unwrap_or_default();
        self.bases.get(base).is_some_and(|state| state.listed)
    }

    /// The services of a catalog, published or about to be.
    pub fn children(&self, catalog: &ServiceName) -> Vec<ServiceName> {
        let published = self.published.upstreams.iter().map(|(name, _)| name);
        let pending = self.pending.iter().filter(|(_, p)| matches!(p, Pending::Update { .. }));
        let of = |name: &&ServiceName| {
            name.as_str().split_once('/').is_some_and(|(base, _)| base == catalog.as_str())
                && !matches!(self.pending.get(*name), Some(Pending::Remove))
        };
        let children: BTreeSet<_> = published.chain(pending.map(|(name, _)| name)).filter(of).collect();
        children.into_iter().cloned().collect()
    }

    /// A base's members come from a snapshot on disk: it counts as listed, though it is stale.
    pub fn restored(&mut self, base: &ServiceName) {
        if let Some(state) = self.bases.get(base.as_str()).filter(|state| !state.listed).cloned() {
            self.bases.insert(base.clone(), BaseState { listed: true, ..state });
            self.bases_changed = true;
        }
    }

    /// Whether something that is not published yet takes an address out of rotation: don't wait.
    pub fn has_removals(&self) -> bool {
        self.removals
    }

    /// Whether anything is not published yet.
    pub fn has_changes(&self) -> bool {
        !self.pending.is_empty()
            || self.bases_changed
            || !Arc::ptr_eq(&self.settings, &self.published.settings)
    }

    /// Publishes what is new: true where anything was. The next load on any worker sees it.
    ///
    /// Instances that are gone are out of rotation before anything is built, in the table that is in use.
    pub fn publish(&mut self) -> bool {
        if std::mem::take(&mut self.removals) {
            self.bury();
        }
        if !self.has_changes() {
            return false;
        }
        let mut upstreams = self.published.upstreams.clone();
        let mut left = Left::default();
        for (name, pending) in std::mem::take(&mut self.pending) {
            let spec = self.specs.of(&name);
            let before = upstreams.get(name.as_str()).cloned();
            let (Pending::Update { snapshot, fresh, first }, Some(spec)) = (pending, spec) else {
                self.warming.remove(&name);
                self.regroup = true;
                upstreams.remove(name.as_str());
                self.departing.remove(&name);
                left.retired.extend(before.iter().flat_map(|before| before.endpoints().iter().cloned()));
                self.garbage.upstreams.extend(before);
                continue;
            };
            self.maker.first_listing = first;
            let next = self.build(before.as_deref(), spec, snapshot, fresh, &mut left);
            if next.has_departed() {
                self.departing.insert(name.clone());
            } else {
                self.departing.remove(&name);
            }
            self.warms(&next);
            self.regroup |= before.is_none();
            upstreams.insert(name, Arc::new(next));
            self.garbage.upstreams.extend(before);
        }
        if std::mem::take(&mut self.regroup) {
            self.shards = self.shards.next(&self.sharded, &upstreams);
        }
        self.swap(upstreams);
        // Only now: until the swap they were the way to go.
        left.settle();
        true
    }

    /// A service in another place, or none any more, waits for the table that says where its requests go now.
    fn bury(&self) {
        for (name, pending) in &self.pending {
            if let Pending::Update { snapshot, fresh: false, .. } = pending
                && let Some(upstream) = self.published.upstream(name.as_str())
                // A primary and its successor change in one step: between them would be nobody.
                && (snapshot.primary.is_none() || snapshot.primary == upstream.snapshot().primary)
            {
                upstream.bury(snapshot);
            }
        }
    }

    fn build(
        &mut self,
        before: Option<&Upstream>,
        spec: Arc<ServiceSpec>,
        snapshot: Arc<ServiceSnapshot>,
        fresh: bool,
        left: &mut Left,
    ) -> Upstream {
        let Some(before) = before else {
            let empty = Upstream::empty(Arc::clone(&spec), self.workers, &mut self.maker);
            // Nothing is known of it yet: that is no change of it.
            return if *snapshot == ServiceSnapshot::default() {
                empty
            } else {
                empty.next(spec, snapshot, false, &mut self.maker, left)
            };
        };
        let spec = if **before.spec() == *spec { Arc::clone(before.spec()) } else { spec };
        before.next(spec, snapshot, fresh, &mut self.maker, left)
    }

    fn swap(&mut self, upstreams: ShardedMap<Arc<Upstream>>) {
        self.bases_changed = false;
        self.published = Arc::new(RoutingTable {
            generation: self.published.generation + 1,
            settings: Arc::clone(&self.settings),
            matcher: Arc::clone(&self.matcher),
            upstreams,
            bases: self.bases.clone(),
            shards: self.shards.clone(),
            catalogs: Arc::clone(&self.specs.catalogs),
        });
        let old = self.publisher.publish(Arc::clone(&self.published));
        self.garbage.tables.push(old);
        self.garbage.collect();
    }

    /// Housekeeping, to be called every second or so: instances that left and have nothing open any
    /// more go, and so do tables that nobody reads. True where that made a new generation.
    pub fn sweep(&mut self) -> bool {
        self.garbage.collect();
        let upstreams = self.departing.iter().filter_map(|name| self.published.upstream(name.as_str()));
        let swept: Vec<Upstream> = upstreams.filter_map(|upstream| upstream.swept()).collect();
        // What is new waits for its `publish`, and this with it.
        if swept.is_empty() || self.has_changes() {
            return false;
        }
        let mut upstreams = self.published.upstreams.clone();
        for next in swept {
            if !next.has_departed() {
                self.departing.remove(next.name().as_str());
            }
            self.garbage.upstreams.extend(upstreams.insert(next.name().clone(), Arc::new(next)));
        }
        self.swap(upstreams);
        true
    }

    /// Lets shares grow whose time has come, to be called every second or so. True where that made a new
    /// generation. What is new waits for its `publish`, and this with it.
    pub fn warm(&mut self, now_ms: u64) -> bool {
        self.set_time(now_ms);
        let due = |(name, at): (&ServiceName, &u64)| (*at <= now_ms).then(|| name.clone());
        let due: Vec<ServiceName> = self.warming.iter().filter_map(due).collect();
        if due.is_empty() || self.has_changes() {
            return false;
        }
        let mut upstreams = self.published.upstreams.clone();
        for name in due {
            let Some(before) = self.published.upstream(name.as_str()) else { continue };
            let next = before.warmed(&self.maker);
            self.warms(&next);
            self.garbage.upstreams.extend(upstreams.insert(name, Arc::new(next)));
        }
        self.swap(upstreams);
        true
    }

    /// Notes when a service's shares grow next.
    fn warms(&mut self, upstream: &Upstream) {
        match upstream.warms_at(self.maker.now_ms) {
            Some(at) => _ = self.warming.insert(upstream.name().clone(), at),
            None => _ = self.warming.remove(upstream.name()),
        }
    }

    /// How many old tables somebody still holds.
    pub fn old_generations(&self) -> usize {
        self.garbage.tables.len()
    }

    /// A service's members, published or about to be.
    fn current(&self, service: &ServiceName) -> Option<Arc<ServiceSnapshot>> {
        match self.pending.get(service) {
            Some(Pending::Update { snapshot, .. }) => Some(Arc::clone(snapshot)),
            Some(Pending::Remove) => None,
            None => self.published.upstream(service.as_str()).map(|u| Arc::clone(u.snapshot())),
        }
    }

    fn update(&mut self, service: ServiceName, snapshot: Arc<ServiceSnapshot>, fresh: bool) {
        let first = !self.is_listed(&service)
            || matches!(self.pending.get(&service), Some(Pending::Update { first: true, .. }));
        let fresh = fresh
            || match self.pending.get(&service) {
                Some(Pending::Update { fresh, .. }) => *fresh,
                Some(Pending::Remove) => true,
                None => false,
            };
        self.removals |= fresh && self.published.upstream(service.as_str()).is_some();
        self.pending.insert(service, Pending::Update { snapshot, fresh, first });
    }

    fn remove(&mut self, service: &ServiceName) -> Option<Membership> {
        let removed: Vec<Arc<Instance>> = self.current(service)?.instances.clone();
        if self.published.upstream(service.as_str()).is_some() {
            self.removals = true;
            self.pending.insert(service.clone(), Pending::Remove);
        } else {
            self.pending.remove(service);
        }
        Some(Membership { removed, ..Membership::default() })
    }
}

/// Whether somebody may get no more requests, or fewer.
fn takes_away(membership: &Membership) -> bool {
    let lost = |(old, new): &(Arc<Instance>, Arc<Instance>)| {
        old.address != new.address || (old.enabled && !new.enabled) || new.weight < old.weight
    };
    !membership.removed.is_empty() || membership.changed.iter().any(lost)
}
