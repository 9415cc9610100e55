//! The worker's coarse clock: one tick moves every deadline, so that no request arms a timer.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::conn::ConnState;
use super::memory::{FEW, PATIENCE, Pressure};
use crate::table::{Endpoint, Reason};

/// How often a worker ticks, and by how much a deadline may be late.
pub const TICK: Duration = Duration::from_millis(50);

/// The time as of the last tick, and everybody who waits for it.
pub(super) struct Clock {
    now: Cell<Instant>,
    draining: Cell<Option<Instant>>,
    connections: RefCell<Slots<Rc<ConnState>>>,
    alarms: RefCell<Slots<(Instant, Waker)>>,
    watches: RefCell<Slots<Waiting>>,
    /// As of the last tick.
    pressure: Cell<Pressure>,
    /// Requests under way.
    requests: Cell<usize>,
}

/// A request that waits for the head of an answer.
struct Waiting {
    endpoint: Arc<Endpoint>,
    since: Instant,
    waker: Waker,
}

/// A list with holes: O(1) to enter and to leave.
#[derive(Debug)]
pub(super) struct Slots<T> {
    items: Vec<Option<T>>,
    free: Vec<usize>,
}

/// The deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elapsed;

impl Clock {
    /// A clock that stands at `now` until its first tick.
    pub(super) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(now),
            draining: Cell::new(None),
            connections: RefCell::default(),
            alarms: RefCell::default(),
            watches: RefCell::default(),
            pressure: Cell::default(),
            requests: Cell::default(),
        })
    }

    /// The time of the last tick.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Moves the clock and wakes whoever is due.
    pub(super) fn tick(&self, now: Instant) {
        self.now.set(now);
        // Wakers only mark tasks as runnable: nothing re-enters these borrows.
        for state in self.connections.borrow().iter() {
            state.tick(now);
        }
        for (at, waker) in self.alarms.borrow().iter() {
            if *at <= now {
                waker.wake_by_ref();
            }
        }
        for waiting in self.watches.borrow().iter() {
            if is_out(&waiting.endpoint) {
                waiting.waker.wake_by_ref();
            }
        }
    }

    /// Takes down how short memory is.
    pub(super) fn set_pressure(&self, pressure: Pressure) {
        self.pressure.set(pressure);
    }

    /// How short memory is; never so for the last few requests.
    pub(super) fn pressure(&self) -> Pressure {
        if self.requests.get() < FEW { Pressure::None } else { self.pressure.get() }
    }

    /// One request more is under way on this worker.
    pub(super) fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// One fewer is.
    pub(super) fn request_ends(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
    }

    /// While memory is short: cuts a quarter of those who have not taken what is held for them for some time, at the limit
    /// for any, the longest stuck first; where there are none, at the limit, of those from whom nothing more is read, the
    /// latest first. Returns how many.
    pub(super) fn cut_stuck(&self, now: Instant) -> usize {
        let (patience, full) = match self.pressure() {
            Pressure::None => return 0,
            Pressure::High => (PATIENCE, false),
            Pressure::Full => (Duration::ZERO, true),
        };
        let connections = self.connections.borrow();
        let stuck = connections.iter().filter_map(|state| Some((state.stuck_since()?, state)));
        let mut stuck: Vec<_> = stuck.filter(|(since, _)| now >= *since + patience).collect();
        stuck.sort_by_key(|(since, _)| *since);
        if stuck.is_empty() && full {
            stuck = connections.iter().filter_map(|state| Some((state.choked_since()?, state))).collect();
            stuck.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        }
        let count = stuck.len().div_ceil(4);
        stuck.iter().take(count).for_each(|(_, state)| state.is_too_much());
        count
    }

    /// Since when the worker drains.
    pub(super) fn draining_since(&self) -> Option<Instant> {
        self.draining.get()
    }

    /// Marks the beginning of a drain, and wakes every connection's task.
    pub(super) fn drain(&self) {
        self.draining.set(Some(self.now.get()));
        for state in self.connections.borrow().iter() {
            state.wake();
        }
    }

    /// Lets ticks look after a connection for as long as the guard lives.
    pub(super) fn register(self: &Rc<Self>, state: Rc<ConnState>) -> Registered {
        let key = self.connections.borrow_mut().insert(state);
        Registered { clock: Rc::clone(self), key }
    }

    /// Runs `future` until a deadline. Late by up to a [`TICK`], never early.
    pub(super) async fn within<F: Future>(
        &self,
        at: Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Elapsed> {
        let Some(at) = at else { return Ok(future.await) };
        let mut alarm = Alarm { clock: self, key: None };
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            if self.now() >= at {
                return Poll::Ready(Err(Elapsed));
            }
            alarm.set(at, cx);
            Poll::Pending
        })
        .await
    }
}

/// Whether it was seen to answer nobody, while its node is there. One that merely fails may answer what it has.
pub(super) fn is_out(endpoint: &Endpoint) -> bool {
    matches!(endpoint.ejected(), Some((Reason::Connect | Reason::Silent, ..)))
}

impl Clock {
    /// Those who keep a request waiting for longer than they use to, each once.
    pub(super) fn waited_for(&self, now: Instant) -> Vec<Arc<Endpoint>> {
        let (mut known, watches) = (HashSet::new(), self.watches.borrow());
        let late = watches.iter().filter(|waiting| waiting.endpoint.keeps_waiting(waiting.since, now));
        let first = late.filter(|waiting| known.insert(waiting.endpoint.target.id));
        first.map(|waiting| Arc::clone(&waiting.endpoint)).collect()
    }

    /// Runs `future`, which waits for an endpoint, to its end; or, where the request may `move` elsewhere, until that is
    /// seen to answer nobody: `None`. One that was out before does not count. That is seen at a tick.
    pub(super) async fn unless_ejected<F: Future>(
        &self,
        endpoint: &Arc<Endpoint>,
        may_move: bool,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        if is_out(endpoint) {
            return Some(future.await);
        }
        let mut watch = Watch { clock: self, key: None };
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            if may_move && is_out(endpoint) {
                return Poll::Ready(None);
            }
            watch.set(endpoint, cx);
            Poll::Pending
        })
        .await
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now.get()).finish_non_exhaustive()
    }
}

/// Membership of a connection in its worker's tick.
pub(super) struct Registered {
    clock: Rc<Clock>,
    key: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.clock.connections.borrow_mut().remove(self.key);
    }
}

struct Alarm<'a> {
    clock: &'a Clock,
    key: Option<usize>,
}

impl Alarm<'_> {
    fn set(&mut self, at: Instant, cx: &Context<'_>) {
        let mut alarms = self.clock.alarms.borrow_mut();
        match self.key {
            Some(key) => {
                if let Some((_, waker)) = &mut alarms.items[key] {
                    waker.clone_from(cx.waker());
                }
            }
            None => self.key = Some(alarms.insert((at, cx.waker().clone()))),
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.alarms.borrow_mut().remove(key);
        }
    }
}

struct Watch<'a> {
    clock: &'a Clock,
    key: Option<usize>,
}

impl Watch<'_> {
    fn set(&mut self, endpoint: &Arc<Endpoint>, cx: &Context<'_>) {
        let mut watches = self.clock.watches.borrow_mut();
        if let Some(key) = self.key {
            if let Some(waiting) = &mut watches.items[key] {
                waiting.waker.clone_from(cx.waker());
            }
        } else {
            let (endpoint, since) = (Arc::clone(endpoint), self.clock.now());
            self.key = Some(watches.insert(Waiting { endpoint, since, waker: cx.waker().clone() }));
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.watches.borrow_mut().remove(key);
        }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn insert(&mut self, item: T) -> usize {
        if let Some(key) = self.free.pop() {
            self.items[key] = Some(item);
            key
        } else {
            self.items.push(Some(item));
            self.items.len() - 1
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        if self.items[key].take().is_some() {
            self.free.push(key);
        }
    }

    /// Places, holes among them.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, key: usize) -> Option<&T> {
        self.items.get(key)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_deadline_fires_at_the_tick_that_reaches_it() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let mut never = pin!(pending::<()>());
        let mut waiting = pin!(clock.within(Some(start + Duration::from_secs(1)), never.as_mut()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        clock.tick(start + Duration::from_millis(999));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        clock.tick(start + Duration::from_secs(1));
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(Err(Elapsed)));
        assert_eq!(clock.alarms.borrow().iter().count(), 0, "a deadline that is over leaves nothing");
    }
}
