//! Google's maglev: a table whose slots the instances claim in turn.
//!
//! Flatter than a ring and one read a lookup, at the price that a change also moves a few keys of the
//! others. Each instance prefers the slots in an order of its own, made from its address; they claim in
//! the order of their addresses, the heavier the more often.

use super::bound::LoadBound;
use super::draw::Draw;
use super::hash;
use super::walk::{self, Places};
use super::{Balancer, Candidates, Member, PickContext, Slot};

/// A maglev table.
#[derive(Debug)]
pub struct Maglev {
    table: Box<[u32]>,
    draw: Draw,
    bound: Option<LoadBound>,
}

impl Maglev {
    /// Fills a table of this many slots, or of the next prime.
    pub fn new(members: &[Member], table_size: u32, load_bound: Option<f64>) -> Self {
        Self {
            table: fill(members, table_size),
            draw: Draw::new(members),
            bound: load_bound.map(|factor| LoadBound::new(factor, members)),
        }
    }
}

/// One member's claims.
struct Claimant {
    slot: u32,
    /// Its next preference, and the step from one to the next.
    next: u32,
    step: u32,
    /// Claims a turn, and what it has saved up.
    rate: f64,
    saved: f64,
}

const FREE: u32 = u32::MAX;

fn fill(members: &[Member], table_size: u32) -> Box<[u32]> {
    let size = next_prime(table_size.max(2));
    let most = members.iter().map(|m| m.share).fold(0.0, f64::max);
    if most <= 0.0 {
        return Box::default();
    }
    let mut by_address: Vec<usize> = (0..members.len()).filter(|&slot| members[slot].share > 0.0).collect();
    by_address.sort_by(|&a, &b| members[a].address.cmp(&members[b].address));
    let mut claimants: Vec<Claimant> = by_address
        .iter()
        .map(|&slot| {
            let points = hash::Points::of(&members[slot].address);
            let rate = members[slot].share / most;
            // Whoever has a share claims in the first turn.
            Claimant {
                slot: slot as u32,
                next: points.nth(0) % size,
                step: points.nth(1) % (size - 1) + 1,
                rate,
                saved: 1.0 - rate,
            }
        })
        .collect();
    let mut table = vec![FREE; size as usize];
    let mut left = size;
    loop {
        for claimant in &mut claimants {
            claimant.saved += claimant.rate;
            if claimant.saved < 1.0 - 1e-9 {
                continue;
            }
            claimant.saved -= 1.0;
            while table[claimant.next as usize] != FREE {
                // Both are below the size: their sum is at most once around. Cheaper than a division.
                let next = u64::from(claimant.next) + u64::from(claimant.step);
                claimant.next = next.checked_sub(u64::from(size)).unwrap_or(next) as u32;
            }
            table[claimant.next as usize] = claimant.slot;
            left -= 1;
            if left == 0 {
                return table.into();
            }
        }
    }
}

/// Steps reach every slot only where the size is prime.
fn next_prime(from: u32) -> u32 {
    let is_prime = |n: u32| (2..=n.isqrt()).all(|d| !n.is_multiple_of(d));
    (from..=u32::MAX).find(|&n| is_prime(n)).unwrap_or(65_537)
}

impl Places for Maglev {
    fn from(&self, affinity: u32) -> impl Iterator<Item = Slot> {
        let start = affinity.checked_rem(self.table.len() as u32).unwrap_or_default();
        let (before, after) = self.table.split_at(start as usize);
        after.iter().chain(before).map(|&slot| slot as Slot)
    }
}

impl Balancer for Maglev {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        walk::pick(self, &self.draw, self.bound, context, candidates)
    }

    fn placement(&self, affinity: u32) -> Option<Vec<Slot>> {
        Some(walk::placement(self, affinity, self.draw.shares().len()))
    }

    fn place(&self, affinity: u32, candidates: &dyn Candidates) -> Option<Slot> {
        walk::place(self, &self.draw, self.bound, affinity, &[], candidates)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Bench, address, equal, weighted};
    use super::super::walk::tests::{bound_holds, key, walks_to_the_next_distinct};
    use super::*;

    const SIZE: u32 = 65_537;

    fn owned(table: &[u32], members: usize) -> Vec<usize> {
        let mut out = vec![0; members];
        for &slot in table {
            out[slot as usize] += 1;
        }
        out
    }

    #[test]
    fn slots_are_spread_within_1_02_of_the_mean() {
        for n in [2, 3, 10, 100, 1_000] {
            let owned = owned(&fill(&equal(n), SIZE), n);
            let mean = f64::from(SIZE) / n as f64;
            assert!(*owned.iter().max().unwrap() as f64 <= 1.02 * mean, "{n}: {owned:?}");
        }
    }

    #[test]
    fn slots_follow_the_weights() {
        let owned = owned(&fill(&weighted(&[1.0, 2.0, 0.0, 0.5, 1e-9]), SIZE), 5);
        assert!(owned[1].abs_diff(2 * owned[0]) <= 2 && owned[0].abs_diff(2 * owned[3]) <= 2, "{owned:?}");
        assert_eq!((owned[2], owned[4]), (0, 1));
        assert!(fill(&weighted(&[0.0]), SIZE).is_empty() && fill(&[], SIZE).is_empty());
        assert_eq!(Bench::new(1, 0).pick_for(&Maglev::new(&weighted(&[0.0]), SIZE, None), Some(7)), None);
    }

    #[test]
    fn removing_one_moves_at_most_one_percent_of_the_others_keys() {
        for n in [2usize, 5, 10, 30, 100, 300] {
            let members = equal(n);
            let full = fill(&members, SIZE);
            for gone in (0..n).step_by(n.div_ceil(10)) {
                let mut rest = members.clone();
                rest[gone].share = 0.0;
                let less = fill(&rest, SIZE);
                let others = full.iter().zip(&less).filter(|(before, _)| **before as usize != gone);
                let moved = others.filter(|(before, after)| before != after).count();
                assert!(moved as f64 <= 0.01 * f64::from(SIZE), "{moved} moved without {gone} of {n}");
            }
        }
    }

    #[test]
    fn a_retry_walks_to_the_next_distinct_instance() {
        walks_to_the_next_distinct(&Maglev::new(&equal(7), SIZE, None), 7);
    }

    #[test]
    fn no_instance_exceeds_the_load_bound() {
        bound_holds(&Maglev::new(&equal(6), SIZE, Some(1.25)), 6, 1.25);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_order_of_discovery_does_not_count(
            shares in proptest::collection::vec(0.1f64..4.0, 2..20), seed: u64
        ) {
            let members = weighted(&shares);
            let mut shuffled = members.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let (a, b) = (Maglev::new(&members, 997, None), Maglev::new(&shuffled, 997, None));
            for key in (0..300).map(key) {
                let (x, y) = (a.from(key).next().unwrap(), b.from(key).next().unwrap());
                prop_assert_eq!(address(x), shuffled[y].address.as_ref());
            }
        }
    }
}
