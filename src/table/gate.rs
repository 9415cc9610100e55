//! A route's barrier as requests see it: closed while a node of a registry exists.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::config::plan::NodePlan;

/// Requests that one barrier holds at a time; those over it are refused.
pub const MAX_HELD: usize = 1024;

/// A barrier's state. Discovery sets it; a request that finds it open pays one load.
#[derive(Debug)]
pub struct Gate {
    node: NodePlan,
    closed: AtomicBool,
    /// Whether the registry has been heard.
    known: AtomicBool,
    held: AtomicUsize,
    opened: Notify,
}

/// A held request's place.
#[derive(Debug)]
pub struct Held<'g>(&'g Gate);

impl Gate {
    /// The gate of a node that nobody has looked at yet. It is closed until then, or until [`Gate::give_up`].
    pub fn new(node: NodePlan) -> Self {
        Self {
            node,
            closed: AtomicBool::new(true),
            known: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            opened: Notify::new(),
        }
    }

    /// Which node closes it.
    pub fn node(&self) -> &NodePlan {
        &self.node
    }

    /// The node exists, or it does not. Returns whether that is news.
    pub fn set(&self, closed: bool) -> bool {
        let known = self.known.swap(true, Ordering::AcqRel);
        let news = self.closed.swap(closed, Ordering::AcqRel) != closed;
        if !closed {
            self.opened.notify_waiters();
        }
        news || (closed && !known)
    }

    /// The registry is silent: a barrier that nobody has seen holds nobody.
    pub fn give_up(&self) {
        if !self.known.load(Ordering::Acquire) && self.closed.swap(false, Ordering::AcqRel) {
            self.opened.notify_waiters();
        }
    }

    /// Whether requests wait.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Requests that wait now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A place to wait in, while there is one.
    pub fn hold(&self) -> Option<Held<'_>> {
        let place = Held(self);
        (self.held.fetch_add(1, Ordering::Relaxed) < MAX_HELD).then_some(place)
    }
}

impl Held<'_> {
    /// Returns when the gate is open. Cancel-safe.
    pub async fn opened(&self) {
        loop {
            let mut opened = pin!(self.0.opened.notified());
            // Before the look, so that an opening after it is not missed.
            opened.as_mut().enable();
            if !self.0.is_closed() {
                return;
            }
            opened.await;
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::model::RegistryName;

    fn gate() -> Gate {
        let registry = RegistryName::new("main").expect("a name");
        Gate::new(NodePlan { registry, path: "/maintenance".to_owned() })
    }

    #[test]
    fn a_gate_is_closed_until_it_is_known_or_given_up() {
        let silent = gate();
        assert!(silent.is_closed());
        silent.give_up();
        assert!(!silent.is_closed());
        let standing = gate();
        assert!(standing.set(true), "that it stands is news");
        standing.give_up();
        assert!(standing.is_closed(), "what is known stays");
        assert!(!standing.set(true));
        assert!(standing.set(false) && !standing.is_closed());
    }

    #[test]
    fn held_requests_go_on_when_it_opens_and_are_bounded() {
        let gate = gate();
        let held = gate.hold().expect("a place");
        let mut opened = pin!(held.opened());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(opened.as_mut().poll(&mut cx).is_pending());
        gate.set(false);
        assert!(opened.as_mut().poll(&mut cx).is_ready());
        gate.set(true);
        let all: Vec<_> = (1..MAX_HELD).map(|_| gate.hold().expect("a place")).collect();
        assert!(gate.hold().is_none());
        assert_eq!(gate.held(), MAX_HELD);
        drop(all);
        assert_eq!(gate.held(), 1);
    }
}
