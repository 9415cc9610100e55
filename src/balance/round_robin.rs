//! Smooth weighted round robin: an immutable schedule, and a cursor for each worker.
//!
//! The schedule is one whole turn, in which an instance of twice the weight stands twice, as far
//! apart as possible. A pick takes the entry under the cursor and steps past it, and past whatever is
//! not usable; so the others keep their proportions exactly, and nobody inherits a neighbour's turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Balancer, Candidates, Member, PickContext, Slot, is_open};

/// Entries of a schedule: this many, or this many an instance, whichever is more …
const MIN_TURN: usize = 4096;
const TURN_PER_MEMBER: usize = 16;
/// … but no more than this, unless the instances alone are more.
const MAX_TURN: usize = 65_536;

/// Where each worker stands in a service's turn. Outlives the schedules.
#[derive(Debug)]
pub struct Cursors {
    cells: Box<[Cell]>,
}

/// Length of the schedule that the position counts in (high half), position (low half).
///
/// Alone on its cache line: it is written by one worker at each of its picks.
#[derive(Debug)]
#[repr(align(64))]
struct Cell(AtomicU64);

impl Cursors {
    /// Cursors of so many workers, spread over the turn so that they don't start in step.
    pub fn new(workers: usize) -> Self {
        let workers = workers.max(1);
        Self { cells: (0..workers).map(|w| Cell(AtomicU64::new(pack(workers, w)))).collect() }
    }

    fn cell(&self, worker: usize) -> &Cell {
        &self.cells[worker % self.cells.len()]
    }
}

fn pack(turn: usize, position: usize) -> u64 {
    (turn as u64) << 32 | position as u64
}

impl Cell {
    /// The position in a turn of this length: kept in proportion where the length has changed.
    fn position(&self, turn: usize) -> usize {
        let packed = self.0.load(Ordering::Relaxed);
        let (old_turn, position) = (packed >> 32, packed & 0xffff_ffff);
        if old_turn == turn as u64 { position as usize } else { (position * turn as u64 / old_turn) as usize }
    }

    fn set(&self, turn: usize, position: usize) {
        self.0.store(pack(turn, position), Ordering::Relaxed);
    }
}

/// Each in its turn.
#[derive(Debug)]
pub struct RoundRobin {
    schedule: Box<[u32]>,
    cursors: std::sync::Arc<Cursors>,
}

impl RoundRobin {
    /// Builds the schedule.
    pub fn new(members: &[Member], cursors: std::sync::Arc<Cursors>) -> Self {
        let shares: Vec<f64> = members.iter().map(|m| m.share).collect();
        Self { schedule: schedule(&quantise(&shares)).into(), cursors }
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        let turn = self.schedule.len();
        if turn == 0 {
            return None;
        }
        let cell = self.cursors.cell(context.worker);
        let mut position = cell.position(turn);
        for _ in 0..turn {
            let slot = self.schedule[position] as Slot;
            position = if position + 1 == turn { 0 } else { position + 1 };
            if is_open(slot, context.exclude, candidates) {
                cell.set(turn, position);
                return Some(slot);
            }
        }
        None
    }
}

/// Turns a share into so many entries: exactly where small numbers will do, else rounded.
fn quantise(shares: &[f64]) -> Vec<u32> {
    let positive = || shares.iter().copied().filter(|s| *s > 0.0);
    let count = positive().count();
    let limit = MIN_TURN.max(count * TURN_PER_MEMBER).min(MAX_TURN.max(count)) as f64;
    let (least, total) = (positive().fold(f64::INFINITY, f64::min), positive().sum::<f64>());
    for scale in 1..=64 {
        let entries = |share: f64| share / least * f64::from(scale);
        if entries(total) > limit {
            break;
        }
        if positive().map(entries).all(|e| (e - e.round()).abs() < 1e-6) {
            return shares.iter().map(|&s| entries(s).round() as u32).collect();
        }
    }
    let entries = |share: f64| if share > 0.0 { (share / total * limit).round().max(1.0) as u32 } else { 0 };
    shares.iter().map(|&s| entries(s)).collect()
}

/// Lays out one turn: the k-th of w entries belongs at (k + ½) / w of it, ties in slot order.
fn schedule(entries: &[u32]) -> Vec<u32> {
    let due = |slot: usize, k: u32| ((f64::from(k) + 0.5) / f64::from(entries[slot])).to_bits();
    // Positive floats order like their bits.
    let mut queue: BinaryHeap<_> =
        (0..entries.len()).filter(|&s| entries[s] > 0).map(|s| Reverse((due(s, 0), s, 0))).collect();
    let mut out = Vec::with_capacity(entries.iter().map(|&e| e as usize).sum());
    while let Some(mut head) = queue.peek_mut() {
        let Reverse((_, slot, k)) = *head;
        out.push(slot as u32);
        if k + 1 < entries[slot] {
            *head = Reverse((due(slot, k + 1), slot, k + 1));
        } else {
            std::collections::binary_heap::PeekMut::pop(head);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::testing::{Bench, equal, weighted};
    use super::*;

    fn balancer(members: &[Member]) -> RoundRobin {
        RoundRobin::new(members, Arc::new(Cursors::new(2)))
    }

    #[test]
    fn a_turn_is_smooth() {
        assert_eq!(schedule(&quantise(&[1.0, 1.0, 1.0])), [0, 1, 2]);
        assert_eq!(schedule(&quantise(&[0.25, 0.0, 0.5])), [2, 0, 2]);
        assert_eq!(schedule(&quantise(&[5.0, 1.0, 1.0])), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(quantise(&[1.5, 1.0]), [3, 2]);
        assert_eq!(quantise(&[100.0, 150.0, 0.0]), [2, 3, 0]);
    }

    #[test]
    fn odd_weights_are_rounded_and_nobody_is_lost() {
        let entries = quantise(&[std::f64::consts::PI, 1.0, 1e-9, 1e9]);
        assert!(entries[2] == 1 && entries[3] > 4_000, "{entries:?}");
        assert_eq!(quantise(&[f64::MIN_POSITIVE, 1.0])[0], 1);
        let many = quantise(&vec![1.0; 100_000]);
        assert!(many.iter().all(|&e| e == 1));
    }

    #[test]
    fn cursors_keep_their_place_when_the_members_change() {
        let cursors = Arc::new(Cursors::new(1));
        let mut bench = Bench::new(10, 0);
        let ten = RoundRobin::new(&equal(10), Arc::clone(&cursors));
        for expected in 0..6 {
            assert_eq!(bench.pick(&ten), Some(expected));
        }
        let five = RoundRobin::new(&equal(5), Arc::clone(&cursors));
        assert_eq!(bench.pick(&five), Some(3), "six tenths of the way");
        assert_eq!(bench.pick(&RoundRobin::new(&[], cursors)), None);
    }

    #[test]
    fn workers_have_cursors_of_their_own_and_start_apart() {
        let balancer = balancer(&equal(4));
        let mut bench = Bench::new(4, 0);
        assert_eq!(bench.pick(&balancer), Some(0));
        bench.worker = 1;
        assert_eq!(bench.pick(&balancer), Some(2));
        bench.worker = 0;
        assert_eq!(bench.pick(&balancer), Some(1));
    }

    proptest! {
        #[test]
        fn equal_usable_instances_get_their_exact_share(
            n in 1usize..40, down in proptest::collection::vec(any::<bool>(), 40), picks in 1usize..500
        ) {
            let mut bench = Bench::new(n, 0);
            bench.down.copy_from_slice(&down[..n]);
            bench.down[n / 2] = false;
            let usable = bench.down.iter().filter(|d| !**d).count();
            let seen = bench.counts(&balancer(&equal(n)), picks);
            for (slot, &count) in seen.iter().enumerate() {
                if bench.down[slot] {
                    prop_assert_eq!(count, 0);
                } else {
                    let fair = picks / usable;
                    prop_assert!(count == fair || count == fair + 1, "{:?}", seen);
                }
            }
        }

        #[test]
        fn a_whole_turn_is_exact_and_any_part_of_it_close(weights in proptest::collection::vec(0u32..20, 1..20)) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let shares: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
            let turn = schedule(&quantise(&shares));
            let total: u32 = weights.iter().sum();
            let mut seen = vec![0u32; weights.len()];
            for (i, &slot) in turn.iter().enumerate() {
                seen[slot as usize] += 1;
                for (slot, &w) in weights.iter().enumerate() {
                    let due = f64::from(w) * (i + 1) as f64 / f64::from(total);
                    prop_assert!((f64::from(seen[slot]) - due).abs() < 2.0, "{:?} after {}", seen, i + 1);
                }
            }
            for (slot, &w) in weights.iter().enumerate() {
                prop_assert_eq!(seen[slot] as usize * total as usize, w as usize * turn.len());
            }
        }

        #[test]
        fn weighted_with_some_down_keeps_the_proportions(
            weights in proptest::collection::vec(1u32..6, 2..10), down in 0usize..10
        ) {
            let shares: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
            let mut bench = Bench::new(weights.len(), 0);
            let down = down % weights.len();
            bench.down[down] = true;
            let rest: u32 = weights.iter().sum::<u32>() - weights[down];
            let seen = bench.counts(&balancer(&weighted(&shares)), rest as usize * 60);
            for (slot, &w) in weights.iter().enumerate().filter(|(s, _)| *s != down) {
                prop_assert_eq!(seen[slot], w as usize * 60);
            }
        }
    }
}
