//! From discovery to the table: one task that owns the only writer.
//!
//! Removals are published the moment they are handled. So are additions, unless they come in a burst: then they are
//! gathered for a few milliseconds.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::barriers::Barriers;
use super::descriptors;
use super::elections::Elections;
use super::journal::{Journal, Told};
use super::limbo::{Limbo, Turn};
use super::registries::{Registries, RegistryChange};
use super::snapshots::{Restored, Snapshots};
use super::status::RegistryStatus;
use crate::balance::BalancerFactory;
use crate::config::plan::Plan;
use crate::model::{Cause, Membership, RegistryName, ServiceName, Source, Trust};
use crate::registry::Change;
use crate::table::{TableConfig, TableWriter};
use crate::telemetry::Metrics;

/// The least time between two tables that hold nothing but additions.
const GATHER: Duration = Duration::from_millis(3);
/// Changes applied before a publication at the most, so that a flood is seen while it lasts.
const BATCH: usize = 4096;
/// How often departed endpoints are looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// What the pump is told from outside.
#[derive(Debug)]
pub(super) enum Order {
    /// Put a plan in force; answered when its table is published.
    Configure(Arc<Plan>, oneshot::Sender<()>),
}

/// The pump's parts.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) writer: TableWriter,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: Arc<RegistryStatus>,
    /// Policies of the embedding program.
    pub(super) balancers: HashMap<ServiceName, Arc<dyn BalancerFactory>>,
    /// Sockets of ours that no registration may lead to.
    pub(super) own: Vec<SocketAddr>,
    pub(super) snapshots: Snapshots,
    pub(super) journal: Journal,
    /// Nodes that hold routes back.
    pub(super) barriers: Barriers,
    /// Elections that name primaries.
    pub(super) elections: Elections,
    /// Holds instances that vanish in a mass.
    pub(super) limbo: Limbo,
}

impl Pump {
    /// Runs until the orders end. The first order must come at once: there is no table before it.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let (mut registries, mut changes) = Registries::new();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut pending = Pending::default();
        self.writer.set_time(unix_ms());
        loop {
            let gathered = pending.due.map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Configure(plan, done)) => {
                        self.configure(&plan, &mut registries, &mut pending);
                        let _ = done.send(());
                    }
                    None => {
                        self.snapshots.finish(&self.writer).await;
                        return;
                    }
                },
                Some(change) = changes.recv() => {
                    self.take(change, &mut changes, &registries, &mut pending);
                }
                () = sleep_until(gathered) => self.publish(&mut pending),
                probed = self.limbo.wait() => {
                    let (table, now) = (self.writer.reader().load(), Instant::now());
                    let turns = self.limbo.turn(probed, &table, now);
                    drop(table);
                    self.hold(turns, now, &mut pending);
                }
                _ = sweep.tick() => {
                    self.writer.sweep();
                    self.writer.warm(unix_ms());
                    let now = Instant::now();
                    self.restore(now, &mut pending);
                    self.snapshots.settle(now).await;
                    self.snapshots.write_due(&self.writer, now);
                }
            }
        }
    }

    fn configure(&mut self, plan: &Plan, registries: &mut Registries, pending: &mut Pending) {
        let mut config = TableConfig::new(plan, &self.own);
        config.balancers.clone_from(&self.balancers);
        descriptors::limit(&mut config.settings.limits, plan.gateway.workers);
        let before = self.writer.reader().load();
        self.writer.gates(self.barriers.configure(plan));
        for (service, membership) in self.writer.configure(config) {
            if let Some(upstream) = before.upstream(service.as_str()) {
                let registry = &upstream.spec().registry;
                self.count(registry, &service, &membership, Cause::Configuration, Instant::now());
            }
        }
        drop(before);
        let begun = registries.configure(plan, &self.own);
        self.status.keep(plan, &begun);
        self.snapshots.configure(plan, &self.own, &begun, Instant::now());
        self.elections.configure(plan);
        pending.first_listings.retain(|catalog, _| plan.catalogs.iter().any(|c| c.name == *catalog));
        for (_, base) in begun.bases {
            let reason = "not listed since the configuration was read";
            self.writer.unsure(&base.name, reason);
            if base.catalog {
                pending.first_listings.insert(base.name, HashSet::new());
            }
        }
        self.publish(pending);
        // Guards begin with what is published.
        let table = self.writer.reader().load();
        let turns = self.limbo.configure(plan, &table);
        drop(table);
        self.hold(turns, Instant::now(), pending);
    }

    fn take(
        &mut self,
        first: RegistryChange,
        more: &mut mpsc::Receiver<RegistryChange>,
        registries: &Registries,
        pending: &mut Pending,
    ) {
        self.writer.set_time(unix_ms());
        let mut next = Some(first);
        let mut applied = 0;
        while let Some(from) = next {
            if registries.is_current(&from) {
                self.apply(from, pending);
            }
            if self.writer.has_removals() {
                // Nobody may pick what left any longer than it takes to say so.
                self.publish(pending);
            }
            applied += 1;
            next = if applied < BATCH { more.try_recv().ok() } else { None };
        }
        if !self.writer.has_changes() && pending.received.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = *pending.due.get_or_insert_with(|| pending.published.map_or(now, |last| last + GATHER));
        if due <= now {
            self.publish(pending);
        }
    }

    fn apply(&mut self, from: RegistryChange, pending: &mut Pending) {
        match from.change {
            Change::Updated { service, snapshot, received, source } => {
                self.snapshots.touch(&from.registry, Instant::now());
                let snapshot = self.limbo.told(&service, snapshot, Instant::now());
                let snapshot = self.elections.members(&service, snapshot);
                let membership = self.writer.apply(&service, snapshot);
                self.count(&from.registry, &service, &membership, source, received);
                pending.received.push(received);
                pending.told(service);
            }
            Change::Leader { base, leader, received } => {
                if let Some((service, snapshot)) = self.elections.leader(&base, leader) {
                    tracing::info!(%service, primary = snapshot.primary.as_deref(), "another leads");
                    self.writer.apply(&service, snapshot);
                    pending.received.push(received);
                }
            }
            Change::Refused { catalog, rejected } => self.writer.reject(&catalog, rejected),
            Change::Gone { service, received, source } => {
                self.snapshots.touch(&from.registry, Instant::now());
                self.gone(&from.registry, &service, source, received);
                pending.received.push(received);
            }
            Change::Trust { base, trust, reason } => {
                match trust {
                    Trust::Live => {
                        self.forget_untold(&from.registry, &base, pending);
                        self.snapshots.listed(&from.registry, &base);
                    }
                    Trust::Stale => self.snapshots.doubted(&from.registry, &base, Instant::now()),
                }
                self.status.trust(&from.registry, &base, trust, reason.as_deref());
                self.writer.trust(&base, trust, reason);
            }
            Change::Drift { base: _, nodes } => self.status.drift(&from.registry, nodes),
            Change::Link { connected, session_losses } => {
                self.status.link(&from.registry, connected, session_losses);
            }
        }
    }

    /// Serves from the snapshot what its registry has not listed in time.
    fn restore(&mut self, now: Instant, pending: &mut Pending) {
        let restored = self.snapshots.overdue(now);
        if restored.is_empty() {
            return;
        }
        for Restored { registry, base, written, services } in restored {
            let count: usize = services.iter().map(|(_, snapshot)| snapshot.instances.len()).sum();
            for (service, snapshot) in services {
                let snapshot = self.limbo.told(&service, snapshot, now);
                let membership = self.writer.apply(&service, snapshot);
                self.count(&registry, &service, &membership, Cause::Snapshot, now);
            }
            self.writer.restored(&base);
            let age = written.elapsed().unwrap_or_default();
            let reason =
                format!("from the snapshot, {} s old; the registry has not answered since", age.as_secs());
            self.writer.trust(&base, Trust::Stale, Some(reason.into()));
            self.status.restored(&registry, age);
            let age = format_args!("{} s", age.as_secs());
            tracing::warn!(%registry, %base, instances = count, %age, "served from the snapshot until the registry answers");
        }
        self.publish(pending);
    }

    fn gone(&mut self, registry: &RegistryName, service: &ServiceName, source: Source, received: Instant) {
        let membership = match self.limbo.gone(service, Instant::now()) {
            Some(held) => self.writer.apply(service, held),
            None => self.writer.gone(service),
        };
        self.count(registry, service, &membership, source, received);
    }

    /// Publishes what becomes of those in limbo.
    fn hold(&mut self, turns: Vec<Turn>, now: Instant, pending: &mut Pending) {
        if turns.is_empty() {
            return;
        }
        for Turn { service, snapshot } in turns {
            let before = self.writer.reader().load();
            let Some(upstream) = before.upstream(service.as_str()) else { continue };
            let membership = match snapshot {
                Some(snapshot) => {
                    let snapshot = self.elections.members(&service, snapshot);
                    self.writer.apply(&service, snapshot)
                }
                None => self.writer.gone(&service),
            };
            self.count(&upstream.spec().registry, &service, &membership, Cause::Guard, now);
        }
        self.publish(pending);
    }

    /// A catalog that is watched anew knows nothing of the children that its watch before had told: those that its
    /// first whole listing does not have are gone.
    fn forget_untold(&mut self, registry: &RegistryName, catalog: &ServiceName, pending: &mut Pending) {
        let Some(told) = pending.first_listings.remove(catalog) else { return };
        for child in self.writer.children(catalog) {
            if !told.contains(&child) {
                self.gone(registry, &child, Source::Listing, Instant::now());
            }
        }
    }

    fn count(
        &mut self,
        registry: &RegistryName,
        service: &ServiceName,
        membership: &Membership,
        cause: impl Into<Told>,
        received: Instant,
    ) {
        let cause = match cause.into() {
            Told::Listing if !self.writer.is_listed(service) => Told::Because(Cause::Listing),
            other => other,
        };
        self.journal.note(registry, service, membership, cause, received);
        let name = service.as_str();
        self.metrics.membership_change(name, "added", membership.added.len());
        self.metrics.membership_change(name, "removed", membership.removed.len());
        self.metrics.membership_change(name, "changed", membership.changed.len());
        if membership.is_empty() {
            return;
        }
        let [added, removed, changed] =
            [membership.added.len(), membership.removed.len(), membership.changed.len()];
        if self.writer.is_listed(service) {
            tracing::info!(service = name, added, removed, changed, "membership changed");
        } else {
            // A first listing may be of ten thousand services: no news, each of them.
            tracing::debug!(service = name, added, removed, changed, "first members");
        }
    }

    fn publish(&mut self, pending: &mut Pending) {
        if self.writer.publish() {
            self.metrics.table_generation(self.writer.reader().load().generation());
        }
        let now = Instant::now();
        self.journal.published(now);
        for received in pending.received.drain(..) {
            self.metrics.membership_published(now.saturating_duration_since(received));
        }
        pending.due = None;
        pending.published = Some(now);
    }
}

/// What is applied but not yet published.
#[derive(Debug, Default)]
struct Pending {
    /// When it is to be published at the latest.
    due: Option<Instant>,
    /// The last publication.
    published: Option<Instant>,
    received: Vec<Instant>,
    /// Catalogs that were not listed since they are watched, with the children told so far.
    first_listings: HashMap<ServiceName, HashSet<ServiceName>>,
}

impl Pending {
    fn told(&mut self, service: ServiceName) {
        // Empty but after a start or a reload.
        if !self.first_listings.is_empty()
            && let Some((catalog, _)) = service.as_str().split_once('/')
            && let Some(told) = self.first_listings.get_mut(catalog)
        {
            told.insert(service);
        }
    }
}

/// Milliseconds since 1970, as registrations tell time.
pub(super) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
