//! The ZooKeeper registry.
//!
//! `session` keeps a client connected and replaces it when it is lost; between the client and its servers stands the
//! `guard`, which lets through what a server may say. One task a base (`drive`) sets a
//! persistent recursive watch, lists the directory in multi-reads (`list`), and feeds both to a
//! [`mirror::Mirror`], which decides what is there; `register` is the other side, an instance's own node.
//!
//! Three rules hold throughout. A deletion event removes at once. Only a deletion or a whole listing
//! removes: no error, loss or doubt does. After every connect come a new watch, then `sync`, then a
//! listing, then the difference.

mod drive;
mod exists;
mod facts;
mod guard;
mod list;
pub mod mirror;
pub mod recipes;
mod register;
mod session;
mod stats;
mod tidy;
mod tree;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use self::exists::{Existence, Watching};
pub use self::mirror::Counters;
pub use self::register::{Access, Holding, Parents, RegisterError, RegisterOptions, Registration};
pub use self::session::ConnectOptions;
use self::session::{Link, LinkStatus};
use self::stats::Stats;
pub use self::tidy::{RemoveTreeError, remove_tree};
use super::outbox::Outbox;
use super::{Base, Change, Discovery};
use crate::model::ServiceName;

/// Names the registry in the two calls that start something with it.
#[derive(Debug)]
pub struct ZooKeeper;

/// What an ensemble announces. Its tasks run on the runtime it was started on and end when it is dropped.
#[derive(Debug)]
pub struct ZooKeeperDiscovery {
    options: ConnectOptions,
    link: watch::Receiver<LinkStatus>,
    outbox: Outbox,
    stats: Arc<Stats>,
    listings: Arc<Semaphore>,
    bases: HashMap<ServiceName, Task>,
    /// Changes that were in the outbox when a base was removed.
    held: VecDeque<Change>,
    _keepers: [Task; 2],
}

/// A task with an owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A pause before what panicked begins anew.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Does `work`, and again where it panicked: what is known of a registry must not stand still for a bug.
async fn supervised<F: Future<Output = ()>>(what: Arc<str>, mut work: impl FnMut() -> F) {
    while catching(work()).await.is_none() {
        tracing::error!(what = &*what, "discovery panicked; it begins anew");
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

/// `None`: it panicked.
async fn catching<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // What a panic leaves half-done is dropped with it.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Keeps a session, whatever happens.
fn keeper(options: ConnectOptions, status: watch::Sender<LinkStatus>) -> Task {
    let epochs = Arc::new(AtomicU64::new(0));
    let hosts = options.hosts().into();
    let keep = move || session::keep(options.clone(), status.clone(), Arc::clone(&epochs));
    Task::spawn(supervised(hosts, keep))
}

impl ZooKeeper {
    /// Starts to watch `bases`. Returns at once, whether the ensemble can be reached or not.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: ConnectOptions, bases: Vec<Base>) -> ZooKeeperDiscovery {
        let (status, link) = watch::channel(LinkStatus { link: Link::Connecting, losses: 0 });
        let outbox = Outbox::default();
        let keeper = keeper(options.clone(), status);
        let reporter = Task::spawn(report_link(link.clone(), outbox.clone()));
        let mut discovery = ZooKeeperDiscovery {
            options,
            link,
            outbox,
            stats: Arc::default(),
            listings: Arc::new(Semaphore::new(drive::LISTINGS)),
            bases: HashMap::new(),
            held: VecDeque::new(),
            _keepers: [keeper, reporter],
        };
        for base in bases {
            discovery.add(base);
        }
        discovery
    }
}

impl ZooKeeperDiscovery {
    /// Watches one more base. A base of that name must not be watched yet (or have been removed).
    pub fn add(&mut self, base: Base) {
        let name = base.name.clone();
        let (hosts, chroot) = (self.options.hosts().to_owned(), !self.options.chroot().is_empty());
        let (link, outbox) = (self.link.clone(), self.outbox.clone());
        let (stats, listings) = (Arc::clone(&self.stats), Arc::clone(&self.listings));
        let drive = move || {
            let (link, outbox) = (link.clone(), outbox.clone());
            let (stats, listings) = (Arc::clone(&stats), Arc::clone(&listings));
            drive::Driver::new(base.clone(), hosts.clone(), chroot, link, outbox, stats, listings).run()
        };
        self.bases.insert(name.clone(), Task::spawn(supervised(name.to_string().into(), drive)));
    }

    /// Watches bases no longer. Once this returns, no change of them is told any more, and they may be added
    /// anew.
    pub async fn remove(&mut self, names: impl Iterator<Item = &ServiceName>) {
        let removed: HashMap<_, _> = names.filter_map(|name| self.bases.remove_entry(name)).collect();
        for task in removed.values() {
            task.0.abort();
        }
        let names: HashSet<ServiceName> = removed.keys().cloned().collect();
        for mut task in removed.into_values() {
            // Ends at its next await; how it ended is no news.
            let _ = (&mut task.0).await;
        }
        while let Some(change) = self.waiting() {
            self.held.push_back(change);
        }
        self.held.retain(|change| base_of(change).is_none_or(|base| !names.contains(base)));
    }

    /// Sums over all bases since the start.
    pub fn counters(&self) -> Counters {
        self.stats.sums()
    }

    fn waiting(&self) -> Option<Change> {
        let mut next = std::pin::pin!(self.outbox.changed());
        match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(change) => Some(change),
            Poll::Pending => None,
        }
    }
}

impl Discovery for ZooKeeperDiscovery {
    async fn changed(&mut self) -> Change {
        match self.held.pop_front() {
            Some(change) => change,
            None => self.outbox.changed().await,
        }
    }
}

/// The base that a change is about.
fn base_of(change: &Change) -> Option<&str> {
    match change {
        Change::Updated { service, .. } | Change::Gone { service, .. } => service.as_str().split('/').next(),
        Change::Trust { base, .. } | Change::Leader { base, .. } | Change::Drift { base, .. } => {
            Some(base.as_str())
        }
        Change::Refused { catalog, .. } => Some(catalog.as_str()),
        Change::Link { .. } => None,
    }
}

/// Tells of the link's ups and downs, and of lost sessions.
async fn report_link(mut link: watch::Receiver<LinkStatus>, outbox: Outbox) {
    let mut told = None;
    loop {
        let now = {
            let status = link.borrow_and_update();
            match status.link {
                Link::Connecting => None,
                Link::Up(_) => Some((true, status.losses)),
                Link::Down(_) => Some((false, status.losses)),
            }
        };
        if let Some((connected, session_losses)) = now
            && told != now
        {
            told = now;
            outbox.send(Change::Link { connected, session_losses });
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[tokio::test]
    async fn what_panics_begins_anew_until_it_ends_well() {
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        let work = move || {
            let turn = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                assert!(turn > 0, "the first goes wrong");
            }
        };
        supervised("orders".into(), work).await;
        assert_eq!(turns.load(Ordering::Relaxed), 2);
    }
}
