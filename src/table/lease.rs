//! The right to use an endpoint for one request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::Slot;
use crate::config::plan::LoadLimits;
use crate::telemetry::Outcome;

use super::Endpoint;
use super::limit::Ticket;

/// A request's hold on an endpoint: in flight until it is settled or dropped.
///
/// Keep it to the end of the answer's body, then settle it. Dropped without that, the request counts
/// as cancelled.
#[derive(Debug)]
#[must_use = "a lease that is dropped at once counts a cancelled request"]
pub struct Lease {
    chosen: Chosen,
    /// Whether the service's own count includes it.
    counted: bool,
    /// What it counts as when it is dropped.
    outcome: Outcome,
    /// Its slot of a limited service. Given back after the endpoint's, so that who waits finds both.
    ticket: Option<Limited>,
}

/// Whom a pick took.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) slot: Slot,
    pub(super) since: Instant,
    /// It is out, and this is its one trial.
    pub(super) trial: bool,
}

/// A ticket, and by what it is limited.
#[derive(Debug)]
struct Limited {
    ticket: Ticket,
    plan: Arc<LoadLimits>,
}

impl Lease {
    pub(super) fn new(chosen: Chosen, counted: bool) -> Self {
        chosen.endpoint.vitals.begin(counted);
        Self { chosen, counted, outcome: Outcome::Cancelled, ticket: None }
    }

    /// The same within a service's limits: none where the endpoint is at its own.
    pub(super) fn limited(
        chosen: Chosen,
        counted: bool,
        (ticket, plan): (Ticket, &Arc<LoadLimits>),
    ) -> Result<Self, Ticket> {
        let cap = plan.max_requests_per_instance.unwrap_or(u32::MAX);
        if !chosen.endpoint.vitals.begin_below(cap, counted) {
            return Err(ticket);
        }
        let ticket = Some(Limited { ticket, plan: Arc::clone(plan) });
        Ok(Self { chosen, counted, outcome: Outcome::Cancelled, ticket })
    }

    /// Whom it is for.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.chosen.endpoint
    }

    /// The endpoint's id: what a retry says it has tried.
    pub fn id(&self) -> u64 {
        self.chosen.endpoint.target.id
    }

    /// Its slot in the upstream that was asked. Another generation may have it elsewhere.
    pub fn slot(&self) -> Slot {
        self.chosen.slot
    }

    /// Whether the endpoint is out, and this request is its one trial: what comes of it decides
    /// ([`Endpoint::tried`]), and the request goes elsewhere where it fails.
    pub fn is_trial(&self) -> bool {
        self.chosen.trial
    }

    /// When it was taken.
    pub fn since(&self) -> Instant {
        self.chosen.since
    }

    /// The request is over. `latency` is the time to the answer's head, where there was one.
    pub fn settle(mut self, outcome: Outcome, latency: Option<Duration>) {
        self.outcome = outcome;
        if let Some(Limited { ticket, plan }) = &self.ticket {
            ticket.observe(outcome, latency, plan);
        }
        if let Some(latency) = latency {
            let (vitals, at) = (&self.chosen.endpoint.vitals, self.chosen.since + latency);
            // What waited through an ejection tells how long that lasted, not how fast the instance is.
            if !vitals.ejected_since(self.chosen.since) {
                // An instance that fails fast must not look fast.
                vitals.observe(latency, at, outcome != Outcome::Ok);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.chosen.endpoint.vitals.end(self.outcome, self.counted);
    }
}
