//! When each endpoint is checked: told the time, it says who is due.
//!
//! Everybody has a phase within the interval, from a hash of the id, so that checks are spread evenly. No more begin
//! in a second than the cap, and no more are open at once than fit: where that does not suffice, who is due waits
//! in the order of who was due first, and intervals stretch alike.

use std::collections::{BTreeSet, HashMap};

use crate::config::plan::CheckPlan;

/// The time is cut into slots of this length, ms.
const SLOT_MS: u64 = 50;
/// So many begin in a slot.
const A_SLOT: u32 = 23;
/// So many are open at once.
const OPEN: usize = 128;

/// When each is due. Times in ms of a clock that the caller keeps.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    members: HashMap<u64, Member>,
    /// Who waits, by when it is due.
    waiting: BTreeSet<(u64, u64)>,
    open: usize,
    slot: u64,
    begun: u32,
}

#[derive(Debug)]
struct Member {
    interval_ms: u64,
    due_ms: u64,
}

impl Schedule {
    /// Whoever is not there yet is checked first within its interval.
    pub(super) fn add(&mut self, id: u64, plan: &CheckPlan, now_ms: u64) {
        let interval_ms = (plan.interval.as_millis() as u64).max(1);
        if self.members.get(&id).is_some_and(|member| member.interval_ms == interval_ms) {
            return;
        }
        let due_ms = now_ms + fastrand::Rng::with_seed(id).u64(..interval_ms);
        let before = self.members.insert(id, Member { interval_ms, due_ms });
        // One that is being checked comes back by itself.
        if before.is_none_or(|before| self.waiting.remove(&(before.due_ms, id))) {
            self.waiting.insert((due_ms, id));
        }
    }

    /// It is not checked any more. One whose check is open still has to be [ended](Self::end).
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(member) = self.members.remove(&id) {
            self.waiting.remove(&(member.due_ms, id));
        }
    }

    /// Who is to be checked now, where there is anybody and room.
    pub(super) fn begin(&mut self, now_ms: u64) -> Option<u64> {
        let slot = now_ms / SLOT_MS;
        if self.slot != slot {
            (self.slot, self.begun) = (slot, 0);
        }
        if self.open >= OPEN || self.begun >= A_SLOT {
            return None;
        }
        let (due_ms, id) = *self.waiting.first().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        self.waiting.remove(&(due_ms, id));
        if let Some(member) = self.members.get_mut(&id) {
            // Who is late goes on from now: nobody catches up.
            member.due_ms = (due_ms + member.interval_ms).max(now_ms + 1);
        }
        self.open += 1;
        self.begun += 1;
        Some(id)
    }

    /// The check of one is over.
    pub(super) fn end(&mut self, id: u64) {
        self.open = self.open.saturating_sub(1);
        if let Some(member) = self.members.get(&id) {
            self.waiting.insert((member.due_ms, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// So many begin in a second at the most.
    const CAP: u64 = 500;

    fn plan(interval_ms: u64) -> CheckPlan {
        CheckPlan { interval: Duration::from_millis(interval_ms), ..CheckPlan::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn nobody_is_forgotten_and_no_second_has_a_storm(
            count in 1u64..6_000,
            interval_ms in 200u64..20_000,
            took_ms in 0u64..150,
            offset in 0u64..50,
        ) {
            let mut schedule = Schedule::default();
            let mut last: HashMap<u64, u64> = (0..count).map(|id| (id, 0)).collect();
            for id in 0..count {
                schedule.add(id, &plan(interval_ms), 0);
            }
            let (mut begun, mut ends) = (Vec::new(), std::collections::VecDeque::new());
            // What the cap per slot comes to, and what the open ones leave of it.
            let rate = 460.0f64.min(OPEN as f64 * 1000.0 / (took_ms + 50) as f64);
            let stretched = (count as f64 / rate * 1000.0) as u64;
            let bound = interval_ms + stretched + 200;
            let until = 3 * interval_ms.max(stretched) + 1_000;
            for now in (offset..until).step_by(50) {
                while ends.front().is_some_and(|(at, _)| *at <= now) {
                    schedule.end(ends.pop_front().unwrap().1);
                }
                while let Some(id) = schedule.begin(now) {
                    let gap = now - last.insert(id, now).unwrap();
                    prop_assert!(gap <= bound, "{gap} ms, {bound} at the most");
                    begun.push(now);
                    ends.push_back((now + took_ms, id));
                    prop_assert!(ends.len() <= OPEN);
                }
            }
            for id in 0..count {
                prop_assert!(until - last[&id] <= bound, "{id} was forgotten");
            }
            let mut first = 0;
            for (i, now) in begun.iter().enumerate() {
                while begun[first] + 1000 <= *now {
                    first += 1;
                }
                prop_assert!((i - first) as u64 <= CAP);
            }
            // As often as asked, where the cap allows it.
            let rounds = until / interval_ms.max(stretched + 200);
            prop_assert!(begun.len() as u64 >= (rounds - 1) * count, "{} of {rounds} times {count}", begun.len());
        }
    }

    #[test]
    fn checks_are_spread_over_the_interval() {
        let mut schedule = Schedule::default();
        (0..1_000).for_each(|id| schedule.add(id, &plan(10_000), 0));
        for second in 0..10 {
            let mut count = 0;
            for now in (second * 1000..(second + 1) * 1000).step_by(50) {
                while let Some(id) = schedule.begin(now) {
                    schedule.end(id);
                    count += 1;
                }
            }
            assert!((50..150).contains(&count), "{count} in second {second}");
        }
    }

    #[test]
    fn who_goes_while_it_is_checked_leaves_its_place_and_does_not_come_back() {
        let mut schedule = Schedule::default();
        schedule.add(7, &plan(100), 0);
        assert_eq!(schedule.begin(100), Some(7));
        assert_eq!(schedule.begin(300), None, "one check at a time");
        schedule.remove(7);
        schedule.end(7);
        assert_eq!((schedule.begin(1_000), schedule.open), (None, 0));
        schedule.add(7, &plan(100), 1_000);
        schedule.add(7, &plan(50), 1_000);
        assert_eq!(schedule.begin(1_100), Some(7));
        schedule.add(7, &plan(200), 1_100);
        schedule.end(7);
        assert_eq!((schedule.begin(1_300), schedule.begin(9_000)), (Some(7), None), "it is there once");
    }
}
