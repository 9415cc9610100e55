//! The points of a ring in order, with an index over the top bits of their hashes.
//!
//! Hashes are spread evenly, so the index takes a look-up to a bucket of a few points. A circle is made by
//! dealing the points out into the buckets, or out of the one before it by leaving out and putting in: both
//! in time linear in the points, the second with a tenth of the work.

use std::sync::Arc;

use super::hash::Points;
use super::{Member, Slot};

/// The most points of one instance, in `virtual_nodes`.
const MAX_SHARE: f64 = 10.0;
/// Points a bucket of the index, on average: half a cache line of them.
const POINTS_PER_BUCKET: usize = 4;
/// What is left of a slot that is not in the next circle.
const GONE: u32 = u32::MAX;

/// What one member has on the ring.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stake {
    pub(super) address: Arc<str>,
    /// How many points: none without a share.
    points: u32,
}

impl Stake {
    pub(super) fn of(member: &Member, virtual_nodes: u32) -> Self {
        let nodes = f64::from(virtual_nodes.max(1));
        let most = MAX_SHARE * nodes;
        let points =
            if member.share > 0.0 { (nodes * member.share).round().clamp(1.0, most) as u32 } else { 0 };
        Self { address: Arc::clone(&member.address), points }
    }

    fn hashes(&self) -> impl Iterator<Item = u32> + use<> {
        let of = Points::of(&self.address);
        (0..self.points).map(move |n| of.nth(n))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Point {
    pub(super) hash: u32,
    pub(super) slot: u32,
}

/// Points sorted by hash, then by address.
#[derive(Debug, PartialEq)]
pub(super) struct Circle {
    points: Box<[Point]>,
    /// Where each bucket begins; one more than there are buckets.
    buckets: Box<[u32]>,
    /// Bits of a hash below its bucket.
    shift: u32,
}

impl Circle {
    /// From the members' stakes in slot order.
    pub(super) fn new(stakes: &[Stake]) -> Self {
        let mut by_address: Vec<u32> = (0u32..).zip(stakes).map(|(slot, _)| slot).collect();
        by_address.sort_by(|&a, &b| stakes[a as usize].address.cmp(&stakes[b as usize].address));
        // Hash in the high half, rank of the address in the low one: so they sort as points are ordered.
        let mut keys = Vec::with_capacity(total(stakes));
        for (rank, &slot) in (0u64..).zip(&by_address) {
            keys.extend(stakes[slot as usize].hashes().map(|hash| u64::from(hash) << 32 | rank));
        }
        let shift = shift_for(keys.len());
        let buckets = starts(keys.iter().map(|&key| hash_of(key)), shift);
        let (mut sorted, mut next) = (vec![0; keys.len()], buckets.clone());
        for &key in &keys {
            let place = &mut next[bucket(hash_of(key), shift)];
            sorted[*place as usize] = key;
            *place += 1;
        }
        for range in buckets.windows(2) {
            sorted[range[0] as usize..range[1] as usize].sort_unstable();
        }
        let point = |&key: &u64| Point { hash: hash_of(key), slot: by_address[key as u32 as usize] };
        Self { points: sorted.iter().map(point).collect(), buckets, shift }
    }

    /// The circle of `stakes`, out of this one of `before`; `kept` says for each of them which of those it is.
    ///
    /// `None` where so much is new that [`Circle::new`] is as fast.
    pub(super) fn next(&self, before: &[Stake], stakes: &[Stake], kept: &[Option<Slot>]) -> Option<Self> {
        let mut moved = vec![GONE; before.len()];
        let mut fresh = Vec::new();
        for (slot, (stake, kept)) in (0u32..).zip(stakes.iter().zip(kept)) {
            match kept.filter(|&old| before[old].points == stake.points) {
                Some(old) => moved[old] = slot,
                None => fresh.extend(stake.hashes().map(|hash| Point { hash, slot })),
            }
            if fresh.len() > self.points.len() / 4 {
                return None;
            }
        }
        let order = |a: Point, b: Point| {
            let tie = || stakes[a.slot as usize].address.cmp(&stakes[b.slot as usize].address);
            a.hash.cmp(&b.hash).then_with(tie).then(a.slot.cmp(&b.slot))
        };
        fresh.sort_unstable_by(|&a, &b| order(a, b));
        // One place to spare: what is left out is written, too, and then overwritten.
        let mut points = vec![Point::default(); total(stakes) + 1];
        let (mut from, mut to) = (0, 0);
        let copy = |range: std::ops::Range<usize>, points: &mut [Point], to: &mut usize| {
            for point in &self.points[range] {
                let slot = moved[point.slot as usize];
                points[*to] = Point { hash: point.hash, slot };
                *to += usize::from(slot != GONE);
            }
        };
        for new in fresh {
            let mut place = self.first(new.hash).max(from);
            // Equal points are ordered by address; there are hardly ever any.
            while let Some(old) = self.points.get(place).filter(|old| old.hash == new.hash) {
                let slot = moved[old.slot as usize];
                if slot != GONE && order(Point { hash: old.hash, slot }, new).is_gt() {
                    break;
                }
                place += 1;
            }
            copy(from..place, &mut points, &mut to);
            from = place;
            points[to] = new;
            to += 1;
        }
        copy(from..self.points.len(), &mut points, &mut to);
        points.truncate(to);
        let shift = shift_for(points.len());
        let buckets = starts(points.iter().map(|point| point.hash), shift);
        Some(Self { points: points.into(), buckets, shift })
    }

    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Index of the first point at or after the hash; the length where there is none.
    pub(super) fn first(&self, hash: u32) -> usize {
        let bucket = bucket(hash, self.shift);
        let (start, end) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        // Addresses come from a registry and may have been chosen to crowd one bucket: no linear scan.
        start + self.points[start..end].partition_point(|p| p.hash < hash)
    }
}

fn total(stakes: &[Stake]) -> usize {
    stakes.iter().map(|stake| stake.points as usize).sum()
}

fn hash_of(key: u64) -> u32 {
    (key >> 32) as u32
}

fn shift_for(points: usize) -> u32 {
    u32::BITS - (points / POINTS_PER_BUCKET).max(1).ilog2()
}

fn bucket(hash: u32, shift: u32) -> usize {
    (u64::from(hash) >> shift) as usize
}

/// Where each bucket begins once the points are sorted.
fn starts(hashes: impl Iterator<Item = u32>, shift: u32) -> Box<[u32]> {
    let mut starts = vec![0u32; (1 << (u32::BITS - shift)) + 1];
    for hash in hashes {
        starts[bucket(hash, shift) + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    starts.into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn stakes(points: &[(u8, u32)]) -> Vec<Stake> {
        let stake =
            |&(host, points): &(u8, u32)| Stake { address: format!("10.0.0.{host}:80").into(), points };
        points.iter().map(stake).collect()
    }

    fn kept(before: &[Stake], after: &[Stake]) -> Vec<Option<Slot>> {
        let slots: HashMap<_, _> = before.iter().enumerate().map(|(slot, s)| (&s.address, slot)).collect();
        after.iter().map(|s| slots.get(&s.address).copied()).collect()
    }

    /// Every pair of neighbours with one hash and two owners.
    fn ties(circle: &Circle) -> Vec<(Slot, Slot)> {
        let pairs = circle.points.windows(2).filter(|w| w[0].hash == w[1].hash && w[0].slot != w[1].slot);
        pairs.map(|w| (w[0].slot as usize, w[1].slot as usize)).collect()
    }

    #[test]
    fn equal_points_are_ordered_by_address_however_they_came_together() {
        // Pairs of addresses with one checksum: every point of the one stands where the other has one.
        let pairs = [
            ["10.156.200.105:54073", "10.161.197.245:46321"],
            ["10.180.58.108:39307", "10.64.169.214:59914"],
            ["10.71.203.203:63220", "10.50.136.140:63492"],
        ];
        let stake = |address: &str| Stake { address: address.into(), points: 160 };
        let mut whole: Vec<Stake> = pairs.as_flattened().iter().map(|address| stake(address)).collect();
        whole.extend(stakes(&[(1, 160), (2, 160), (3, 160)]));
        let circle = Circle::new(&whole);
        let ties = ties(&circle);
        assert_eq!(ties.len(), 3 * 160);
        assert!(ties.iter().all(|&(a, b)| whole[a].address < whole[b].address));
        for gone in 0..whole.len() {
            let mut less = whole.clone();
            less.remove(gone);
            let without = circle.next(&whole, &less, &kept(&whole, &less)).unwrap();
            assert_eq!(without, Circle::new(&less));
            // Slots in another order than before.
            let mut back = less.clone();
            back.push(whole[gone].clone());
            assert_eq!(without.next(&less, &back, &kept(&less, &back)), Some(Circle::new(&back)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn a_changed_circle_is_the_one_made_from_scratch(
            lives in proptest::collection::vec(proptest::collection::btree_map(0u8..40, 0u32..60, 0..30), 1..8),
            seed: u64
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut before = stakes(&[]);
            let mut circle = Circle::new(&before);
            for life in lives {
                let mut life: Vec<_> = life.into_iter().collect();
                // Slots are in no order.
                rng.shuffle(&mut life);
                let after = stakes(&life);
                let scratch = Circle::new(&after);
                if let Some(next) = circle.next(&before, &after, &kept(&before, &after)) {
                    prop_assert_eq!(&next, &scratch);
                }
                (before, circle) = (after, scratch);
            }
        }

        #[test]
        fn one_more_or_less_is_never_made_from_scratch(
            points in proptest::collection::vec(100u32..150, 8..60), at in any::<proptest::sample::Index>()
        ) {
            let points: Vec<(u8, u32)> = (0..).zip(points).collect();
            let whole = stakes(&points);
            let mut less = whole.clone();
            less.remove(at.index(whole.len()));
            for (before, after) in [(&whole, &less), (&less, &whole)] {
                let next = Circle::new(before).next(before, after, &kept(before, after));
                prop_assert_eq!(next, Some(Circle::new(after)));
            }
        }
    }
}
