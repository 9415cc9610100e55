//! Connections spread over workers, whatever the kernel's hash makes of them.
//!
//! Each worker accepts on sockets of its own, and the kernel picks one by a hash of the addresses: a few
//! connections may well fall on one worker, and many are spread by chance. So a worker that has more than
//! its share gives what it has just accepted to the one that has least. A connection moves before a byte of
//! it was read, and never again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::config::plan::ListenerPlan;
use crate::telemetry::{LiveSink, LiveSource};

/// Connections that may be on their way to one worker. Beyond that they stay where they are.
const QUEUE: usize = 1024;
/// A worker may have more than the least busy one by this share of its own: moving costs a wake-up of
/// another thread, and small differences are gone before it has happened.
const SLACK: usize = 8;

/// A worker as the others see it.
#[derive(Debug)]
pub(super) struct Peer {
    number: usize,
    /// Its open connections, those on their way to it among them.
    load: AtomicUsize,
    inbox: mpsc::Sender<Handover>,
}

/// A connection's place on a worker.
#[derive(Debug)]
pub(super) struct Place(Arc<Peer>);

/// A connection for another worker.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) plan: Arc<ListenerPlan>,
    pub(super) place: Place,
}

/// One worker's view of those that accept, itself among them.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    all: Arc<[Arc<Peer>]>,
    own: Arc<Peer>,
}

/// Every worker that serves anybody: those that accept, and those that leave.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<Vec<Arc<Peer>>>);

impl Peer {
    /// Worker number `number`, and what is handed to it.
    pub(super) fn new(number: usize) -> (Arc<Self>, mpsc::Receiver<Handover>) {
        let (inbox, handed) = mpsc::channel(QUEUE);
        (Arc::new(Self { number, load: AtomicUsize::new(0), inbox }), handed)
    }

    /// Open connections, those on their way to it among them.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    fn place(self: &Arc<Self>) -> Place {
        self.load.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loads {
    fn peers(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more worker.
    pub(super) fn add(&self, peer: Arc<Peer>) {
        self.peers().push(peer);
    }

    /// This one is no more.
    pub(super) fn remove(&self, peer: &Arc<Peer>) {
        self.peers().retain(|known| !Arc::ptr_eq(known, peer));
    }

    /// Connections over all workers, those on their way from one to another among them.
    pub(super) fn total(&self) -> usize {
        self.peers().iter().map(|peer| peer.load()).sum()
    }
}

impl Spread {
    /// The view of who knows nobody else.
    pub(super) fn alone(own: &Arc<Peer>) -> Self {
        Self { all: Arc::new([Arc::clone(own)]), own: Arc::clone(own) }
    }

    /// One's own view of those that accept.
    pub(super) fn among(all: &Arc<[Arc<Peer>]>, own: Arc<Peer>) -> Self {
        Self { all: Arc::clone(all), own }
    }

    /// Where a connection is to go that was accepted here.
    fn choose(&self) -> &Arc<Peer> {
        let mine = self.own.load();
        match self.all.iter().map(|peer| (peer.load(), peer)).min_by_key(|(load, _)| *load) {
            Some((load, least)) if mine > load + mine / SLACK => least,
            _ => &self.own,
        }
    }

    /// A place for a connection that was accepted here; `None` where another worker has taken it over.
    pub(super) fn settle(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        plan: &Arc<ListenerPlan>,
    ) -> Option<(TcpStream, Place)> {
        let worker = self.choose();
        let place = worker.place();
        if Arc::ptr_eq(worker, &self.own) {
            return Some((stream, place));
        }
        let handover = Handover { stream, peer, plan: Arc::clone(plan), place };
        match worker.inbox.try_send(handover) {
            Ok(()) => None,
            // Its queue is full, or it has ended.
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                Some((back.stream, self.own.place()))
            }
        }
    }
}

/// The scrape's view of it.
#[derive(Debug)]
pub(super) struct SpreadSource(pub(super) Arc<Loads>);

impl LiveSource for SpreadSource {
    fn collect(&self, sink: &mut LiveSink) {
        // One that leaves may have a successor of its number.
        let mut loads = BTreeMap::<usize, usize>::new();
        for peer in &*self.0.peers() {
            *loads.entry(peer.number).or_default() += peer.load();
        }
        for (number, load) in loads {
            sink.worker_connections(number, load);
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
        let (peers, _inboxes): (Vec<_>, Vec<_>) = (0..workers).map(Peer::new).unzip();
        let loads = Loads::default();
        for peer in &peers {
            loads.add(Arc::clone(peer));
        }
        let all = peers.clone().into();
        let views: Vec<_> = peers.iter().map(|own| Spread::among(&all, Arc::clone(own))).collect();
        let mut places = Vec::new();
        for _ in 0..connections {
            places.push(views[rng.usize(..workers)].choose().place());
        }
        assert_eq!(loads.total(), connections);
        let found = peers.iter().map(|peer| peer.load()).collect();
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
        let (peers, mut inboxes): (Vec<_>, Vec<_>) = (0..2).map(Peer::new).unzip();
        let total = || peers.iter().map(|peer| peer.load()).sum::<usize>();
        let own = Spread::among(&peers.clone().into(), Arc::clone(&peers[0]));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = Arc::new(crate::config::plan::ListenerPlan {
            name: "a".into(),
            listen: listener.local_addr().unwrap(),
            kind: crate::config::plan::ListenerKind::Http,
            trusted: Vec::new(),
        });
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.local_addr().unwrap();
        let first = own.settle(connect(), peer, &plan);
        assert!(first.is_some());
        assert!(own.settle(connect(), peer, &plan).is_none(), "handed over");
        assert_eq!(total(), 2, "counted on its way");
        inboxes.pop();
        assert_eq!(total(), 1);
        assert!(own.settle(connect(), peer, &plan).is_some(), "the other worker has ended");
    }
}
