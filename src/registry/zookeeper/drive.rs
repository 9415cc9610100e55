//! One base between client and mirror: watches, listings, reads; their news to the outbox.
//!
//! A *tenure* is the time between a connect and the next loss. Each begins with a new watch, because the
//! crate's persistent watches are silent after a reconnect, then lists the directory behind a `sync`.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until};
use zookeeper_client::{AddWatchMode, Error, EventType, PersistentWatcher, WatchedEvent};

use super::list::{self, BATCH, ListError, MAX_CHILDREN, Part, Target};
use super::mirror::{Counters, EventKind, Found, Mirror, Place, Ticket};
use super::session::{Link, LinkStatus, Session};
use super::stats::Stats;
use crate::model::{Source, Trust};
use crate::registry::layout::Layout;
use crate::registry::outbox::Outbox;
use crate::registry::view::BaseView;
use crate::registry::{Base, Change};

/// A whole listing at least this often finds what events missed.
const AUDIT: Duration = Duration::from_secs(30);
/// Requests for changed nodes on their way at a time.
const READS: usize = 4;
/// Services decoded before others have their turn: the session's pings, and removals in other bases.
const TURN: usize = 128;
/// Events handled before what they changed is published.
const BURST: usize = 2048;
/// Listings of one registry on their way at a time. Ten thousand bases that list at once would wait for one another
/// until their deadlines, and a removal's read behind all of them.
pub(super) const LISTINGS: usize = 64;
/// A forbidden directory, a missing chroot: looked at again after this.
const LOCKED_PAUSE: Duration = Duration::from_secs(2);
/// A directory too large to take.
const LARGE_PAUSE: Duration = Duration::from_secs(10);
/// A server that can not serve us at all.
const OLD_SERVER_PAUSE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Drives one base. Its future never ends by itself.
pub(super) struct Driver {
    base: Base,
    target: Target,
    hosts: String,
    link: watch::Receiver<LinkStatus>,
    outbox: Outbox,
    stats: Arc<Stats>,
    listings: Arc<Semaphore>,
    mirror: Mirror,
    view: BaseView,
    told: Option<(Trust, Option<Arc<str>>)>,
    /// A listing was whole: to be told when what it had is published.
    whole: bool,
    /// When the oldest event whose read has not been asked came.
    unread_since: Option<Instant>,
    /// When the oldest event or answer that is not published came.
    unpublished_since: Option<Instant>,
    /// What of the mirror's counters is in `stats`.
    counted: Counters,
    drift_told: u64,
    failures: u32,
}

/// What woke the driver.
enum Wake {
    Event(WatchedEvent),
    Link,
    Read(ReadDone),
    Part(Option<Part>),
    ListingDue(OwnedSemaphorePermit),
}

struct ReadDone {
    at: u64,
    since: Instant,
    answers: Vec<(Place, Found)>,
}

/// A listing on its way; dropped, it stops.
struct Listing {
    ticket: Ticket,
    parts: mpsc::Receiver<Part>,
    task: JoinHandle<()>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Driver {
    pub(super) fn new(
        base: Base,
        hosts: String,
        chroot: bool,
        link: watch::Receiver<LinkStatus>,
        outbox: Outbox,
        stats: Arc<Stats>,
        listings: Arc<Semaphore>,
    ) -> Self {
        let layout = Arc::new(Layout::of(&base));
        Self {
            target: Target { path: layout.root().into(), layout: Arc::clone(&layout), chroot },
            mirror: Mirror::of(layout, MAX_CHILDREN),
            view: BaseView::new(&base),
            base,
            hosts,
            link,
            outbox,
            stats,
            listings,
            told: None,
            whole: false,
            unread_since: None,
            unpublished_since: None,
            counted: Counters::default(),
            drift_told: 0,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut epoch = 0;
        loop {
            let session = self.next_session(epoch).await;
            epoch = session.epoch;
            self.tenure(session).await;
            self.publish().await;
            self.mirror.lost();
            self.unread_since = None;
            // Nobody who is gone waits for a successor that cannot be read.
            self.unpublished_since.get_or_insert_with(Instant::now);
            self.publish().await;
        }
    }

    /// Waits for a session newer than `epoch`; meanwhile says that what we know is stale.
    async fn next_session(&mut self, epoch: u64) -> Session {
        // Should a reconnect ever escape us, the same session is good enough after this.
        let patience = tokio::time::Instant::now() + Duration::from_secs(2);
        loop {
            let link = self.link.borrow_and_update().link.clone();
            let late = match link {
                Link::Up(session) if session.epoch > epoch || patience.elapsed() > Duration::ZERO => {
                    return session;
                }
                Link::Up(_) => true,
                Link::Connecting => false,
                Link::Down(reason) => {
                    self.tell(Trust::Stale, Some(reason));
                    false
                }
            };
            tokio::select! {
                changed = self.link.changed() => if changed.is_err() {
                    // The session's keeper is gone: this task is about to be stopped too.
                    std::future::pending::<()>().await;
                },
                () = sleep_until(patience), if late => {}
            }
        }
    }

    async fn tenure(&mut self, session: Session) {
        let Some(watcher) = self.watch(&session).await else { return };
        let mut tenure = Tenure {
            session,
            watcher,
            reads: JoinSet::new(),
            listing: None,
            due: tokio::time::Instant::now(),
        };
        while self.step(&mut tenure).await.is_continue() {}
    }

    async fn watch(&mut self, session: &Session) -> Option<PersistentWatcher> {
        let watching = session.client.watch(&self.target.path, AddWatchMode::PersistentRecursive);
        let path = Arc::clone(&self.target.path);
        match list::within_deadline(watching).await {
            Ok(watcher) => return Some(watcher),
            Err(Error::Unimplemented) => {
                let hosts = &self.hosts;
                self.complain(format!(
                    "the server at {hosts} is older than ZooKeeper 3.6: it has no recursive watches"
                ));
                // Such a server also closes the connection, so a new session is no reason to hurry.
                sleep(jitter(OLD_SERVER_PAUSE)).await;
            }
            Err(error) => {
                let pause = self.next_pause();
                match error {
                    Error::NoAuth => self.complain(ListError::Forbidden(path).to_string()),
                    Error::BadArguments(_) => self.complain(format!("{path} can not be watched: {error}")),
                    // A connection that is lost says so itself.
                    _ if self.failures > 2 => self.complain(format!("{path} can not be watched: {error}")),
                    _ => {}
                }
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = self.link.changed() => self.link.mark_changed(),
                }
            }
        }
        None
    }

    /// Handles one wake-up with everything that is ready, and publishes once. Breaks when the watch is dead.
    async fn step(&mut self, tenure: &mut Tenure) -> ControlFlow<()> {
        self.send_reads(tenure);
        let wake = tenure.wake(&mut self.link, &self.listings).await;
        let mut alive = ControlFlow::Continue(());
        let mut waiting = None;
        match wake {
            Wake::Event(event) => alive = self.on_event(&event),
            other => waiting = Some(other),
        }
        // The session hands out an event before the answer to any later read. So with every event that is
        // here handled first, an answer is never applied before an event that it already reflects.
        let mut burst = 0;
        while alive.is_continue()
            && burst < BURST
            && let Poll::Ready(event) = poll_once(tenure.watcher.changed())
        {
            alive = self.on_event(&event);
            burst += 1;
        }
        if alive.is_continue()
            && let Some(waiting) = waiting
        {
            alive = self.on_wake(waiting, tenure);
        }
        self.publish().await;
        if std::mem::take(&mut self.whole) {
            self.tell(Trust::Live, None);
        }
        if self.mirror.needs_listing() {
            let soon = tokio::time::Instant::now() + jitter(FIRST_PAUSE);
            if tenure.listing.is_none() && tenure.due > soon && self.failures == 0 {
                tenure.due = soon;
            }
        }
        if burst == BURST {
            tokio::task::yield_now().await;
        }
        alive
    }

    fn on_event(&mut self, event: &WatchedEvent) -> ControlFlow<()> {
        let kind = match event.event_type {
            EventType::Session => return ControlFlow::Break(()),
            EventType::NodeCreated => EventKind::Created,
            EventType::NodeDataChanged => EventKind::Changed,
            EventType::NodeDeleted => EventKind::Deleted,
            EventType::NodeChildrenChanged => return ControlFlow::Continue(()),
        };
        let now = Instant::now();
        self.unread_since.get_or_insert(now);
        self.unpublished_since.get_or_insert(now);
        self.mirror.event(kind, &event.path);
        ControlFlow::Continue(())
    }

    fn on_wake(&mut self, wake: Wake, tenure: &mut Tenure) -> ControlFlow<()> {
        match wake {
            Wake::Event(event) => return self.on_event(&event),
            Wake::Link => {
                let link = &self.link.borrow_and_update().link;
                let ours = matches!(link, Link::Up(session) if session.epoch == tenure.session.epoch);
                return if ours { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
            Wake::Read(done) => {
                let since = self.unpublished_since.map_or(done.since, |old| old.min(done.since));
                self.unpublished_since = Some(since);
                self.mirror.answer(done.at, done.answers);
            }
            Wake::Part(part) => self.on_part(part, tenure),
            Wake::ListingDue(permit) => {
                let (sender, parts) = mpsc::channel(8);
                let ticket = self.mirror.start_listing();
                let listing = list::list(tenure.session.client.clone(), self.target.clone(), sender);
                let task = tokio::spawn(listing);
                tenure.listing = Some(Listing { ticket, parts, task, _permit: permit });
            }
        }
        ControlFlow::Continue(())
    }

    fn on_part(&mut self, part: Option<Part>, tenure: &mut Tenure) {
        let Some(ticket) = tenure.listing.as_ref().map(|listing| listing.ticket) else { return };
        match part {
            Some(Part::Folder(child, contents)) => self.mirror.listed_folder(ticket, &child, contents),
            Some(Part::Hidden(above)) => {
                let base = self.base.name.as_str();
                tracing::debug!(base, directory = &*above, "may not be listed; what is known below it stays");
                self.mirror.listed_hidden(ticket, &above);
            }
            Some(Part::Shut(place, reason, detail)) => {
                self.mirror.listed_shut(ticket, place, reason, detail);
            }
            Some(Part::Nodes(nodes)) => self.mirror.listed_nodes(ticket, nodes),
            Some(Part::End(end)) => self.on_end(ticket, end, tenure),
            None => {
                let path = Arc::clone(&self.target.path);
                let died = Error::UnexpectedError("its task ended early".to_owned());
                self.on_end(ticket, Err(ListError::Failed(path, died)), tenure);
            }
        }
    }

    fn on_end(&mut self, ticket: Ticket, end: Result<(), ListError>, tenure: &mut Tenure) {
        tenure.listing = None;
        let whole = self.mirror.end_listing(ticket, end.is_ok());
        let pause = if whole {
            self.failures = 0;
            let drift = self.mirror.counters().drift - self.drift_told;
            self.drift_told += drift;
            if drift > 0 {
                let base = self.base.name.as_str();
                tracing::warn!(base, drift, "a listing found changes that no event had told");
                self.outbox.send(Change::Drift { base: self.base.name.clone(), nodes: drift });
            }
            self.unpublished_since.get_or_insert_with(Instant::now);
            self.whole = true;
            jitter(AUDIT).min(AUDIT)
        } else {
            match end {
                Err(error @ (ListError::Forbidden(_) | ListError::NoChroot)) => {
                    self.failures += 1;
                    self.complain(error.to_string());
                    jitter(LOCKED_PAUSE)
                }
                Err(error @ (ListError::TooLarge(..) | ListError::TooMany(_))) => {
                    self.failures += 1;
                    self.complain(error.to_string());
                    jitter(LARGE_PAUSE)
                }
                Err(error @ ListError::Failed(..)) => {
                    tracing::debug!(base = self.base.name.as_str(), %error, "a listing failed");
                    // One failure while connected is nothing; the events still arrive.
                    if self.failures >= 2 {
                        self.complain(error.to_string());
                    }
                    self.next_pause()
                }
                Ok(()) => self.next_pause(),
            }
        };
        tenure.due = tokio::time::Instant::now() + pause;
    }

    fn send_reads(&mut self, tenure: &mut Tenure) {
        while tenure.reads.len() < READS
            && let Some(question) = self.mirror.ask(BATCH)
        {
            let since = self.unread_since.unwrap_or_else(Instant::now);
            let client = tenure.session.client.clone();
            let layout = Arc::clone(&self.target.layout);
            tenure.reads.spawn(async move {
                let answers = match list::read_nodes(client, layout, question.places).await {
                    Ok(answers) => answers,
                    Err(error) => {
                        tracing::debug!(%error, "reading changed nodes failed");
                        Vec::new()
                    }
                };
                ReadDone { at: question.at, since, answers }
            });
        }
        if tenure.reads.len() < READS {
            self.unread_since = None;
        }
    }

    /// Applies the mirror's news and hands on what changed. Nothing is handed on before the first whole
    /// listing, and nothing of a listing before its end: each service's members are rebuilt once.
    async fn publish(&mut self) {
        let received = self.unpublished_since.take_if(|_| self.mirror.is_listed());
        if self.view.minds_unread() {
            let unread: Vec<Place> = self.mirror.unread().collect();
            self.view.set_unread(unread.iter().map(|place| (place.child.as_deref(), &*place.node)));
        }
        let mut source = Source::Listing;
        for (told_by, delta) in self.mirror.take_deltas() {
            // What an event told and what a listing found goes out apart.
            if let Some(received) = received.filter(|_| told_by != source) {
                self.hand_on(received, source).await;
            }
            source = told_by;
            delta.apply(&mut self.view);
        }
        let counters = self.mirror.counters();
        self.stats.add(self.counted, counters);
        self.counted = counters;
        if let Some(received) = received {
            self.hand_on(received, source).await;
        }
    }

    async fn hand_on(&mut self, received: Instant, source: Source) {
        loop {
            for change in self.view.take_some_changes(TURN, received, source) {
                self.outbox.send(change);
            }
            if !self.view.is_touched() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn complain(&mut self, reason: String) {
        let base = self.base.name.as_str();
        let news = !matches!(&self.told, Some((Trust::Stale, Some(old))) if **old == *reason);
        if news {
            tracing::warn!(base, address = self.hosts, reason, "a directory can not be read");
        }
        self.tell(Trust::Stale, Some(reason.into()));
    }

    fn tell(&mut self, trust: Trust, reason: Option<Arc<str>>) {
        let news = Some((trust, reason.clone()));
        if self.told != news {
            self.told = news;
            self.outbox.send(Change::Trust { base: self.base.name.clone(), trust, reason });
        }
    }

    fn next_pause(&mut self) -> Duration {
        self.failures += 1;
        jitter(FIRST_PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE))
    }
}

/// What lives from a connect to the next loss.
struct Tenure {
    session: Session,
    watcher: PersistentWatcher,
    reads: JoinSet<ReadDone>,
    listing: Option<Listing>,
    due: tokio::time::Instant,
}

impl Tenure {
    async fn wake(&mut self, link: &mut watch::Receiver<LinkStatus>, listings: &Arc<Semaphore>) -> Wake {
        let listing = self.listing.is_some();
        let part = async {
            match &mut self.listing {
                Some(listing) => listing.parts.recv().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            sleep_until(self.due).await;
            match Arc::clone(listings).acquire_owned().await {
                Ok(permit) => permit,
                // Nobody closes it.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.watcher.changed() => Wake::Event(event),
            _ = link.changed() => Wake::Link,
            Some(Ok(done)) = self.reads.join_next() => Wake::Read(done),
            part = part => Wake::Part(part),
            permit = due, if !listing => Wake::ListingDue(permit),
        }
    }
}

/// Between four fifths and six fifths.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Polls a cancel-safe future once, for what is ready now.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}
