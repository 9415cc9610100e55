//! A bench for balancers: members by the number, and candidates that are plain arrays.

use super::{Balancer, Candidates, Member, PickContext, Slot};

/// `10.0.X.Y:8080`, in slot order.
pub(super) fn address(slot: usize) -> String {
    format!("10.0.{}.{}:8080", slot / 250, slot % 250)
}

pub(super) fn equal(n: usize) -> Vec<Member> {
    weighted(&vec![1.0; n])
}

pub(super) fn weighted(shares: &[f64]) -> Vec<Member> {
    shares.iter().enumerate().map(|(i, &share)| Member { address: address(i).into(), share }).collect()
}

/// Candidates whose every property a test may set.
pub(super) struct Bench {
    pub(super) down: Vec<bool>,
    pub(super) load: Vec<u32>,
    pub(super) latency: Vec<f64>,
    pub(super) exclude: Vec<Slot>,
    pub(super) worker: usize,
    rng: fastrand::Rng,
}

impl Bench {
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self {
            down: vec![false; n],
            load: vec![0; n],
            latency: vec![0.0; n],
            exclude: Vec::new(),
            worker: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn pick(&mut self, balancer: &dyn Balancer) -> Option<Slot> {
        self.pick_for(balancer, None)
    }

    pub(super) fn pick_for(&mut self, balancer: &dyn Balancer, affinity: Option<u32>) -> Option<Slot> {
        let mut rng = self.rng.fork();
        let mut context =
            PickContext { rng: &mut rng, worker: self.worker, affinity, exclude: &self.exclude };
        balancer.pick(&mut context, self)
    }

    pub(super) fn counts(&mut self, balancer: &dyn Balancer, picks: usize) -> Vec<usize> {
        let mut out = vec![0; self.load.len()];
        for _ in 0..picks {
            out[self.pick(balancer).expect("someone is usable")] += 1;
        }
        out
    }
}

impl Candidates for Bench {
    fn len(&self) -> usize {
        self.load.len()
    }
    fn usable(&self, slot: Slot) -> bool {
        !self.down[slot]
    }
    fn load(&self, slot: Slot) -> u32 {
        self.load[slot]
    }
    fn latency(&self, slot: Slot) -> f64 {
        self.latency[slot]
    }
}
