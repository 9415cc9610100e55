//! The health of an endpoint as a pure machine: told the time, asked for its next step.
//!
//! Something ejects it: a failed connect, a broken fresh connection, failures in a row, silence, a health check. From
//! then on it is probed, first after half a second, then with a back-off that ends at four seconds; the first probe
//! that is answered brings it back. Where failures in a row ejected it, an answered probe says little: one request is
//! let through as a trial first, and its answer decides. Without one in two seconds it is back on probation.
//!
//! With the jitter, a second or two for a probe that hangs, and the trial, an instance that answers again is back
//! within ten.

use std::time::Duration;

use serde::Serialize;

/// What an endpoint is to the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// In rotation.
    Up,
    /// In rotation for want of others only: it keeps requests waiting for longer than usual, and a probe too.
    Doubted,
    /// Kept out of it until a probe is answered.
    Ejected,
    /// A probe was answered: one request may try it.
    Trial,
    /// That request is on its way.
    Trying,
    /// Gone from the registry. The end: a node that comes back is somebody else.
    Retired,
}

impl Status {
    /// Whether it is kept out of rotation by what it did.
    pub(super) fn is_out(self) -> bool {
        matches!(self, Self::Ejected | Self::Trial | Self::Trying)
    }

    /// Whether nothing that it did counts against it, or merely a doubt.
    pub(super) fn is_in(self) -> bool {
        matches!(self, Self::Up | Self::Doubted)
    }
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It cannot be connected to.
    Connect,
    /// It broke a fresh connection off before any byte of an answer.
    Reset,
    /// Too many requests in a row failed on it.
    Failures,
    /// It leaves requests waiting, and a probe of ours too.
    Silent,
    /// Its health check says so.
    Check,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Reset, Self::Failures, Self::Silent, Self::Check];

    /// The name in answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Failures => "failures",
            Self::Silent => "silent",
            Self::Check => "check",
        }
    }

    /// What happened, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Connect => "it cannot be connected to",
            Self::Reset => "it broke a fresh connection off without an answer",
            Self::Failures => "too many requests in a row failed on it",
            Self::Silent => "it leaves requests and a probe without an answer",
            Self::Check => "its health check fails",
        }
    }

    /// Whether `max_ejected` holds for it. Who cannot be connected to, or answers nobody, serves nobody: to leave it
    /// in rotation would cost every request that meets it a second try, and save no capacity.
    pub(super) fn is_capped(self) -> bool {
        !matches!(self, Self::Connect | Self::Silent)
    }

    /// Whether it is offered again where too few are left. Not who was seen to answer nobody.
    pub(super) fn is_pardoned(self) -> bool {
        !matches!(self, Self::Connect | Self::Silent)
    }
}

/// Status and what led to it; times in ms of a clock that the caller keeps, below 2⁵².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// What it is.
    pub(super) status: Status,
    /// Why it is out, or was last.
    pub(super) reason: Reason,
    /// Probes and trials that failed in this ejection, counted up to 63; once it is back, what a relapse begins with:
    /// one more, since the last answer that brought it back was worth nothing.
    pub(super) failures: u8,
    /// When it came to this: was ejected, failed its last probe, was put on trial, came back.
    pub(super) at_ms: u64,
}

const FIRST_PROBE: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(4);
/// A delay is stretched or shortened by up to this part of it.
const JITTER: f64 = 0.25;
/// So long a trial waits for a request, and then for its answer.
const TRIAL: Duration = Duration::from_secs(2);
/// An ejection so soon after coming back goes on after the pause that the last one ended with.
const RELAPSE: Duration = Duration::from_secs(30);

const AT_BITS: u32 = 52;
const FAILURE_BITS: u32 = 6;
const REASON_BITS: u32 = 3;
const MAX_FAILURES: u8 = (1 << FAILURE_BITS) - 1;

impl Health {
    /// How everyone starts.
    pub(super) const UP: Self = Self { status: Status::Up, reason: Reason::Connect, failures: 0, at_ms: 0 };

    /// It may be gone: who can goes elsewhere until that is known.
    pub(super) fn doubt(self) -> Option<Self> {
        (self.status == Status::Up).then_some(Self { status: Status::Doubted, ..self })
    }

    /// The doubt is over, without an ejection.
    pub(super) fn trust(self) -> Option<Self> {
        (self.status == Status::Doubted).then_some(Self { status: Status::Up, ..self })
    }

    /// Takes one that is up out: `None` where that changes nothing.
    pub(super) fn eject(self, reason: Reason, now_ms: u64) -> Option<Self> {
        let relapse = now_ms.saturating_sub(self.at_ms) < RELAPSE.as_millis() as u64;
        let failures = if relapse { self.failures } else { 0 };
        self.status.is_in().then_some(Self { status: Status::Ejected, reason, failures, at_ms: now_ms })
    }

    /// After a probe that failed: the next one is later.
    pub(super) fn probe_failed(self, now_ms: u64) -> Option<Self> {
        (self.status == Status::Ejected).then_some(self.again(now_ms))
    }

    /// After a probe that was answered: back, or on trial first.
    pub(super) fn probe_answered(self, now_ms: u64) -> Option<Self> {
        match (self.status, self.reason) {
            (Status::Ejected, Reason::Failures) => {
                Some(Self { status: Status::Trial, at_ms: now_ms, ..self })
            }
            (Status::Ejected, _) => Some(self.back(now_ms)),
            _ => None,
        }
    }

    /// A request takes the trial.
    pub(super) fn begin_trial(self) -> Option<Self> {
        (self.status == Status::Trial).then_some(Self { status: Status::Trying, ..self })
    }

    /// The trial's request was answered well.
    pub(super) fn trial_passed(self, now_ms: u64) -> Option<Self> {
        (self.status == Status::Trying).then_some(self.back(now_ms))
    }

    /// The trial's request failed.
    pub(super) fn trial_failed(self, now_ms: u64) -> Option<Self> {
        (self.status == Status::Trying).then_some(Self { status: Status::Ejected, ..self.again(now_ms) })
    }

    /// The trial's time is over, and it has not failed: back, whether or not there was a request.
    pub(super) fn trial_ended(self, now_ms: u64) -> Option<Self> {
        matches!(self.status, Status::Trial | Status::Trying).then_some(self.back(now_ms))
    }

    /// Out for another reason, which is over; but its health check fails.
    pub(super) fn awaits_check(self, now_ms: u64) -> Option<Self> {
        let waits = Self { status: Status::Ejected, reason: Reason::Check, at_ms: now_ms, ..self };
        self.status.is_out().then_some(waits)
    }

    /// A health check that had failed is fine, or is not made any more.
    pub(super) fn check_passed(self, now_ms: u64) -> Option<Self> {
        (self.status == Status::Ejected && self.reason == Reason::Check).then_some(self.back(now_ms))
    }

    /// Somebody registered at its address: as good as new.
    pub(super) fn forgive(self) -> Option<Self> {
        (self.status.is_out() || self.status == Status::Doubted).then_some(Self::UP)
    }

    /// After its node went.
    pub(super) fn retire(self) -> Option<Self> {
        (self.status != Status::Retired).then_some(Self { status: Status::Retired, ..self })
    }

    fn again(self, now_ms: u64) -> Self {
        Self { failures: (self.failures + 1).min(MAX_FAILURES), at_ms: now_ms, ..self }
    }

    fn back(self, now_ms: u64) -> Self {
        Self { status: Status::Up, ..self.again(now_ms) }
    }

    /// When it wants its next probe, or its trial to be ended: `None` where it wants nothing. Who was ejected by its
    /// health check waits for that. The seed tells endpoints apart, so that those which failed together are not probed
    /// together.
    pub(super) fn next_step_ms(self, seed: u64) -> Option<u64> {
        match self.status {
            Status::Up | Status::Doubted | Status::Retired => None,
            Status::Trial | Status::Trying => Some(self.at_ms + TRIAL.as_millis() as u64),
            Status::Ejected if self.reason == Reason::Check => None,
            Status::Ejected => {
                let backoff = FIRST_PROBE.saturating_mul(1 << self.failures.min(8)).min(LAST_BACKOFF);
                let chance = fastrand::Rng::with_seed(seed ^ self.at_ms.rotate_left(32)).f64();
                let delay = backoff.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0));
                Some(self.at_ms + delay.as_millis() as u64)
            }
        }
    }

    /// As one word, for an atomic.
    pub(super) fn pack(self) -> u64 {
        let status: u64 = match self.status {
            Status::Up => 0,
            Status::Ejected => 1,
            Status::Trial => 2,
            Status::Trying => 3,
            Status::Retired => 4,
            Status::Doubted => 5,
        };
        (status << REASON_BITS | self.reason as u64) << (AT_BITS + FAILURE_BITS)
            | u64::from(self.failures.min(MAX_FAILURES)) << AT_BITS
            | (self.at_ms & ((1 << AT_BITS) - 1))
    }

    /// Back from one word.
    pub(super) fn unpack(word: u64) -> Self {
        let high = word >> (AT_BITS + FAILURE_BITS);
        let status = match high >> REASON_BITS {
            0 => Status::Up,
            1 => Status::Ejected,
            2 => Status::Trial,
            3 => Status::Trying,
            5 => Status::Doubted,
            _ => Status::Retired,
        };
        let reason = match high & ((1 << REASON_BITS) - 1) {
            0 => Reason::Connect,
            1 => Reason::Reset,
            2 => Reason::Failures,
            3 => Reason::Silent,
            _ => Reason::Check,
        };
        let failures = (word >> AT_BITS) as u8 & MAX_FAILURES;
        Self { status, reason, failures, at_ms: word & ((1 << AT_BITS) - 1) }
    }
}

/// How many of a service's endpoints may be ejected: the share, but at least one where there are two, and never all.
pub(super) fn most_ejected(enabled: usize, share: f64) -> usize {
    if share <= 0.0 {
        return 0;
    }
    // The addition keeps 0.7 of 10 from becoming 6.
    let share = (share * enabled as f64 + 1e-9) as usize;
    share.max(1).min(enabled.saturating_sub(1))
}

/// Below how many usable endpoints ejection is ignored.
pub(super) fn least_usable(enabled: usize, threshold: f64) -> usize {
    (threshold * enabled as f64 - 1e-9).ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATUSES: [Status; 6] =
        [Status::Up, Status::Ejected, Status::Trial, Status::Trying, Status::Retired, Status::Doubted];

    #[test]
    fn who_is_out_comes_back_by_a_probe_and_who_is_gone_not_at_all() {
        let up = Health::UP;
        assert_eq!((up.probe_failed(5), up.probe_answered(5), up.next_step_ms(1)), (None, None, None));
        let ejected = up.eject(Reason::Connect, 5).unwrap();
        assert_eq!(ejected.eject(Reason::Reset, 6), None, "it is out already: no second probe");
        assert_eq!(ejected.check_passed(7), None, "a health check has no say in that");
        assert_eq!(ejected.probe_answered(9).unwrap().status, Status::Up);
        let retired = ejected.retire().unwrap();
        let revived = [retired.probe_answered(9), retired.eject(Reason::Check, 9), retired.probe_failed(9)];
        assert_eq!(revived, [None; 3]);
        assert_eq!((retired.retire(), retired.next_step_ms(1)), (None, None));
    }

    #[test]
    fn failures_are_forgiven_after_a_trial() {
        let ejected = Health::UP.eject(Reason::Failures, 5).unwrap();
        let trial = ejected.probe_answered(600).unwrap();
        assert_eq!((trial.status, trial.eject(Reason::Failures, 601)), (Status::Trial, None));
        assert_eq!((trial.trial_passed(601), trial.trial_failed(601)), (None, None), "nobody tried");
        let trying = trial.begin_trial().unwrap();
        assert_eq!(trying.begin_trial(), None, "one at a time");
        assert_eq!(trying.trial_passed(700).unwrap().status, Status::Up);
        let again = trying.trial_failed(700).unwrap();
        assert_eq!((again.status, again.failures, again.at_ms), (Status::Ejected, 1, 700));
        for unfinished in [trial, trying] {
            assert_eq!(unfinished.next_step_ms(7), Some(2_600));
            assert_eq!(unfinished.trial_ended(2_600).unwrap().status, Status::Up);
        }
    }

    #[test]
    fn a_relapse_waits_for_longer_than_the_last_ejection_did() {
        let failed = Health::UP.eject(Reason::Reset, 0).unwrap().probe_failed(600).unwrap();
        let back = failed.probe_answered(2_000).unwrap();
        assert_eq!(back.eject(Reason::Reset, 10_000).unwrap().failures, 2);
        assert_eq!(back.eject(Reason::Reset, 100_000).unwrap().failures, 0, "that is long ago");
    }

    #[test]
    fn who_answers_every_probe_and_no_request_is_asked_less_and_less() {
        let (mut health, mut now, mut pauses) = (Health::UP, 0, Vec::new());
        for _ in 0..6 {
            health = health.eject(Reason::Reset, now).unwrap();
            pauses.push(health.next_step_ms(1).unwrap() - now);
            now += pauses.last().unwrap();
            health = health.probe_answered(now).unwrap();
        }
        let within = |pause: &u64, middle: u64| (middle * 3 / 4..=middle * 5 / 4).contains(pause);
        assert!(
            pauses.iter().zip([500, 1000, 2000, 4000, 4000, 4000]).all(|(p, m)| within(p, m)),
            "{pauses:?}"
        );
    }

    #[test]
    fn a_doubt_is_no_ejection_and_ends_with_one() {
        let doubted = Health::UP.doubt().unwrap();
        assert!(doubted.status.is_in() && !doubted.status.is_out());
        assert_eq!(
            (doubted.doubt(), doubted.next_step_ms(1), doubted.trust()),
            (None, None, Some(Health::UP))
        );
        let ejected = doubted.eject(Reason::Silent, 5).unwrap();
        assert_eq!((ejected.trust(), ejected.doubt()), (None, None), "that is decided");
        assert_eq!(doubted.forgive(), Some(Health::UP));
        assert_eq!(doubted.retire().unwrap().trust(), None);
    }

    #[test]
    fn a_health_check_takes_back_what_it_said() {
        let ejected = Health::UP.eject(Reason::Check, 5).unwrap();
        assert_eq!(ejected.next_step_ms(1), None, "it is looked at anyway");
        assert_eq!(ejected.check_passed(9).unwrap().status, Status::Up);
    }

    #[test]
    fn a_share_is_never_everybody_and_never_nobody() {
        for (enabled, share, most) in [
            (0, 0.5, 0),
            (1, 1.0, 0),
            (2, 0.1, 1),
            (3, 0.5, 1),
            (4, 0.5, 2),
            (10, 0.7, 7),
            (4, 1.0, 3),
            (9, 0.0, 0),
        ] {
            assert_eq!(most_ejected(enabled, share), most, "{share} of {enabled}");
        }
        for (enabled, threshold, least) in [(0, 0.3, 0), (3, 0.3, 1), (4, 0.3, 2), (10, 0.3, 3), (5, 0.0, 0)]
        {
            assert_eq!(least_usable(enabled, threshold), least, "{threshold} of {enabled}");
        }
    }

    proptest! {
        #[test]
        fn one_that_answers_again_is_back_within_ten_seconds(
            seed: u64,
            start in 0u64..1 << 40,
            outage in 0u64..300_000,
            reason in 0usize..4,
        ) {
            // A connect that hangs may take longer than our own probes, which get a second.
            let reason = Reason::ALL[reason];
            let hang_ms = if reason == Reason::Connect { 2_000 } else { 1_000 };
            let answers = start + outage;
            let mut health = Health::UP.eject(reason, start).unwrap();
            let back = loop {
                let step = health.next_step_ms(seed).unwrap();
                prop_assert!(step > health.at_ms);
                if health.status == Status::Trial {
                    break step;
                }
                if step < answers {
                    health = health.probe_failed(step + hang_ms).unwrap();
                    continue;
                }
                health = health.probe_answered(step).unwrap();
                if health.status == Status::Up {
                    break step;
                }
            };
            prop_assert!(back <= answers + 9_000, "back after {} ms", back - answers);
        }

        #[test]
        fn whatever_happens_it_is_up_or_has_a_next_step_or_is_over(
            seed: u64,
            events in prop::collection::vec((0u8..13, 0usize..5, 0u64..20_000), 1..60),
        ) {
            let (mut health, mut now) = (Health::UP, 0);
            for (event, reason, later) in events {
                now += later;
                let was = health;
                let next = match event {
                    0 => health.eject(Reason::ALL[reason], now),
                    1 => health.probe_failed(now),
                    2 => health.probe_answered(now),
                    3 => health.begin_trial(),
                    4 => health.trial_passed(now),
                    5 => health.trial_failed(now),
                    6 => health.trial_ended(now),
                    7 => health.check_passed(now),
                    8 => health.forgive(),
                    9 => health.awaits_check(now),
                    10 => health.doubt(),
                    11 => health.trust(),
                    _ => (reason == 0).then(|| health.retire()).flatten(),
                };
                health = next.unwrap_or(health);
                prop_assert!(was.status != Status::Retired || health.status == Status::Retired);
                prop_assert!(health.status != Status::Trial || health.reason == Reason::Failures);
                let waits = health.next_step_ms(seed).is_some();
                let checked = health.reason == Reason::Check;
                prop_assert_eq!(waits, health.status.is_out() && !checked);
                prop_assert_eq!(Health::unpack(health.pack()), health);
            }
        }

        #[test]
        fn a_word_holds_it_all(failures in 0u8..64, at_ms in 0u64..1 << 52, status in 0usize..6, reason in 0usize..5) {
            let health = Health { status: STATUSES[status], reason: Reason::ALL[reason], failures, at_ms };
            prop_assert_eq!(Health::unpack(health.pack()), health);
        }
    }
}
