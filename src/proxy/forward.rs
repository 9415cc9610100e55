//! From a request to an instance's answer: route, attempts, and what comes of them.

use std::borrow::Cow;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;

use super::attempts::{Held, attempts};
use super::body::Body;
use super::call::Call;
use super::error::ProxyError;
use super::headers::{self, Hop};
use super::probe::Verdict;
use super::{grpc, hold, upgrade};
use crate::model::{InstanceChoice, Protocol, RetrySpec, ServiceName};
use crate::table::{Gate, NoService, RouteInput, Upstream, affinity};
use crate::transport::{Outgoing, UpstreamBody};

/// What routing decided.
pub(super) struct Routed {
    pub(super) service: ServiceName,
    /// The service in that generation of the table, for the first pick alone: held longer it would keep what
    /// discovery has replaced.
    pub(super) found: Option<(u64, Arc<Upstream>)>,
    pub(super) protocol: Protocol,
    timeout: Option<Duration>,
    pub(super) key: Option<Vec<u8>>,
    /// The route's barrier, where it stands.
    gate: Option<(Arc<Gate>, Option<Duration>)>,
    pub(super) instances: InstanceChoice,
    pub(super) primary_wait: Duration,
    pub(super) retry: RetrySpec,
    /// It may go to an instance on trial.
    pub(super) trial: bool,
    /// Until the first attempt.
    pub(super) hedge: Option<Duration>,
    /// An answer that another attempt may be better than.
    pub(super) held: Option<Box<Held>>,
    /// Whether its streams follow their keys.
    follows: bool,
}

/// Forwards a request and returns the answer's head with its streaming body.
pub(super) async fn forward(
    call: &mut Call,
    mut outgoing: Box<Outgoing<Body>>,
) -> Result<Response<Body>, ProxyError> {
    let request = outgoing.request_mut();
    let mut routed = route(call, request)?;
    let bodiless = request.body().is_end_stream();
    let upgrade = match routed.protocol {
        Protocol::Http1 if request.body().is_end_stream() => {
            headers::upgrade_asked(request.headers(), request.version(), request.method())
        }
        // No such thing over HTTP/2: the request goes as an ordinary one, as RFC 9110, 7.8 allows.
        Protocol::Http1 | Protocol::H2 => None,
        Protocol::Tcp => return Err(ProxyError::UpstreamProtocol("the service speaks no HTTP".into())),
    };
    let deadline = if upgrade.is_some() { None } else { deadline(call, request.headers(), routed.timeout) };
    if upgrade.is_some() {
        (routed.retry.per_try_timeout, routed.hedge) = (None, None);
    }
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
    let added = headers::forwarded(request.headers_mut(), hop)?;
    *request.version_mut() = if routed.protocol == Protocol::H2 { Version::HTTP_2 } else { Version::HTTP_11 };
    outgoing.set_added(added);

    let answer = {
        let attempts = pin!(attempts(call, outgoing, &mut routed));
        client.context.clock.within(deadline, attempts).await
    };
    let answer = if let Ok(answer) = answer {
        answer?
    } else {
        // Not where the client may be who was slow, or in a hurry.
        if bodiless && routed.timeout.is_some_and(|limit| call.attempt_since.elapsed() * 2 > limit) {
            call.verdict = Verdict::Failed;
        }
        call.times_out();
        // One that is no good is better than none.
        routed.held.take().ok_or(ProxyError::UpstreamTimeout)?.release(call)
    };
    if routed.follows {
        call.placed_by = routed.key.take().map(|key| (routed.instances, key.into()));
    }
    deliver(call, answer, upgrade.as_ref())
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
        if let Some(rate) = &matched.route.rate {
            let key = rate.plan().key.as_ref();
            let key = key.and_then(|key| affinity::key(key, &input, &matched, call.address));
            rate.check(key.as_deref()).map_err(|wait| {
                call.retry_after = wait.as_secs_f64().ceil().max(1.0) as u32;
                ProxyError::RateLimited
            })?;
        }
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
        upstream.request(client.context.worker, client.context.clock.now());
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
            follows: upstream.spec().defaults.rehome.is_some(),
            primary_wait: matched.route.primary_wait,
            retry: matched.route.retry,
            hedge: matched.route.hedge,
            trial: false,
            held: None,
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
    headers::answered(&mut parts.headers);
    let stamp = headers::stamp(&context.via, parts.version, &call.request_id);
    if context.chain.is_some() {
        parts.headers.extend(stamp);
    } else {
        // It is written behind them: what everybody gets needs no place in the map.
        call.stamp = Some(stamp);
    }
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    Ok(Response::from_parts(parts, Body::upstream(body)))
}
