//! The deadlines of one client connection: what it is doing, since when, and when that has been too long.
//!
//! Shared by what reads and writes, which reports bytes, by the requests on the connection, and by the worker's
//! tick, which compares. Times are the worker's coarse clock.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::memory::Pressure;

/// A client that sends or takes less is cut, once we have waited for it this long.
const DRIP_AFTER: Duration = Duration::from_secs(10);
const DRIP_RATE: u64 = 256;
/// How long a client's FIN under a request may be a mere half-close before it counts as gone.
const HALF_CLOSE: Duration = Duration::from_secs(1);

/// A connection that is between requests for so long gives back all that a request needs.
const REST_AFTER: Duration = Duration::from_millis(500);

/// While the worker drains, a connection between requests may ask for one more within this time.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing moved for too long.
    Idle,
    /// Bytes come or go too slowly while we wait for the client.
    Drip,
    /// Memory is short, and what is held for this client is too much.
    Memory,
}

/// Where the reader of an HTTP/1 connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Between messages: not one byte of a head.
    Between,
    /// A head has begun.
    Head,
    /// A body whose length is known.
    Sized,
    /// A body in chunks.
    Chunked,
    /// Not ours to look into: HTTP/2, or a tunnel.
    Opaque,
}

/// Times and limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) idle: Duration,
    pub(super) header: Duration,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct ConnState {
    clock: Rc<Clock>,
    timeouts: Timeouts,
    waker: RefCell<Option<Waker>>,
    last_byte: Cell<Instant>,
    pub(super) reading: Cell<Reading>,
    head_since: Cell<Option<Instant>>,
    upload: Meter,
    download: Meter,
    /// The client sent FIN, at this time.
    eof: Cell<Option<Instant>>,
    verdict: Cell<Option<Verdict>>,
    head_late: Cell<bool>,
    leaving: Cell<bool>,
    body_late: Cell<Option<Instant>>,
    /// HTTP/2 answers whose client takes no more, and when one of them last moved.
    held: Cell<usize>,
    held_since: Cell<Instant>,
    /// Requests from their head to the end of their answer.
    open: Cell<usize>,
    /// Of those, the ones whose answer has not begun.
    waiting: Cell<usize>,
    /// The request body broke its framing.
    pub(super) broken_body: Cell<bool>,
    /// The client said that it sends no other request.
    pub(super) last_request: Cell<bool>,
    /// HTTP/1 is being spoken, by what would be given back for a rest.
    pub(super) awake: Cell<bool>,
    /// Part of an answer waits to be sent: for its turn, or until the client takes more.
    unsent: Cell<bool>,
    /// Nobody would be woken by the client's bytes.
    unwatched: Cell<bool>,
    /// For so many ticks that has been the case; from the second on the client is watched.
    overlooked: Cell<u8>,
    /// Memory is short, so that nothing is read from the client.
    choked: Cell<bool>,
}

/// Counts waiting time and bytes in one direction.
#[derive(Debug, Default)]
struct Meter {
    since: Cell<Option<Instant>>,
    waited: Cell<Duration>,
    bytes: Cell<u64>,
}

impl Meter {
    fn blocked(&self, now: Instant) {
        if self.since.get().is_none() {
            self.since.set(Some(now));
        }
    }

    fn moved(&self, bytes: usize, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited.set(self.waited.get() + now.saturating_duration_since(since));
            self.bytes.set(self.bytes.get() + bytes as u64);
        }
    }

    fn reset(&self) {
        self.since.set(None);
        self.waited.set(Duration::ZERO);
        self.bytes.set(0);
    }

    /// Judges a full window and begins the next.
    fn drips(&self, now: Instant) -> bool {
        let current = self.since.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let waited = self.waited.get() + current;
        if waited < DRIP_AFTER {
            return false;
        }
        let slow = self.bytes.get() < DRIP_RATE * waited.as_secs();
        self.waited.set(Duration::ZERO);
        self.bytes.set(0);
        if self.since.get().is_some() {
            self.since.set(Some(now));
        }
        slow
    }
}

impl ConnState {
    pub(super) fn new(clock: &Rc<Clock>, timeouts: Timeouts) -> Rc<Self> {
        Rc::new(Self {
            clock: Rc::clone(clock),
            timeouts,
            waker: RefCell::new(None),
            last_byte: Cell::new(clock.now()),
            reading: Cell::new(Reading::Between),
            head_since: Cell::new(None),
            upload: Meter::default(),
            download: Meter::default(),
            eof: Cell::new(None),
            verdict: Cell::new(None),
            head_late: Cell::new(false),
            leaving: Cell::new(false),
            body_late: Cell::new(None),
            held: Cell::new(0),
            held_since: Cell::new(clock.now()),
            open: Cell::new(0),
            waiting: Cell::new(0),
            broken_body: Cell::new(false),
            last_request: Cell::new(false),
            awake: Cell::new(false),
            unsent: Cell::new(false),
            unwatched: Cell::new(false),
            overlooked: Cell::new(0),
            choked: Cell::new(false),
        })
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Remembers whom to wake; called at each poll of the connection's task.
    pub(super) fn park(&self, cx: &Context<'_>) {
        let mut slot = self.waker.borrow_mut();
        match slot.as_ref() {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *slot = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get()
    }

    /// Whether the connection should end now, nothing being asked for on it.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    // Reports of what reads and writes.

    pub(super) fn received(&self, bytes: usize) {
        let now = self.now();
        self.last_byte.set(now);
        self.upload.moved(bytes, now);
    }

    pub(super) fn sent(&self, bytes: usize) {
        let now = self.now();
        self.last_byte.set(now);
        self.download.moved(bytes, now);
    }

    /// The client has nothing for us, and we want it.
    pub(super) fn wants_bytes(&self) {
        if self.reading.get() == Reading::Sized {
            self.upload.blocked(self.now());
        }
    }

    /// Bytes moved in a tunnel, either way.
    pub(super) fn moved(&self) {
        self.last_byte.set(self.now());
    }

    /// The client does not take what we have.
    pub(super) fn wants_room(&self) {
        self.download.blocked(self.now());
    }

    pub(super) fn set_reading(&self, reading: Reading) {
        if self.reading.replace(reading) != reading {
            self.upload.reset();
            self.head_since.set(None);
        }
    }

    /// The client's FIN came.
    pub(super) fn end_of_input(&self) {
        if self.eof.get().is_none() {
            self.eof.set(Some(self.now()));
        }
    }

    /// Whether a client whose FIN came under a request counts as gone: until then it may be a half-close.
    pub(super) fn has_left(&self) -> bool {
        let now = self.now();
        self.eof.get().is_some_and(|since| now.saturating_duration_since(since) >= HALF_CLOSE)
    }

    pub(super) fn input_ended(&self) -> bool {
        self.eof.get().is_some()
    }

    /// Whether the client's last message is read whole.
    pub(super) fn expects_nothing(&self) -> bool {
        (self.last_request.get() || self.input_ended()) && self.reading.get() == Reading::Between
    }

    /// Under a request that is whole: whether to look for its client's leaving may wait for the tick after next,
    /// as most are answered by then.
    pub(super) fn may_look_later(&self) -> bool {
        let later = self.overlooked.get() < 2;
        self.unwatched.set(later);
        later
    }

    /// Whether the connection is between requests, owes nothing, and has been so for long enough.
    pub(super) fn may_rest(&self) -> bool {
        self.awake.get()
            && self.reading.get() == Reading::Between
            && self.open.get() == 0
            && !self.unsent.get()
            && !self.input_ended()
            && self.now().saturating_duration_since(self.last_byte.get()) >= REST_AFTER
    }

    /// Whether a read from the client, of a body or of streams, has to wait because memory is short. Who takes no more of
    /// an answer over HTTP/2 is listened to: it may make room.
    pub(super) fn is_choked(&self) -> bool {
        let choked = self.clock.pressure() == Pressure::Full && self.held.get() == 0;
        self.choked.set(choked);
        choked
    }

    /// Whether no more of an answer is to be taken in: memory is short, and the client has not taken what there is.
    pub(super) fn is_stuffed(&self) -> bool {
        self.unsent.get() && self.clock.pressure() == Pressure::Full
    }

    /// Since when the client has not taken what is held for it.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        let held = (self.held.get() > 0).then(|| self.held_since.get());
        self.download.since.get().or(held).filter(|_| self.verdict.get().is_none())
    }

    /// Since when nothing has moved for a client under whose request reading has stopped.
    pub(super) fn choked_since(&self) -> Option<Instant> {
        let choked = self.choked.get() && self.open.get() > 0 && self.verdict.get().is_none();
        choked.then(|| self.last_byte.get())
    }

    /// Memory is short, and it has to go.
    pub(super) fn is_too_much(&self) {
        self.condemn(Verdict::Memory);
    }

    /// Whether the head that is being read took too long.
    pub(super) fn head_is_late(&self) -> bool {
        self.head_late.get()
    }

    /// Whether the body that is being read took too long: reading it fails, so that its request can be
    /// answered.
    pub(super) fn body_is_late(&self) -> bool {
        self.body_late.get().is_some()
    }

    // Reports of requests.

    /// HTTP/2: an answer's bytes were taken from it, and it is not asked for more (or is again): the
    /// client's window is full (or has room).
    pub(super) fn answer_held(&self, held: bool) {
        self.held.set(if held { self.held.get() + 1 } else { self.held.get().saturating_sub(1) });
        self.held_since.set(self.now());
        if held && self.choked.get() {
            // From now on it is listened to, though nothing was read from it.
            self.wake();
        }
    }

    pub(super) fn request_begins(&self) {
        self.clock.request_begins();
        self.overlooked.set(0);
        self.open.set(self.open.get() + 1);
        self.waiting.set(self.waiting.get() + 1);
    }

    pub(super) fn answer_begins(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.last_byte.set(self.now());
    }

    pub(super) fn request_ends(&self) {
        self.clock.request_ends();
        self.open.set(self.open.get().saturating_sub(1));
        self.download.reset();
        self.last_byte.set(self.now());
        self.unwatched.set(false);
    }

    /// Takes down whether part of an answer waits to be sent.
    pub(super) fn waits_to_send(&self, unsent: bool) {
        self.unsent.set(unsent);
    }

    /// Compares what is going on with the limits.
    pub(super) fn tick(&self, now: Instant) {
        if self.verdict.get().is_some() {
            return;
        }
        if self.unwatched.get() {
            self.overlooked.set(self.overlooked.get() + 1);
            if self.overlooked.get() >= 2 {
                self.unwatched.set(false);
                self.wake();
            }
        }
        if self.may_rest() || self.choked.get() && self.clock.pressure() != Pressure::Full {
            self.choked.set(false);
            self.wake();
        }
        let open = self.open.get() > 0;
        if self.reading.get() == Reading::Head && !open {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            if now.saturating_duration_since(since) >= self.timeouts.header {
                self.head_late.set(true);
                self.wake();
            }
            return;
        }
        if self.reading.get() == Reading::Between
            && !open
            && !self.leaving.get()
            && self.had_its_last_call(now)
        {
            self.leaving.set(true);
            self.wake();
        }
        if self.has_left() {
            self.wake();
        }
        if let Some(since) = self.body_late.get() {
            if now.saturating_duration_since(since) >= HALF_CLOSE {
                self.condemn(Verdict::Drip);
            }
            return;
        }
        let idle = self.is_over(self.last_byte.get(), now);
        let uploading = self.upload.since.get().is_some();
        let drips = self.reading.get() == Reading::Sized && self.upload.drips(now);
        if self.waiting.get() > 0 && (drips || idle && uploading) {
            self.body_late.set(Some(now));
            self.wake();
        } else if drips || self.held.get() > 0 && self.is_over(self.held_since.get(), now) {
            // Pings keep an HTTP/2 connection from being idle, but not a client from being stuck.
            self.condemn(Verdict::Drip);
        } else if idle && (self.waiting.get() == 0 || self.download.since.get().is_some()) {
            self.condemn(Verdict::Idle);
        }
    }

    fn is_over(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.timeouts.idle
    }

    /// Bytes that are on their way when the drain begins get their answer.
    fn had_its_last_call(&self, now: Instant) -> bool {
        let since = self.clock.draining_since().map(|since| since.max(self.last_byte.get()));
        since.is_some_and(|since| now.saturating_duration_since(since) >= LAST_CALL)
    }

    fn condemn(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
        self.wake();
    }

    /// Judges the other direction when the client took something: the kernel takes our bytes in lumps, so
    /// that a pause says nothing; a client that takes nothing at all is idle.
    pub(super) fn judge_download(&self) {
        if self.download.drips(self.now()) {
            self.condemn(Verdict::Drip);
        }
    }
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
