//! The table as the admin shows it: plain values in the shape of its JSON.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::config::plan::{PathMatch, Rewrite, Segment, ServiceRef};
use crate::model::{Instance, Owner, Rejected, Role, Trust};

use super::config::ServiceSpec;
use super::ejection::NextStep;
use super::endpoint::{Endpoint, InstanceState};
use super::route::Route;
use super::routing_table::RoutingTable;
use super::upstream::Upstream;

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Where it is registered.
    pub registry: String,
    /// The directory there.
    pub path: String,
    /// The payload format in use; null before the first node.
    pub format: Option<&'static str>,
    /// How often a change of it was published.
    pub revision: u64,
    /// 12 hex digits.
    pub fingerprint: String,
    /// Id of the primary.
    pub primary: Option<String>,
    /// Whether this is the last known state only.
    pub stale: bool,
    /// Why.
    pub stale_reason: Option<String>,
    /// Sorted by id.
    pub instances: Vec<InstanceView>,
    /// Sorted by node.
    pub rejected: Vec<RejectedView>,
    /// Under which limits it is, and how it stands with them; null: under none.
    pub limits: Option<LimitsView>,
}

/// A service's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitsView {
    /// Requests that may be in flight now; null: any number.
    pub limit: Option<u32>,
    /// Requests that count towards it.
    pub in_flight: u32,
    /// As configured.
    pub max_requests: Option<u32>,
    /// As configured.
    pub max_requests_per_instance: Option<u32>,
    /// Whether `limit` follows the latency.
    pub adaptive: bool,
    /// Requests that wait.
    pub waiting: u32,
    /// As many may.
    pub queue_length: u32,
    /// Requests that were turned away, by why.
    pub shed: BTreeMap<&'static str, u64>,
    /// Instances at their own limit.
    pub full: Vec<String>,
}

/// A route's rate limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateView {
    /// So many requests,
    pub rate: u32,
    /// in so many seconds.
    pub per: f64,
    /// So many at once.
    pub burst: u32,
    /// What is counted apart; null: nothing.
    pub key: Option<String>,
    /// Keys whose bucket is not full.
    pub keys: usize,
    /// Requests that were refused.
    pub limited: u64,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceView {
    /// The node's name.
    pub id: String,
    /// `host:port`.
    pub address: String,
    /// Whether it speaks TLS, where the registration says so.
    pub tls: Option<bool>,
    /// As registered.
    pub weight: f64,
    /// As registered.
    pub zone: Option<String>,
    /// What it is within a replicated service.
    pub role: Option<&'static str>,
    /// When its node was created, milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// Who keeps its node alive: a session in hexadecimal digits, or `persistent`; null where the registry cannot say.
    pub owner: Option<String>,
    /// How it stands.
    pub state: InstanceState,
    /// Why it is out of rotation; null while it is not.
    pub health: Option<HealthView>,
    /// The rest of the registration.
    pub metadata: BTreeMap<String, String>,
}

/// A node that is no instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedView {
    /// Its name.
    pub node: String,
    /// `code: detail`.
    pub reason: String,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// Its host as configured; null: any.
    pub host: Option<String>,
    /// Its path as configured.
    pub path: String,
    /// Its methods; empty: any.
    pub methods: Vec<String>,
    /// Headers that must have this value.
    pub headers: BTreeMap<String, String>,
    /// Query parameters that must have this value.
    pub query: BTreeMap<String, String>,
    /// Who answers.
    pub services: Vec<RouteServiceView>,
    /// In seconds.
    pub timeout: Option<f64>,
    /// As configured.
    pub rewrite: Option<String>,
    /// What holds its requests back, if it has a barrier.
    pub barrier: Option<BarrierView>,
    /// The catalog whose services are picked from by a key.
    pub shard: Option<ShardView>,
    /// `any`, `primary` or `replicas`.
    pub instances: &'static str,
    /// In seconds.
    pub primary_wait: f64,
    /// How many requests it takes.
    pub rate_limit: Option<RateView>,
    /// When a request that was sent goes out again; null: never.
    pub retry: Option<RetryView>,
    /// In seconds: after so long without an answer another instance is asked as well.
    pub hedge: Option<f64>,
}

/// When a route's requests go out again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RetryView {
    /// Attempts after the first.
    pub attempts: u32,
    /// Answers that are as good as none.
    pub statuses: Vec<u16>,
    /// Requests that may reach two instances.
    pub methods: Vec<&'static str>,
    /// In seconds.
    pub per_try_timeout: Option<f64>,
    /// Bytes of a body that are kept.
    pub buffer: usize,
}

/// A route's barrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BarrierView {
    /// Where its node is.
    pub registry: String,
    /// Its node.
    pub path: String,
    /// Whether it stands, as far as is known.
    pub closed: bool,
    /// Requests that it holds now.
    pub held: usize,
}

/// The shards of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardView {
    /// Whose services.
    pub catalog: String,
    /// What is hashed.
    pub key: String,
    /// Points of each.
    pub virtual_nodes: u32,
}

/// A catalog.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CatalogView {
    /// Its name.
    pub name: String,
    /// Where it is registered.
    pub registry: String,
    /// Its directory there, or its pattern.
    pub path: String,
    /// How many services it has.
    pub services: usize,
    /// Whether this is the last known state only.
    pub stale: bool,
    /// Why.
    pub stale_reason: Option<String>,
    /// Directories that are no services: paths below its root.
    pub rejected: Vec<RejectedView>,
}

/// A service of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteServiceView {
    /// As configured.
    pub name: String,
    /// Its share.
    pub weight: u32,
}

/// Why an instance is out of rotation, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthView {
    /// `connect`, `reset`, `failures`, `silent`, `check`.
    pub reason: &'static str,
    /// The same in words.
    pub description: &'static str,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Probes, or trials, that failed since.
    pub failed_probes: u8,
    /// When it is probed next; null while it is on trial, or its health check decides.
    pub next_probe_ms: Option<u64>,
    /// Whether a request tries it now.
    pub trial: bool,
}

impl HealthView {
    fn new(endpoint: &Endpoint, now: Instant, now_ms: u64) -> Option<Self> {
        let (reason, since, failed_probes) = endpoint.ejected()?;
        let due = endpoint.due();
        let ms = |at: Instant| at.saturating_duration_since(now).as_millis() as u64;
        Some(Self {
            reason: reason.as_str(),
            description: reason.describe(),
            since_ms: now_ms.saturating_sub(now.saturating_duration_since(since).as_millis() as u64),
            failed_probes,
            next_probe_ms: match due {
                Some(NextStep::Probe(at)) => Some(now_ms + ms(at)),
                _ => None,
            },
            trial: matches!(due, Some(NextStep::EndTrial(_))),
        })
    }
}

impl RejectedView {
    fn new(rejected: &Rejected) -> Self {
        Self { node: rejected.node.to_string(), reason: rejected.to_string() }
    }
}

impl InstanceView {
    fn new(instance: &Instance, state: InstanceState, health: Option<HealthView>) -> Self {
        let metadata = instance.metadata.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Self {
            id: instance.id.name.to_string(),
            address: instance.address.to_string(),
            tls: instance.tls,
            weight: instance.weight,
            zone: instance.zone.as_deref().map(str::to_owned),
            role: instance.role.map(Role::as_str),
            created_ms: instance.facts.created_ms,
            owner: match instance.facts.owner {
                Owner::Unknown => None,
                Owner::Nobody => Some("persistent".to_owned()),
                Owner::Session(id) => Some(format!("{id:#x}")),
            },
            state,
            health,
            metadata: metadata.collect(),
        }
    }
}

impl Upstream {
    /// Its instances, sorted by id, those that drain included.
    pub fn instance_views(&self) -> Vec<InstanceView> {
        let now = Instant::now();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
        let live = self.instances().map(|(instance, slot, state)| {
            let health = HealthView::new(&self.endpoints()[slot], now, now_ms);
            InstanceView::new(instance, state, health)
        });
        let draining =
            self.draining().map(|instance| InstanceView::new(instance, InstanceState::Draining, None));
        let mut views: Vec<_> = live.chain(draining).collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }
}

impl RoutingTable {
    /// A service of this table.
    pub fn service_view(&self, upstream: &Upstream) -> ServiceView {
        let (spec, snapshot) = (upstream.spec(), upstream.snapshot());
        let base = self.base_of(upstream);
        ServiceView {
            name: spec.name.to_string(),
            registry: spec.registry.to_string(),
            path: spec.path.clone(),
            format: snapshot.format.map(crate::model::FormatName::as_str),
            revision: upstream.revision(),
            fingerprint: upstream.fingerprint().to_string(),
            primary: snapshot.primary.as_deref().map(str::to_owned),
            stale: base.is_none_or(|base| base.trust == Trust::Stale),
            stale_reason: base.and_then(|base| base.reason.as_deref()).map(str::to_owned),
            instances: upstream.instance_views(),
            rejected: snapshot.rejected.iter().map(RejectedView::new).collect(),
            limits: upstream.limits_view(),
        }
    }

    /// All catalogs by name.
    pub fn catalog_views(&self) -> Vec<CatalogView> {
        let mut views: Vec<CatalogView> =
            self.catalogs.values().map(|spec| self.catalog_view(spec)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    fn catalog_view(&self, spec: &ServiceSpec) -> CatalogView {
        let base = self.bases.get(spec.name.as_str());
        CatalogView {
            name: spec.name.to_string(),
            registry: spec.registry.to_string(),
            path: spec.path.clone(),
            services: self.upstreams().filter(|upstream| upstream.spec().base == spec.name).count(),
            stale: base.is_none_or(|base| base.trust == Trust::Stale),
            stale_reason: base.and_then(|base| base.reason.as_deref()).map(str::to_owned),
            rejected: base.into_iter().flat_map(|base| base.rejected.iter()).map(RejectedView::new).collect(),
        }
    }

    /// All services by name.
    pub fn service_views(&self) -> Vec<ServiceView> {
        self.sorted_upstreams().into_iter().map(|upstream| self.service_view(upstream)).collect()
    }
}

impl Route {
    /// It as configured.
    pub fn view(&self) -> RouteView {
        let services = self.services.iter().map(|s| {
            let name = service_text(&s.service);
            RouteServiceView { name, weight: s.weight }
        });
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        RouteView {
            name: self.name.to_string(),
            host: self.host.as_ref().map(ToString::to_string),
            path: path_text(&self.path),
            methods: self.methods.iter().map(ToString::to_string).collect(),
            headers: headers.collect(),
            query: self.query.iter().cloned().collect(),
            services: services.collect(),
            timeout: self.timeout.map(|timeout| timeout.as_secs_f64()),
            rewrite: self.rewrite.as_ref().map(|rewrite| match rewrite {
                Rewrite::Prefix(prefix) => format!("{prefix}/*"),
                Rewrite::Exact(path) => path.to_string(),
            }),
            barrier: self.gate.as_ref().map(|(gate, _)| BarrierView {
                registry: gate.node().registry.to_string(),
                path: gate.node().path.clone(),
                closed: gate.is_closed(),
                held: gate.held(),
            }),
            shard: self.shard.as_ref().map(|shard| ShardView {
                catalog: shard.catalog.to_string(),
                key: shard.key.to_string(),
                virtual_nodes: shard.virtual_nodes,
            }),
            instances: self.instances.as_str(),
            primary_wait: self.primary_wait.as_secs_f64(),
            rate_limit: self.rate.as_ref().map(|rate| RateView {
                rate: rate.plan().rate,
                per: rate.plan().per.as_secs_f64(),
                burst: rate.plan().burst,
                key: rate.plan().key.as_ref().map(ToString::to_string),
                keys: rate.keys(),
                limited: rate.limited(),
            }),
            retry: (self.retry.attempts > 0).then(|| RetryView {
                attempts: self.retry.attempts,
                statuses: self.retry.statuses.codes().collect(),
                methods: self.retry.methods.names().collect(),
                per_try_timeout: self.retry.per_try_timeout.map(|limit| limit.as_secs_f64()),
                buffer: self.retry.buffer,
            }),
            hedge: self.hedge.map(|delay| delay.as_secs_f64()),
        }
    }
}

/// A reference as configured: `orders`, `apps/{service}`.
pub(super) fn service_text(service: &ServiceRef) -> String {
    match service {
        ServiceRef::Named(name) => name.to_string(),
        ServiceRef::Captured { catalog, capture } => format!("{catalog}/{{{capture}}}"),
    }
}

fn path_text(path: &PathMatch) -> String {
    let segment = |segment: &Segment| match segment {
        Segment::Literal(literal) => format!("/{literal}"),
        Segment::Capture(name) => format!("/{{{name}}}"),
    };
    let mut out: String = path.segments.iter().map(segment).collect();
    if path.prefix {
        out += "/*";
    } else if out.is_empty() {
        out.push('/');
    }
    out
}
