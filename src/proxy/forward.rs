//! From a request to an instance's answer: route, pick, connect, send; and on to the next instance where
//! nothing of the request was sent.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;

use super::body::{Body, BoxError, UploadError};
use super::call::Call;
use super::error::ProxyError;
use super::headers::{self, Hop};
use super::{grpc, hold, probe, upgrade};
use crate::model::{InstanceChoice, Protocol, ServiceName};
use crate::table::{Endpoint, Gate, Lease, NoService, PickRequest, RouteInput, Upstream, affinity};
use crate::telemetry::Outcome;
use crate::transport::{ConnectError, Outgoing, SendError, UpstreamBody};

/// How often an instance may hand a request back before that counts as being out of reach. Its idle
/// connections die together, and each hands back what it gets.
const HAND_BACKS: usize = 3;

/// What routing decided.
struct Routed {
    service: ServiceName,
    /// The service in that generation of the table, for the first pick alone: held longer it would keep what
    /// discovery has replaced.
    found: Option<(u64, Arc<Upstream>)>,
    protocol: Protocol,
    timeout: Option<Duration>,
    key: Option<Vec<u8>>,
    /// The route's barrier, where it stands.
    gate: Option<(Arc<Gate>, Option<Duration>)>,
    instances: InstanceChoice,
    primary_wait: Duration,
}

/// Forwards a request and returns the answer's head with its streaming body.
pub(super) async fn forward(
    call: &mut Call,
    mut outgoing: Box<Outgoing<Body>>,
) -> Result<Response<Body>, ProxyError> {
    let request = outgoing.request_mut();
    let mut routed = route(call, request)?;
    let upgrade = match routed.protocol {
        Protocol::Http1 if request.body().is_end_stream() => {
            headers::upgrade_asked(request.headers(), request.version(), request.method())
        }
        // No such thing over HTTP/2: the request goes as an ordinary one, as RFC 9110, 7.8 allows.
        Protocol::Http1 | Protocol::H2 => None,
        Protocol::Tcp => return Err(ProxyError::UpstreamProtocol("the service speaks no HTTP".into())),
    };
    let deadline = if upgrade.is_some() { None } else { deadline(call, request.headers(), routed.timeout) };
    let client = Rc::clone(&call.client);
    if let Some(at) = routed.gate.take() {
        // Boxed: few requests wait, and all would carry the room for it.
        Box::pin(held_back(call, request.headers(), routed.timeout, at)).await?;
    }
    let hop = Hop {
        via: &client.context.via,
        peer: &client.peer,
        version: request.version(),
        authority: &call.authority,
        request_id: &call.request_id,
        upgrade: upgrade.clone(),
    };
    headers::forwarded(request.headers_mut(), hop)?;
    *request.version_mut() = if routed.protocol == Protocol::H2 { Version::HTTP_2 } else { Version::HTTP_11 };

    let answer = {
        let attempts = pin!(attempts(call, outgoing, &mut routed));
        client.context.clock.within(deadline, attempts).await
    };
    if let Ok(answer) = answer {
        deliver(call, answer?, upgrade.as_ref())
    } else {
        call.settle(Outcome::Timeout);
        Err(ProxyError::UpstreamTimeout)
    }
}

/// Finds the route and the service, and gives the request the path that the instance is to see.
fn route(call: &mut Call, request: &mut Request<Body>) -> Result<Routed, ProxyError> {
    let client = Rc::clone(&call.client);
    client.context.with_table(|table, rng| {
        let path = request.uri().path();
        let input = RouteInput {
            method: request.method(),
            host: &call.host,
            path,
            query: request.uri().query(),
            headers: request.headers(),
        };
        let matched = table.route(&input).ok_or(ProxyError::NoRoute)?;
        call.route = Some(Arc::clone(&matched.route.name));
        let chosen = match &matched.route.shard {
            None => matched.choose_service(table, rng),
            Some(shard) => {
                let key = affinity::key(&shard.key, &input, &matched, call.address);
                let chosen = matched.choose_shard(table, shard, key.as_deref(), rng);
                if let (None, Ok(upstream)) = (&key, &chosen) {
                    client.context.metrics().keyless(upstream.name().as_str());
                }
                chosen
            }
        };
        let upstream = chosen.map_err(|missing| match missing {
            NoService::Unknown => ProxyError::NoRoute,
            // Nobody knows yet whether there is such a service.
            NoService::NotListed | NoService::NoShard => ProxyError::NoInstances,
        })?;
        call.service = Some(upstream.name().clone());
        let key = upstream.balance().key.as_ref().map(|key| {
            let found = affinity::key(key, &input, &matched, call.address).map(Cow::into_owned);
            if found.is_none() {
                client.context.metrics().keyless(upstream.name().as_str());
            }
            found
        });
        let rewritten = match matched.forward_path(path) {
            Cow::Borrowed(same) if same == path => None,
            other => Some(match request.uri().query() {
                Some(query) => format!("{other}?{query}"),
                None => other.into_owned(),
            }),
        };
        let routed = Routed {
            service: upstream.name().clone(),
            found: Some((table.generation(), Arc::clone(upstream))),
            protocol: upstream.protocol(),
            timeout: matched.route.timeout,
            key: key.flatten(),
            gate: matched.route.gate.as_ref().filter(|(gate, _)| gate.is_closed()).cloned(),
            instances: matched.route.instances,
            primary_wait: matched.route.primary_wait,
        };
        if let Some(target) = rewritten {
            let target = PathAndQuery::from_maybe_shared(target.into_bytes());
            *request.uri_mut() =
                Uri::from(target.map_err(|_| ProxyError::BadRequest("the path cannot be rewritten"))?);
        }
        Ok(routed)
    })
}

/// The route's timeout; for gRPC the smaller of it and the call's own.
fn deadline(call: &Call, headers: &HeaderMap, route: Option<Duration>) -> Option<Instant> {
    let own = if call.grpc { grpc::timeout(headers) } else { None };
    let limit = match (route, own) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    limit.and_then(|limit| call.started.checked_add(limit))
}

/// Waits until the route's barrier is gone, for its own time or the route's.
async fn held_back(
    call: &Call,
    headers: &HeaderMap,
    timeout: Option<Duration>,
    (gate, wait): (Arc<Gate>, Option<Duration>),
) -> Result<(), ProxyError> {
    let own = wait.and_then(|wait| call.started.checked_add(wait));
    let at = match (own, deadline(call, headers, timeout)) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    hold::hold(&call.client.context, &gate, at).await
}

/// Takes the request to one instance after the other, until one has it.
async fn attempts(
    call: &mut Call,
    mut request: Box<Outgoing<Body>>,
    routed: &mut Routed,
) -> Result<Response<UpstreamBody>, ProxyError> {
    let client = Rc::clone(&call.client);
    let context = &client.context;
    let mut tried: Vec<u64> = Vec::new();
    let mut handed_back = 0;
    let mut last_error = None;
    loop {
        // Each attempt looks at the table of now: what is gone since the last gets nothing.
        let mut picked = pick(call, routed, &tried);
        if picked.is_none() && !routed.primary_wait.is_zero() {
            picked = await_primary(call, routed, &tried).await;
        }
        let Some(lease) = picked else {
            return Err(last_error.unwrap_or(ProxyError::NoInstances));
        };
        if let Some(ProxyError::ConnectFailed(_)) = last_error {
            call.retries += 1;
            let reason = if handed_back > 0 { "unsent" } else { "connect_failed" };
            context.metrics().retry(routed.service.as_str(), reason);
        }
        let endpoint = Arc::clone(lease.endpoint());
        call.instance = Some(Arc::clone(&endpoint.id));
        call.lease = Some(lease);
        call.attempt_since = Instant::now();
        let connection = match context.transport.connect(&endpoint.target).await {
            Ok(connection) => connection,
            Err(error) => {
                connect_failed(call, &endpoint, &error);
                tried.push(endpoint.target.id);
                handed_back = 0;
                last_error = Some(ProxyError::ConnectFailed(error.to_string()));
                continue;
            }
        };
        if let Some(took) = connection.dialled() {
            context.connected(&routed.service, took);
        }
        match connection.send(request).await {
            Ok(answer) => {
                call.upstream = Some(call.attempt_since.elapsed());
                return Ok(answer);
            }
            Err(SendError::Unsent(back)) => {
                request = back;
                call.settle(Outcome::Reset);
                handed_back += 1;
                if handed_back % HAND_BACKS == 0 {
                    tried.push(endpoint.target.id);
                }
                last_error = Some(ProxyError::ConnectFailed("the connection ended at once".into()));
            }
            Err(SendError::Reset(cause)) => {
                call.settle(Outcome::Reset);
                return Err(ProxyError::UpstreamReset(cause.to_string()));
            }
            Err(SendError::Protocol(cause)) => {
                call.settle(Outcome::Reset);
                return Err(ProxyError::UpstreamProtocol(cause.to_string()));
            }
            Err(SendError::RequestBody(cause)) => {
                call.settle(Outcome::Cancelled);
                return Err(upload_failed(call, &cause));
            }
        }
    }
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
                upstream.pick_among(routed.instances, request)
            }
            _ => table.upstream(routed.service.as_str())?.pick_among(routed.instances, request),
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

/// Nothing was sent: the instance is out of rotation until it answers a probe.
fn connect_failed(call: &mut Call, endpoint: &Arc<Endpoint>, error: &ConnectError) {
    call.settle(Outcome::ConnectFailed);
    let service = call.service.as_ref().map_or("", ServiceName::as_str);
    probe::connect_failed(&call.client.context, service, endpoint, error);
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

/// Makes the instance's answer the client's.
fn deliver(
    call: &mut Call,
    answer: Response<UpstreamBody>,
    upgrade: Option<&HeaderValue>,
) -> Result<Response<Body>, ProxyError> {
    let (mut parts, body) = answer.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::switch(call, parts, body, upgrade);
    }
    let context = &call.client.context;
    headers::answered(&mut parts.headers, &context.via, parts.version, &call.request_id);
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    Ok(Response::from_parts(parts, Body::upstream(body)))
}
