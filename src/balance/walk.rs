//! What ring and maglev share once they have found the key's place: who takes it from there.

use super::bound::{Capacity, LoadBound};
use super::draw::Draw;
use super::{Candidates, PickContext, Slot, is_open};

/// Entries walked in vain before asking whether the walk can succeed at all.
const PATIENCE: usize = 32;

/// The slots from a key's place on, once around, each as often as it occurs.
pub(super) trait Places {
    fn from(&self, affinity: u32) -> impl Iterator<Item = Slot>;
}

/// Picks for a hash policy: by key, walking on from what is not open or has its fill; by chance without one.
pub(super) fn pick(
    places: &impl Places,
    draw: &Draw,
    bound: Option<LoadBound>,
    context: &mut PickContext<'_>,
    candidates: &dyn Candidates,
) -> Option<Slot> {
    let Some(affinity) = context.affinity else { return draw.open(context, candidates) };
    place(places, draw, bound, affinity, context.exclude, candidates)
}

/// The same with a key: it has no effect, and chance no part in it.
pub(super) fn place(
    places: &impl Places,
    draw: &Draw,
    bound: Option<LoadBound>,
    affinity: u32,
    exclude: &[Slot],
    candidates: &dyn Candidates,
) -> Option<Slot> {
    let capacity = bound.map(|bound| bound.capacity(draw.shares(), candidates));
    walk(places.from(affinity), draw.shares(), capacity, exclude, candidates)
}

fn walk(
    places: impl Iterator<Item = Slot>,
    shares: &[f64],
    capacity: Option<Capacity<'_>>,
    exclude: &[Slot],
    candidates: &dyn Candidates,
) -> Option<Slot> {
    let open = |slot| is_open(slot, exclude, candidates);
    let admitted = |slot| capacity.is_none_or(|capacity| capacity.admits(slot, candidates));
    // The first open one, where all that are open have their fill: the rest of the share was tried already.
    let mut full = None;
    for (step, slot) in places.enumerate() {
        if open(slot) {
            if admitted(slot) {
                return Some(slot);
            }
            full = full.or(Some(slot));
        }
        if step == PATIENCE {
            let mut left = (0..shares.len()).filter(|&slot| shares[slot] > 0.0 && open(slot)).peekable();
            left.peek()?;
            if full.is_some() && !left.any(admitted) {
                return full;
            }
        }
    }
    full
}

/// The distinct slots in the order of the walk.
pub(super) fn placement(places: &impl Places, affinity: u32, members: usize) -> Vec<Slot> {
    let mut seen = vec![false; members];
    places.from(affinity).filter(|&slot| !std::mem::replace(&mut seen[slot], true)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    //! Promises of every hash policy, called by the tests of each.

    use super::super::Balancer;
    use super::super::hash;
    use super::super::testing::Bench;

    pub(crate) fn key(i: usize) -> u32 {
        hash::key(format!("user-{i}").as_bytes())
    }

    /// A retry goes to the next distinct instance, until all were tried; so does a key whose instance is down.
    pub(crate) fn walks_to_the_next_distinct(balancer: &dyn Balancer, members: usize) {
        for i in 0..200 {
            let order = balancer.placement(key(i)).unwrap();
            assert_eq!(order.len(), members, "everyone is placed");
            let mut bench = Bench::new(members, 0);
            for &expected in &order {
                assert_eq!(bench.pick_for(balancer, Some(key(i))), Some(expected));
                bench.exclude.push(expected);
            }
            assert_eq!(bench.pick_for(balancer, Some(key(i))), None);
            bench.exclude.clear();
            bench.down[order[0]] = true;
            assert_eq!(bench.pick_for(balancer, Some(key(i))), Some(order[1]));
        }
    }

    /// One key, asked for over and over, never takes an instance above the bound, and overflows in order.
    pub(crate) fn bound_holds(balancer: &dyn Balancer, members: usize, bound: f64) {
        let order = balancer.placement(key(1)).unwrap();
        let mut bench = Bench::new(members, 0);
        for total in 1..=1_000_u32 {
            let slot = bench.pick_for(balancer, Some(key(1))).unwrap();
            bench.load[slot] += 1;
            let most = (bound * f64::from(total) / members as f64).ceil() as u32;
            assert!(bench.load.iter().all(|&l| l <= most), "{:?} after {total}", bench.load);
        }
        assert!(order.windows(2).all(|w| bench.load[w[0]] >= bench.load[w[1]]), "{order:?} {:?}", bench.load);
        // Half of them down: the bound counts among the others, and still all is taken.
        let mut bench = Bench::new(members, 0);
        for &slot in &order[..members / 2] {
            bench.down[slot] = true;
        }
        for total in 1..=1_000_u32 {
            let slot = bench.pick_for(balancer, Some(key(1))).unwrap();
            bench.load[slot] += 1;
            let most = (bound * f64::from(total) / (members - members / 2) as f64).ceil() as u32;
            assert!(bench.load.iter().all(|&l| l <= most), "{:?} after {total}", bench.load);
        }
        // Only one was not tried yet, and it is full: it takes the request all the same.
        bench.exclude = order[..members - 1].to_vec();
        bench.load[order[members - 1]] = 1_000_000;
        assert_eq!(bench.pick_for(balancer, Some(key(1))), Some(order[members - 1]));
    }
}
