//! What is known of each registry: its link, its session losses, which of its bases are stale and since when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::plan::Plan;
use crate::model::{RegistryName, ServiceName, Trust};
use crate::telemetry::{LiveSink, LiveSource};

/// Written by the pump, read by scrapes; no request looks here.
#[derive(Debug, Default)]
pub(super) struct RegistryStatus(Mutex<BTreeMap<RegistryName, Status>>);

#[derive(Debug)]
struct Status {
    connected: bool,
    session_losses: u64,
    stale: BTreeSet<ServiceName>,
    stale_since: Option<Instant>,
}

impl Status {
    /// A registry that has not answered yet is stale from its first moment.
    fn new() -> Self {
        Self {
            connected: false,
            session_losses: 0,
            stale: BTreeSet::new(),
            stale_since: Some(Instant::now()),
        }
    }

    fn settle(&mut self) {
        let stale = !self.connected || !self.stale.is_empty();
        self.stale_since = stale.then(|| self.stale_since.unwrap_or_else(Instant::now));
    }
}

impl RegistryStatus {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RegistryName, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets every registry and base that is not in the plan, and starts with those that are new.
    pub(super) fn keep(&self, plan: &Plan) {
        let mut all = self.lock();
        let mut old = std::mem::take(&mut *all);
        for registry in &plan.registries {
            let mut status = old.remove(&registry.name).unwrap_or_else(Status::new);
            status.stale.retain(|base| {
                plan.services.iter().any(|s| s.name == *base) || plan.catalogs.iter().any(|c| c.name == *base)
            });
            status.settle();
            all.insert(registry.name.clone(), status);
        }
    }

    /// The link went up or down.
    pub(super) fn link(&self, registry: &RegistryName, connected: bool, session_losses: u64) {
        if let Some(status) = self.lock().get_mut(registry) {
            status.connected = connected;
            status.session_losses = session_losses;
            status.settle();
        }
    }

    /// A base became stale, or current again.
    pub(super) fn trust(
        &self,
        registry: &RegistryName,
        base: &ServiceName,
        trust: Trust,
        reason: Option<&str>,
    ) {
        let mut all = self.lock();
        let Some(status) = all.get_mut(registry) else { return };
        let changed = match trust {
            Trust::Live => status.stale.remove(base),
            Trust::Stale => status.stale.insert(base.clone()),
        };
        status.settle();
        if changed {
            let reason = reason.unwrap_or("the registry answers again");
            // The registry has told its own trouble, once: a line for each of its services would bury that one.
            tracing::debug!(%registry, %base, ?trust, reason, "trust changed");
        }
    }
}

/// The scrape's view of it.
#[derive(Debug)]
pub(super) struct StatusSource(pub(super) std::sync::Arc<RegistryStatus>);

impl LiveSource for StatusSource {
    fn collect(&self, sink: &mut LiveSink) {
        for (name, status) in self.0.lock().iter() {
            sink.registry_connected(name.as_str(), status.connected);
            sink.session_losses(name.as_str(), status.session_losses);
            sink.registry_stale(
                name.as_str(),
                status.stale_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            );
        }
    }
}
