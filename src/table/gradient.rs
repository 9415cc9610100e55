//! How many requests a service bears, told from its latency: a limit that follows a gradient.
//!
//! In each window of time the latency of now is held against the one without load. While they are alike the
//! limit grows by about its square root; where requests take longer, because they queue in the service, it
//! shrinks in proportion. At rest the service has a short queue and no more: `TOLERANCE × what it bears, and
//! a square root`. This is the algorithm of the `concurrency-limits` literature (Gradient2), but for one thing:
//! its long-term latency rises with a lasting overload, and the limit with it. Ours is told down at once, up
//! quickly only by answers that had the service to themselves, and very slowly by others.

/// A window lasts this long at least.
const WINDOW_US: u64 = 100_000;
/// And has so many answers.
const SAMPLES: u32 = 10;
/// Longer than this no window is kept open.
const STALE_US: u64 = 5_000_000;
/// So much longer than without load is still no queue.
const TOLERANCE: f64 = 1.5;
/// How much of the way a window moves the limit.
const SMOOTHING: f64 = 0.2;
/// What a timeout in a window makes of the limit.
const BACK_OFF: f64 = 0.9;
/// How much a window moves the latency without load: down; up where there was little load; up under load.
const DOWN: f64 = 0.2;
const UP_IDLE: f64 = 0.1;
const UP_LOADED: f64 = 0.0001;
/// So few at a time have the service to themselves: one that is slow even then is not overloaded.
const ALONE: f64 = 8.0;
/// Before anything is known.
const FIRST: f64 = 20.0;
/// Fewer would starve a service that is merely slow.
pub(super) const LEAST: u32 = 4;

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Microseconds on any clock.
    pub(super) now_us: u64,
    /// To the answer's head, in microseconds.
    pub(super) latency_us: f64,
    /// Requests on the service when it came, itself included.
    pub(super) in_flight: u32,
    /// There was no answer in time; the latency means nothing.
    pub(super) timed_out: bool,
}

/// The machine. Without a clock of its own.
#[derive(Debug, Clone)]
pub(super) struct Gradient {
    limit: f64,
    /// Latency without load; zero while unknown.
    base: f64,
    since_us: u64,
    sum: f64,
    count: u32,
    peak: u32,
    timed_out: bool,
}

impl Gradient {
    pub(super) fn new() -> Self {
        Self { limit: FIRST, base: 0.0, since_us: 0, sum: 0.0, count: 0, peak: 0, timed_out: false }
    }

    /// What holds now.
    pub(super) fn limit(&self, ceiling: u32) -> u32 {
        (self.limit as u32).clamp(LEAST.min(ceiling), ceiling)
    }

    /// Takes an answer in. True where a window ended, and the limit may be another.
    pub(super) fn sample(&mut self, sample: Sample, ceiling: u32) -> bool {
        if self.count == 0 && !self.timed_out {
            self.since_us = sample.now_us;
        }
        if sample.timed_out {
            self.timed_out = true;
        } else if sample.latency_us.is_finite() && sample.latency_us > 0.0 {
            self.sum += sample.latency_us;
            self.count += 1;
        }
        self.peak = self.peak.max(sample.in_flight);
        let age = sample.now_us.saturating_sub(self.since_us);
        if age < WINDOW_US || (self.count < SAMPLES && age < STALE_US) {
            return false;
        }
        self.close(ceiling);
        (self.sum, self.count, self.peak, self.timed_out) = (0.0, 0, 0, false);
        true
    }

    fn close(&mut self, ceiling: u32) {
        let most = f64::from(ceiling);
        let busy = f64::from(self.peak) * 2.0 >= self.limit;
        if self.timed_out {
            self.limit *= BACK_OFF;
        } else if self.count > 0 {
            let short = self.sum / f64::from(self.count);
            let weight = match (short < self.base, busy && self.limit > ALONE) {
                _ if self.base <= 0.0 => 1.0,
                (true, _) => DOWN,
                (false, true) => UP_LOADED,
                (false, false) => UP_IDLE,
            };
            self.base += (short - self.base) * weight;
            // A limit that is not reached says nothing about itself.
            if busy {
                let gradient = (TOLERANCE * self.base / short).clamp(0.5, 1.0);
                let next = self.limit * gradient + self.limit.sqrt();
                self.limit += (next - self.limit) * SMOOTHING;
            }
        }
        self.limit = self.limit.clamp(f64::from(LEAST).min(most), most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A service of so many slots: requests over them wait inside it. Offered more than it bears.
    fn saturate(gradient: &mut Gradient, from_us: u64, seconds: u64, slots: u32, service_us: f64) -> u64 {
        let (mut now, end) = (from_us, from_us + seconds * 1_000_000);
        while now < end {
            let limit = gradient.limit(1_000);
            // Little's law for a closed loop of `limit` requests.
            let latency = service_us * f64::from(limit.max(slots)) / f64::from(slots);
            let sample = Sample { now_us: now, latency_us: latency, in_flight: limit, timed_out: false };
            gradient.sample(sample, 1_000);
            now += (latency / f64::from(limit)).max(1.0) as u64;
        }
        now
    }

    #[test]
    fn it_finds_what_the_service_bears_and_follows_it() {
        let mut gradient = Gradient::new();
        let mut now = 0;
        for (slots, service_us) in [(50, 10_000.0), (200, 10_000.0), (20, 10_000.0), (100, 10_000.0)] {
            now = saturate(&mut gradient, now, 60, slots, service_us);
            let limit = f64::from(gradient.limit(1_000));
            let bears = f64::from(slots);
            assert!(limit >= bears, "{limit} of {slots}: the service idles");
            assert!(limit <= 2.0 * bears + 2.0 * bears.sqrt(), "{limit} of {slots}: requests pile up in it");
        }
    }

    #[test]
    fn a_lasting_overload_does_not_talk_it_up() {
        let mut gradient = Gradient::new();
        let now = saturate(&mut gradient, 0, 60, 50, 10_000.0);
        let early = gradient.limit(1_000);
        saturate(&mut gradient, now, 600, 50, 10_000.0);
        let late = gradient.limit(1_000);
        assert!(late <= early * 2, "{early} after a minute, {late} after eleven");
    }

    #[test]
    fn timeouts_shrink_it_and_idleness_leaves_it() {
        let mut gradient = Gradient::new();
        let now = saturate(&mut gradient, 0, 60, 50, 10_000.0);
        let idle = |gradient: &mut Gradient, i: u64| {
            let now_us = now + i * 200_000;
            gradient.sample(Sample { now_us, latency_us: 10_000.0, in_flight: 1, timed_out: false }, 1_000);
        };
        // The window that was open ends.
        (0..20).for_each(|i| idle(&mut gradient, i));
        let before = gradient.limit(1_000);
        (20..120).for_each(|i| idle(&mut gradient, i));
        assert_eq!(gradient.limit(1_000), before);
        for i in 0..100 {
            let now_us = now + 30_000_000 + i * 3_000_000;
            gradient.sample(Sample { now_us, latency_us: 0.0, in_flight: 1, timed_out: true }, 1_000);
        }
        assert_eq!(gradient.limit(1_000), LEAST);
    }

    #[test]
    fn a_service_that_is_merely_slower_now_is_let_do_its_work() {
        let mut gradient = Gradient::new();
        let now = saturate(&mut gradient, 0, 60, 50, 10_000.0);
        saturate(&mut gradient, now, 60, 50, 60_000.0);
        assert!(gradient.limit(1_000) >= 25, "{}", gradient.limit(1_000));
    }

    proptest! {
        #[test]
        fn whatever_it_is_told_the_limit_stays_in_its_range(
            samples in prop::collection::vec((any::<u32>(), any::<f64>(), any::<u32>(), any::<bool>()), 0..300),
            ceiling in 1_u32..10_000,
        ) {
            let mut gradient = Gradient::new();
            let mut now_us = 0;
            for (step, latency_us, in_flight, timed_out) in samples {
                now_us += u64::from(step);
                gradient.sample(Sample { now_us, latency_us, in_flight, timed_out }, ceiling);
                let limit = gradient.limit(ceiling);
                prop_assert!(limit >= LEAST.min(ceiling) && limit <= ceiling, "{limit}");
            }
        }
    }
}
