//! The health of an endpoint as a pure machine: told the time, asked for the next probe.
//!
//! A failed connect ejects it. From then on it is probed, first after half a second, then with a
//! back-off that ends at four seconds; the first probe that connects brings it back. With the jitter,
//! and two seconds for a connect that hangs, an instance that answers again is back well within ten.

use std::time::Duration;

/// What an endpoint is to the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// In rotation.
    Up,
    /// Kept out of it until a probe connects.
    Ejected,
    /// Gone from the registry. The end: a node that comes back is somebody else.
    Retired,
}

/// Status, failed probes so far, and when the last failure was, in ms of a clock that the caller keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// What it is.
    pub(super) status: Status,
    /// Probes that failed since it was ejected, counted up to 63.
    pub(super) failures: u8,
    /// When it was ejected, or failed its last probe, below 2⁵⁶.
    pub(super) at_ms: u64,
}

const FIRST_PROBE: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(4);
/// A delay is stretched or shortened by up to this part of it.
const JITTER: f64 = 0.25;

const AT_BITS: u32 = 56;
const MAX_FAILURES: u8 = 63;

impl Health {
    /// How everyone starts.
    pub(super) const UP: Self = Self { status: Status::Up, failures: 0, at_ms: 0 };

    /// After a connect that failed: `None` where that changes nothing.
    pub(super) fn connect_failed(self, now_ms: u64) -> Option<Self> {
        (self.status == Status::Up).then_some(Self { status: Status::Ejected, failures: 0, at_ms: now_ms })
    }

    /// After a probe that failed: the next one is later.
    pub(super) fn probe_failed(self, now_ms: u64) -> Option<Self> {
        let failures = (self.failures + 1).min(MAX_FAILURES);
        (self.status == Status::Ejected).then_some(Self { failures, at_ms: now_ms, ..self })
    }

    /// After a probe that connected.
    pub(super) fn readmit(self) -> Option<Self> {
        (self.status == Status::Ejected).then_some(Self::UP)
    }

    /// After its node went.
    pub(super) fn retire(self) -> Option<Self> {
        (self.status != Status::Retired).then_some(Self { status: Status::Retired, ..self })
    }

    /// When it wants its next probe: `None` where it wants none. The seed tells endpoints apart, so
    /// that those which failed together are not probed together.
    pub(super) fn next_probe_ms(self, seed: u64) -> Option<u64> {
        if self.status != Status::Ejected {
            return None;
        }
        let backoff = FIRST_PROBE.saturating_mul(1 << self.failures.min(8)).min(LAST_BACKOFF);
        let chance = fastrand::Rng::with_seed(seed ^ self.at_ms.rotate_left(32)).f64();
        let delay = backoff.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0));
        Some(self.at_ms + delay.as_millis() as u64)
    }

    /// As one word, for an atomic.
    pub(super) fn pack(self) -> u64 {
        let status: u64 = match self.status {
            Status::Up => 0,
            Status::Ejected => 1,
            Status::Retired => 2,
        };
        status << 62 | u64::from(self.failures) << AT_BITS | (self.at_ms & ((1 << AT_BITS) - 1))
    }

    /// Back from one word.
    pub(super) fn unpack(word: u64) -> Self {
        let status = match word >> 62 {
            0 => Status::Up,
            1 => Status::Ejected,
            _ => Status::Retired,
        };
        let failures = (word >> AT_BITS) as u8 & MAX_FAILURES;
        Self { status, failures, at_ms: word & ((1 << AT_BITS) - 1) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_failed_connect_ejects_and_only_a_probe_readmits() {
        let up = Health::UP;
        assert_eq!((up.probe_failed(5), up.readmit(), up.next_probe_ms(1)), (None, None, None));
        let ejected = up.connect_failed(5).unwrap();
        assert_eq!(ejected.connect_failed(6), None, "it is out already: no second probe");
        assert_eq!(ejected.readmit(), Some(Health::UP));
        let retired = ejected.retire().unwrap();
        assert_eq!(retired.readmit().or(retired.connect_failed(9)).or(retired.probe_failed(9)), None);
        assert_eq!((retired.retire(), retired.next_probe_ms(1)), (None, None));
    }

    proptest! {
        #[test]
        fn one_that_answers_again_is_back_within_ten_seconds(seed: u64, start in 0u64..1 << 40, outage in 0u64..300_000) {
            const HANGING_CONNECT_MS: u64 = 2_000;
            let answers = start + outage;
            let mut health = Health::UP.connect_failed(start).unwrap();
            let back = loop {
                let probe = health.next_probe_ms(seed).unwrap();
                prop_assert!(probe > health.at_ms);
                if probe >= answers {
                    break probe;
                }
                health = health.probe_failed(probe + HANGING_CONNECT_MS).unwrap();
            };
            prop_assert!(back <= answers + 8_000, "back after {} ms", back - answers);
        }

        #[test]
        fn a_word_holds_it_all(failures in 0u8..64, at_ms in 0u64..1 << 56, status in 0..3) {
            let status = [Status::Up, Status::Ejected, Status::Retired][status as usize];
            let health = Health { status, failures, at_ms };
            prop_assert_eq!(Health::unpack(health.pack()), health);
        }
    }
}
