//! Consistent hashing with bounded loads: nobody takes more than so many times the mean.

use super::{Candidates, Member, Slot};

/// A load bound over the members of a balancer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadBound {
    factor: f64,
    /// Of everyone: the sum while all are usable.
    total_share: f64,
}

/// What the bound comes to at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity<'a> {
    /// Requests that one whole share may have.
    per_share: f64,
    shares: &'a [f64],
}

impl LoadBound {
    pub(super) fn new(factor: f64, members: &[Member]) -> Self {
        Self { factor, total_share: members.iter().map(|m| m.share).sum() }
    }

    /// The same bound over other members.
    pub(super) fn over(self, members: &[Member]) -> Self {
        Self::new(self.factor, members)
    }

    /// Capacity = ceil(bound × (requests in flight + this one) × the instance's part of the usable share).
    pub(super) fn capacity<'a>(self, shares: &'a [f64], candidates: &dyn Candidates) -> Capacity<'a> {
        let usable_share = if candidates.all_usable() {
            self.total_share
        } else {
            (0..shares.len()).filter(|&slot| candidates.usable(slot)).map(|slot| shares[slot]).sum()
        };
        let per_share = self.factor * (candidates.total_load() + 1) as f64 / usable_share;
        Capacity { per_share, shares }
    }
}

impl Capacity<'_> {
    /// Whether the instance can take one more.
    pub(super) fn admits(&self, slot: Slot, candidates: &dyn Candidates) -> bool {
        // The subtraction keeps 1.0000000000000002 from becoming 2.
        let capacity = (self.per_share * self.shares[slot] - 1e-9).ceil();
        f64::from(candidates.load(slot)) < capacity
    }
}
