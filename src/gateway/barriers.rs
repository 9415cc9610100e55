//! The barriers of a plan's routes: one gate a node, kept as the registry has it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::registries::connect_options;
use crate::config::plan::{NodePlan, Plan, RegistryKind};
use crate::model::RegistryName;
use crate::registry::zookeeper::{Existence, Watching};
use crate::table::Gate;

/// How long a barrier of which nothing is known holds requests back.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How often a directory is looked into.
const POLL: Duration = Duration::from_millis(200);

/// Every gate, with what keeps it. Belongs to the pump; its tasks run there.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    sessions: HashMap<RegistryName, (RegistryKind, Option<Existence>)>,
    gates: HashMap<NodePlan, (Arc<Gate>, Watcher)>,
}

/// What looks at a node. Stops when dropped.
#[derive(Debug)]
enum Watcher {
    ZooKeeper { _watching: Watching },
    Directory(JoinHandle<()>),
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Self::Directory(task) = self {
            task.abort();
        }
    }
}

impl Barriers {
    /// The gates of a plan. A gate whose node stays in the plan stays, too, with what is known of it.
    pub(super) fn configure(&mut self, plan: &Plan) -> HashMap<NodePlan, Arc<Gate>> {
        let kind_of = |name: &RegistryName| plan.registries.iter().find(|r| r.name == *name).map(|r| &r.kind);
        let wanted: BTreeSet<&NodePlan> =
            plan.routes.iter().filter_map(|route| Some(&route.barrier.as_ref()?.node)).collect();
        self.sessions.retain(|name, (kind, _)| {
            kind_of(name) == Some(kind) && wanted.iter().any(|node| node.registry == *name)
        });
        let mut old = std::mem::take(&mut self.gates);
        for node in wanted {
            let Some(kind) = kind_of(&node.registry) else { continue };
            let known = self.sessions.contains_key(&node.registry);
            if !known {
                self.sessions.insert(node.registry.clone(), (kind.clone(), start(kind)));
            }
            let (gate, watcher) = if let Some((gate, watcher)) = old.remove(node) {
                (gate, Some(watcher).filter(|_| known))
            } else {
                let gate = Arc::new(Gate::new(node.clone()));
                give_up_later(&gate);
                (gate, None)
            };
            let watcher = watcher.unwrap_or_else(|| self.watch(&gate, kind));
            self.gates.insert(node.clone(), (gate, watcher));
        }
        self.gates.iter().map(|(node, (gate, _))| (node.clone(), Arc::clone(gate))).collect()
    }

    fn watch(&self, gate: &Arc<Gate>, kind: &RegistryKind) -> Watcher {
        let node = gate.node();
        let told = {
            let gate = Arc::clone(gate);
            move |exists| tell(&gate, exists)
        };
        match (kind, self.sessions.get(&node.registry)) {
            (RegistryKind::ZooKeeper { .. }, Some((_, Some(session)))) => {
                Watcher::ZooKeeper { _watching: session.watch(node.path.clone(), told) }
            }
            (RegistryKind::Directory { path }, _) => {
                Watcher::Directory(tokio::spawn(poll(path.join(node.path.trim_start_matches('/')), told)))
            }
            // A session is started for each registry that is an ensemble.
            _ => Watcher::Directory(tokio::spawn(async {})),
        }
    }
}

fn start(kind: &RegistryKind) -> Option<Existence> {
    connect_options(kind).map(Existence::start)
}

fn tell(gate: &Gate, exists: bool) {
    if gate.set(exists) {
        let node = gate.node();
        let (registry, path) = (node.registry.as_str(), node.path.as_str());
        if exists {
            tracing::info!(registry, path, "a barrier stands: requests of its routes are held back");
        } else {
            tracing::info!(registry, path, held = gate.held(), "a barrier is gone: requests go on");
        }
    }
}

fn give_up_later(gate: &Arc<Gate>) {
    let gate = Arc::downgrade(gate);
    tokio::spawn(async move {
        tokio::time::sleep(FIRST_LOOK).await;
        if let Some(gate) = gate.upgrade() {
            gate.give_up();
        }
    });
}

/// Looks at a file again and again; what cannot be looked at stays as it was.
async fn poll(path: PathBuf, told: impl Fn(bool)) {
    loop {
        let path = path.clone();
        let looked = tokio::task::spawn_blocking(move || path.symlink_metadata()).await;
        match looked {
            Ok(Ok(_)) => told(true),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => told(false),
            _ => {}
        }
        tokio::time::sleep(POLL).await;
    }
}
