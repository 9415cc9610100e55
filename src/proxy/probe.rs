//! Looking after endpoints: what requests tell of them, and probing those that are ejected, at the times that their
//! health names, until one is answered or the registration is gone.
//!
//! A probe is a connection of our own. Who could not be connected to is back with a connect; of everybody else that
//! proves nothing (the kernel accepts for a process that hangs), so they are asked something that any server answers.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::Body;
use super::context::ProxyContext;
use crate::model::Protocol;
use crate::table::{Endpoint, Lease, NextStep, Reason, Spell};
use crate::telemetry::Metrics;
use crate::transport::{ConnectError, Transport, check};

/// A probe that is not answered by then has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a request tells of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Verdict {
    /// Nothing: it did not get so far, or the client had its part in how it ended.
    #[default]
    Nothing,
    /// It answers.
    Well,
    /// It failed: too many in a row eject it.
    Failed,
    /// It broke a fresh connection off: that ejects it at once.
    Broken,
}

/// What probing needs of a thread.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    pub(super) transport: Transport<Body>,
    pub(super) metrics: Arc<Metrics>,
}

impl Prober {
    pub(super) fn of(context: &ProxyContext) -> Self {
        Self { transport: context.transport.clone(), metrics: Arc::clone(context.metrics()) }
    }
}

/// Records that an endpoint could not be connected to; where that ejects it, starts probing it.
pub(super) fn connect_failed(
    context: &Rc<ProxyContext>,
    service: &str,
    endpoint: &Arc<Endpoint>,
    error: &ConnectError,
) {
    if error.is_ours() {
        return;
    }
    if let Some(spell) = endpoint.eject(Reason::Connect, Instant::now()) {
        ejected(Prober::of(context), service, endpoint, spell, Some(error));
    }
}

/// Records what a request tells of its endpoint; where that ejects it, starts probing it.
pub(super) fn judge(context: &Rc<ProxyContext>, service: &str, lease: &Lease, verdict: Verdict) {
    let endpoint = lease.endpoint();
    match verdict {
        Verdict::Nothing => {}
        // Its probes look after it already.
        _ if lease.is_trial() => {
            if endpoint.tried(verdict == Verdict::Well, Instant::now()) {
                Prober::of(context).readmitted(service, endpoint);
            }
        }
        Verdict::Well => endpoint.went_well(),
        Verdict::Failed | Verdict::Broken => {
            let now = Instant::now();
            let broken = verdict == Verdict::Broken;
            let spell = if broken { endpoint.eject(Reason::Reset, now) } else { endpoint.failed(now) };
            if let Some(spell) = spell {
                ejected(Prober::of(context), service, endpoint, spell, None::<&ConnectError>);
            }
        }
    }
}

/// Tells of an ejection, and looks after it: the thread that ejected an endpoint probes it; its runtime owns the task.
pub(super) fn ejected(
    prober: Prober,
    service: &str,
    endpoint: &Arc<Endpoint>,
    spell: Spell,
    detail: Option<&impl std::fmt::Display>,
) {
    let Some((reason, ..)) = endpoint.ejected() else { return };
    prober.metrics.ejected(service, reason.as_str());
    let instance = &*endpoint.id;
    let why = reason.describe();
    if let Some(error) = detail {
        tracing::warn!(service, instance, %error, "instance ejected: {why}");
    } else {
        tracing::warn!(service, instance, "instance ejected: {why}");
    }
    tokio::task::spawn_local(prober.probe(service.to_owned(), Arc::clone(endpoint), spell));
}

impl Prober {
    /// Ends with the ejection.
    async fn probe(self, service: String, endpoint: Arc<Endpoint>, spell: Spell) {
        while let Some(step) = endpoint.next_step(spell) {
            tokio::time::sleep_until(step.at().into()).await;
            // It may have gone, come back, or been tried and failed meanwhile.
            if endpoint.next_step(spell) != Some(step) {
                continue;
            }
            let back = match step {
                NextStep::EndTrial(_) => endpoint.end_trial(Instant::now()),
                NextStep::Probe(_) if self.answers(&endpoint).await => {
                    endpoint.probe_answered(Instant::now())
                }
                NextStep::Probe(_) => {
                    endpoint.probe_failed(Instant::now());
                    false
                }
            };
            if back {
                self.readmitted(&service, &endpoint);
            }
        }
    }

    pub(super) fn readmitted(&self, service: &str, endpoint: &Endpoint) {
        self.metrics.readmitted(service);
        tracing::info!(service, instance = &*endpoint.id, "instance readmitted");
    }

    /// Asks one that keeps a request waiting whether it is there at all, and takes it out where it is not. Until that is
    /// known, new requests go elsewhere, unless the answer comes at once.
    pub(super) async fn suspect(self, service: String, endpoint: Arc<Endpoint>) {
        if endpoint.ejected().is_some() || endpoint.is_closed() {
            return;
        }
        let mut asked = pin!(self.clone().says_something(Arc::clone(&endpoint)));
        let at_once = endpoint.patience(Instant::now()) / 2;
        let mut doubt = None;
        let says = if let Ok(says) = tokio::time::timeout(at_once, asked.as_mut()).await {
            says
        } else {
            doubt = endpoint.doubt();
            if doubt.is_some() {
                self.metrics.doubted(&service);
                let instance = &*endpoint.id;
                tracing::info!(service, instance, "instance doubted: it leaves requests and a probe waiting");
            }
            asked.await
        };
        if says != Some(false) {
            return;
        }
        if let Some(spell) = endpoint.eject(Reason::Silent, Instant::now()) {
            ejected(self, &service, &endpoint, spell, None::<&ConnectError>);
        }
        drop(doubt);
    }

    /// Whether an ejected endpoint has got over what ejected it, as far as a probe can tell.
    async fn answers(&self, endpoint: &Arc<Endpoint>) -> bool {
        if matches!(endpoint.ejected(), Some((Reason::Connect, ..)) | None) {
            return self.transport.dial(&endpoint.target).await.is_ok();
        }
        self.clone().says_something(Arc::clone(endpoint)).await == Some(true)
    }

    /// Whether it answers what any server does; `None` where it could not be asked.
    async fn says_something(self, endpoint: Arc<Endpoint>) -> Option<bool> {
        let asked = async {
            let authority = &*endpoint.address;
            let dial = || self.transport.dial(&endpoint.target);
            Ok(match endpoint.target.protocol {
                Protocol::Tcp => dial().await.map(|_| true)?,
                Protocol::H2 => check::answers_http2(dial().await?).await,
                Protocol::Http1 => {
                    check::answers_http1(dial().await?, authority, check::ANYTHING).await
                        || check::answers_http1(dial().await?, authority, check::ITS_ROOT).await
                }
            })
        };
        match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(answers)) => Some(answers),
            Ok(Err::<_, ConnectError>(error)) if error.is_ours() => None,
            Ok(Err(_)) | Err(_) => Some(false),
        }
    }
}
