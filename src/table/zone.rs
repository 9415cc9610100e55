//! Zone preference: the instances of one zone as a balancer of their own.

use std::sync::Arc;

use crate::balance::{Balancer, Member};
use crate::model::ServiceSnapshot;

use super::config::ServiceSpec;
use super::members::{Before, Lasting, SlotState};

/// The preferred zone's instances, where they are some of a service's but not all.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) balancer: Arc<dyn Balancer>,
    /// As the service's, with no share for those elsewhere.
    list: Arc<[Member]>,
    pub(super) slots: Box<[u32]>,
    /// So many of them must be usable, or everybody serves.
    least: usize,
}

impl Local {
    /// `list` has the whole service's shares in slot order.
    pub(super) fn new(
        spec: &ServiceSpec,
        snapshot: &ServiceSnapshot,
        slot_of: &[u32],
        list: &[Member],
        before: Option<&Before<'_>>,
        lasting: &Lasting,
    ) -> Option<Self> {
        let zone = spec.defaults.zone.as_ref()?;
        let mut here = vec![false; list.len()];
        for (instance, slot) in snapshot.instances.iter().zip(slot_of) {
            here[*slot as usize] |= instance.enabled && instance.zone.as_ref() == Some(&zone.prefer);
        }
        let open = |slot: &u32| list[*slot as usize].share > 0.0;
        let slots: Box<[u32]> =
            (0..list.len() as u32).filter(|slot| here[*slot as usize] && open(slot)).collect();
        if slots.is_empty() || slots.len() == list.iter().filter(|member| member.share > 0.0).count() {
            return None;
        }
        let member = |(member, here): (&Member, &bool)| Member {
            address: Arc::clone(&member.address),
            share: if *here { member.share } else { 0.0 },
        };
        let list: Arc<[Member]> = list.iter().zip(&here).map(member).collect();
        let before = before.filter(|before| before.spec.same_balancing(spec));
        let same = before.and_then(|before| before.members.local.as_ref()).filter(|local| local.list == list);
        let balancer = match same {
            Some(local) => Arc::clone(&local.balancer),
            None => spec.balancer.build(&spec.defaults.balance, &list, &lasting.cursors),
        };
        // The subtraction keeps 0.7 of 10 from becoming 8.
        let least = ((zone.spill_below * slots.len() as f64 - 1e-9).ceil() as usize).max(1);
        Some(Self { balancer, list, slots, least })
    }

    /// Whether enough of them are usable to serve alone.
    pub(super) fn suffices(&self, slots: &[SlotState], lasting: &Lasting) -> bool {
        if !lasting.census.any_ejected() {
            return true;
        }
        let usable = self.slots.iter().filter(|slot| slots[**slot as usize].vitals.status().is_in());
        usable.take(self.least).count() == self.least
    }
}
