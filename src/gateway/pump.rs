//! From discovery to the table: one task that owns the only writer.
//!
//! Removals are published the moment they are handled; a burst of additions is gathered for a few milliseconds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::registries::{Registries, RegistryChange};
use super::status::RegistryStatus;
use crate::balance::BalancerFactory;
use crate::config::plan::Plan;
use crate::model::{Membership, RegistryName, ServiceName};
use crate::registry::Change;
use crate::table::{TableConfig, TableWriter};
use crate::telemetry::Metrics;

/// How long additions wait for more of them.
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
}

impl Pump {
    /// Runs until the orders end. The first order must come at once: there is no table before it.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let (mut registries, mut changes) = Registries::new();
        let mut sweep = tokio::time::interval(SWEEP);
        let mut pending = Pending::default();
        loop {
            let gathered = pending.since.map(|since| tokio::time::Instant::from_std(since + GATHER));
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Configure(plan, done)) => {
                        self.configure(&plan, &mut registries, &mut pending);
                        let _ = done.send(());
                    }
                    None => return,
                },
                Some(change) = changes.recv() => self.take(change, &mut changes, &mut pending),
                () = sleep_until(gathered) => self.publish(&mut pending),
                _ = sweep.tick() => {
                    self.writer.sweep();
                }
            }
        }
    }

    fn configure(&mut self, plan: &Plan, registries: &mut Registries, pending: &mut Pending) {
        self.status.keep(plan);
        let mut config = TableConfig::new(plan, &self.own);
        config.balancers.clone_from(&self.balancers);
        for (service, membership) in self.writer.configure(config) {
            self.count(&service, &membership);
        }
        self.publish(pending);
        registries.configure(plan, &self.own);
    }

    fn take(
        &mut self,
        first: RegistryChange,
        more: &mut mpsc::Receiver<RegistryChange>,
        pending: &mut Pending,
    ) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some((registry, change)) = next else { break };
            self.apply(&registry, change, pending);
            if self.writer.has_removals() {
                // Nobody may pick what left any longer than it takes to say so.
                self.publish(pending);
            }
            next = more.try_recv().ok();
        }
        if let Some((registry, change)) = next {
            self.apply(&registry, change, pending);
        }
        if self.writer.has_changes() || !pending.received.is_empty() {
            pending.since.get_or_insert_with(Instant::now);
        }
    }

    fn apply(&mut self, registry: &RegistryName, change: Change, pending: &mut Pending) {
        match change {
            Change::Updated { service, snapshot, received } => {
                let membership = self.writer.apply(&service, snapshot);
                self.count(&service, &membership);
                pending.received.push(received);
            }
            Change::Gone { service, received } => {
                let membership = self.writer.gone(&service);
                self.count(&service, &membership);
                pending.received.push(received);
            }
            Change::Trust { base, trust, reason } => {
                self.status.trust(registry, &base, trust, reason.as_deref());
                self.writer.trust(&base, trust, reason);
            }
            Change::Link { connected, session_losses } => {
                self.status.link(registry, connected, session_losses);
            }
        }
    }

    fn count(&self, service: &ServiceName, membership: &Membership) {
        let name = service.as_str();
        self.metrics.membership_change(name, "added", membership.added.len());
        self.metrics.membership_change(name, "removed", membership.removed.len());
        self.metrics.membership_change(name, "changed", membership.changed.len());
        if !membership.is_empty() {
            tracing::info!(
                service = name,
                added = membership.added.len(),
                removed = membership.removed.len(),
                changed = membership.changed.len(),
                "membership changed"
            );
        }
    }

    fn publish(&mut self, pending: &mut Pending) {
        self.writer.publish();
        self.metrics.table_generation(self.writer.reader().load().generation());
        let now = Instant::now();
        for received in pending.received.drain(..) {
            self.metrics.membership_published(now.saturating_duration_since(received));
        }
        pending.since = None;
    }
}

/// What is applied but not yet published.
#[derive(Debug, Default)]
struct Pending {
    since: Option<Instant>,
    received: Vec<Instant>,
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
