//! Warm-up: the share of a new instance grows to its own in a few steps.

use std::time::Duration;

use crate::model::{Instance, ServiceSnapshot};

use super::config::ServiceSpec;
use super::members::{Before, Maker};

/// A share grows in this many steps: each of them is a new balancer.
const STEPS: u64 = 10;

/// When an instance's share began to grow, and how long it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ramp {
    start_ms: u64,
    length_ms: u64,
}

impl Ramp {
    /// It has its whole share.
    const DONE: Self = Self { start_ms: 0, length_ms: 0 };

    /// Which step it is on, from 1 to [`STEPS`].
    fn step(self, now_ms: u64) -> u64 {
        let age = now_ms.saturating_sub(self.start_ms);
        match age.saturating_mul(STEPS).checked_div(self.length_ms) {
            Some(steps) => (steps + 1).min(STEPS),
            None => STEPS,
        }
    }

    /// The part of its share that it has.
    fn factor(self, now_ms: u64) -> f64 {
        self.step(now_ms) as f64 / STEPS as f64
    }

    /// When its next step is due.
    fn next(self, now_ms: u64) -> Option<u64> {
        let step = self.step(now_ms);
        (step < STEPS).then(|| self.start_ms + (step * self.length_ms).div_ceil(STEPS))
    }
}

/// The ramps of a snapshot's instances, in its order; empty where nobody warms up.
#[derive(Debug, Default)]
pub(super) struct Ramps(Box<[Ramp]>);

impl Ramps {
    /// Who was there before goes on; who is new begins.
    pub(super) fn new(
        spec: &ServiceSpec,
        snapshot: &ServiceSnapshot,
        before: Option<&Before<'_>>,
        maker: &Maker,
    ) -> Self {
        let slow_start = spec.defaults.slow_start;
        let asked =
            slow_start.is_some() || snapshot.instances.iter().any(|instance| instance.warmup_ms.is_some());
        if !asked || slow_start == Some(Duration::ZERO) || maker.now_ms == 0 {
            return Self::default();
        }
        let known = |instance: &Instance| {
            let before = before?;
            let old = &before.snapshot.instances;
            let at = old.binary_search_by(|old| old.id.name.cmp(&instance.id.name)).ok()?;
            let ramp = || before.members.ramps.0.get(at).copied().unwrap_or(Ramp::DONE);
            // A rule of its registry may give it another.
            let same = instance.warmup_ms.is_none() || old[at].warmup_ms == instance.warmup_ms;
            (old[at].id == instance.id && same).then(ramp)
        };
        let ramp =
            |instance: &Instance| known(instance).unwrap_or_else(|| begin(slow_start, instance, maker));
        let ramps: Box<[Ramp]> = snapshot.instances.iter().map(|instance| ramp(instance)).collect();
        if ramps.iter().all(|ramp| ramp.next(maker.now_ms).is_none()) {
            return Self::default();
        }
        Self(ramps)
    }

    /// The part of its share that the instance at this place of the snapshot has.
    pub(super) fn factor(&self, at: usize, now_ms: u64) -> f64 {
        self.0.get(at).map_or(1.0, |ramp| ramp.factor(now_ms))
    }

    /// When the first of them has its next step.
    pub(super) fn next(&self, now_ms: u64) -> Option<u64> {
        self.0.iter().filter_map(|ramp| ramp.next(now_ms)).min()
    }
}

/// The ramp of an instance that is seen for the first time.
fn begin(slow_start: Option<Duration>, instance: &Instance, maker: &Maker) -> Ramp {
    let own = instance.warmup_ms.map(u64::from);
    let Some(length_ms) = own.or(slow_start.map(|time| time.as_millis() as u64)) else { return Ramp::DONE };
    let start_ms = match (own, instance.registered_ms) {
        // Its process says when it began, whenever we see it.
        (Some(_), Some(registered)) => registered,
        // It was there before us: it is new only if the registry says so.
        // A process that registers anew after a lost session has kept its own time, if it tells one.
        _ if maker.first_listing => match instance.registered_ms.or(instance.facts.created_ms) {
            Some(registered) => registered,
            None => return Ramp::DONE,
        },
        _ => maker.now_ms,
    };
    Ramp { start_ms: start_ms.min(maker.now_ms), length_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_ten_steps_from_a_tenth_to_the_whole() {
        let ramp = Ramp { start_ms: 1_000, length_ms: 30_000 };
        let (mut now, mut factors) = (1_000, vec![]);
        loop {
            factors.push((ramp.factor(now) * 10.0).round() as u32);
            let Some(next) = ramp.next(now) else { break };
            assert!(next > now && ramp.step(next - 1) < ramp.step(next));
            now = next;
        }
        assert_eq!(factors, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((Ramp::DONE.factor(0), Ramp::DONE.next(0)), (1.0, None));
        assert_eq!(
            Ramp { start_ms: 5, length_ms: 3 }.next(5),
            Some(6),
            "shorter than its steps: it skips some"
        );
    }
}
