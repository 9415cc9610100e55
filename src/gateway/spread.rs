//! Connections spread over workers, whatever the kernel's hash makes of them.
//!
//! Each worker accepts on sockets of its own, and the kernel picks one by a hash of the addresses: a few
//! connections may well fall on one worker, and many are spread by chance. So a worker that has more than
//! its share gives what it has just accepted to the one that has least. A connection moves before a byte of
//! it was read, and never again.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::config::plan::ListenerPlan;
use crate::telemetry::{LiveSink, LiveSource};

/// Connections that may be on their way to one worker. Beyond that they stay where they are.
const QUEUE: usize = 1024;
/// A worker may have more than the least busy one by this share of its own: moving costs a wake-up of
/// another thread, and small differences are gone before it has happened.
const SLACK: usize = 8;

/// Open connections of each worker.
#[derive(Debug)]
pub(super) struct Loads(Vec<AtomicUsize>);

/// A connection's place on a worker.
#[derive(Debug)]
pub(super) struct Place {
    loads: Arc<Loads>,
    worker: usize,
}

/// A connection for another worker.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) plan: Arc<ListenerPlan>,
    pub(super) place: Place,
}

/// One worker's view of the others.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    loads: Arc<Loads>,
    others: Arc<[mpsc::Sender<Handover>]>,
    own: usize,
}

impl Loads {
    /// Connections over all workers, those on their way from one to another among them.
    pub(super) fn total(&self) -> usize {
        self.0.iter().map(|load| load.load(Ordering::Relaxed)).sum()
    }

    /// Where a connection is to go that worker number `own` has accepted.
    fn choose(&self, own: usize) -> usize {
        let mine = self.0[own].load(Ordering::Relaxed);
        let others = self.0.iter().map(|load| load.load(Ordering::Relaxed)).enumerate();
        match others.min_by_key(|(_, load)| *load) {
            Some((least, load)) if mine > load + mine / SLACK => least,
            _ => own,
        }
    }

    fn place(self: &Arc<Self>, worker: usize) -> Place {
        self.0[worker].fetch_add(1, Ordering::Relaxed);
        Place { loads: Arc::clone(self), worker }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.loads.0[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spread {
    /// The views of `workers` workers, each with what is handed to it.
    pub(super) fn new(workers: usize) -> (Arc<Loads>, Vec<(Self, mpsc::Receiver<Handover>)>) {
        let loads = Arc::new(Loads((0..workers).map(|_| AtomicUsize::new(0)).collect()));
        let (others, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(QUEUE)).unzip();
        let others: Arc<[_]> = others.into();
        let view = |own| Self { loads: Arc::clone(&loads), others: Arc::clone(&others), own };
        let views = inboxes.into_iter().enumerate().map(|(own, inbox)| (view(own), inbox)).collect();
        (loads, views)
    }

    /// A place for a connection that was accepted here; `None` where another worker has taken it over.
    pub(super) fn settle(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        plan: &Arc<ListenerPlan>,
    ) -> Option<(TcpStream, Place)> {
        let worker = self.loads.choose(self.own);
        let place = self.loads.place(worker);
        if worker == self.own {
            return Some((stream, place));
        }
        let handover = Handover { stream, peer, plan: Arc::clone(plan), place };
        match self.others[worker].try_send(handover) {
            Ok(()) => None,
            // Its queue is full, or it has ended.
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                Some((back.stream, self.loads.place(self.own)))
            }
        }
    }
}

/// The scrape's view of it.
#[derive(Debug)]
pub(super) struct SpreadSource(pub(super) Arc<Loads>);

impl LiveSource for SpreadSource {
    fn collect(&self, sink: &mut LiveSink) {
        for (worker, load) in self.0.0.iter().enumerate() {
            sink.worker_connections(worker, load.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets connections arrive at random workers and says what became of them.
    fn spread(workers: usize, connections: usize) -> Vec<usize> {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let loads = Arc::new(Loads((0..workers).map(|_| AtomicUsize::new(0)).collect()));
        let mut places = Vec::new();
        for _ in 0..connections {
            places.push(loads.place(loads.choose(rng.usize(..workers))));
        }
        assert_eq!(loads.total(), connections);
        let found = loads.0.iter().map(|load| load.load(Ordering::Relaxed)).collect();
        drop(places);
        assert_eq!(loads.total(), 0);
        found
    }

    #[test]
    fn few_connections_are_dealt_out_evenly_and_many_within_an_eighth() {
        assert_eq!(spread(2, 8), [4, 4]);
        assert_eq!(spread(1, 8), [8]);
        for workers in [2, 4, 16] {
            let found = spread(workers, 1000);
            let most = found.iter().max().copied().unwrap();
            assert!(most * workers * 100 <= 1000 * 115, "{found:?}");
        }
    }

    #[test]
    fn a_connection_that_cannot_be_handed_over_stays() {
        let (loads, mut views) = Spread::new(2);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = Arc::new(crate::config::plan::ListenerPlan {
            name: "a".into(),
            listen: listener.local_addr().unwrap(),
            kind: crate::config::plan::ListenerKind::Http,
            trusted: Vec::new(),
        });
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.local_addr().unwrap();
        let (_, inbox) = views.pop().unwrap();
        let (own, _) = views.pop().unwrap();
        let first = own.settle(connect(), peer, &plan);
        assert!(first.is_some());
        assert!(own.settle(connect(), peer, &plan).is_none(), "handed over");
        assert_eq!(loads.total(), 2, "counted on its way");
        drop(inbox);
        assert_eq!(loads.total(), 1);
        assert!(own.settle(connect(), peer, &plan).is_some(), "the other worker has ended");
    }
}
