//! Picks within a service's limits.

use std::sync::Arc;

use crate::balance::Slot;
use crate::config::plan::LoadLimits;
use crate::model::InstanceChoice;

use super::Lease;
use super::health::Status;
use super::limit::{Limiter, Shed};
use super::upstream::{PickRequest, Upstream};
use super::view::LimitsView;

/// How often an endpoint may fill up between its choice and its taking.
const TURNS: usize = 4;

impl Upstream {
    /// Its limits, with what is counted under them.
    pub fn limits(&self) -> Option<(&Arc<LoadLimits>, &Arc<Limiter>)> {
        self.spec().defaults.load.as_ref().map(|plan| (plan, self.lasting.limiter()))
    }

    /// The same as [`Upstream::pick_among`] for the first in a line.
    pub fn pick_next(&self, choice: InstanceChoice, request: PickRequest<'_>) -> Option<Lease> {
        match &self.spec().defaults.load {
            None => self.pick_among(choice, request),
            Some(plan) => self.pick_limited(plan, choice, false, request, true),
        }
    }

    /// How it stands with its limits.
    pub(super) fn limits_view(&self) -> Option<LimitsView> {
        let (plan, limiter) = self.limits()?;
        let limit = limiter.limit(plan);
        let full = (0..self.endpoints().len()).filter(|slot| self.is_full(*slot));
        Some(LimitsView {
            limit: (limit != u32::MAX).then_some(limit),
            in_flight: limiter.held(),
            max_requests: plan.max_requests,
            max_requests_per_instance: plan.max_requests_per_instance,
            adaptive: plan.adaptive,
            waiting: limiter.waiting(),
            queue_length: plan.queue.length,
            shed: Shed::ALL.iter().map(|why| (why.as_str(), limiter.shed_count(*why))).collect(),
            full: full.map(|slot| self.endpoints()[slot].id.to_string()).collect(),
        })
    }

    pub(super) fn pick_limited(
        &self,
        plan: &Arc<LoadLimits>,
        choice: InstanceChoice,
        trial: bool,
        request: PickRequest<'_>,
        first: bool,
    ) -> Option<Lease> {
        let limiter = self.lasting.limiter();
        if !first && limiter.has_line(request.worker, choice) {
            return None;
        }
        let PickRequest { rng, worker, key, tried, now } = request;
        let mut ticket = limiter.take(plan)?;
        for _ in 0..TURNS {
            let request = PickRequest { rng: &mut *rng, worker, key, tried, now };
            let chosen = self.choose(choice, trial, request)?;
            let counted = self.balance().load_bound.is_some();
            match Lease::limited(chosen, counted, (ticket, plan)) {
                Ok(lease) => return Some(lease),
                Err(back) => ticket = back,
            }
        }
        None
    }

    /// Whether waiting may help where a pick found nobody: somebody would do who is merely at a limit.
    pub fn is_worth_waiting(&self, choice: InstanceChoice, tried: &[u64]) -> bool {
        let up = |slot: Slot| {
            let state = &self.members.slots[slot];
            let untried = !tried.contains(&self.endpoints()[slot].target.id);
            state.enabled && untried && state.vitals.status() != Status::Retired
        };
        match choice {
            InstanceChoice::Primary => self.primary_slot().is_some_and(up),
            InstanceChoice::Replicas => {
                (0..self.members.slots.len()).any(|slot| self.primary() != Some(slot) && up(slot))
            }
            InstanceChoice::Any => (0..self.members.slots.len()).any(up),
        }
    }

    /// The limit of each instance.
    pub(super) fn cap(&self) -> Option<u32> {
        self.spec().defaults.load.as_ref()?.max_requests_per_instance
    }

    /// Whether an endpoint is at its limit.
    pub(super) fn is_full(&self, slot: Slot) -> bool {
        self.cap().is_some_and(|cap| {
            self.members.slots.get(slot).is_some_and(|slot| slot.vitals.in_flight() >= cap)
        })
    }

    /// Whether some endpoint that is up is at its limit.
    pub(super) fn waits(&self) -> bool {
        self.cap().is_some()
            && (0..self.members.slots.len()).any(|slot| {
                let state = &self.members.slots[slot];
                state.enabled && state.vitals.status().is_in() && self.is_full(slot)
            })
    }
}
