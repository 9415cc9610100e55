//! Snapshots on disk: when they are written, and when one is used.
//!
//! A change is on disk once there was none for a second, and under endless changes every five. A start that gets no
//! answer from its registry for a second serves what the file holds, until there is one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use super::registries::{Begun, bases_of};
use crate::config::plan::{Plan, RegistryKind, RegistryPlan};
use crate::model::{DenyList, Host, RegistryName, ServiceName, ServiceSnapshot};
use crate::registry::snapshot::{self, Stored, StoredBase};
use crate::table::{RoutingTable, TableWriter};

/// Without a change for so long, what changed is written.
const QUIET: Duration = Duration::from_secs(1);
/// Changes that do not end are written this often.
const AT_LEAST: Duration = Duration::from_secs(5);
/// A registry that has not listed a base by then is served from its snapshot.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(10);

/// The snapshots of every registry that keeps one.
#[derive(Debug, Default)]
pub(super) struct Snapshots(BTreeMap<RegistryName, Keeper>);

/// A base that is to be served from a snapshot.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) registry: RegistryName,
    pub(super) base: ServiceName,
    pub(super) written: SystemTime,
    pub(super) services: Vec<(ServiceName, Arc<ServiceSnapshot>)>,
}

#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    origin: String,
    deny: Arc<DenyList>,
    /// How each base is read now.
    readings: HashMap<ServiceName, String>,
    /// What the file held of bases that have not been listed since.
    unused: BTreeMap<ServiceName, StoredBase>,
    written: SystemTime,
    /// Bases that wait for their registry, each with the end of our patience.
    waiting: HashMap<ServiceName, Instant>,
    /// The first and the last change that is not on disk.
    changed: Option<(Instant, Instant)>,
    writing: Option<JoinHandle<bool>>,
    not_before: Option<Instant>,
}

impl Snapshots {
    /// Takes a plan over. Reads the files of registries that are new, which blocks for as long as that takes.
    pub(super) fn configure(
        &mut self,
        plan: &Plan,
        own: &[std::net::SocketAddr],
        begun: &Begun,
        now: Instant,
    ) {
        let mut old = std::mem::take(&mut self.0);
        for registry in &plan.registries {
            let Some(path) = &registry.snapshot else { continue };
            let origin = origin(registry);
            let mut keeper = match old.remove(&registry.name) {
                Some(keeper) if keeper.path == *path && keeper.origin == origin => keeper,
                _ => Keeper::open(path, origin),
            };
            keeper.deny = Arc::new(DenyList::new(registry.deny.clone(), own.to_vec()));
            let bases = bases_of(plan, registry, own);
            keeper.readings = bases.iter().map(|base| (base.name.clone(), snapshot::reading(base))).collect();
            keeper.unused.retain(|name, stored| keeper.readings.get(name) == Some(&stored.reading));
            keeper.waiting.retain(|name, _| keeper.unused.contains_key(name));
            for (_, base) in begun.bases.iter().filter(|(of, _)| *of == registry.name) {
                if keeper.unused.contains_key(&base.name) {
                    keeper.waiting.insert(base.name.clone(), now + PATIENCE);
                }
            }
            // What is configured is part of what is kept.
            keeper.touch(now);
            self.0.insert(registry.name.clone(), keeper);
        }
    }

    /// Something of this registry changed.
    pub(super) fn touch(&mut self, registry: &RegistryName, now: Instant) {
        if let Some(keeper) = self.0.get_mut(registry) {
            keeper.touch(now);
        }
    }

    /// A base has been listed: what the file held of it is of the past.
    pub(super) fn listed(&mut self, registry: &RegistryName, base: &ServiceName) {
        if let Some(keeper) = self.0.get_mut(registry) {
            keeper.waiting.remove(base);
            keeper.unused.remove(base);
        }
    }

    /// The registry has said that it cannot list this base: no use in waiting for it.
    pub(super) fn doubted(&mut self, registry: &RegistryName, base: &ServiceName, now: Instant) {
        if let Some(end) = self.0.get_mut(registry).and_then(|keeper| keeper.waiting.get_mut(base)) {
            *end = (*end).min(now);
        }
    }

    /// The bases that have waited long enough, each once.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Restored> {
        let mut out = Vec::new();
        for (registry, keeper) in &mut self.0 {
            let due: Vec<_> = keeper.waiting.extract_if(|_, end| *end <= now).map(|(name, _)| name).collect();
            for base in due {
                // It stays in `unused`: until the registry answers, it is what is known, and is written again.
                let Some(stored) = keeper.unused.get(&base) else { continue };
                let services = stored
                    .services
                    .iter()
                    .map(|(service, snapshot)| (service.clone(), without_denied(snapshot, &keeper.deny)));
                let services = services.collect();
                out.push(Restored { registry: registry.clone(), base, written: keeper.written, services });
            }
        }
        out
    }

    /// Writes what is due, off this thread.
    pub(super) fn write_due(&mut self, writer: &TableWriter, now: Instant) {
        for (registry, keeper) in &mut self.0 {
            if keeper.is_due(now) {
                let (path, origin) = (keeper.path.clone(), keeper.origin.clone());
                let stored = keeper.collect(registry, &writer.reader().load());
                keeper.changed = None;
                keeper.writing = Some(tokio::task::spawn_blocking(move || save(&path, &origin, &stored)));
            }
        }
    }

    /// Takes in how writes have ended.
    pub(super) async fn settle(&mut self, now: Instant) {
        for keeper in self.0.values_mut() {
            if keeper.writing.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(write) = keeper.writing.take()
                && !write.await.unwrap_or(false)
            {
                keeper.not_before = Some(now + RETRY);
                keeper.touch(now);
            }
        }
    }

    /// Writes what is not on disk yet, now: the gateway ends.
    pub(super) async fn finish(&mut self, writer: &TableWriter) {
        for (registry, keeper) in &mut self.0 {
            let unfinished = match keeper.writing.take() {
                Some(write) => !write.await.unwrap_or(false),
                None => false,
            };
            if keeper.changed.is_some() || unfinished {
                let stored = keeper.collect(registry, &writer.reader().load());
                if !stored.bases.is_empty() {
                    save(&keeper.path, &keeper.origin, &stored);
                }
            }
        }
    }
}

impl Keeper {
    fn open(path: &Path, origin: String) -> Self {
        let mut keeper = Self {
            path: path.to_owned(),
            origin,
            deny: Arc::default(),
            readings: HashMap::new(),
            unused: BTreeMap::new(),
            written: SystemTime::now(),
            waiting: HashMap::new(),
            changed: None,
            writing: None,
            not_before: None,
        };
        match snapshot::read(path, &keeper.origin) {
            Ok(None) => {}
            Ok(Some(stored)) => {
                keeper.written = stored.written;
                keeper.unused = stored.bases.into_iter().map(|base| (base.name.clone(), base)).collect();
            }
            Err(error) => {
                let path = path.display();
                match snapshot::set_aside(&keeper.path) {
                    Ok(aside) => {
                        let aside = aside.display();
                        tracing::warn!(%path, %error, %aside, "snapshot refused and set aside; it is not used");
                    }
                    Err(stays) => tracing::warn!(%path, %error, %stays, "snapshot refused; it is not used"),
                }
            }
        }
        keeper
    }

    fn touch(&mut self, now: Instant) {
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some((first, last)) = self.changed else { return false };
        self.writing.is_none()
            && self.not_before.is_none_or(|not_before| now >= not_before)
            && (now.saturating_duration_since(last) >= QUIET
                || now.saturating_duration_since(first) >= AT_LEAST)
    }

    /// What the registry holds as far as is known: of bases that have not been listed, what the file held.
    fn collect(&self, registry: &RegistryName, table: &RoutingTable) -> Stored {
        let mut bases: BTreeMap<ServiceName, StoredBase> = self.unused.clone();
        for (name, reading) in &self.readings {
            // An empty catalog is known to be empty: that is worth keeping, too.
            if !self.unused.contains_key(name) && table.base_is_listed(name) {
                let (name, reading) = (name.clone(), reading.clone());
                bases.insert(name.clone(), StoredBase { name, reading, services: Vec::new() });
            }
        }
        for upstream in table.upstreams().filter(|upstream| upstream.spec().registry == *registry) {
            let base = &upstream.spec().base;
            if !self.unused.contains_key(base)
                && let Some(stored) = bases.get_mut(base)
            {
                stored.services.push((upstream.name().clone(), without_held(upstream.snapshot())));
            }
        }
        for base in bases.values_mut() {
            base.services.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let instances = bases.values().flat_map(|b| &b.services).flat_map(|(_, s)| &s.instances);
        let zxid = if self.origin.starts_with("zookeeper ") {
            instances.map(|instance| instance.id.incarnation.0).max().unwrap_or(0)
        } else {
            0
        };
        Stored { written: SystemTime::now(), zxid, bases: bases.into_values().collect() }
    }
}

/// Writes, and tells where that fails. Blocks.
fn save(path: &Path, origin: &str, stored: &Stored) -> bool {
    match snapshot::write(path, origin, stored) {
        Ok(()) => true,
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot write the snapshot; create its folder or give permission");
            false
        }
    }
}

/// What a registry is, for its snapshot: never with credentials.
fn origin(registry: &RegistryPlan) -> String {
    match &registry.kind {
        RegistryKind::ZooKeeper { connect, .. } => format!("zookeeper {connect}"),
        RegistryKind::Directory { path } => format!("directory {}", path.display()),
    }
}

/// Who is in limbo is not registered: a start does not know whether it answers.
fn without_held(snapshot: &Arc<ServiceSnapshot>) -> Arc<ServiceSnapshot> {
    if !snapshot.instances.iter().any(|instance| instance.facts.limbo) {
        return Arc::clone(snapshot);
    }
    let mut kept = ServiceSnapshot::clone(snapshot);
    kept.instances.retain(|instance| !instance.facts.limbo);
    Arc::new(kept)
}

/// A configuration may deny today what it allowed when the snapshot was written.
fn without_denied(snapshot: &Arc<ServiceSnapshot>, deny: &DenyList) -> Arc<ServiceSnapshot> {
    let denied = |address: &crate::model::Address| match address.host {
        Host::Ip(ip) => deny.denies(ip, address.port).is_some(),
        Host::Name(_) => false,
    };
    if !snapshot.instances.iter().any(|instance| denied(&instance.address)) {
        return Arc::clone(snapshot);
    }
    let mut kept = ServiceSnapshot::clone(snapshot);
    kept.instances.retain(|instance| !denied(&instance.address));
    Arc::new(kept)
}
