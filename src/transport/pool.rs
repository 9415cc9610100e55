//! Idle connections of one worker, by target: newest first, bounded in number and age.
//!
//! Nothing here has a timer. The worker's coarse tick says what time it is, and out goes what is
//! too old, or was closed by the other side.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TransportOptions;
use super::buffers::Buffers;
use super::h1::{Conn, HeadLimits};
use super::h2::Channels;
use super::maps::Maps;
use super::sends::Sends;

/// What all connections of a worker share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) options: TransportOptions,
    pub(crate) buffers: Buffers,
    pub(crate) maps: Maps,
    pub(crate) sends: Rc<Sends>,
    /// The time of the last tick: good enough for limits of seconds.
    pub(crate) now: Cell<Instant>,
    /// Idle HTTP/1.1 connections over all targets.
    idle: Cell<usize>,
    /// Of the heads of answers, as they are to be now.
    heads: Cell<HeadLimits>,
}

impl Common {
    pub(crate) fn new(options: TransportOptions) -> Self {
        let heads = HeadLimits::of_answers(options.max_headers, options.max_header_size);
        Self {
            options,
            buffers: Buffers::default(),
            maps: Maps::default(),
            sends: Rc::default(),
            now: Cell::new(Instant::now()),
            idle: Cell::new(0),
            heads: Cell::new(heads),
        }
    }

    pub(crate) fn head_limits(&self) -> HeadLimits {
        self.heads.get()
    }

    pub(crate) fn set_head_limits(&self, limits: HeadLimits) {
        self.heads.set(limits);
    }
}

/// An instance that closes a connection which was idle for less than this closes as it pleases.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an instance does with connections that are idle for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    Unknown,
    /// It keeps them for a tick at least, as far as was seen.
    Keeps,
    /// It closed one at once: it may do so again, and is never trusted.
    Closes,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
}

/// The connections of one target.
#[derive(Debug)]
pub(crate) struct TargetPool {
    common: Rc<Common>,
    /// Oldest first.
    idle: RefCell<VecDeque<Idle>>,
    pub(crate) channels: Channels,
    /// What its target says of itself.
    gone: Arc<AtomicBool>,
    /// The target is gone: nothing comes back.
    closed: Cell<bool>,
    manners: Cell<Manners>,
}

impl TargetPool {
    pub(crate) fn new(common: Rc<Common>, gone: Arc<AtomicBool>) -> Self {
        let idle = RefCell::new(VecDeque::new());
        Self {
            common,
            idle,
            channels: Channels::default(),
            gone,
            closed: Cell::new(false),
            manners: Cell::new(Manners::Unknown),
        }
    }

    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The newest idle connection that is still alive.
    pub(crate) fn checkout(&self) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut conn, since }) = idle.pop_back() {
            self.common.idle.set(self.common.idle.get() - 1);
            if conn.is_quiet() {
                conn.warm = since == self.common.now.get() && self.manners.get() == Manners::Keeps;
                return Some(conn);
            }
            self.found_closed(since);
        }
        None
    }

    /// Keeps a connection for the next request, unless a limit says otherwise.
    pub(crate) fn put(&self, conn: Conn) {
        let (options, now) = (&self.common.options, self.common.now.get());
        let too_old = now.saturating_duration_since(conn.born) > options.max_age;
        if self.closed.get() || too_old || options.max_idle_per_target == 0 {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= options.max_idle_per_target {
            idle.pop_front();
        } else if self.common.idle.get() >= options.max_idle {
            return;
        } else {
            self.common.idle.set(self.common.idle.get() + 1);
        }
        idle.push_back(Idle { conn, since: now });
    }

    /// Closes what is idle for too long, too old, or closed by the other side. The tick before was at `last`.
    pub(crate) fn tick(&self, last: Instant, now: Instant) {
        let options = &self.common.options;
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|Idle { conn, since }| {
            let quiet = conn.is_quiet();
            if !quiet {
                self.found_closed(*since);
            } else if *since < last && self.manners.get() == Manners::Unknown {
                self.manners.set(Manners::Keeps);
            }
            quiet
                && now.saturating_duration_since(*since) <= options.idle_timeout
                && now.saturating_duration_since(conn.born) <= options.max_age
        });
        self.common.idle.set(self.common.idle.get() - (before - idle.len()));
        drop(idle);
        self.channels.tick(now, options);
    }

    fn found_closed(&self, since: Instant) {
        if self.common.now.get().saturating_duration_since(since) < PATIENCE {
            self.manners.set(Manners::Closes);
        }
    }

    /// Whether there is nothing in it that a new pool would lack.
    pub(crate) fn is_unused(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1
            && self.idle.borrow().is_empty()
            && self.channels.is_empty()
            && self.manners.get() != Manners::Closes
    }

    /// Closes idle connections now, and the others once their exchanges end.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let mut idle = self.idle.borrow_mut();
        self.common.idle.set(self.common.idle.get() - idle.len());
        idle.clear();
        drop(idle);
        self.channels.close();
    }

    /// Idle HTTP/1.1 connections.
    #[cfg(test)]
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.borrow().len()
    }
}
