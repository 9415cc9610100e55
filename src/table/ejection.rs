//! What takes an endpoint out of rotation and brings it back. The decisions are those of [`super::health`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::endpoint::{Endpoint, Vitals};
use super::health::{Health, Reason, Status};

/// One ejection. Who is handed one owes the endpoint its steps: [`Endpoint::next_step`] says when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an ejection without a probe does not end"]
pub struct Spell(u32);

/// That an endpoint may be gone, as long as this is held.
#[derive(Debug)]
#[must_use = "a doubt ends when it is dropped"]
pub struct Doubt(Arc<Endpoint>);

impl Drop for Doubt {
    fn drop(&mut self) {
        self.0.vitals.change(Health::trust);
    }
}

/// So many times the latency of late, between these bounds, is too long without any answer.
const PATIENCE: u32 = 5;
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// What is due for an endpoint that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// A probe.
    Probe(Instant),
    /// The end of its trial: [`Endpoint::end_trial`].
    EndTrial(Instant),
}

impl NextStep {
    /// When.
    pub fn at(self) -> Instant {
        match self {
            Self::Probe(at) | Self::EndTrial(at) => at,
        }
    }
}

impl Vitals {
    fn eject(&self, reason: Reason, now: Instant) -> Option<Spell> {
        let ms = self.ms(now);
        let eject = |health: Health| health.eject(reason, ms);
        // Looked at first: who is out already must not take a place for a moment.
        eject(self.health())?;
        if reason.is_capped() {
            if !self.census.reserve() {
                return None;
            }
            if self.step(eject).is_none() {
                self.census.leave();
                return None;
            }
        } else if !self.change(eject) {
            return None;
        }
        self.failed.store(0, Ordering::Relaxed);
        self.ejected_ms.store(ms, Ordering::Relaxed);
        Some(Spell(self.spell.fetch_add(1, Ordering::AcqRel).wrapping_add(1)))
    }
}

impl Vitals {
    /// Somebody registered there again: nothing that was done before counts.
    pub(super) fn forgive(&self) {
        self.ill.store(false, Ordering::Relaxed);
        if self.change(Health::forgive) {
            self.failed.store(0, Ordering::Relaxed);
        }
    }
}

impl Endpoint {
    /// Takes it out of rotation, where its service allows that and it is in: then somebody owes it probes.
    pub fn eject(&self, reason: Reason, now: Instant) -> Option<Spell> {
        // Who asks for health checks wants them to count, whatever else counts.
        if !matches!(reason, Reason::Connect | Reason::Check) && self.ejection.is_none() {
            return None;
        }
        self.vitals.eject(reason, now)
    }

    /// Whether a request waits for its answer since then, and neither it nor any other was answered for longer than usual.
    pub fn keeps_waiting(&self, since: Instant, now: Instant) -> bool {
        let patience = self.patience(now);
        // Nothing follows from it where nothing may eject.
        self.ejection.is_some()
            && now.saturating_duration_since(since) >= patience
            && self.vitals.heard(now).is_none_or(|ago| ago >= patience)
    }

    /// How long it may leave all requests without an answer: some times what it took of late. A second where nothing is
    /// known of it, and at the most.
    pub fn patience(&self, now: Instant) -> Duration {
        match self.latency(now) {
            Duration::ZERO => PATIENCE_MAX,
            usual => (usual * PATIENCE).clamp(PATIENCE_MIN, PATIENCE_MAX),
        }
    }

    /// It may be gone: until the doubt goes, picks take others where there are enough. `None` where it is not in rotation,
    /// or doubted already, or may not be ejected.
    pub fn doubt(self: &Arc<Self>) -> Option<Doubt> {
        let doubts = self.ejection.is_some() && self.vitals.change(Health::doubt);
        doubts.then(|| Doubt(Arc::clone(self)))
    }

    /// A request on it failed, in a way that counts: ejects it where that is one too many in a row.
    pub fn failed(&self, now: Instant) -> Option<Spell> {
        let limit = self.ejection.as_ref()?.failures;
        let failed = self.vitals.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failed >= limit { self.eject(Reason::Failures, now) } else { None }
    }

    /// A request on it went well: what failed before does not count any more.
    pub fn went_well(&self) {
        // Looked at first: nearly always there is nothing to write.
        if self.vitals.failed.load(Ordering::Relaxed) != 0 {
            self.vitals.failed.store(0, Ordering::Relaxed);
        }
    }

    /// Whether an answer of this status is a failure.
    pub fn is_failure(&self, status: StatusCode) -> bool {
        self.ejection.as_ref().is_some_and(|plan| plan.statuses.contains(&status))
    }

    /// A probe was answered: true where that brought it back. Else it may be on trial now.
    pub fn probe_answered(&self, now: Instant) -> bool {
        let ms = self.vitals.ms(now);
        self.comes_back(|health| health.probe_answered(ms), ms) && self.vitals.status() == Status::Up
    }

    /// One step on the way back; while its health check fails it leads no further than to wait for that.
    fn comes_back(&self, step: impl Fn(Health) -> Option<Health>, ms: u64) -> bool {
        let ill = self.vitals.ill.load(Ordering::Relaxed);
        let step = |health: Health| {
            let next = step(health)?;
            if ill && next.status != Status::Ejected { health.awaits_check(ms) } else { Some(next) }
        };
        self.vitals.change(step) && !ill
    }

    /// A probe failed: the next one is later.
    pub fn probe_failed(&self, now: Instant) {
        let ms = self.vitals.ms(now);
        self.vitals.change(|health| health.probe_failed(ms));
    }

    /// The request that had its trial ended, well or not: true where that brought it back.
    pub fn tried(&self, well: bool, now: Instant) -> bool {
        let ms = self.vitals.ms(now);
        let step = |h: Health| if well { h.trial_passed(ms) } else { h.trial_failed(ms) };
        self.comes_back(step, ms) && well
    }

    /// The time of its trial is over: true where that brought it back. One more failure ejects it again.
    pub fn end_trial(&self, now: Instant) -> bool {
        let ms = self.vitals.ms(now);
        let ended = self.comes_back(|health| health.trial_ended(ms), ms);
        if let Some(plan) = self.ejection.as_ref().filter(|_| ended) {
            self.vitals.failed.store(plan.failures.saturating_sub(1), Ordering::Relaxed);
        }
        ended
    }

    /// Its health check fails: ejects it where its service allows that, and in any case keeps it out once it is.
    pub fn check_failed(&self, now: Instant) -> Option<Spell> {
        self.vitals.ill.store(true, Ordering::Relaxed);
        self.eject(Reason::Check, now)
    }

    /// Its health check is fine again, or is not made any more: true where that brought it back.
    pub fn check_passed(&self, now: Instant) -> bool {
        let ms = self.vitals.ms(now);
        self.vitals.ill.store(false, Ordering::Relaxed);
        self.vitals.change(|health| health.check_passed(ms))
    }

    /// What is due next in this ejection, and when: `None` once it is over.
    pub fn next_step(&self, spell: Spell) -> Option<NextStep> {
        if self.vitals.spell.load(Ordering::Acquire) != spell.0 {
            return None;
        }
        self.due()
    }

    /// What is due next: `None` while it is in rotation, or gone.
    pub fn due(&self) -> Option<NextStep> {
        let health = self.vitals.health();
        let at = self.vitals.epoch + Duration::from_millis(health.next_step_ms(self.target.id)?);
        Some(if health.status == Status::Ejected { NextStep::Probe(at) } else { NextStep::EndTrial(at) })
    }

    /// Why it is out, since when, and how many probes and trials failed since: `None` while it is not.
    pub fn ejected(&self) -> Option<(Reason, Instant, u8)> {
        let health = self.vitals.health();
        let since = Duration::from_millis(self.vitals.ejected_ms.load(Ordering::Relaxed));
        health.status.is_out().then(|| (health.reason, self.vitals.epoch + since, health.failures))
    }

    /// Whether it was seen to answer nobody: a request that waits for it may as well go elsewhere.
    pub fn is_silent(&self) -> bool {
        let health = self.vitals.health();
        health.status == Status::Ejected && health.reason == Reason::Silent
    }
}
