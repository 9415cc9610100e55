//! What is known of each registry: its link, its session losses, which of its bases are stale and since when.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::registries::Begun;
use crate::config::plan::Plan;
use crate::model::{RegistryName, ServiceName, Trust};
use crate::registry::Base;
use crate::telemetry::{LiveSink, LiveSource};

/// Written by the pump, read by scrapes; no request looks here.
#[derive(Debug, Default)]
pub(super) struct RegistryStatus(Mutex<BTreeMap<RegistryName, Status>>);

#[derive(Debug)]
struct Status {
    connected: bool,
    session_losses: u64,
    /// Those of runs before this one: the sum never falls.
    earlier_losses: u64,
    /// What audits found and no event had told.
    drift: u64,
    /// Bases that were told to be stale.
    stale: BTreeSet<ServiceName>,
    /// Bases that have not been listed since they were configured.
    unlisted: BTreeSet<ServiceName>,
    stale_since: Option<Instant>,
}

impl Status {
    /// A registry that has not answered yet is stale from its first moment.
    fn new() -> Self {
        Self {
            connected: false,
            session_losses: 0,
            earlier_losses: 0,
            drift: 0,
            stale: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            stale_since: Some(Instant::now()),
        }
    }

    fn settle(&mut self, registry: &RegistryName) {
        let stale = !self.connected || !self.stale.is_empty() || !self.unlisted.is_empty();
        match (stale, self.stale_since) {
            (true, None) => self.stale_since = Some(Instant::now()),
            (false, Some(since)) => {
                tracing::info!(%registry, after = ?since.elapsed(), "current");
                self.stale_since = None;
            }
            _ => {}
        }
    }
}

impl RegistryStatus {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RegistryName, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets every registry and base that is not in the plan, and starts with those that begin anew.
    pub(super) fn keep(&self, plan: &Plan, begun: &Begun) {
        let services = plan.services.iter().map(|s| (&s.registry, &s.name));
        let elections = plan.services.iter().map(|s| (&s.registry, Base::election_of(&s.name)));
        let elections: Vec<_> = elections.collect();
        let catalogs = plan.catalogs.iter().map(|c| (&c.registry, &c.name));
        let bases: HashSet<_> =
            services.chain(catalogs).chain(elections.iter().map(|(r, name)| (*r, name))).collect();
        let mut all = self.lock();
        let mut old = std::mem::take(&mut *all);
        for registry in plan.registries.iter().map(|registry| &registry.name) {
            let mut status = old.remove(registry).unwrap_or_else(Status::new);
            if begun.registries.contains(registry) {
                status.connected = false;
                status.earlier_losses += std::mem::take(&mut status.session_losses);
            }
            status.stale.retain(|base| bases.contains(&(registry, base)));
            status.unlisted.retain(|base| bases.contains(&(registry, base)));
            all.insert(registry.clone(), status);
        }
        for (registry, base) in &begun.bases {
            if let Some(status) = all.get_mut(registry) {
                status.stale.remove(&base.name);
                status.unlisted.insert(base.name.clone());
            }
        }
        all.iter_mut().for_each(|(name, status)| status.settle(name));
    }

    /// The link went up or down.
    pub(super) fn link(&self, registry: &RegistryName, connected: bool, session_losses: u64) {
        if let Some(status) = self.lock().get_mut(registry) {
            status.connected = connected;
            status.session_losses = session_losses;
            status.settle(registry);
        }
    }

    /// An audit found so many nodes otherwise than events had told.
    pub(super) fn drift(&self, registry: &RegistryName, nodes: u64) {
        if let Some(status) = self.lock().get_mut(registry) {
            status.drift += nodes;
        }
    }

    /// A base is served from a snapshot of this age: the table is as stale as that.
    pub(super) fn restored(&self, registry: &RegistryName, age: Duration) {
        if let Some(status) = self.lock().get_mut(registry) {
            let then = Instant::now().checked_sub(age);
            status.stale_since = match (status.stale_since, then) {
                (Some(since), Some(then)) => Some(since.min(then)),
                (since, then) => then.or(since),
            };
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
        match trust {
            Trust::Live => {
                status.unlisted.remove(base);
                status.stale.remove(base);
            }
            Trust::Stale => {
                // The registry has told why, once and with its address: here it would be told again for each base.
                if status.stale.insert(base.clone()) {
                    tracing::debug!(%registry, %base, reason, "stale: the last known instances serve");
                }
            }
        }
        status.settle(registry);
    }
}

/// The scrape's view of it.
#[derive(Debug)]
pub(super) struct StatusSource(pub(super) std::sync::Arc<RegistryStatus>);

impl LiveSource for StatusSource {
    fn collect(&self, sink: &mut LiveSink) {
        for (name, status) in self.0.lock().iter() {
            sink.registry_connected(name.as_str(), status.connected);
            sink.session_losses(name.as_str(), status.earlier_losses + status.session_losses);
            sink.drift(name.as_str(), status.drift);
            sink.registry_stale(
                name.as_str(),
                status.stale_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            );
        }
    }
}
