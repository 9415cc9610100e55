//! Health checks: instances are asked how they are, whether requests come or not. The times are those of
//! [`super::schedule`]; what a verdict does is decided by the endpoint's health.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::probe::{Prober, ejected};
use super::schedule::Schedule;
use crate::config::plan::{CheckKind, CheckPlan, HealthCheck};
use crate::model::{Owner, ServiceName};
use crate::table::{CachedReader, Endpoint, Reason, RoutingTable, TableReader, Upstream};
use crate::telemetry::Metrics;
use crate::transport::{ConnectError, Target, Transport, TransportOptions, check};

/// The table is looked at so often: a registry in uproar costs no more.
const LOOK: Duration = Duration::from_secs(1);

/// The health checks of a gateway, all on one thread, so that the cap on them is the gateway's.
#[derive(Debug)]
pub struct Checks {
    table: CachedReader,
    prober: Prober,
    state: Rc<RefCell<State>>,
    epoch: Instant,
    /// What persistent nodes are asked where nothing is configured.
    usual: Arc<CheckPlan>,
    seen: Option<(u64, Instant)>,
}

#[derive(Debug, Default)]
struct State {
    checked: HashMap<u64, Checked>,
    schedule: Schedule,
}

/// One that is checked.
#[derive(Debug)]
struct Checked {
    service: ServiceName,
    endpoint: Arc<Endpoint>,
    plan: Arc<CheckPlan>,
    passed: u32,
    failed: u32,
    /// The look at the table that found it last.
    look: u64,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Answer(#[from] check::CheckError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Checks {
    /// To be made on the thread that ticks it, within a local runtime.
    pub fn new(table: &TableReader, metrics: Arc<Metrics>) -> Self {
        Self {
            table: table.cached(),
            prober: Prober { transport: Transport::new(TransportOptions::default()), metrics },
            state: Rc::default(),
            epoch: Instant::now(),
            usual: Arc::default(),
            seen: None,
        }
    }

    /// Begins the checks that are due. To be called each [`TICK`](super::TICK).
    pub fn tick(&mut self) {
        let now = Instant::now();
        let now_ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let table = Arc::clone(self.table.get());
        self.look(&table, now, now_ms);
        drop(table);
        let mut state = self.state.borrow_mut();
        while let Some(id) = state.schedule.begin(now_ms) {
            let Some(checked) = state.checked.get(&id) else {
                state.schedule.end(id);
                continue;
            };
            let (endpoint, plan) = (Arc::clone(&checked.endpoint), Arc::clone(&checked.plan));
            let (prober, shared) = (self.prober.clone(), Rc::clone(&self.state));
            // At most so many as the schedule lets be open, each with its deadline.
            tokio::task::spawn_local(async move {
                let asked = tokio::time::timeout(plan.timeout, ask(&prober, &endpoint, &plan));
                let verdict = asked.await.unwrap_or(Err(Failed::Timeout(plan.timeout)));
                let mut state = shared.borrow_mut();
                state.schedule.end(id);
                if let Some(checked) = state.checked.get_mut(&id) {
                    checked.judge(&prober, verdict);
                }
            });
        }
    }

    /// Takes over who is to be checked by this table.
    fn look(&mut self, table: &RoutingTable, now: Instant, now_ms: u64) {
        let generation = table.generation();
        if self.seen.is_some_and(|(seen, at)| seen == generation || now < at + LOOK) {
            return;
        }
        self.seen = Some((generation, now));
        let state = &mut *self.state.borrow_mut();
        for upstream in table.upstreams() {
            each(upstream, &self.usual, |endpoint, plan| {
                let id = endpoint.target.id;
                state.schedule.add(id, plan, now_ms);
                let checked = state.checked.entry(id).or_insert_with(|| Checked {
                    service: upstream.name().clone(),
                    endpoint: Arc::clone(endpoint),
                    plan: Arc::clone(plan),
                    passed: 0,
                    failed: 0,
                    look: generation,
                });
                checked.look = generation;
                if !Arc::ptr_eq(&checked.endpoint, endpoint) {
                    checked.endpoint = Arc::clone(endpoint);
                }
                if checked.plan != *plan {
                    // Another question: what was said to the last one does not count for it.
                    checked.plan = Arc::clone(plan);
                    (checked.passed, checked.failed) = (0, 0);
                }
            });
        }
        let State { checked, schedule } = state;
        checked.retain(|id, checked| {
            let stays = checked.look == generation;
            if !stays {
                schedule.remove(*id);
                // It is not asked any more, so nothing it said keeps it out.
                if checked.endpoint.check_passed(now) {
                    self.prober.readmitted(checked.service.as_str(), &checked.endpoint);
                }
            }
            stays
        });
    }
}

/// Whom of a service to check, and how.
fn each(upstream: &Upstream, usual: &Arc<CheckPlan>, mut check: impl FnMut(&Arc<Endpoint>, &Arc<CheckPlan>)) {
    match &upstream.spec().defaults.health_check {
        HealthCheck::Off => {}
        HealthCheck::All(plan) => upstream.endpoints().iter().for_each(|endpoint| check(endpoint, plan)),
        HealthCheck::Persistent => {
            for (instance, slot, _) in upstream.instances() {
                if instance.facts.owner == Owner::Nobody
                    && let Some(endpoint) = upstream.endpoints().get(slot)
                {
                    check(endpoint, usual);
                }
            }
        }
    }
}

impl Checked {
    fn judge(&mut self, prober: &Prober, verdict: Result<(), Failed>) {
        let (service, now) = (self.service.as_str(), Instant::now());
        if matches!(&verdict, Err(Failed::Connect(error)) if error.is_ours()) {
            return;
        }
        prober.metrics.checked(service, verdict.is_ok());
        match verdict {
            Ok(()) => {
                (self.passed, self.failed) = (self.passed.saturating_add(1), 0);
                if self.passed >= self.plan.healthy && self.endpoint.check_passed(now) {
                    prober.readmitted(service, &self.endpoint);
                }
            }
            Err(error) => {
                (self.passed, self.failed) = (0, self.failed.saturating_add(1));
                // Where its service had no room for one more, the next check asks again.
                if self.failed >= self.plan.unhealthy {
                    let spell = match reason(&self.plan, &error) {
                        Reason::Check => self.endpoint.check_failed(now),
                        reason => self.endpoint.eject(reason, now),
                    };
                    if let Some(spell) = spell {
                        ejected(prober.clone(), service, &self.endpoint, spell, Some(&error));
                    }
                }
            }
        }
    }
}

/// A port that takes no connection serves nobody, so that is not held back by `max_ejected`, and a connect brings it
/// back. Of another port, or where more is asked than a connection, the check decides.
fn reason(plan: &CheckPlan, error: &Failed) -> Reason {
    let refused =
        matches!(error, Failed::Connect(ConnectError::Refused { .. } | ConnectError::Unreachable { .. }));
    if refused && plan.kind == CheckKind::Tcp && plan.port.is_none() {
        Reason::Connect
    } else {
        Reason::Check
    }
}

async fn ask(prober: &Prober, endpoint: &Endpoint, plan: &CheckPlan) -> Result<(), Failed> {
    let mut target = Target { connect_timeout: plan.timeout, ..Target::clone(&endpoint.target) };
    target.address.port = plan.port.unwrap_or(target.address.port);
    let stream = prober.transport.dial(&target).await?;
    let address = || target.address.to_string();
    match &plan.kind {
        CheckKind::Tcp => {}
        CheckKind::Grpc { service } => check::grpc(stream, &address(), service).await?,
        CheckKind::Http { path, host, statuses } => {
            let authority = host.as_deref().map_or_else(address, str::to_owned);
            let status = check::http_status(stream, &authority, path).await?;
            let well = if statuses.is_empty() { status.is_success() } else { statuses.contains(&status) };
            if !well {
                return Err(check::CheckError::Status(status).into());
            }
        }
    }
    Ok(())
}
