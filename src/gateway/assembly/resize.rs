//! More workers, or fewer, while the gateway serves.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::drain::{FAREWELL, outlives};
use super::{Held, Running, StartError, listening};
use crate::config::plan::{ListenerPlan, Plan};
use crate::gateway::handover::Handed;
use crate::gateway::sockets;
use crate::gateway::spread::{Loads, Spread};
use crate::gateway::workers::{Order, Worker};
use crate::telemetry::LineSink;

/// Workers that nobody knows of yet, each with a socket for every listener that stays where it is.
#[derive(Debug, Default)]
pub(super) struct Recruits {
    workers: Vec<Worker>,
    sockets: Vec<(Arc<ListenerPlan>, Held, TcpListener)>,
}

impl Running {
    /// Starts the first workers, as many as are configured.
    pub(super) async fn start_workers(&mut self, access_log: Option<LineSink>) -> Result<(), StartError> {
        for index in 0..self.plan.gateway.workers {
            let worker = Worker::start(index, self.shared.clone())?;
            worker.order(Order::AccessLog(access_log.clone())).await;
            self.loads.add(Arc::clone(worker.peer()));
            self.workers.push(worker);
        }
        self.introduce(&[]).await;
        Ok(())
    }

    /// Starts the workers that are missing for a plan. Where that fails, nothing has changed.
    pub(super) fn recruit(&self, plan: &Plan) -> Result<Recruits, StartError> {
        let (first, end) = (self.workers.len(), plan.gateway.workers);
        let mut recruits = Recruits::default();
        if first >= end {
            return Ok(recruits);
        }
        let stays = |old: &&ListenerPlan| plan.listeners.iter().any(|new| new.is_where(old));
        for listener in self.plan.listeners.iter().filter(stays) {
            let known: Vec<_> = self.held.iter().filter(|held| held.handed.name == listener.name).collect();
            let Some(one) = known.first() else { continue };
            let sockets = if self.foreign.contains(&listener.name) {
                // Whoever else has them would not know of others: these are shared.
                let shared = known.iter().cycle().take(end - first);
                shared.map(|held| held.handed.socket.try_clone()).collect::<Result<Vec<_>, _>>()?
            } else {
                let bound = ListenerPlan { listen: one.handed.socket.local_addr()?, ..listener.clone() };
                listening(sockets::bind_beside, &bound, end - first)?
            };
            let plan = Arc::new(listener.clone());
            for (worker, socket) in (first..end).zip(sockets) {
                let held = Held { worker, handed: Handed::of(listener, socket.try_clone()?) };
                recruits.sockets.push((Arc::clone(&plan), held, socket));
            }
        }
        for index in first..end {
            recruits.workers.push(Worker::start(index, self.shared.clone())?);
        }
        Ok(recruits)
    }

    /// Lets those serve that were recruited, and those leave that are too many for so many workers.
    pub(super) async fn resize(&mut self, recruits: Recruits, workers: usize, limit: Duration) {
        let before = self.workers.len();
        for worker in recruits.workers {
            self.loads.add(Arc::clone(worker.peer()));
            self.workers.push(worker);
        }
        for (plan, held, socket) in recruits.sockets {
            if let Some(worker) = self.workers.get(held.worker) {
                worker.order(Order::Listen(plan, socket)).await;
                self.held.push(held);
            }
        }
        let leaving = self.workers.split_off(workers.min(self.workers.len()));
        if self.workers.len() == before {
            return;
        }
        tracing::info!(before, now = self.workers.len(), "another number of workers");
        self.introduce(&leaving).await;
        self.part(leaving, limit).await;
    }

    /// Tells each worker who shares new connections with it: those that stay.
    async fn introduce(&self, leaving: &[Worker]) {
        let all = self.workers.iter().map(|worker| Arc::clone(worker.peer())).collect();
        for worker in self.workers.iter().chain(leaving) {
            let spread = Spread::among(&all, Arc::clone(worker.peer()));
            worker.order(Order::Spread(spread)).await;
        }
    }

    /// Lets workers go: they accept no more, and end when their connections have, which have so long as at a stop.
    async fn part(&mut self, leaving: Vec<Worker>, limit: Duration) {
        let first = self.workers.len();
        // Sockets that cannot be closed without a reset stay open, and are served by others.
        for held in self.held.iter_mut().filter(|held| held.worker >= first) {
            if cfg!(target_os = "linux") && !self.foreign.contains(&held.handed.name) {
                continue;
            }
            let heir = held.worker % first;
            let listener = self.plan.listeners.iter().find(|listener| listener.name == held.handed.name);
            if let (Some(listener), Ok(socket)) = (listener, held.handed.socket.try_clone()) {
                self.workers[heir].order(Order::Listen(Arc::new(listener.clone()), socket)).await;
                held.worker = heir;
            }
        }
        self.admit_no_more(|held| held.worker >= first).await;
        for worker in leaving {
            worker.drain().await;
            self.leaving.spawn(leave(worker, Arc::clone(&self.loads), limit));
        }
        while self.leaving.try_join_next().is_some() {}
    }
}

/// Waits for a worker's connections, and ends it.
async fn leave(worker: Worker, loads: Arc<Loads>, limit: Duration) {
    let peer = Arc::clone(worker.peer());
    if outlives(|| peer.load(), limit).await {
        worker.order(Order::EndStreams(FAREWELL / 2)).await;
        outlives(|| peer.load(), FAREWELL).await;
    }
    let left = peer.load();
    if left > 0 {
        tracing::warn!(connections = left, "drain timeout over; closing what is left of a worker's");
    }
    let _ = tokio::task::spawn_blocking(move || worker.stop()).await;
    loads.remove(&peer);
}
