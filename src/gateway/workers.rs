//! The workers: one thread, one runtime, one set of sockets, pools and caches each; nothing shared but the table.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};

use super::accept::Accepting;
use super::spread::{Handover, Peer, Spread};
use crate::config::plan::ListenerPlan;
use crate::proxy::{ProxyContext, Shared, TICK};
use crate::telemetry::LineSink;

/// Orders that may wait for a worker.
const QUEUE: usize = 64;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Accept here too.
    Listen(Arc<ListenerPlan>, TcpListener),
    /// Serve new connections of this listener by these settings.
    Update(Arc<ListenerPlan>),
    /// Accept here no longer; connections stay.
    Close(Arc<str>),
    /// Write access lines there from now on.
    AccessLog(Option<LineSink>),
    /// Accept nowhere any more and let every connection finish; answered when the sockets are closed.
    Drain(oneshot::Sender<()>),
    /// Share new connections with these from now on.
    Spread(Spread),
    /// End what streams for long, spread over this time.
    EndStreams(Duration),
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
    peer: Arc<Peer>,
}

impl Worker {
    /// Starts worker number `index`, to which connections are handed by those who know it. It knows only itself.
    pub(super) fn start(index: usize, shared: Shared) -> std::io::Result<Self> {
        let (peer, handed) = Peer::new(index);
        let (orders, inbox) = mpsc::channel(QUEUE);
        let spread = Spread::alone(&peer);
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // A busy worker polls its sockets this often; more often costs syscalls, less often latency.
                .event_interval(61)
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(work(index, shared, spread, handed, inbox)),
                Err(error) => tracing::error!(%error, worker = index, "no runtime"),
            }
        })?;
        Ok(Self { orders, thread: Some(thread), peer })
    }

    /// As the other workers see it.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Hands over an order. A worker that ended takes none.
    pub(super) async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    /// Has it accept nowhere any more; returns when its sockets are closed.
    pub(super) async fn drain(&self) {
        let (done, closed) = oneshot::channel();
        self.order(Order::Drain(done)).await;
        let _ = closed.await;
    }

    /// Ends the worker and everything on it, and waits for its thread.
    pub(super) fn stop(mut self) {
        let (orders, _) = mpsc::channel(1);
        self.orders = orders;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn work(
    index: usize,
    shared: Shared,
    spread: Spread,
    mut handed: mpsc::Receiver<Handover>,
    mut inbox: mpsc::Receiver<Order>,
) {
    let context = Rc::new(ProxyContext::new(index, shared));
    let mut accepting = Accepting::new(spread);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                None => return,
                Some(Order::Listen(plan, socket)) => accepting.open(plan, socket, &context),
                Some(Order::Update(plan)) => accepting.update(&plan),
                Some(Order::Close(name)) => accepting.close(&name),
                Some(Order::AccessLog(sink)) => context.set_access_log(sink),
                Some(Order::Drain(done)) => {
                    accepting.close_all();
                    context.drain();
                    let _ = done.send(());
                }
                Some(Order::Spread(spread)) => accepting.spread_among(spread),
                Some(Order::EndStreams(within)) => context.end_streams(within),
            },
            // Every worker, this one too, holds a sender: there is always a next.
            Some(handover) = handed.recv() => accepting.take_over(handover, &context),
            _ = tick.tick() => context.tick(),
        }
    }
}
