//! The living counterpart of an address: load, latency, health. Shared by every generation of the
//! table in which it occurs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::plan::EjectionPlan;
use crate::telemetry::{Outcome, OutcomeCounters};
use crate::transport::Target;

use super::census::Census;
use super::health::{Health, Status};

/// How long a latency is remembered: after this time it weighs 1/e.
const LATENCY_MEMORY: Duration = Duration::from_secs(10);
/// Unit of a latency's time stamp: 2³² of them are more than a year.
const STAMP_MS: u64 = 10;

/// How the admin shows an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// In rotation.
    Up,
    /// Live in the registry, but out of rotation because it fails.
    Ejected,
    /// The registration says that it wants no traffic.
    Disabled,
    /// Gone from the registry with many others, and held as long as it answers.
    Limbo,
    /// Gone from the registry, with requests still open.
    Draining,
}

impl InstanceState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Up, Self::Ejected, Self::Disabled, Self::Limbo, Self::Draining];

    /// The name in answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Ejected => "ejected",
            Self::Disabled => "disabled",
            Self::Limbo => "limbo",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address of a service, for as long as one of its registrations lasts.
#[derive(Debug)]
pub struct Endpoint {
    /// Whom to dial. Its id is the endpoint's.
    pub target: Arc<Target>,
    /// `id` of its instance (of the first in order, where several share the address): the metrics' label.
    pub id: Arc<str>,
    /// The address as text.
    pub address: Arc<str>,
    /// What ejects it; `None`: a failed connect alone.
    pub(super) ejection: Option<Arc<EjectionPlan>>,
    pub(super) vitals: Arc<Vitals>,
}

/// What changes about an endpoint. Outlives changes of its label and of how it is dialled.
///
/// All that a request writes but the latency is on one cache line. How many requests are in flight is not
/// counted by itself: it is those that began less those that ended, which the outcomes count anyway.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Vitals {
    health: AtomicU64,
    begun: AtomicU64,
    outcomes: OutcomeCounters,
    /// Microseconds as f32 (high half), time stamp (low half).
    latency: AtomicU64,
    /// Failures in a row. Written by failures, and by the success that ends them.
    pub(super) failed: AtomicU32,
    /// Counts ejections, so that who looks after one knows when it is over.
    pub(super) spell: AtomicU32,
    /// When the last ejection began.
    pub(super) ejected_ms: AtomicU64,
    /// Its health check fails: nothing but the check brings it back.
    pub(super) ill: AtomicBool,
    /// Zero of the clock in `health` and `latency`.
    pub(super) epoch: Instant,
    pub(super) census: Arc<Census>,
}

impl Vitals {
    pub(super) fn new(epoch: Instant, census: Arc<Census>) -> Self {
        Self {
            epoch,
            health: AtomicU64::new(Health::UP.pack()),
            begun: AtomicU64::new(0),
            outcomes: OutcomeCounters::default(),
            latency: AtomicU64::new(0),
            failed: AtomicU32::new(0),
            spell: AtomicU32::new(0),
            ejected_ms: AtomicU64::new(0),
            ill: AtomicBool::new(false),
            census,
        }
    }

    pub(super) fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// A time as latencies are stamped with it. The same for all endpoints of a table.
    pub(super) fn stamp(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.epoch);
        // Without a division of 128 bits.
        (since.as_secs() * (1000 / STAMP_MS)) as u32 + since.subsec_millis() / STAMP_MS as u32
    }

    pub(super) fn status(&self) -> Status {
        self.health().status
    }

    pub(super) fn health(&self) -> Health {
        Health::unpack(self.health.load(Ordering::Acquire))
    }

    /// Moves the health on, unless nothing changes; keeps the service's count of the ejected.
    pub(super) fn change(&self, step: impl Fn(Health) -> Option<Health>) -> bool {
        let Some((was, is)) = self.step(step) else { return false };
        // The doubt, where there was one, is counted by `step`.
        match (was.is_out(), is.is_out()) {
            (false, true) => self.census.enter(),
            (true, false) => self.census.leave(),
            _ => {}
        }
        true
    }

    /// Moves the health on without a count of the ejected: from which status to which.
    pub(super) fn step(&self, step: impl Fn(Health) -> Option<Health>) -> Option<(Status, Status)> {
        let next = |word| step(Health::unpack(word)).map(Health::pack);
        let before = self.health.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        let was = Health::unpack(before);
        let is = step(was).map_or(was.status, |health| health.status);
        match (was.status, is) {
            (Status::Doubted, Status::Doubted) => {}
            (Status::Doubted, _) => self.census.trust(),
            (_, Status::Doubted) => self.census.doubt(),
            _ => {}
        }
        Some((was.status, is))
    }

    pub(super) fn in_flight(&self) -> u32 {
        // The ended first: whatever happens in between, this is never less than there were.
        let ended = self.outcomes.total();
        self.begun.load(Ordering::Relaxed).saturating_sub(ended) as u32
    }

    pub(super) fn begin(&self, counted: bool) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if counted {
            self.census.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same, unless so many are in flight already.
    pub(super) fn begin_below(&self, cap: u32, counted: bool) -> bool {
        // What ends meanwhile only makes room: the count is never more than it says.
        let more =
            |begun: u64| (begun.saturating_sub(self.outcomes.total()) < u64::from(cap)).then(|| begun + 1);
        let began = self.begun.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok();
        if began && counted {
            self.census.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        began
    }

    pub(super) fn end(&self, outcome: Outcome, counted: bool) {
        self.outcomes.add(outcome);
        if counted {
            self.census.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether it was ejected since.
    pub(super) fn ejected_since(&self, since: Instant) -> bool {
        let last = self.ejected_ms.load(Ordering::Relaxed);
        last != 0 && last >= self.ms(since)
    }

    /// How long ago the last head of an answer came: `None` where none ever did.
    pub(super) fn heard(&self, now: Instant) -> Option<Duration> {
        let word = self.latency.load(Ordering::Relaxed);
        let stamps = age(word as u32, self.stamp(now));
        (word != 0).then(|| Duration::from_millis(u64::from(stamps) * STAMP_MS))
    }

    /// In microseconds; `stamp` is asked for the time as [`Vitals::stamp`] puts it where one is known.
    pub(super) fn latency(&self, stamp: impl FnOnce() -> u32) -> f64 {
        let word = self.latency.load(Ordering::Relaxed);
        if word == 0 {
            return 0.0;
        }
        let stamp = stamp();
        let micros = f64::from(f32::from_bits((word >> 32) as u32));
        micros * f64::from(remembered(age(word as u32, stamp)))
    }

    /// Takes a slower answer at its word, and a faster one by and by.
    pub(super) fn observe(&self, latency: Duration, at: Instant, only_if_slower: bool) {
        let sample = latency.as_secs_f32() * 1e6;
        let stamp = self.stamp(at);
        // Two workers at once: one sample may be lost. It is an estimate.
        let word = self.latency.load(Ordering::Relaxed);
        let (before, since) = (f32::from_bits((word >> 32) as u32), age(word as u32, stamp));
        let kept = remembered(since);
        let next = if before <= 0.0 || sample >= before * kept {
            sample
        } else if only_if_slower {
            return;
        } else {
            // Samples of one instant still count a little, or the first of a burst would stand for all.
            let kept = kept.min(0.95);
            before * kept + sample * (1.0 - kept)
        };
        self.latency.store(u64::from(next.max(1.0).to_bits()) << 32 | u64::from(stamp), Ordering::Relaxed);
    }
}

/// How many stamps old. One from the future (another worker's) is of now.
fn age(stamp: u32, now: u32) -> u32 {
    let stamps = now.wrapping_sub(stamp);
    if stamps > u32::MAX / 2 { 0 } else { stamps }
}

/// The weight of what is so many stamps old.
fn remembered(stamps: u32) -> f32 {
    if stamps == 0 {
        return 1.0;
    }
    (-(stamps as f32) * STAMP_MS as f32 / LATENCY_MEMORY.as_millis() as f32).exp()
}

impl Endpoint {
    /// Its node is gone: no probe, no way back.
    pub(super) fn retire(&self) {
        self.vitals.change(Health::retire);
        self.replace();
    }

    /// It is dialled in another way from now on, through another target.
    pub(super) fn replace(&self) {
        self.target.gone.store(true, Ordering::Relaxed);
    }

    /// Up, ejected or draining; what the registration says is not its business.
    pub fn state(&self) -> InstanceState {
        match self.vitals.status() {
            Status::Up | Status::Doubted => InstanceState::Up,
            Status::Ejected | Status::Trial | Status::Trying => InstanceState::Ejected,
            Status::Retired => InstanceState::Draining,
        }
    }

    /// Whether no table holds its target any more (its node is gone, or it is dialled in another way
    /// now). Then idle connections to that target may go, too.
    pub fn is_closed(&self) -> bool {
        self.target.gone.load(Ordering::Relaxed)
    }

    /// Whether its node is gone.
    pub fn is_removed(&self) -> bool {
        self.vitals.status() == Status::Retired
    }

    /// Whether both stand for the same registration's address, however each is dialled and called.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.vitals, &other.vitals)
    }

    /// Requests on it now.
    pub fn in_flight(&self) -> u32 {
        self.vitals.in_flight()
    }

    /// Its latency estimate: zero while unknown.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_secs_f64(self.vitals.latency(|| self.vitals.stamp(now)) / 1e6)
    }

    /// Requests to it by outcome.
    pub fn outcomes(&self) -> &OutcomeCounters {
        &self.vitals.outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals() -> (Vitals, Instant) {
        let epoch = Instant::now();
        (Vitals::new(epoch, Arc::default()), epoch)
    }

    #[test]
    fn latency_jumps_up_and_creeps_down() {
        let (vitals, epoch) = vitals();
        let latency = |now| vitals.latency(|| vitals.stamp(now));
        let at = |s: u64| epoch + Duration::from_secs(s);
        assert!(latency(at(0)) < 1e-9, "unknown");
        vitals.observe(Duration::from_millis(1), at(1), false);
        vitals.observe(Duration::from_millis(100), at(1), false);
        assert!((latency(at(1)) - 100_000.0).abs() < 1.0, "a peak counts at once");
        vitals.observe(Duration::from_millis(1), at(1), false);
        assert!(latency(at(1)) > 90_000.0, "one fast answer does not clear it");
        vitals.observe(Duration::from_millis(1), at(1), true);
        assert!(latency(at(1)) > 90_000.0, "a fast failure is no merit");
        let later = latency(at(21));
        assert!(later < 20_000.0 && later > 1_000.0, "{later}: forgotten by and by without traffic");
        for i in 0..100 {
            vitals.observe(Duration::from_millis(1), at(21 + i), false);
        }
        assert!((latency(at(120)) - 1_000.0).abs() < 50.0, "{}", latency(at(120)));
    }

    #[test]
    fn in_flight_is_what_began_and_has_not_ended() {
        let (vitals, _) = vitals();
        for counted in [true, false, true] {
            vitals.begin(counted);
        }
        assert_eq!((vitals.in_flight(), vitals.census.in_flight.load(Ordering::Relaxed)), (3, 2));
        vitals.end(Outcome::Ok, true);
        vitals.end(Outcome::Cancelled, false);
        assert_eq!((vitals.in_flight(), vitals.census.in_flight.load(Ordering::Relaxed)), (1, 1));
        assert_eq!((vitals.outcomes.get(Outcome::Ok), vitals.outcomes.total()), (1, 2));
    }
}
