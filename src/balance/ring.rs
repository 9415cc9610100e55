//! Consistent hashing on a ring of CRC-32 points.
//!
//! Point N of an instance stands at fmix32(CRC-32(`ADDRESS#N`)), N from 0; equal points are ordered by
//! address. It has round(`virtual_nodes` × share) of them, from 1 to 10 × `virtual_nodes`, and none for
//! share 0. A key goes to the first point at or after its hash, wrapping. Nothing else counts: not the
//! order of discovery, not another instance's weight.

use std::collections::HashMap;
use std::sync::Arc;

use super::bound::LoadBound;
use super::circle::{Circle, Stake};
use super::draw::Draw;
use super::walk::{self, Places};
use super::{Balancer, Candidates, Member, PickContext, Slot};

/// A ring with an index over the top bits, since hashes are spread evenly: a lookup reads one bucket.
#[derive(Debug)]
pub struct Ring {
    circle: Circle,
    /// What each member has of it, in slot order.
    stakes: Box<[Stake]>,
    virtual_nodes: u32,
    draw: Draw,
    bound: Option<LoadBound>,
}

impl Ring {
    /// Builds the ring, in time linear in its points.
    pub fn new(members: &[Member], virtual_nodes: u32, load_bound: Option<f64>) -> Self {
        let stakes = stakes(members, virtual_nodes);
        Self {
            circle: Circle::new(&stakes),
            stakes,
            virtual_nodes,
            draw: Draw::new(members),
            bound: load_bound.map(|factor| LoadBound::new(factor, members)),
        }
    }

    /// The ring of other members, out of this one: the same as [`Ring::new`] would make, in a tenth of the time
    /// where few have come, gone or changed their weight. `None` where so many have that it is not worth it.
    pub fn next(&self, members: &[Member]) -> Option<Self> {
        let mut slots = HashMap::with_capacity(self.stakes.len());
        for (slot, stake) in self.stakes.iter().enumerate() {
            if slots.insert(&*stake.address, slot).is_some() {
                return None;
            }
        }
        let stakes = stakes(members, self.virtual_nodes);
        let kept: Vec<Option<Slot>> = stakes.iter().map(|stake| slots.remove(&*stake.address)).collect();
        Some(Self {
            circle: self.circle.next(&self.stakes, &stakes, &kept)?,
            stakes,
            virtual_nodes: self.virtual_nodes,
            draw: Draw::new(members),
            bound: self.bound.map(|bound| bound.over(members)),
        })
    }

    /// How many points it has.
    pub fn points(&self) -> usize {
        self.circle.points().len()
    }

    /// The member that a hash belongs to.
    pub fn owner(&self, hash: u32) -> Option<Slot> {
        self.from(hash).next()
    }
}

fn stakes(members: &[Member], virtual_nodes: u32) -> Box<[Stake]> {
    members.iter().map(|member| Stake::of(member, virtual_nodes)).collect()
}

impl Places for Ring {
    fn from(&self, affinity: u32) -> impl Iterator<Item = Slot> {
        let (before, after) = self.circle.points().split_at(self.circle.first(affinity));
        after.iter().chain(before).map(|point| point.slot as Slot)
    }
}

impl Balancer for Ring {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        walk::pick(self, &self.draw, self.bound, context, candidates)
    }

    fn placement(&self, affinity: u32) -> Option<Vec<Slot>> {
        Some(walk::placement(self, affinity, self.draw.shares().len()))
    }

    fn place(&self, affinity: u32, candidates: &dyn Candidates) -> Option<Slot> {
        walk::place(self, &self.draw, self.bound, affinity, &[], candidates)
    }

    fn successor(&self, members: &[Member]) -> Option<Arc<dyn Balancer>> {
        Some(Arc::new(Ring::next(self, members)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hash;
    use super::super::testing::{Bench, address, equal, weighted};
    use super::super::walk::tests::{bound_holds, key, walks_to_the_next_distinct};
    use super::*;

    fn ring(members: &[Member]) -> Ring {
        Ring::new(members, 160, None)
    }

    fn owner(ring: &Ring, key: u32) -> Option<Slot> {
        ring.from(key).next()
    }

    #[test]
    fn points_stand_where_the_contract_says() {
        let members = weighted(&[1.0, 0.5, 0.0, 100.0, 0.001]);
        let ring = ring(&members);
        let mut expected = Vec::new();
        for (slot, count) in [(0, 160), (1, 80), (3, 1600), (4, 1)] {
            for n in 0..count {
                let text = format!("{}#{n}", members[slot].address);
                expected.push((hash::key(text.as_bytes()), members[slot].address.clone(), slot));
            }
        }
        expected.sort();
        assert_eq!(ring.points(), expected.len());
        // A known point, worked out elsewhere: binascii.crc32 and fmix32 in Python.
        assert_eq!(hash::key(b"10.0.0.0:8080#0"), 0x539f_a7ff);
        let actual: Vec<_> = ring.circle.points().iter().map(|p| (p.hash, p.slot as usize)).collect();
        assert_eq!(actual, expected.into_iter().map(|(h, _, slot)| (h, slot)).collect::<Vec<_>>());
    }

    #[test]
    fn a_key_goes_to_the_first_point_not_before_it() {
        let ring = ring(&equal(3));
        for i in 0..2_000 {
            let key = key(i);
            let naive =
                ring.circle.points().iter().find(|p| p.hash >= key).unwrap_or(&ring.circle.points()[0]);
            assert_eq!(owner(&ring, key), Some(naive.slot as usize));
        }
        for point in ring.circle.points() {
            assert_eq!(owner(&ring, point.hash), Some(point.slot as usize), "on the point itself");
        }
        let last = ring.circle.points().last().unwrap().hash;
        assert_eq!(owner(&ring, last.wrapping_add(1)), Some(ring.circle.points()[0].slot as usize), "wraps");
        assert_eq!(owner(&Ring::new(&[], 160, None), 5), None);
        assert_eq!(owner(&Ring::new(&weighted(&[0.0]), 160, None), 5), None);
    }

    #[test]
    fn load_is_spread_within_1_30_of_the_mean() {
        // The part of the hash space that each owns, exactly, over twenty sets of a hundred addresses.
        let mut sum = 0.0;
        for seed in 0..20 {
            let members: Vec<Member> = (0..100)
                .map(|i| Member {
                    address: format!("10.{seed}.{}.{}:8080", i / 10, i % 10 + 1).into(),
                    share: 1.0,
                })
                .collect();
            let ring = ring(&members);
            let mut owned = vec![0u64; 100];
            let mut previous = u64::from(ring.circle.points().last().unwrap().hash);
            for point in ring.circle.points() {
                let here = u64::from(point.hash);
                owned[point.slot as usize] += here.wrapping_sub(previous) & 0xffff_ffff;
                previous = here;
            }
            sum += *owned.iter().max().unwrap() as f64 / (owned.iter().sum::<u64>() as f64 / 100.0);
        }
        let mean = sum / 20.0;
        assert!(mean <= 1.30, "hottest ÷ mean is {mean}");
    }

    #[test]
    fn a_retry_walks_to_the_next_distinct_instance() {
        walks_to_the_next_distinct(&ring(&equal(7)), 7);
    }

    #[test]
    fn no_instance_exceeds_the_load_bound() {
        bound_holds(&Ring::new(&equal(6), 160, Some(1.25)), 6, 1.25);
        bound_holds(&Ring::new(&equal(4), 160, Some(1.0)), 4, 1.0);
    }

    #[test]
    fn requests_without_a_key_go_anywhere_by_weight() {
        let seen = Bench::new(3, 5).counts(&ring(&weighted(&[1.0, 3.0, 0.0])), 8_000);
        assert!(seen[0].abs_diff(2_000) < 250 && seen[2] == 0, "{seen:?}");
    }

    #[test]
    fn a_walk_with_nobody_left_ends_early() {
        let mut bench = Bench::new(50, 0);
        bench.down.fill(true);
        let ring = ring(&equal(50));
        assert_eq!(bench.pick_for(&ring, Some(1)), None);
        bench.down[13] = false;
        assert_eq!(bench.pick_for(&ring, Some(1)), Some(13));
    }

    proptest! {
        #[test]
        fn whatever_changes_the_ring_is_the_one_made_from_scratch(
            lives in proptest::collection::vec(proptest::collection::btree_map(0usize..60, 0u8..40, 20..40), 1..6),
            seed: u64
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut here = ring(&[]);
            for life in lives {
                let member = |(at, share): (usize, u8)| {
                    // Most weigh the same from life to life.
                    Member { address: address(at).into(), share: if share < 30 { 1.0 } else { f64::from(share - 30) / 2.0 } }
                };
                let mut members: Vec<Member> = life.into_iter().map(member).collect();
                rng.shuffle(&mut members);
                let scratch = ring(&members);
                if let Some(next) = here.next(&members) {
                    prop_assert_eq!(&next.circle, &scratch.circle);
                    prop_assert_eq!(&next.stakes, &scratch.stakes);
                }
                here = scratch;
            }
        }

        #[test]
        fn removing_one_moves_only_its_own_keys(
            shares in proptest::collection::vec(0.1f64..4.0, 2..30), gone in 0usize..30
        ) {
            let members = weighted(&shares);
            let gone = gone % members.len();
            let full = ring(&members);
            let mut rest = members.clone();
            rest.remove(gone);
            let less = ring(&rest);
            let mut bench = Bench::new(members.len(), 0);
            bench.down[gone] = true;
            for key in (0..500).map(key) {
                let before = owner(&full, key).unwrap();
                let after = &rest[owner(&less, key).unwrap()].address;
                if before != gone {
                    prop_assert_eq!(after, &members[before].address);
                }
                // An instance that is only out of rotation is passed over just as if it were gone.
                let skipped = bench.pick_for(&full, Some(key)).unwrap();
                prop_assert_eq!(after, &members[skipped].address);
            }
        }

        #[test]
        fn the_order_of_discovery_and_the_weights_of_others_do_not_count(
            shares in proptest::collection::vec(0.1f64..4.0, 2..20), seed: u64, heavier in 0usize..20
        ) {
            let members = weighted(&shares);
            let mut shuffled = members.clone();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            let mut reweighted = members.clone();
            let heavier = heavier % members.len();
            reweighted[heavier].share *= 2.0;
            let (a, b, c) = (ring(&members), ring(&shuffled), ring(&reweighted));
            for key in (0..300).map(key) {
                let before = &members[owner(&a, key).unwrap()].address;
                prop_assert_eq!(before, &shuffled[owner(&b, key).unwrap()].address);
                let after = owner(&c, key).unwrap();
                prop_assert!(after == heavier || &members[after].address == before);
            }
        }
    }
}
