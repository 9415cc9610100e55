//! Stopping well.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Held, Running};
use crate::gateway::fleet::Fleet;
use crate::gateway::{drain_lock, sockets, workers};

/// After no connection may begin any more, those that are beginning have this long.
const LAST_CONNECTIONS: Duration = Duration::from_millis(200);

/// How long, after the drain's time is over, streams that are left may take to end in order.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

impl Running {
    /// Stops well: not ready any more, listeners go on for `drain_delay`, then requests have `drain_timeout` to
    /// finish. The admin answers to the end. `hurry` cuts all of it short.
    pub async fn drain(mut self, hurry: impl Future<Output = ()>) {
        self.draining.store(true, Ordering::Release);
        self.door = None;
        if let Some(fleet) = &mut self.fleet {
            fleet.leave();
        }
        let gateway = &self.plan.gateway;
        let (delay, limit) = (gateway.drain_delay, gateway.drain_timeout);
        tracing::info!(?delay, timeout = ?limit, "draining");
        let mut lock = None;
        let orderly = async {
            // The listeners accept meanwhile: nobody is turned away for having to wait.
            lock = drain_lock::take(&self.plan).await;
            tokio::time::sleep(delay).await;
            self.admit_no_more(|_| true).await;
            for worker in &self.workers {
                worker.drain().await;
            }
            let loads = Arc::clone(&self.loads);
            if outlives(|| loads.total(), limit).await {
                // Whoever holds a stream open is told, and need not find out by a connection that breaks.
                for worker in &self.workers {
                    worker.order(workers::Order::EndStreams(FAREWELL / 2)).await;
                }
                outlives(|| loads.total(), FAREWELL).await;
            }
            let left = loads.total();
            if left > 0 {
                tracing::warn!(connections = left, "drain timeout over; closing what is left");
            }
        };
        tokio::select! {
            () = orderly => {}
            () = hurry => tracing::warn!("told to stop at once"),
        }
        self.stop();
        // Only now may the next gateway drain.
        drain_lock::release(lock).await;
    }

    /// Before these sockets are closed: no new connection begins there; those that have begun are accepted.
    pub(super) async fn admit_no_more(&mut self, closing: impl Fn(&Held) -> bool) {
        let own = self.held.extract_if(.., |held| closing(held));
        let closing = own.filter(|held| !self.foreign.contains(&held.handed.name)).filter(|held| {
            let filtered = sockets::admit_no_more(&held.handed.socket);
            let failed = filtered.as_ref().err();
            failed.inspect(|error| tracing::debug!(%error, "connections may begin up to the close")).is_none()
        });
        // The workers' are the last: they empty the queues.
        if closing.count() > 0 {
            tokio::time::sleep(LAST_CONNECTIONS).await;
        }
    }

    pub(super) fn stop(&mut self) {
        self.leaving.abort_all();
        for worker in self.workers.drain(..) {
            worker.stop();
        }
        self.pump_orders = None;
        self.checks_stop = None;
        self.admin_socket = None;
        self.admin_stop = None;
        self.threads.extend(self.fleet.take().and_then(Fleet::into_thread));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(log) = self.access_log().take() {
            log.flush(Duration::from_secs(1));
        }
    }
}

/// Whether connections are left after this time.
pub(super) async fn outlives(load: impl Fn() -> usize, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while load() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load() > 0
}
