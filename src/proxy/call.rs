//! The record of one request: what it turned out to be, and the one place where it is counted and logged.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Version};

use super::access_log::{Value, name};
use super::error::ProxyError;
use super::grpc;
use super::listener::Client;
use super::probe::{self, Verdict};
use super::streams::{PlacedBy, StreamGuard};
use crate::model::ServiceName;
use crate::table::Lease;
use crate::telemetry::Outcome;
use crate::transport::Upgraded;

/// Fields of ours for an answer.
pub(super) type Stamp = [(HeaderName, HeaderValue); 2];

/// Counted for a request whose client left before there was an answer.
const CLIENT_GONE: u16 = 499;

/// One request, from its head to the end of its answer. Counted when it is dropped, at the latest.
pub(super) struct Call {
    pub(super) client: Rc<Client>,
    pub(super) started: Instant,
    pub(super) request_id: HeaderValue,
    pub(super) address: IpAddr,
    pub(super) authority: HeaderValue,
    pub(super) host: String,
    pub(super) grpc: bool,
    pub(super) method: Method,
    version: Version,
    /// Path and query as the client wrote them; empty while nothing logs them.
    path: String,
    pub(super) route: Option<Arc<str>>,
    pub(super) service: Option<ServiceName>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) retries: u32,
    /// The attempt that is running, or whose answer is streaming.
    pub(super) lease: Option<Lease>,
    /// One that runs beside it.
    pub(super) hedge: Option<Lease>,
    pub(super) attempt_since: Instant,
    /// What the attempt tells of its endpoint, so far.
    pub(super) verdict: Verdict,
    /// From the attempt's start to its answer's head.
    pub(super) upstream: Option<Duration>,
    status: Option<StatusCode>,
    error: Option<&'static str>,
    /// Seconds after which a client that is turned away may come again.
    pub(super) retry_after: u32,
    pub(super) received: Rc<Cell<u64>>,
    pub(super) sent: u64,
    /// The instance's side of a tunnel, once it switched.
    pub(super) tunnel: Option<Upgraded>,
    /// That tunnel is a WebSocket.
    pub(super) websocket: bool,
    /// Fields that the answer's head gets as it is written.
    pub(super) stamp: Option<Stamp>,
    /// By what it was placed, where its service's streams follow their keys.
    pub(super) placed_by: Option<PlacedBy>,
    ended: bool,
}

impl Call {
    pub(super) fn new<B>(client: &Rc<Client>, request: &http::Request<B>, grpc: bool) -> Box<Self> {
        let context = &client.context;
        let peer = &client.peer;
        let trusted = &client.listener.plan().trusted;
        let now = Instant::now();
        client.state.request_begins();
        Box::new(Self {
            started: now,
            request_id: context.request_id(request.headers(), peer.trusted),
            address: peer.client(request.headers(), trusted),
            authority: HeaderValue::from_static(""),
            host: String::new(),
            grpc,
            method: request.method().clone(),
            version: request.version(),
            path: if context.access_log.is_on() {
                request.uri().path_and_query().map_or_else(String::new, |pq| pq.as_str().to_owned())
            } else {
                String::new()
            },
            route: None,
            service: None,
            instance: None,
            retries: 0,
            lease: None,
            hedge: None,
            attempt_since: now,
            verdict: Verdict::Nothing,
            upstream: None,
            status: None,
            error: None,
            retry_after: 1,
            received: Rc::default(),
            sent: 0,
            tunnel: None,
            websocket: false,
            stamp: None,
            placed_by: None,
            ended: false,
            client: Rc::clone(client),
        })
    }

    /// A head that was refused has no method and no path worth telling.
    pub(super) fn is_no_request(&mut self) {
        self.method = Method::default();
        self.path.clear();
    }

    /// An attempt is over without an answer to stream.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        self.release(outcome, None);
    }

    /// An instance's answer has begun.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let failed = self.lease.as_ref().is_some_and(|lease| lease.endpoint().is_failure(status));
        self.verdict = if failed { Verdict::Failed } else { Verdict::Well };
        self.ends_grpc(headers);
    }

    /// These headers, or trailers, may end a gRPC call.
    pub(super) fn ends_grpc(&mut self, headers: &HeaderMap) {
        if self.grpc && grpc::is_unavailable(headers) {
            self.verdict = Verdict::Failed;
        }
    }

    fn release(&mut self, outcome: Outcome, latency: Option<Duration>) {
        let verdict = std::mem::take(&mut self.verdict);
        if let Some(lease) = self.lease.take() {
            let service = self.service.as_ref().map_or("", ServiceName::as_str);
            probe::judge(&self.client.context, service, &lease, verdict);
            lease.settle(outcome, latency);
        }
    }

    /// The request's time is over.
    pub(super) fn times_out(&mut self) {
        self.settle(Outcome::Timeout);
        self.lease = self.hedge.take();
        self.settle(Outcome::Timeout);
    }

    /// Enters the worker's list of streams: it streams for long.
    pub(super) fn enter(&mut self) -> Option<StreamGuard> {
        let (service, lease) = (self.service.as_ref()?, self.lease.as_ref()?);
        Some(self.client.context.stream(service, lease.endpoint(), self.placed_by.take()))
    }

    /// The answer's head goes out.
    pub(super) fn answers(&mut self, status: StatusCode) {
        if self.ended {
            return;
        }
        self.status = Some(status);
        self.client.state.answer_begins();
    }

    /// The gateway answers, or ends the answer, for this reason.
    pub(super) fn fails(&mut self, error: &ProxyError) {
        self.error = Some(error.code());
        let code = error.code();
        match error.blame() {
            super::error::Blame::Client => tracing::debug!(code, %error, "request refused"),
            super::error::Blame::Upstream | super::error::Blame::Gateway => {
                let service = self.service.as_ref().map_or("", ServiceName::as_str);
                let instance = self.instance.as_deref().unwrap_or_default();
                tracing::debug!(code, service, instance, %error, "request failed");
            }
        }
    }

    /// Everything is over: counts and logs, once.
    pub(super) fn ends(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let outcome = match (outcome, self.status) {
            (Outcome::Ok, Some(status)) if status.is_server_error() => Outcome::Error,
            (outcome, _) => outcome,
        };
        if outcome == Outcome::Reset {
            self.verdict = Verdict::Failed;
        }
        self.release(outcome, self.upstream);
        if self.status.is_none() {
            self.client.state.answer_begins();
        }
        let code = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        let duration = self.started.elapsed();
        let context = &self.client.context;
        context.count(&self.client.listener, self.route.as_ref(), self.service.as_ref(), code, duration);
        if context.access_log.is_on() {
            self.log(code, duration, outcome);
        }
        self.client.state.request_ends();
    }

    fn log(&self, code: u16, duration: Duration, outcome: Outcome) {
        let protocol = match self.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        let error = self.error.or((outcome == Outcome::Cancelled).then_some("client_gone"));
        let peer = &self.client.peer;
        let address = if self.address == peer.ip {
            Cow::Borrowed(peer.text.to_str().unwrap_or_default())
        } else {
            Cow::Owned(self.address.to_string())
        };
        self.client.context.access_log.write(&[
            (name!("method"), Value::Text(if self.path.is_empty() { "-" } else { self.method.as_str() })),
            (name!("path"), Value::Text(if self.path.is_empty() { "-" } else { &self.path })),
            (name!("host"), Value::Text(&self.host)),
            (name!("status"), Value::Number(u64::from(code))),
            (name!("protocol"), Value::Text(protocol)),
            (name!("listener"), Value::Text(self.client.listener.name())),
            (name!("route"), Value::Maybe(self.route.as_deref())),
            (name!("service"), Value::Maybe(self.service.as_ref().map(ServiceName::as_str))),
            (name!("instance"), Value::Maybe(self.instance.as_deref())),
            (name!("retries"), Value::Number(u64::from(self.retries))),
            (name!("bytes_received"), Value::Number(self.received.get())),
            (name!("bytes_sent"), Value::Number(self.sent)),
            (name!("duration_ms"), Value::Millis(Some(duration))),
            (name!("upstream_ms"), Value::Millis(self.upstream)),
            (name!("error"), Value::Maybe(error)),
            (name!("request_id"), Value::Text(self.request_id.to_str().unwrap_or_default())),
            (name!("client"), Value::Text(&address)),
        ]);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ends(Outcome::Cancelled);
    }
}
