//! Counters of a whole registry, over all its bases.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::mirror::Counters;

/// Sums over all bases, kept when a base goes.
#[derive(Debug, Default)]
pub(super) struct Stats {
    removed_by_event: AtomicU64,
    removed_by_listing: AtomicU64,
    stale_replies: AtomicU64,
    drift: AtomicU64,
    listings: AtomicU64,
}

impl Stats {
    /// Adds what one base counted between two looks.
    pub(super) fn add(&self, before: Counters, now: Counters) {
        for (sum, before, now) in [
            (&self.removed_by_event, before.removed_by_event, now.removed_by_event),
            (&self.removed_by_listing, before.removed_by_listing, now.removed_by_listing),
            (&self.stale_replies, before.stale_replies, now.stale_replies),
            (&self.drift, before.drift, now.drift),
            (&self.listings, before.listings, now.listings),
        ] {
            if now != before {
                sum.fetch_add(now - before, Relaxed);
            }
        }
    }

    pub(super) fn sums(&self) -> Counters {
        Counters {
            removed_by_event: self.removed_by_event.load(Relaxed),
            removed_by_listing: self.removed_by_listing.load(Relaxed),
            stale_replies: self.stale_replies.load(Relaxed),
            drift: self.drift.load(Relaxed),
            listings: self.listings.load(Relaxed),
        }
    }
}
