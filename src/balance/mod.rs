//! Choosing one of a service's endpoints: one file a policy, no I/O, no clock, no shared lock.

use crate::model::BalanceSpec;

/// Index of an endpoint among the candidates.
pub type Slot = usize;

/// What a pick may look at. `len` never changes during a pick; the rest may, under it.
pub trait Candidates {
    /// How many there are, usable or not.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether this one may be picked now (enabled, not ejected, not draining).
    fn usable(&self, slot: Slot) -> bool;
    /// Requests in flight on it.
    fn load(&self, slot: Slot) -> u32;
    /// Its latency estimate in microseconds, 0 while unknown.
    fn latency(&self, slot: Slot) -> f64;
}

/// What a policy is built from: the endpoints in slot order.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The address as the admin prints it: what hash policies place.
    pub address: String,
    /// Share relative to the format's default weight: 1.0 is an ordinary one; 0 gets no traffic.
    pub share: f64,
}

/// What a pick knows of its request.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// A source of chance, the worker's own.
    pub rng: &'a mut fastrand::Rng,
    /// The worker that asks: each has its own round-robin cursor.
    pub worker: usize,
    /// The hashed key, for hash policies; `None` where the request lacks it (picked at random).
    pub affinity: Option<u32>,
    /// Slots already tried for this request.
    pub exclude: &'a [Slot],
}

/// A policy over a fixed list of members. Immutable but for cursors: a new list is a new balancer.
pub trait Balancer: std::fmt::Debug + Send + Sync {
    /// One usable slot that is not excluded, or `None` when there is none. Never blocks.
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot>;

    /// The slots that a request with this key would be offered, best first, without any effect:
    /// `None` where the policy does not place by key.
    fn placement(&self, affinity: u32, candidates: &dyn Candidates) -> Option<Vec<Slot>> {
        let _ = (affinity, candidates);
        None
    }
}

/// What survives a rebuild of a service's balancer.
#[derive(Debug)]
pub struct Cursors {
    _todo: (),
}

/// Builds the balancer of a specification.
pub fn build(spec: &BalanceSpec, members: &[Member], cursors: &std::sync::Arc<Cursors>) -> Box<dyn Balancer> {
    let _ = (spec, members, cursors);
    unimplemented!("the balance floor")
}
