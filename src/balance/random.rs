//! Weighted random.

use super::draw::Draw;
use super::{Balancer, Candidates, Member, PickContext, Slot};

/// Each request goes to an instance by chance, in proportion to the shares.
#[derive(Debug)]
pub struct Random {
    draw: Draw,
}

impl Random {
    /// Builds the table of chances.
    pub fn new(members: &[Member]) -> Self {
        Self { draw: Draw::new(members) }
    }
}

impl Balancer for Random {
    fn pick(&self, context: &mut PickContext<'_>, candidates: &dyn Candidates) -> Option<Slot> {
        self.draw.open(context, candidates)
    }
}
