//! Counts over a service's endpoints, and what follows from them: how many may be out, and when that is ignored.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::plan::EjectionPlan;

use super::health::{least_usable, most_ejected};

/// Shared by all endpoints of a service, through all generations.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Out of rotation for what they did, those on trial included.
    ejected: AtomicU32,
    /// In rotation, and doubted.
    doubted: AtomicU32,
    /// Kept only for services with a load bound: it costs each request a shared cache line.
    pub(super) in_flight: AtomicU32,
    /// As of the newest generation: endpoints that want traffic, and all.
    enabled: AtomicU32,
    len: AtomicU32,
    /// So many may be ejected by judgement.
    most: AtomicU32,
    /// Ejection is ignored while fewer are usable.
    least: AtomicU32,
}

impl Census {
    /// A generation has so many endpoints.
    pub(super) fn limit(&self, enabled: usize, len: usize, plan: Option<&EjectionPlan>) {
        self.enabled.store(enabled as u32, Ordering::Relaxed);
        self.len.store(len as u32, Ordering::Relaxed);
        // Without a plan health checks alone ask for a place: they are a configuration of their own.
        let most = plan.map_or_else(|| EjectionPlan::default().max_ejected, |plan| plan.max_ejected);
        let most = most_ejected(enabled, most);
        let least = plan.map_or(0, |plan| least_usable(enabled, plan.panic_threshold));
        self.most.store(most as u32, Ordering::Relaxed);
        self.least.store(least as u32, Ordering::Relaxed);
    }

    /// Whether anybody is out.
    pub(super) fn any_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) > 0
    }

    /// Whether anybody is doubted.
    pub(super) fn any_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) > 0
    }

    /// Whether so few are in rotation without a doubt that doubts are ignored. `trusted` counts those of the caller's
    /// generation up to a number.
    pub(super) fn ignores_doubts(&self, trusted: impl FnOnce(usize) -> usize) -> bool {
        let least = self.least.load(Ordering::Relaxed).max(1) as usize;
        trusted(least) < least
    }

    /// Counts one doubt more.
    pub(super) fn doubt(&self) {
        self.doubted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one doubt fewer.
    pub(super) fn trust(&self) {
        self.doubted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one in, whatever the limit.
    pub(super) fn enter(&self) {
        self.ejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one in where the limit has room. Two workers at once cannot both take the last place.
    pub(super) fn reserve(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |count| (count < most).then_some(count + 1);
        self.ejected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts one out.
    pub(super) fn leave(&self) {
        self.ejected.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether too few are usable to keep to ejections. `usable` counts those of the caller's generation up to a
    /// number; it is asked only where these counts do not tell.
    pub(super) fn panics(&self, usable: impl FnOnce(usize) -> usize) -> bool {
        let (ejected, least) = (self.ejected.load(Ordering::Relaxed), self.least.load(Ordering::Relaxed));
        let enabled = self.enabled.load(Ordering::Relaxed);
        // Those who are out and want no traffic either are taken off twice.
        if ejected == 0 || enabled.saturating_sub(ejected) >= least {
            return false;
        }
        enabled == self.len.load(Ordering::Relaxed) || usable(least as usize) < least as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_holds_and_what_is_counted_anyway_takes_its_places() {
        let census = Census::default();
        census.limit(4, 4, Some(&EjectionPlan::default()));
        assert!(census.reserve() && census.reserve() && !census.reserve(), "half of four");
        census.leave();
        census.enter();
        assert!(!census.reserve());
        census.leave();
        assert!(census.reserve());
    }

    #[test]
    fn ejection_is_ignored_below_the_threshold() {
        let census = Census::default();
        // Three of ten must be left. Of those that want traffic: one of the out does not.
        census.limit(10, 11, Some(&EjectionPlan::default()));
        for _ in 0..7 {
            census.enter();
        }
        assert!(!census.panics(|_| unreachable!("the counts tell")));
        census.enter();
        assert!(!census.panics(|_| 3) && census.panics(|_| 2));
        census.limit(10, 10, Some(&EjectionPlan::default()));
        assert!(census.panics(|_| unreachable!("the counts tell")));
        census.limit(10, 10, None);
        assert!(!census.panics(|_| 0), "ejection is off");
    }
}
