//! Power of two choices by expected wait: latency × (load + 1).
//!
//! The load counts by share, the latency does not: an idle service is spread by the shares with
//! which the two were drawn. Where one of the two has not been measured yet, load alone decides, so
//! that a newcomer is neither flooded nor starved.

use super::draw::Draw;
use super::{Balancer, Candidates, Member, PickContext, Slot};

/// The one of two that is expected to answer first.
#[derive(Debug)]
pub struct PeakEwma {
    draw: Draw,
}

impl PeakEwma {
    /// Builds the table of chances.
    pub fn new(members: &[Member]) -> Self {
        Self { draw: Draw::new(members) }
    }
}

impl Balancer for PeakEwma {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        let (a, b) = self.draw.two(context, candidates)?;
        let Some(b) = b else { return Some(a) };
        let (load_a, load_b) = (f64::from(candidates.load(a)), f64::from(candidates.load(b)));
        let (share_a, share_b) = (self.draw.share(a), self.draw.share(b));
        // latency × (load ÷ share + 1), by multiplication across: no division.
        let (wait_a, wait_b) = match (candidates.latency(a), candidates.latency(b)) {
            (la, lb) if la > 0.0 && lb > 0.0 => {
                (la * (load_a + share_a) * share_b, lb * (load_b + share_b) * share_a)
            }
            _ => (load_a * share_b, load_b * share_a),
        };
        Some(if wait_b < wait_a { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, equal};
    use super::*;

    #[test]
    fn the_slow_one_gets_less_and_the_unmeasured_one_its_part() {
        let balancer = PeakEwma::new(&equal(4));
        let mut bench = Bench::new(4, 3);
        bench.latency = vec![100.0, 100.0, 1_000.0, 0.0];
        let seen = bench.counts(&balancer, 12_000);
        assert!(seen[2] < 1_200, "only the draw against the unmeasured one can send it there: {seen:?}");
        assert!(seen[3].abs_diff(3_000) < 400, "{seen:?}");
        // Ten times the load weighs like ten times the latency.
        bench.latency = vec![100.0, 100.0, 100.0, 1_000.0];
        bench.load = vec![0, 20, 20, 0];
        let seen = bench.counts(&balancer, 12_000);
        assert!(seen[0] > seen[3] && seen[3] > seen[1], "{seen:?}");
    }
}
