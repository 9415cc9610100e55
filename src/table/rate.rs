//! A route's rate limit: how many requests of each key pass.
//!
//! The state is one for the process, whatever worker asks, and lasts over reloads that leave the limit alone. What
//! is kept of a key is a hash of it and a time, no longer than until its bucket is full again; and of
//! [`MAX_KEYS`] keys at the most. Those beyond share one bucket: a flood of made-up keys gets one key's rate in
//! all, and costs no memory. This is the one place where workers share locks (a shard of the map for the time of
//! a look-up), and only requests of routes with a rate limit come here.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};

use crate::config::plan::RatePlan;

/// Keys of one route that have a bucket of their own.
pub const MAX_KEYS: usize = 65_536;
/// Full buckets are looked for at most this often, in milliseconds.
const SWEEP_MS: u64 = 1_000;
/// The bucket of those beyond [`MAX_KEYS`].
const OTHERS: u64 = 0;
/// The bucket of requests without the key.
const KEYLESS: u64 = 1;

/// The limit of one route, with its buckets.
pub struct Rate<C: Clock = MonotonicClock> {
    plan: RatePlan,
    limiter: RateLimiter<u64, Buckets, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    hasher: RandomState,
    started: C::Instant,
    swept_ms: AtomicU64,
    limited: AtomicU64,
}

/// The buckets by the hash of their keys.
struct Buckets {
    map: DashMapStateStore<u64>,
    most: usize,
    /// Not fewer than there are in the map.
    count: AtomicUsize,
}

impl StateStore for Buckets {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let known = *key <= KEYLESS || self.map.contains_key(key);
        let fits = known || {
            let room = self.count.fetch_add(1, Relaxed) < self.most;
            if !room {
                self.count.fetch_sub(1, Relaxed);
            }
            room
        };
        self.map.measure_and_replace(if fits { key } else { &OTHERS }, f)
    }
}

impl ShrinkableKeyedStateStore<u64> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        self.map.retain_recent(drop_below);
        self.count.store(self.map.len(), Relaxed);
    }

    fn len(&self) -> usize {
        self.map.len()
    }

    fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl Rate {
    pub(super) fn new(plan: RatePlan) -> Self {
        Self::with(plan, MAX_KEYS, MonotonicClock)
    }
}

impl<C: Clock + Clone> Rate<C> {
    fn with(plan: RatePlan, most: usize, clock: C) -> Self {
        let each = plan.per / plan.rate.max(1);
        let burst = NonZeroU32::new(plan.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(each).unwrap_or(Quota::per_second(NonZeroU32::MAX));
        let buckets = Buckets { map: DashMapStateStore::default(), most, count: AtomicUsize::new(0) };
        Self {
            plan,
            limiter: RateLimiter::new(quota.allow_burst(burst), buckets, clock.clone()),
            started: clock.now(),
            clock,
            hasher: RandomState::new(),
            swept_ms: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }
    }

    /// As configured.
    pub fn plan(&self) -> &RatePlan {
        &self.plan
    }

    /// Whether a request passes; else how long until the next of its key does.
    ///
    /// Requests without the key are one key among themselves.
    pub fn check(&self, key: Option<&[u8]>) -> Result<(), Duration> {
        self.sweep();
        // Seeded at random: nobody makes keys that meet in one bucket.
        let hash = key.map_or(KEYLESS, |key| self.hasher.hash_one(key).max(KEYLESS + 1));
        self.limiter.check_key(&hash).map_err(|until| {
            self.limited.fetch_add(1, Relaxed);
            until.wait_time_from(self.clock.now())
        })
    }

    /// Forgets full buckets, once a second at most.
    fn sweep(&self) {
        use governor::clock::Reference as _;
        let since: Duration = self.clock.now().duration_since(self.started).into();
        let (now, swept) = (since.as_millis() as u64, self.swept_ms.load(Relaxed));
        let due = now.saturating_sub(swept) >= SWEEP_MS;
        if due && self.swept_ms.compare_exchange(swept, now, Relaxed, Relaxed).is_ok() {
            self.limiter.retain_recent();
        }
    }

    /// Keys whose bucket is not full, but for those that share one.
    pub fn keys(&self) -> usize {
        self.limiter.len()
    }

    /// Requests that did not pass.
    pub fn limited(&self) -> u64 {
        self.limited.load(Relaxed)
    }
}

impl<C: Clock + Clone> fmt::Debug for Rate<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("plan", &self.plan).field("keys", &self.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    fn plan(rate: u32, burst: u32) -> RatePlan {
        RatePlan { rate, per: Duration::from_secs(1), burst, key: None }
    }

    #[test]
    fn each_key_has_a_bucket_that_fills_again() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::with(plan(10, 3), 100, clock.clone());
        let passed = |key: &[u8]| (0..10).filter(|_| rate.check(Some(key)).is_ok()).count();
        assert_eq!((passed(b"a"), passed(b"b")), (3, 3));
        let wait = rate.check(Some(b"a")).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        clock.advance(Duration::from_millis(200));
        assert_eq!((passed(b"a"), rate.limited()), (2, 7 + 7 + 1 + 8));
        assert_eq!((0..10).filter(|_| rate.check(None).is_ok()).count(), 3, "the keyless are one");
    }

    #[test]
    fn a_flood_of_keys_takes_no_memory_and_gets_one_rate() {
        let clock = FakeRelativeClock::default();
        let rate = Rate::with(plan(10, 5), 100, clock.clone());
        assert!(rate.check(Some(b"regular")).is_ok());
        let passed = (0..10_000_u32).filter(|i| rate.check(Some(&i.to_le_bytes())).is_ok()).count();
        assert_eq!(passed, 99 + 5, "those that fit, and one burst of the rest");
        assert!(rate.keys() <= 101, "{}", rate.keys());
        assert_eq!(
            (0..9).filter(|_| rate.check(Some(b"regular")).is_ok()).count(),
            4,
            "who was there keeps its own"
        );
        clock.advance(Duration::from_secs(3));
        assert!(rate.check(Some(b"new")).is_ok());
        assert_eq!(rate.keys(), 1, "full buckets are forgotten");
    }

    proptest! {
        #[test]
        fn no_key_gets_more_than_its_burst_and_its_rate(
            rate in 1_u32..100, burst in 1_u32..50,
            steps in prop::collection::vec((0_u64..200, 0_u8..3), 1..300),
        ) {
            let clock = FakeRelativeClock::default();
            let limit = Rate::with(plan(rate, burst), 100, clock.clone());
            let (mut passed, mut ms) = ([0_u64; 3], 0);
            for (step, key) in steps {
                clock.advance(Duration::from_millis(step));
                ms += step;
                passed[usize::from(key)] += u64::from(limit.check(Some(&[key])).is_ok());
            }
            let most = u64::from(burst) + u64::from(rate) * ms / 1000 + 1;
            prop_assert!(passed.iter().all(|count| *count <= most), "{passed:?} in {ms} ms, of {most}");
        }
    }
}
