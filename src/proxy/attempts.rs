//! A request's attempts: to one instance after the other, until there is an answer to pass on.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use http_body::Body as _;

use super::body::{Body, BoxError, UploadError};
use super::call::Call;
use super::context::ProxyContext;
use super::error::ProxyError;
use super::forward::Routed;
use super::grpc::GRPC_STATUS;
use super::hedge::hedged;
use super::probe::{self, Verdict};
use super::queue;
use super::replay::Replay;
use super::retry::{Again, Facts, Failed, HAND_BACKS, Price, Reason, Spent, decide};
use crate::model::{Protocol, ServiceName};
use crate::table::{Endpoint, Lease, PickRequest};
use crate::telemetry::Outcome;
use crate::transport::{Outgoing, UpstreamBody};

/// An answer that is worth another attempt, kept for as long as none brings a better one.
pub(super) struct Held {
    pub(super) answer: Response<UpstreamBody>,
    instance: Option<Arc<str>>,
    upstream: Option<Duration>,
}

impl Held {
    /// There will be no better one.
    pub(super) fn release(self, call: &mut Call) -> Response<UpstreamBody> {
        (call.instance, call.upstream) = (self.instance, self.upstream);
        self.answer
    }
}

/// Where a request has been.
#[derive(Default)]
pub(super) struct Tries {
    /// Who gets it no more.
    tried: Vec<u64>,
    spent: Spent,
    /// How often it was handed back in a row.
    handed_back: u32,
    /// The next attempt needs a connection of its own.
    anew: bool,
}

impl Tries {
    /// It gets the request no more.
    pub(super) fn exclude(&mut self, endpoint: &Endpoint) {
        if !self.tried.contains(&endpoint.target.id) {
            self.tried.push(endpoint.target.id);
        }
    }
}

/// Takes the request to one instance after the other, until one has it.
pub(super) async fn attempts(
    call: &mut Call,
    mut request: Box<Outgoing<Body>>,
    routed: &mut Routed,
) -> Result<Response<UpstreamBody>, ProxyError> {
    let client = Rc::clone(&call.client);
    let context = &client.context;
    let mut tries = Tries::default();
    let repeatable = routed.retry.methods.contains(request.request().method());
    let replay = replay(context, &mut request, routed, repeatable);
    // Its client is not the worse for it where it goes to an instance on trial, and has to go elsewhere.
    routed.trial = repeatable && request.is_bodiless() && routed.retry.attempts > 0;
    let Some(mut lease) = first(call, routed).await? else { return Err(ProxyError::NoInstances) };
    loop {
        let mut endpoint = Arc::clone(lease.endpoint());
        call.instance = Some(Arc::clone(&endpoint.id));
        let trial = lease.is_trial();
        call.lease = Some(lease);
        call.attempt_since = Instant::now();
        let (mut moved, dialled) = (None, Cell::new(None));
        let hedge = routed.hedge.take().filter(|_| hedgeable(&request, repeatable));
        let sent = if let Some(delay) = hedge {
            // Boxed: it would make the future of every request larger.
            Box::pin(hedged(call, routed, &mut tries, &mut request, &mut endpoint, delay)).await
        } else {
            let (limit, bodiless) = (routed.retry.per_try_timeout, request.is_bodiless());
            let mut attempt = pin!(timed(context, &endpoint, &mut request, tries.anew, limit, &dialled));
            let watched = context.clock.unless_ejected(&endpoint, repeatable, attempt.as_mut()).await;
            if let Some(sent) = watched {
                sent
            } else {
                let whole = bodiless || replay.as_ref().is_some_and(Replay::is_whole);
                let facts = Facts { repeatable, whole, attempts: routed.retry.attempts };
                if let Some(again) = decide(&Failed::Ejected, facts, tries.spent) {
                    moved = next(call, routed, &mut tries, again, &endpoint).await;
                }
                // Where there is nobody else, it may answer yet.
                if moved.is_some() { Err(Failed::Ejected) } else { attempt.await }
            }
        };
        if let Some(took) = dialled.take() {
            context.connected(&routed.service, took);
        }
        let (failed, answer) = match sent {
            Ok(answer) => {
                call.upstream = Some(call.attempt_since.elapsed());
                call.answered(answer.status(), answer.headers());
                let failed_trial = trial && call.verdict == Verdict::Failed;
                if !repeatable || !(failed_trial || is_listed(&answer, routed, call.grpc)) {
                    replay.iter().for_each(Replay::forget);
                    let headers = std::mem::take(request.headers_mut());
                    context.transport.common().maps.give(headers);
                    return Ok(answer);
                }
                (Failed::Status, Some(answer))
            }
            Err(failed) => (failed, None),
        };
        settle(call, &endpoint, &failed);
        let whole = request.is_whole() || replay.as_ref().is_some_and(Replay::is_whole);
        let facts = Facts { repeatable, whole, attempts: routed.retry.attempts };
        let again = decide(&failed, facts, tries.spent).map(|again| if trial { again.owed() } else { again });
        let next = match (moved, again) {
            (None, Some(again)) => next(call, routed, &mut tries, again, &endpoint).await,
            (moved, _) => moved,
        };
        let Some(next) = next else {
            replay.iter().for_each(Replay::forget);
            return match (answer, routed.held.take()) {
                // Its lease is still held, to be settled with its end.
                (Some(answer), _) => Ok(answer),
                (None, Some(held)) => Ok(held.release(call)),
                (None, None) => Err(told(call, failed)),
            };
        };
        if let Some(answer) = answer {
            call.settle(Outcome::Error);
            let (instance, upstream) = (call.instance.take(), call.upstream.take());
            routed.held = Some(Box::new(Held { answer, instance, upstream }));
        }
        if !request.is_whole()
            && let Some(copy) = replay.as_ref().and_then(Replay::copy)
        {
            request.set_body(copy);
        }
        lease = next;
    }
}

/// Keeps the body for another attempt, where there may be one that needs it.
fn replay(
    context: &ProxyContext,
    request: &mut Outgoing<Body>,
    routed: &Routed,
    repeatable: bool,
) -> Option<Replay> {
    // An HTTP/2 stream that is refused gives back what is small by itself.
    let refusable =
        routed.protocol == Protocol::H2 && routed.retry.buffer > crate::model::RetrySpec::DEFAULT_BUFFER;
    let limit = routed.retry.buffer;
    if request.is_bodiless() || routed.retry.attempts == 0 || !(repeatable || refusable) {
        return None;
    }
    if request.request().body().size_hint().lower() > limit as u64 {
        return None;
    }
    let body = std::mem::take(request.request_mut().body_mut());
    let replay = Replay::new(body, limit, &context.replays);
    request.set_body(replay.copy()?);
    Some(replay)
}

/// Whether two instances may be asked at a time.
fn hedgeable(request: &Outgoing<Body>, repeatable: bool) -> bool {
    request.is_bodiless() && (repeatable || request.request().method().is_idempotent())
}

/// One instance's turn, for so long at the most. `dialled` tells how long a connection took that had to be made.
pub(super) async fn timed(
    context: &Rc<ProxyContext>,
    endpoint: &Endpoint,
    request: &mut Outgoing<Body>,
    anew: bool,
    limit: Option<Duration>,
    dialled: &Cell<Option<Duration>>,
) -> Result<Response<UpstreamBody>, Failed> {
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    let attempt = pin!(attempt(context, endpoint, request, anew, dialled));
    context.clock.within(until, attempt).await.unwrap_or(Err(Failed::TryTimeout))
}

/// One instance's turn: a connection, the request over it, the head of the answer.
async fn attempt(
    context: &Rc<ProxyContext>,
    endpoint: &Endpoint,
    request: &mut Outgoing<Body>,
    anew: bool,
    dialled: &Cell<Option<Duration>>,
) -> Result<Response<UpstreamBody>, Failed> {
    let target = &endpoint.target;
    let connection = if anew {
        context.transport.connect_anew(target).await
    } else {
        context.transport.connect(target).await
    };
    let connection = connection.map_err(Failed::Connect)?;
    dialled.set(connection.dialled());
    let fresh = connection.dialled().is_some() && target.protocol == Protocol::Http1;
    connection.send(request).await.map_err(|error| match Failed::from(error) {
        Failed::Unsent { .. } => Failed::Unsent { fresh },
        failed => failed,
    })
}

/// Whether the route holds an answer for as good as none. A gRPC call that the server is not available to says
/// so in the head of its answer, which is then all of it.
pub(super) fn is_listed(answer: &Response<UpstreamBody>, routed: &Routed, grpc: bool) -> bool {
    let status = answer.status();
    let unavailable = || {
        grpc && answer.headers().get(GRPC_STATUS).is_some_and(|status| status == "14")
            && answer.body().is_end_stream()
    };
    let statuses = &routed.retry.statuses;
    statuses.contains(status) || statuses.contains(StatusCode::SERVICE_UNAVAILABLE) && unavailable()
}

/// An attempt is over, with nothing that is worth to wait for.
pub(super) fn settle(call: &mut Call, endpoint: &Arc<Endpoint>, failed: &Failed) {
    call.verdict = match failed {
        Failed::Status => call.verdict,
        failed => failed.verdict(),
    };
    call.settle(match failed {
        Failed::Connect(error) => {
            call.settle(Outcome::ConnectFailed);
            // Nothing was sent: the instance is out of rotation until it answers a probe.
            let service = call.service.as_ref().map_or("", ServiceName::as_str);
            return probe::connect_failed(&call.client.context, service, endpoint, error);
        }
        Failed::Unsent { .. } | Failed::Refused(_) | Failed::Reset { .. } | Failed::Protocol(_) => {
            Outcome::Reset
        }
        Failed::TryTimeout | Failed::Ejected => Outcome::Timeout,
        Failed::Body(_) => Outcome::Cancelled,
        // It may still be passed on.
        Failed::Status => return,
    });
}

/// What the client is told where no attempt brought an answer.
fn told(call: &mut Call, failed: Failed) -> ProxyError {
    match failed {
        Failed::Body(cause) => upload_failed(call, &cause),
        failed => failed.into_error(),
    }
}

/// An instance for the first attempt.
async fn first(call: &Call, routed: &mut Routed) -> Result<Option<Lease>, ProxyError> {
    let picked = match pick(call, routed, &[]) {
        None if !routed.primary_wait.is_zero() => await_primary(call, routed, &[]).await,
        picked => picked,
    };
    if picked.is_some() { Ok(picked) } else { queue::slot(call, routed, &[]).await }
}

/// An instance for another attempt, where the budget has room for it. It looks at the table of now: what is gone
/// since the last attempt gets nothing.
pub(super) async fn next(
    call: &mut Call,
    routed: &mut Routed,
    tries: &mut Tries,
    again: Again,
    last: &Endpoint,
) -> Option<Lease> {
    let id = last.target.id;
    if again.reason == Reason::Unsent {
        tries.handed_back += 1;
        if tries.handed_back.is_multiple_of(HAND_BACKS) {
            tries.tried.push(id);
        }
    } else {
        tries.handed_back = 0;
        tries.exclude(last);
    }
    pay(call, routed, tries, again).then_some(())?;
    let mut picked = pick(call, routed, &tries.tried);
    if picked.is_none() && again.same {
        tries.tried.retain(|tried| *tried != id);
        picked = pick(call, routed, &tries.tried);
    }
    if picked.is_none()
        && !routed.primary_wait.is_zero()
        && !matches!(again.reason, Reason::Status | Reason::Hedge)
    {
        picked = await_primary(call, routed, &tries.tried).await;
    }
    // An answer in the hand, and an attempt that runs, are not kept waiting for a better one.
    if picked.is_none() && !matches!(again.reason, Reason::Status | Reason::Hedge | Reason::Silent) {
        picked = queue::slot(call, routed, &tries.tried).await.ok().flatten();
    }
    let lease = picked?;
    // Where one connection of its pool was dead, the next may be.
    tries.anew = lease.id() == id;
    tries.spent.count(again);
    call.retries += 1;
    call.client.context.metrics().retry(routed.service.as_str(), again.reason.as_str());
    Some(lease)
}

/// Whether the service's budget allows another attempt.
fn pay(call: &Call, routed: &Routed, tries: &Tries, again: Again) -> bool {
    let context = &call.client.context;
    if again.price == Price::Free {
        return true;
    }
    context.with_table(|table, _| {
        let Some(upstream) = table.upstream(routed.service.as_str()) else { return false };
        let now = context.clock.now();
        if again.price == Price::Charged {
            upstream.charge(context.worker, now);
            return true;
        }
        // Nobody else to go to: nothing to pay for.
        if upstream.endpoints().len() <= tries.tried.len() {
            return again.same;
        }
        let drawn = upstream.draw(context.worker, now);
        if !drawn {
            context.metrics().retry_budget_exhausted(routed.service.as_str());
        }
        drawn
    })
}

fn pick(call: &Call, routed: &mut Routed, tried: &[u64]) -> Option<Lease> {
    let found = routed.found.take();
    let context = &call.client.context;
    context.with_table(|table, rng| {
        let request = PickRequest {
            rng,
            worker: context.worker,
            key: routed.key.as_deref(),
            tried,
            now: context.clock.now(),
        };
        match found {
            Some((generation, upstream)) if generation == table.generation() => {
                upstream.pick_for(routed.instances, routed.trial, request)
            }
            _ => {
                let upstream = table.upstream(routed.service.as_str())?;
                upstream.pick_for(routed.instances, routed.trial, request)
            }
        }
    })
}

/// Waits for another primary than those tried, as long as the route says in all: looks at each tick.
async fn await_primary(call: &Call, routed: &mut Routed, tried: &[u64]) -> Option<Lease> {
    let clock = Rc::clone(&call.client.context.clock);
    let until = call.started.checked_add(routed.primary_wait)?;
    while clock.now() < until {
        let tick = clock.now() + Duration::from_nanos(1);
        let _ = clock.within(Some(tick), pin!(std::future::pending::<()>())).await;
        if let Some(lease) = pick(call, routed, tried) {
            return Some(lease);
        }
    }
    None
}

/// What the client is told whose own body failed, if it still listens.
fn upload_failed(call: &mut Call, cause: &BoxError) -> ProxyError {
    let state = &call.client.state;
    match cause.downcast_ref::<UploadError>() {
        Some(UploadError::TooLarge) => ProxyError::BodyTooLarge,
        _ if state.broken_body.get() => ProxyError::BadRequest("the request body breaks its framing"),
        _ if state.body_is_late() => ProxyError::RequestTimeout,
        cause => {
            if call.client.http2 && cause.is_some() {
                // The stream was reset: nobody gets the answer.
                call.ends(Outcome::Cancelled);
            }
            ProxyError::BadRequest("the request body broke off")
        }
    }
}
