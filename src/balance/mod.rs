//! Choosing one of a service's endpoints: one file a policy, no I/O, no clock, no shared lock.
//!
//! A [`Balancer`] is built from the [`Member`]s of a service in slot order and never changes; a
//! service whose members change gets a new one. What has to outlive that (the place in a round
//! robin) is in [`Cursors`]. A pick sees the living side (who is usable, how loaded, how fast)
//! through [`Candidates`], so that a policy can be tested with an array.
//!
//! A balancer of one's own comes in through a [`BalancerFactory`]; [`Standard`] builds ours.

use std::sync::Arc;

mod bound;
mod circle;
mod draw;
mod factory;
mod fingerprint;
pub mod hash;
mod least_request;
mod maglev;
mod peak_ewma;
mod random;
mod ring;
mod round_robin;
mod walk;

#[cfg(test)]
mod testing;

pub use factory::{BalancerFactory, Standard};
pub use fingerprint::Fingerprint;
pub use least_request::LeastRequest;
pub use maglev::Maglev;
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use ring::Ring;
pub use round_robin::{Cursors, RoundRobin};

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

    /// Requests in flight on all of them. Worth overriding where a counter knows.
    fn total_load(&self) -> u64 {
        (0..self.len()).map(|slot| u64::from(self.load(slot))).sum()
    }

    /// Whether every slot that has a share is usable. `false` is always safe, only slower.
    fn all_usable(&self) -> bool {
        (0..self.len()).all(|slot| self.usable(slot))
    }
}

/// What a policy is built from: the endpoints in slot order.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The address as the admin prints it: what hash policies place.
    pub address: Arc<str>,
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
    /// The hashed key ([`hash::key`]), for hash policies; `None` where the request lacks it (picked at random).
    pub affinity: Option<u32>,
    /// Slots already tried for this request.
    pub exclude: &'a [Slot],
}

/// A policy over a fixed list of members. Immutable but for cursors: a new list is a new balancer.
pub trait Balancer: std::fmt::Debug + Send + Sync {
    /// One usable slot that is not excluded, or `None` when there is none. Never blocks.
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot>;

    /// The distinct slots in the order in which a request with this key is offered them, usable or
    /// not: `None` where the policy does not place by key.
    fn placement(&self, affinity: u32) -> Option<Vec<Slot>> {
        let _ = affinity;
        None
    }

    /// What `pick` would answer a first request with this key, without any effect: `None` where the
    /// policy does not place by key, or nobody is usable.
    fn place(&self, affinity: u32, candidates: &dyn Candidates) -> Option<Slot> {
        self.placement(affinity)?.into_iter().find(|&slot| candidates.usable(slot))
    }

    /// The same policy over other members, made out of this one where that is cheaper: it must pick as one that its
    /// factory builds anew. `None`, the default, has the factory build it.
    fn successor(&self, members: &[Member]) -> Option<Arc<dyn Balancer>> {
        let _ = members;
        None
    }
}

/// Whether a slot may be the answer to this pick.
fn is_open(slot: Slot, exclude: &[Slot], candidates: &dyn Candidates) -> bool {
    !exclude.contains(&slot) && candidates.usable(slot)
}
