//! Weighted chance in constant time: Vose's alias table.

use super::{Candidates, Member, PickContext, Slot, is_open};

/// Draws before the exact scan takes over: with half of the share usable, one in 65,536 gets there.
const ATTEMPTS: usize = 16;

/// Draws slots with probability proportional to their share. Slots without a share are never drawn.
#[derive(Debug)]
pub(super) struct Draw {
    columns: Box<[Column]>,
    shares: Box<[f64]>,
}

/// One column of the table: its own slot below the threshold, the alias above.
#[derive(Debug, Clone, Copy)]
struct Column {
    threshold: u32,
    slot: u32,
    alias: u32,
}

impl Draw {
    pub(super) fn new(members: &[Member]) -> Self {
        let shares: Box<[f64]> = members.iter().map(|m| m.share).collect();
        let slots: Vec<u32> = (0u32..).zip(&*shares).filter(|(_, s)| **s > 0.0).map(|(i, _)| i).collect();
        let mean = slots.iter().map(|&i| shares[i as usize]).sum::<f64>() / slots.len() as f64;
        let mut columns: Vec<Column> =
            slots.iter().map(|&slot| Column { threshold: u32::MAX, slot, alias: slot }).collect();
        // Height of each column, where 1 is full: the poor are topped up from the rich.
        let mut height: Vec<f64> = slots.iter().map(|&i| shares[i as usize] / mean).collect();
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) = (0..slots.len()).partition(|&i| height[i] < 1.0);
        while let (Some(p), Some(&r)) = (poor.pop(), rich.last()) {
            columns[p].threshold = (height[p] * f64::from(u32::MAX)) as u32;
            columns[p].alias = columns[r].slot;
            height[r] -= 1.0 - height[p];
            if height[r] < 1.0 {
                rich.pop();
                poor.push(r);
            }
        }
        // What is left over differs from 1 by rounding only, and is full as it was made.
        Self { columns: columns.into(), shares }
    }

    /// A slot by its share, whatever its state.
    fn any(&self, rng: &mut fastrand::Rng) -> Option<Slot> {
        if self.columns.is_empty() {
            return None;
        }
        // One random number for both questions: the high half picks a column, the low one a side.
        let random = rng.u64(..);
        let column = self.columns[(((random >> 32) * self.columns.len() as u64) >> 32) as usize];
        let own = (random as u32) <= column.threshold && column.threshold > 0;
        Some(if own { column.slot } else { column.alias } as Slot)
    }

    /// A slot by its share among those accepted.
    pub(super) fn among(&self, rng: &mut fastrand::Rng, accept: impl Fn(Slot) -> bool) -> Option<Slot> {
        for _ in 0..ATTEMPTS {
            let slot = self.any(rng)?;
            if accept(slot) {
                return Some(slot);
            }
        }
        // Few are accepted: look at all of them. `accept` may change its mind between the passes,
        // so the second keeps the last one it saw.
        let open = |slot: &Slot| self.shares[*slot] > 0.0 && accept(*slot);
        let total: f64 = (0..self.shares.len()).filter(open).map(|slot| self.shares[slot]).sum();
        let mut left = rng.f64() * total;
        let mut last = None;
        for slot in (0..self.shares.len()).filter(open) {
            last = Some(slot);
            left -= self.shares[slot];
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// An open slot by its share.
    pub(super) fn open(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        let exclude = context.exclude;
        self.among(context.rng, |slot| is_open(slot, exclude, candidates))
    }

    /// Two different open slots by their share, or the only one.
    pub(super) fn two(
        &self,
        context: &mut PickContext<'_>,
        candidates: &dyn Candidates,
    ) -> Option<(Slot, Option<Slot>)> {
        let exclude = context.exclude;
        let first = self.open(context, candidates)?;
        let second = self.among(context.rng, |s| s != first && is_open(s, exclude, candidates));
        Some((first, second))
    }

    /// The share of a slot.
    pub(super) fn share(&self, slot: Slot) -> f64 {
        self.shares[slot]
    }

    /// The shares in slot order.
    pub(super) fn shares(&self) -> &[f64] {
        &self.shares
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::weighted;
    use super::*;

    fn counts(draw: &Draw, accept: impl Fn(Slot) -> bool + Copy, draws: usize) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut out = vec![0; draw.shares.len()];
        for _ in 0..draws {
            out[draw.among(&mut rng, accept).unwrap()] += 1;
        }
        out
    }

    #[test]
    fn slots_are_drawn_by_their_share() {
        let draw = Draw::new(&weighted(&[1.0, 0.0, 3.0, 0.5, 5.5]));
        let seen = counts(&draw, |_| true, 100_000);
        assert_eq!(seen[1], 0);
        for (slot, expected) in [(0, 10_000), (2, 30_000), (3, 5_000), (4, 55_000)] {
            assert!(seen[slot].abs_diff(expected) < 800, "{seen:?}");
        }
    }

    #[test]
    fn refused_slots_leave_the_others_their_proportions() {
        let draw = Draw::new(&weighted(&[1.0, 100_000.0, 3.0, 0.0]));
        let seen = counts(&draw, |slot| slot != 1, 10_000);
        assert_eq!((seen[1], seen[3]), (0, 0));
        assert!(seen[0].abs_diff(2_500) < 250, "{seen:?}");
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(draw.among(&mut rng, |_| false), None);
        assert_eq!(Draw::new(&[]).among(&mut rng, |_| true), None);
        assert_eq!(Draw::new(&weighted(&[0.0])).among(&mut rng, |_| true), None);
    }
}
