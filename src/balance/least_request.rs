//! Power of two choices by requests in flight.
//!
//! Two are drawn by their shares and the less loaded for its share wins; a tie goes to the first
//! drawn. So an idle service is spread by share, as is a busy one, and no pick looks at everyone.

use super::draw::Draw;
use super::{Balancer, Candidates, Member, PickContext, Slot};

/// The less loaded of two.
#[derive(Debug)]
pub struct LeastRequest {
    draw: Draw,
}

impl LeastRequest {
    /// Builds the table of chances.
    pub fn new(members: &[Member]) -> Self {
        Self { draw: Draw::new(members) }
    }
}

impl Balancer for LeastRequest {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        let (a, b) = self.draw.two(context, candidates)?;
        let Some(b) = b else { return Some(a) };
        // Load for share, by multiplication across: a division costs more than the rest of the comparison.
        let cost = |slot, other| f64::from(candidates.load(slot)) * self.draw.share(other);
        Some(if cost(b, a) < cost(a, b) { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, equal, weighted};
    use super::*;

    #[test]
    fn the_busy_one_is_left_alone_and_slow_ones_fill_up_evenly() {
        let balancer = LeastRequest::new(&equal(10));
        let mut bench = Bench::new(10, 1);
        // Nobody ever finishes: every pick adds load, and the spread stays within a few requests.
        for _ in 0..10_000 {
            let slot = bench.pick(&balancer).unwrap();
            bench.load[slot] += 1;
        }
        let (least, most) = (bench.load.iter().min().unwrap(), bench.load.iter().max().unwrap());
        assert!(most - least <= 8, "{:?}", bench.load);
    }

    #[test]
    fn load_and_idle_traffic_follow_the_shares() {
        let balancer = LeastRequest::new(&weighted(&[1.0, 2.0, 0.0]));
        let mut bench = Bench::new(3, 2);
        let idle = bench.counts(&balancer, 9_000);
        assert!(idle[0].abs_diff(3_000) < 300 && idle[2] == 0, "{idle:?}");
        for _ in 0..9_000 {
            let slot = bench.pick(&balancer).unwrap();
            bench.load[slot] += 1;
        }
        assert!(bench.load[0].abs_diff(3_000) < 50, "{:?}", bench.load);
    }
}
