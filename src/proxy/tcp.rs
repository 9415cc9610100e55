//! Listeners of protocol `tcp`: a connection is balanced once, then it is a tunnel.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::access_log::{Value, name};
use super::conn::{ConnState, Reading, Timeouts};
use super::context::{ListenerState, ProxyContext};
use super::error::ProxyError;
use super::probe;
use super::streams::StreamGuard;
use super::tunnel::{self, End, Kind};
use crate::model::{HashKey, InstanceChoice, ServiceName};
use crate::table::{Lease, PickRequest, Shed, affinity};
use crate::telemetry::Outcome;

/// What a connection came to.
#[derive(Default)]
struct Record {
    instance: Option<Arc<str>>,
    retries: u32,
    received: u64,
    sent: u64,
    connect: Option<Duration>,
    error: Option<&'static str>,
}

/// Serves one connection of a tcp listener.
pub(super) async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    listener: &Rc<ListenerState>,
    context: &Rc<ProxyContext>,
    service: &ServiceName,
) {
    let started = Instant::now();
    let mut record = Record::default();
    if let Some((lease, mut upstream)) = connect(context, service, peer, &mut record).await {
        record.connect = Some(started.elapsed());
        let idle = context.with_table(|table, _| table.settings().limits.idle_timeout);
        let state = ConnState::new(&context.clock, Timeouts { idle, header: idle });
        state.set_reading(Reading::Opaque);
        let _ticks = context.clock.register(Rc::clone(&state));
        let _ = upstream.set_nodelay(true);
        let kind = Kind { stream: Some(enter(context, service, &lease, peer)), websocket: false };
        let end = tunnel::run(&mut stream, &[], &mut upstream, (&state, &kind), |received, sent| {
            (record.received, record.sent) = (received, sent);
        })
        .await;
        let (outcome, error) = match end {
            End::Whole => (Outcome::Ok, None),
            End::Idle => (Outcome::Timeout, Some("idle")),
            End::Client => (Outcome::Cancelled, Some("client_gone")),
            End::Upstream => (Outcome::Reset, Some("upstream_reset")),
            End::Left(leave) => (Outcome::Cancelled, Some(ProxyError::from(leave).code())),
        };
        record.error = error;
        lease.settle(outcome, None);
        if let End::Left(_) = end {
            tunnel::close(stream, upstream).await;
        }
    } else {
        tunnel::linger(stream, false).await;
    }
    if context.access_log.is_on() {
        log(context, listener, service, peer, &record, started.elapsed());
    }
}

/// Enters the worker's list of streams, with the key by which its service places it.
fn enter(context: &ProxyContext, service: &ServiceName, lease: &Lease, peer: SocketAddr) -> StreamGuard {
    let follows = context.with_table(|table, _| {
        let upstream = table.upstream(service.as_str());
        upstream.is_some_and(|u| {
            u.spec().defaults.rehome.is_some() && matches!(u.balance().key, Some(HashKey::ClientIp))
        })
    });
    let key = || affinity::client_key(peer.ip()).as_bytes().into();
    let by = follows.then(|| (InstanceChoice::Any, key()));
    context.stream(service, lease.endpoint(), by)
}

/// A connection to an instance: each is tried once, in the balancer's order.
async fn connect(
    context: &Rc<ProxyContext>,
    service: &ServiceName,
    peer: SocketAddr,
    record: &mut Record,
) -> Option<(Lease, TcpStream)> {
    let mut tried = Vec::new();
    let key = affinity::client_key(peer.ip());
    loop {
        let lease = context.with_table(|table, rng| {
            let upstream = table.upstream(service.as_str())?;
            // All that a tcp connection has to be placed by.
            let key = matches!(upstream.balance().key, Some(HashKey::ClientIp)).then_some(key.as_bytes());
            let now = context.clock.now();
            upstream.pick(PickRequest { rng, worker: context.worker, key, tried: &tried, now })
        });
        let Some(lease) = lease else {
            record.error = Some(if is_full(context, service, &tried) {
                "overloaded"
            } else if tried.is_empty() {
                "no_instances"
            } else {
                "connect_failed"
            });
            return None;
        };
        if !tried.is_empty() {
            record.retries += 1;
            context.metrics().retry(service.as_str(), "connect_failed");
        }
        let endpoint = Arc::clone(lease.endpoint());
        record.instance = Some(Arc::clone(&endpoint.id));
        let since = Instant::now();
        match context.transport.dial(&endpoint.target).await {
            Ok(stream) => {
                context.connected(service, since.elapsed());
                return Some((lease, stream));
            }
            Err(error) => {
                lease.settle(Outcome::ConnectFailed, None);
                if error.is_ours() {
                    record.error = Some("overloaded");
                    return None;
                }
                probe::connect_failed(context, service.as_str(), &endpoint, &error);
                tried.push(endpoint.target.id);
            }
        }
    }
}

/// Whether somebody would do who is at a limit. A connection does not wait for that.
fn is_full(context: &ProxyContext, service: &ServiceName, tried: &[u64]) -> bool {
    context.with_table(|table, _| {
        let upstream = table.upstream(service.as_str());
        let limiter =
            upstream.and_then(|u| u.limits().filter(|_| u.is_worth_waiting(InstanceChoice::Any, tried)));
        if let Some((_, limiter)) = limiter {
            limiter.shed(Shed::QueueFull);
        }
        limiter.is_some()
    })
}

fn log(
    context: &ProxyContext,
    listener: &ListenerState,
    service: &ServiceName,
    peer: SocketAddr,
    record: &Record,
    duration: Duration,
) {
    let client = peer.ip().to_canonical().to_string();
    context.access_log.write(&[
        (name!("protocol"), Value::Text("tcp")),
        (name!("listener"), Value::Text(listener.name())),
        (name!("service"), Value::Text(service.as_str())),
        (name!("instance"), Value::Maybe(record.instance.as_deref())),
        (name!("retries"), Value::Number(u64::from(record.retries))),
        (name!("bytes_received"), Value::Number(record.received)),
        (name!("bytes_sent"), Value::Number(record.sent)),
        (name!("duration_ms"), Value::Millis(Some(duration))),
        (name!("upstream_ms"), Value::Millis(record.connect)),
        (name!("error"), Value::Maybe(record.error)),
        (name!("client"), Value::Text(&client)),
    ]);
}
