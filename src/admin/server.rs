//! The admin's routes: which path is answered with what.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::events::EventLog;
use super::fleet::FleetView;
use super::http::{Body, answer, serve};
use super::page;
use crate::config::plan::{ListenerKind, ListenerPlan};
use crate::table::{ExplainedRequest, TableReader};
use crate::telemetry::{LineSink, Metrics};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// What Prometheus's text format calls itself.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Calls that change something must carry this, which no web page can make a browser send unasked.
const GUARD: HeaderName = HeaderName::from_static("x-zoogate-admin");

/// A reload may take this long: it waits for no registry.
const RELOAD_LIMIT: Duration = Duration::from_secs(30);

/// Asks whoever holds the configuration to read it again; answered with every error, or none.
pub type ReloadOrder = oneshot::Sender<Result<(), Vec<String>>>;

/// A listener as the admin shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// The address in use.
    pub address: SocketAddr,
    /// As configured.
    pub listen: SocketAddr,
    /// The service of a tcp listener.
    pub service: Option<String>,
}

impl ListenerView {
    /// A listener that accepts at `address`.
    pub fn new(plan: &ListenerPlan, address: SocketAddr) -> Self {
        let (protocol, service) = match &plan.kind {
            ListenerKind::Http => ("http", None),
            ListenerKind::Tcp { service } => ("tcp", Some(service.to_string())),
        };
        Self { name: plan.name.to_string(), protocol, address, listen: plan.listen, service }
    }
}

/// What the admin shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The table.
    pub table: TableReader,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The listeners, as they come and go.
    pub listeners: Arc<Mutex<Vec<ListenerView>>>,
    /// Set from SIGTERM on.
    pub draining: Arc<AtomicBool>,
    /// The access log, for the lines that it lost.
    pub access_log: Arc<Mutex<Option<LineSink>>>,
    /// What happened to memberships.
    pub events: EventLog,
    /// Where reloads are asked for.
    pub reload: mpsc::Sender<ReloadOrder>,
    /// The gateways beside this one.
    pub fleet: Arc<Mutex<FleetView>>,
}

impl Admin {
    /// Answers on this socket for as long as it is polled. Fails only if the socket cannot be used at all.
    pub async fn serve(self, socket: std::net::TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        let never = serve(listener, move |request| {
            let admin = self.clone();
            async move { admin.answer(&request).await }
        });
        match never.await {}
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            if !request.headers().contains_key(GUARD) {
                return problem(StatusCode::FORBIDDEN, "the header x-zoogate-admin: 1 is missing");
            }
            return match (request.method(), path) {
                (&Method::POST, "/api/reload") => self.reload().await,
                _ => problem(StatusCode::METHOD_NOT_ALLOWED, "only POST /api/reload changes anything"),
            };
        }
        match path {
            "/" => answer(StatusCode::OK, page::CONTENT_TYPE, page::PAGE),
            "/livez" => answer(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => self.scrape(),
            "/api/services" => json(&serde_json::json!({ "services": self.table.load().service_views() })),
            "/api/catalogs" => json(&serde_json::json!({ "catalogs": self.table.load().catalog_views() })),
            "/api/routes" => {
                let table = self.table.load();
                let routes: Vec<_> = table.routes().iter().map(|route| route.view()).collect();
                json(&serde_json::json!({ "routes": routes }))
            }
            "/api/listeners" => {
                let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
                json(&serde_json::json!({ "listeners": &*listeners }))
            }
            "/api/events" => self.follow(request),
            "/api/gateways" => json(&*self.fleet.lock().unwrap_or_else(PoisonError::into_inner)),
            "/api/explain" => self.explain(request.uri().query().unwrap_or_default()),
            _ => match path.strip_prefix("/api/services/") {
                Some(name) => self.service(name),
                None => problem(StatusCode::NOT_FOUND, "no such page; / lists them"),
            },
        }
    }

    fn ready(&self) -> Response<Body> {
        if self.draining.load(Ordering::Acquire) {
            return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n");
        }
        let waiting = self.table.load().unlisted();
        if waiting.is_empty() {
            return answer(StatusCode::OK, TEXT, "ready\n");
        }
        let mut text = String::from("waiting for the first listing of:\n");
        for name in waiting {
            text += name.as_str();
            text.push('\n');
        }
        answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
    }

    /// Events as they happen; a reader that was here before names the last one that it saw.
    fn follow<B>(&self, request: &Request<B>) -> Response<Body> {
        let seen = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
        let asked = query_pairs(request.uri().query().unwrap_or_default()).find(|(name, _)| name == "after");
        let after = match asked.map(|(_, value)| value.parse()) {
            Some(Ok(after)) => Some(after),
            Some(Err(_)) => return problem(StatusCode::BAD_REQUEST, "after is the number of an event"),
            None => seen,
        };
        let mut response = answer(StatusCode::OK, "text/event-stream", "");
        if request.method() == Method::GET {
            *response.body_mut() = Body::Pieces(self.events.stream(after));
        }
        response
    }

    /// Has the configuration read again. Answers once it is in force, or refused.
    async fn reload(&self) -> Response<Body> {
        let (order, done) = oneshot::channel();
        match self.reload.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return problem(StatusCode::CONFLICT, "a reload is under way; ask again after it");
            }
            Err(TrySendError::Closed(_)) => {
                return problem(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the gateway is stopping, or has no file to read",
                );
            }
        }
        match tokio::time::timeout(RELOAD_LIMIT, done).await {
            Ok(Ok(Ok(()))) => json(&serde_json::json!({ "reloaded": true })),
            Ok(Ok(Err(errors))) => {
                let mut response =
                    problem(StatusCode::UNPROCESSABLE_ENTITY, "refused; the old configuration stays");
                let body = serde_json::json!({
                    "title": "Unprocessable Entity", "status": 422,
                    "detail": "refused; the old configuration stays", "errors": errors,
                });
                *response.body_mut() = Body::Whole(format!("{body}\n").into());
                response
            }
            Ok(Err(_)) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping, or has no file to read")
            }
            Err(_) => {
                problem(StatusCode::GATEWAY_TIMEOUT, "no outcome after 30 s; GET /metrics tells of it later")
            }
        }
    }

    fn scrape(&self) -> Response<Body> {
        let dropped =
            self.access_log.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(LineSink::dropped);
        if let Some(dropped) = dropped {
            self.metrics.dropped_lines("access", dropped);
        }
        answer(StatusCode::OK, METRICS, self.metrics.render())
    }

    fn service(&self, name: &str) -> Response<Body> {
        let table = self.table.load();
        let Ok(name) = percent_encoding::percent_decode_str(name).decode_utf8() else {
            return problem(StatusCode::BAD_REQUEST, "the name is no UTF-8");
        };
        match table.upstream(&name) {
            Some(upstream) => json(&table.service_view(upstream)),
            None => problem(StatusCode::NOT_FOUND, "no such service; /api/services lists them"),
        }
    }

    fn explain(&self, query: &str) -> Response<Body> {
        let asked = match asked(query) {
            Ok(asked) => asked,
            Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
        };
        json(&asked.explain(&self.table.load(), Instant::now()))
    }
}

/// The request that an explain query describes.
fn asked(query: &str) -> Result<ExplainedRequest, String> {
    let (mut method, mut url, mut headers) = (Method::GET, None, HeaderMap::new());
    for (name, value) in query_pairs(query) {
        match name.as_str() {
            "method" => {
                method =
                    Method::from_bytes(value.as_bytes()).map_err(|_| format!("{value:?} is no method"))?;
            }
            "url" => url = Some(value),
            "header" => {
                let (name, value) = value.split_once(':').ok_or("a header is given as name:value")?;
                let name = HeaderName::from_bytes(name.trim().as_bytes())
                    .map_err(|_| format!("{name:?} is no header name"))?;
                let value = HeaderValue::from_str(value.trim())
                    .map_err(|_| format!("the value of {name} is no header value"))?;
                headers.append(name, value);
            }
            other => return Err(format!("{other:?} is not understood; accepted: method, url, header")),
        }
    }
    let url = url.ok_or("url is missing: /api/explain?method=GET&url=http://host/path&header=name:value")?;
    ExplainedRequest::new(method, &url, headers)
}

/// Pairs of a query, percent-decoded; a plus is a space.
fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            answer(StatusCode::OK, JSON, text)
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail });
    let mut response = answer(status, "application/problem+json", format!("{body}\n"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
