//! The registries of a plan as running discoveries: started, told of new bases, stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::plan::{Plan, RegistryKind, RegistryPlan};
use crate::model::{DenyList, RegistryName};
use crate::registry::directory::Directory;
use crate::registry::zookeeper::{ConnectOptions, ZooKeeper};
use crate::registry::{Base, Change, Discovery};

/// Changes that may wait for the pump. Behind it the discoveries coalesce, so nothing is lost and nothing grows.
const QUEUE: usize = 256;

/// A change and the registry that it comes from.
pub(super) type RegistryChange = (RegistryName, Change);

/// All registries of the plan in force.
#[derive(Debug)]
pub(super) struct Registries {
    running: BTreeMap<RegistryName, RunningRegistry>,
    changes: mpsc::Sender<RegistryChange>,
}

#[derive(Debug)]
struct RunningRegistry {
    plan: RegistryPlan,
    bases: watch::Sender<Vec<Base>>,
    task: JoinHandle<()>,
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
        (Self { running: BTreeMap::new(), changes }, receiver)
    }

    /// Starts, changes and stops registries until they are those of the plan.
    ///
    /// A registry whose own settings are the same goes on, session and all; only its bases are compared.
    pub(super) fn configure(&mut self, plan: &Plan, own: &[std::net::SocketAddr]) {
        self.running
            .retain(|name, running| plan.registries.iter().any(|r| r.name == *name && *r == running.plan));
        for registry in &plan.registries {
            let bases = bases_of(plan, registry, own);
            if let Some(running) = self.running.get_mut(&registry.name) {
                running.bases.send_replace(bases);
            } else {
                let running = start(registry.clone(), bases, self.changes.clone());
                self.running.insert(registry.name.clone(), running);
            }
        }
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
        deny: Arc::clone(&deny),
    });
    let catalogs = plan.catalogs.iter().filter(|c| c.registry == registry.name).map(|catalog| Base {
        name: catalog.name.clone(),
        catalog: true,
        path: catalog.path.clone(),
        format: catalog.defaults.format,
        deny: Arc::clone(&deny),
    });
    services.chain(catalogs).collect()
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
                let auth = auth.iter().map(|c| (c.scheme.clone(), c.secret.clone().into_bytes())).collect();
                let options =
                    ConnectOptions { connect: connect.clone(), session_timeout: *session_timeout, auth };
                Self::ZooKeeper(ZooKeeper::start(options, bases))
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
    async fn rebase(&mut self, current: &[Base], wanted: &[Base]) {
        for old in current.iter().filter(|b| !wanted.contains(b)) {
            match self {
                Self::ZooKeeper(discovery) => discovery.remove(&old.name).await,
                Self::Directory(discovery) => discovery.remove(&old.name),
            }
        }
        for new in wanted.iter().filter(|b| !current.contains(b)) {
            match self {
                Self::ZooKeeper(discovery) => discovery.add(new.clone()),
                Self::Directory(discovery) => discovery.add(new.clone()),
            }
        }
    }
}

fn start(plan: RegistryPlan, bases: Vec<Base>, changes: mpsc::Sender<RegistryChange>) -> RunningRegistry {
    let (kind, name) = (plan.kind.clone(), plan.name.clone());
    let (sender, mut wanted) = watch::channel(bases.clone());
    let mut current = bases;
    let task = tokio::spawn(async move {
        let mut discovery = AnyDiscovery::start(&kind, current.clone());
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
                    discovery.rebase(&current, &next).await;
                    current = next;
                }
                change = discovery.changed() => permit.send((name.clone(), change)),
            }
        }
    });
    RunningRegistry { plan, bases: sender, task }
}
