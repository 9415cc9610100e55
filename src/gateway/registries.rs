//! The registries of a plan as running discoveries: started, told of new bases, stopped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::plan::{Credential, Plan, RegistryKind, RegistryPlan};
use crate::model::{DenyList, PrimaryRule, RegistryName, ServiceName};
use crate::registry::directory::Directory;
use crate::registry::zookeeper::{ConnectOptions, ZooKeeper};
use crate::registry::{Base, Change, Discovery};

/// Changes that may wait for the pump. Behind it the discoveries coalesce, so nothing is lost and nothing grows.
const QUEUE: usize = 256;

/// A change and where it comes from.
#[derive(Debug)]
pub(super) struct RegistryChange {
    pub(super) registry: RegistryName,
    pub(super) change: Change,
    /// Which watch over its base told it; for a change of the link, which run of the registry.
    number: u64,
}

/// What a configuration made begin anew.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Registries that connect anew.
    pub(super) registries: Vec<RegistryName>,
    /// Bases that are listed anew, each with its registry.
    pub(super) bases: Vec<(RegistryName, Base)>,
}

/// All registries of the plan in force.
#[derive(Debug)]
pub(super) struct Registries {
    running: BTreeMap<RegistryName, RunningRegistry>,
    /// The watch in force over each base: what another one told is of the past.
    watching: HashMap<ServiceName, u64>,
    next: u64,
    changes: mpsc::Sender<RegistryChange>,
}

#[derive(Debug)]
struct RunningRegistry {
    plan: RegistryPlan,
    number: u64,
    bases: watch::Sender<Vec<Watched>>,
    task: JoinHandle<()>,
}

/// A base with the number of its watch.
#[derive(Debug, Clone)]
struct Watched {
    base: Base,
    number: u64,
}

impl Drop for RunningRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registries {
    /// No registry yet, and where the changes of those to come arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<RegistryChange>) {
        let (changes, receiver) = mpsc::channel(QUEUE);
        (Self { running: BTreeMap::new(), watching: HashMap::new(), next: 0, changes }, receiver)
    }

    /// Starts, changes and stops registries until they are those of the plan.
    ///
    /// A registry whose own settings are the same goes on, session and all; only its bases are compared.
    pub(super) fn configure(&mut self, plan: &Plan, own: &[std::net::SocketAddr]) -> Begun {
        self.running.retain(|name, running| {
            plan.registries.iter().any(|r| r.name == *name && r.same_source(&running.plan))
        });
        self.watching.clear();
        let mut begun = Begun::default();
        for registry in &plan.registries {
            let name = &registry.name;
            let wanted = bases_of(plan, registry, own);
            let known = match self.running.get(name) {
                Some(running) => survivors(&registry.kind, &running.bases.borrow(), &wanted),
                None => HashMap::new(),
            };
            let watched = wanted.into_iter().map(|base| {
                let number = known.get(&base.name).copied().unwrap_or_else(|| {
                    begun.bases.push((name.clone(), base.clone()));
                    self.next += 1;
                    self.next
                });
                self.watching.insert(base.name.clone(), number);
                Watched { base, number }
            });
            let watched = watched.collect();
            if let Some(running) = self.running.get_mut(name) {
                running.bases.send_replace(watched);
            } else {
                begun.registries.push(name.clone());
                self.next += 1;
                let running = start(registry.clone(), self.next, watched, self.changes.clone());
                self.running.insert(name.clone(), running);
            }
        }
        begun
    }

    /// Whether a change is of a watch in force. One that waited while its base was moved, or its registry
    /// replaced, speaks of another directory.
    pub(super) fn is_current(&self, from: &RegistryChange) -> bool {
        let in_force = match base_of(&from.change) {
            Some(base) => self.watching.get(base).copied(),
            None => self.running.get(&from.registry).map(|running| running.number),
        };
        in_force == Some(from.number)
    }
}

/// The watches that go on, by base.
fn survivors(kind: &RegistryKind, current: &[Watched], wanted: &[Base]) -> HashMap<ServiceName, u64> {
    let wanted: HashMap<_, _> = wanted.iter().map(|base| (&base.name, base)).collect();
    let same = |watched: &&Watched| wanted.get(&watched.base.name).is_some_and(|base| **base == watched.base);
    let survivors: HashMap<_, _> =
        current.iter().filter(same).map(|watched| (watched.base.name.clone(), watched.number)).collect();
    if survivors.len() < current.len() && !can_remove(kind) { HashMap::new() } else { survivors }
}

/// Whether a base's changes end with its removal. A directory's thread may be deep in a slow file system then, so it
/// is left behind and another started.
fn can_remove(kind: &RegistryKind) -> bool {
    matches!(kind, RegistryKind::ZooKeeper { .. })
}

/// The base that a change is about; none for the link.
fn base_of(change: &Change) -> Option<&str> {
    match change {
        Change::Updated { service, .. } | Change::Gone { service, .. } => service.as_str().split('/').next(),
        Change::Trust { base, .. } | Change::Leader { base, .. } | Change::Drift { base, .. } => {
            Some(base.as_str())
        }
        Change::Refused { catalog, .. } => Some(catalog.as_str()),
        Change::Link { .. } => None,
    }
}

/// The directories that a plan watches in one registry.
pub(super) fn bases_of(plan: &Plan, registry: &RegistryPlan, own: &[std::net::SocketAddr]) -> Vec<Base> {
    let deny = Arc::new(DenyList::new(registry.deny.clone(), own.to_vec()));
    let services = plan.services.iter().filter(|s| s.registry == registry.name).map(|service| Base {
        name: service.name.clone(),
        catalog: false,
        path: service.path.clone(),
        format: service.defaults.format,
        reading: Arc::clone(&service.defaults.reading),
        deny: Arc::clone(&deny),
        primary: service.defaults.primary.clone(),
        election: false,
    });
    let elections = plan.services.iter().filter(|s| s.registry == registry.name).filter_map(|service| {
        let PrimaryRule::Election(path) = &service.defaults.primary else { return None };
        Some(Base::of_election(&service.name, path))
    });
    let catalogs = plan.catalogs.iter().filter(|c| c.registry == registry.name).map(|catalog| Base {
        name: catalog.name.clone(),
        catalog: true,
        path: catalog.path.to_string(),
        format: catalog.defaults.format,
        reading: Arc::clone(&catalog.defaults.reading),
        deny: Arc::clone(&deny),
        primary: catalog.defaults.primary.clone(),
        election: false,
    });
    services.chain(elections).chain(catalogs).collect()
}

/// How to reach an ensemble; none for other kinds of registry.
pub(super) fn connect_options(kind: &RegistryKind) -> Option<ConnectOptions> {
    match kind {
        RegistryKind::ZooKeeper { connect, session_timeout, auth } => {
            Some(ensemble(connect, *session_timeout, auth))
        }
        RegistryKind::Directory { .. } => None,
    }
}

pub(super) fn ensemble(connect: &str, session_timeout: Duration, auth: &[Credential]) -> ConnectOptions {
    let auth = auth.iter().map(|c| (c.scheme.clone(), c.secret.clone().into_bytes())).collect();
    ConnectOptions { connect: connect.to_owned(), session_timeout, auth }
}

/// A registry's discovery, whichever kind it is.
pub(crate) enum AnyDiscovery {
    /// An ensemble.
    ZooKeeper(crate::registry::zookeeper::ZooKeeperDiscovery),
    /// A directory tree.
    Directory(crate::registry::directory::DirectoryDiscovery),
}

impl AnyDiscovery {
    /// Starts watching on the current runtime.
    pub(crate) fn start(kind: &RegistryKind, bases: Vec<Base>) -> Self {
        match kind {
            RegistryKind::ZooKeeper { connect, session_timeout, auth } => {
                Self::ZooKeeper(ZooKeeper::start(ensemble(connect, *session_timeout, auth), bases))
            }
            RegistryKind::Directory { path } => Self::Directory(Directory::start(path.clone(), bases)),
        }
    }

    /// See [`Discovery::changed`].
    pub(crate) async fn changed(&mut self) -> Change {
        match self {
            Self::ZooKeeper(discovery) => discovery.changed().await,
            Self::Directory(discovery) => discovery.changed().await,
        }
    }

    /// Watches what is new in `wanted`, and no longer what is missing from it.
    async fn rebase(&mut self, kind: &RegistryKind, current: &[Watched], wanted: &[Watched]) {
        let kept = survivors_by_number(current, wanted);
        let fresh = wanted.iter().filter(|w| !kept.contains_key(&w.number)).map(|w| w.base.clone());
        let gone = || current.iter().filter(|w| !kept.contains_key(&w.number)).map(|w| &w.base.name);
        if !can_remove(kind) && gone().next().is_some() {
            *self = Self::start(kind, wanted.iter().map(|w| w.base.clone()).collect());
            return;
        }
        if let Self::ZooKeeper(discovery) = self {
            discovery.remove(gone()).await;
        }
        for base in fresh {
            match self {
                Self::ZooKeeper(discovery) => discovery.add(base),
                Self::Directory(discovery) => discovery.add(base),
            }
        }
    }
}

/// The watches that are in both.
fn survivors_by_number<'w>(current: &[Watched], wanted: &'w [Watched]) -> HashMap<u64, &'w Base> {
    let wanted: HashMap<_, _> = wanted.iter().map(|w| (w.number, &w.base)).collect();
    current.iter().filter_map(|w| Some((w.number, *wanted.get(&w.number)?))).collect()
}

fn start(
    plan: RegistryPlan,
    number: u64,
    watched: Vec<Watched>,
    changes: mpsc::Sender<RegistryChange>,
) -> RunningRegistry {
    let (kind, registry) = (plan.kind.clone(), plan.name.clone());
    let (sender, mut wanted) = watch::channel(watched);
    let task = tokio::spawn(async move {
        let mut current = wanted.borrow_and_update().clone();
        let mut numbers = numbers(&current);
        let bases = current.iter().map(|w| w.base.clone()).collect();
        let mut discovery = AnyDiscovery::start(&kind, bases);
        loop {
            // A change is taken only when there is room for it: until then it waits, coalesced, where it comes from.
            let Ok(permit) = changes.reserve().await else { return };
            tokio::select! {
                biased;
                reloaded = wanted.changed() => {
                    if reloaded.is_err() {
                        return;
                    }
                    let next = wanted.borrow_and_update().clone();
                    discovery.rebase(&kind, &current, &next).await;
                    current = next;
                    numbers = self::numbers(&current);
                }
                change = discovery.changed() => {
                    let number = base_of(&change).map_or(Some(number), |base| numbers.get(base).copied());
                    if let Some(number) = number {
                        permit.send(RegistryChange { registry: registry.clone(), change, number });
                    }
                }
            }
        }
    });
    RunningRegistry { plan, number, bases: sender, task }
}

fn numbers(watched: &[Watched]) -> HashMap<ServiceName, u64> {
    watched.iter().map(|w| (w.base.name.clone(), w.number)).collect()
}
