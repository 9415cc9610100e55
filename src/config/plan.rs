//! The configuration after checking: sound by type, defaults filled in, references resolved.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::{IpNet, Ipv4Net};

pub use super::protection::{
    CheckKind, CheckPlan, EjectionPlan, HealthCheck, LoadLimits, QueuePlan, RatePlan, VanishGuard,
};
use crate::model::{
    BalanceSpec, CatalogPattern, FormatChoice, HashKey, InstanceChoice, PrimaryRule, Protocol, Reading,
    RegistryName, RetrySpec, ServiceName,
};

/// Everything a gateway needs to know. Made by [`super::load`] from a file, by `text.parse()` from a text, or by hand.
///
/// The `Default`s here are the file's: what holds when a key is left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// `[gateway]`.
    pub gateway: GatewayPlan,
    /// `[log]`.
    pub log: LogPlan,
    /// `[admin]`.
    pub admin: AdminPlan,
    /// `[limits]`.
    pub limits: Limits,
    /// `[registries.*]`, sorted by name.
    pub registries: Vec<RegistryPlan>,
    /// `[services.*]`, sorted by name.
    pub services: Vec<ServicePlan>,
    /// `[catalogs.*]`, sorted by name.
    pub catalogs: Vec<CatalogPlan>,
    /// `[[listeners]]`, in file order.
    pub listeners: Vec<ListenerPlan>,
    /// `[[routes]]`, in file order (the matcher sorts them).
    pub routes: Vec<RoutePlan>,
}

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayPlan {
    /// Worker threads; default one per core.
    pub workers: usize,
    /// How long requests may finish after SIGTERM.
    pub drain_timeout: Duration,
    /// How long listeners go on accepting after SIGTERM.
    pub drain_delay: Duration,
    /// Where access lines go.
    pub access_log: AccessLog,
    /// Where changes of memberships are written, to be replayed; `None`: nowhere.
    pub event_log: Option<PathBuf>,
    /// Bytes at which that file is renamed and begun anew.
    pub event_log_size: u64,
    /// The Unix socket at which a successor asks for the listening sockets; `None`: no handover.
    pub handover: Option<PathBuf>,
    /// The lock under which one gateway of a fleet drains at a time.
    pub drain_lock: Option<NodePlan>,
    /// How long that lock is waited for.
    pub drain_lock_timeout: Duration,
    /// What the gateway calls itself; `None`: its host's name and process id.
    pub id: Option<String>,
    /// `[gateway.register]`: where it registers itself; `None`: nowhere.
    pub register: Option<FleetPlan>,
    /// The zone it runs in.
    pub zone: Option<Box<str>>,
}

impl Default for GatewayPlan {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            access_log: AccessLog::default(),
            event_log: None,
            event_log_size: 64 << 20,
            handover: None,
            drain_lock: None,
            drain_lock_timeout: Duration::from_secs(60),
            id: None,
            register: None,
            zone: None,
        }
    }
}

/// `[gateway.register]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPlan {
    /// The registry.
    pub registry: RegistryName,
    /// The directory in it, where every gateway of the fleet has a node.
    pub path: String,
}

impl FleetPlan {
    /// The `path` of a fleet that names none.
    pub const DEFAULT_PATH: &str = "/zoogate/gateways";
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to a file, reopened on SIGHUP.
    File(PathBuf),
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPlan {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// True for JSON lines.
    pub json: bool,
}

/// Severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminPlan {
    /// Where the admin answers; port 0 picks a free one.
    pub listen: SocketAddr,
}

impl Default for AdminPlan {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)) }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections over all listeners.
    pub max_connections: usize,
    /// Header lines of a request or an answer.
    pub max_headers: usize,
    /// Bytes of a head.
    pub max_header_size: usize,
    /// Bytes of a request body; `None`: no limit.
    pub max_body: Option<u64>,
    /// Bytes of memory that the process may take before it turns work away; `None`: no limit.
    pub max_memory: Option<u64>,
    /// Without a byte in either direction, between requests or within one.
    pub idle_timeout: Duration,
    /// From the first byte of a head to its end.
    pub header_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_headers: 100,
            max_header_size: 64 << 10,
            max_body: None,
            max_memory: super::memory::available().map(|bytes| bytes / 4 * 3),
            idle_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
        }
    }
}

/// `[registries.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryPlan {
    /// Its name.
    pub name: RegistryName,
    /// What it is.
    pub kind: RegistryKind,
    /// Ranges that no registration may name. The admin's own address never may, listed or not.
    pub deny: Vec<IpNet>,
    /// Where the last known members are kept on disk; `None`: nowhere.
    pub snapshot: Option<PathBuf>,
}

impl RegistryPlan {
    /// The `session_timeout` of a ZooKeeper registry that names none.
    pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(10);

    /// Whether both read the same place in the same way: then one's discovery serves the other.
    pub fn same_source(&self, other: &Self) -> bool {
        (&self.name, &self.kind, &self.deny) == (&other.name, &other.kind, &other.deny)
    }

    /// The `deny` of a registry that names none: link-local addresses, where clouds keep credentials.
    pub fn default_deny() -> Vec<IpNet> {
        vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16))]
    }
}

/// What a registry is.
#[derive(Debug, Clone, PartialEq)]
pub enum RegistryKind {
    /// A ZooKeeper ensemble.
    ZooKeeper {
        /// `host:port,host:port/chroot`: every host with its port, a chroot only if it is not `/`.
        connect: String,
        /// Asked of the server; it may negotiate another.
        session_timeout: Duration,
        /// Credentials: (scheme, bytes). Never logged.
        auth: Vec<Credential>,
    },
    /// A local directory tree.
    Directory {
        /// Its root: absolute, or already counted from the file's folder.
        path: PathBuf,
    },
}

/// A scheme and its secret. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `digest`.
    pub scheme: String,
    /// `user:password`.
    pub secret: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}, …)", self.scheme)
    }
}

/// What a service's instances have in common; also a catalog's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceDefaults {
    /// Payload format.
    pub format: FormatChoice,
    /// What else is wanted of the reading of nodes.
    pub reading: Arc<Reading>,
    /// Upstream protocol.
    pub protocol: Protocol,
    /// Balancing.
    pub balance: BalanceSpec,
    /// A connect may take this long, over all addresses of a name.
    pub connect_timeout: Duration,
    /// How long a resolved name is believed.
    pub dns_ttl: Duration,
    /// How it names its primary.
    pub primary: PrimaryRule,
    /// Whose instances come first.
    pub zone: Option<ZonePreference>,
    /// How long a new instance's share grows; `None`: as its payload asks for; zero: never.
    pub slow_start: Option<Duration>,
    /// How many attempts there may be on top of the requests, as a part of them.
    pub retry_budget: f64,
    /// How many requests it may have at a time; `None`: any number.
    pub load: Option<Arc<LoadLimits>>,
    /// What becomes of instances that vanish in a mass; `None`: they are gone, as always.
    pub vanish_guard: Option<VanishGuard>,
    /// What takes an instance out of rotation; `None`: a failed connect alone.
    pub ejection: Option<Arc<EjectionPlan>>,
    /// How long a stream may go on whose instance was removed; `None`: for the gateway's `drain_timeout`.
    pub drain_timeout: Option<Duration>,
    /// Over how long a time streams follow keys that moved to another instance; `None`: they stay.
    pub rehome: Option<Duration>,
    /// Whether its instances are asked how they are.
    pub health_check: HealthCheck,
}

/// Instances of one zone come first.
#[derive(Debug, Clone, PartialEq)]
pub struct ZonePreference {
    /// Which zone.
    pub prefer: Box<str>,
    /// All zones share the traffic where less than this part of the zone's instances is usable.
    pub spill_below: f64,
}

impl ZonePreference {
    /// The `spill_below` of a preference that names none.
    pub const DEFAULT_SPILL: f64 = 0.5;
}

impl ServiceDefaults {
    /// The `retry_budget` of a service that names none.
    pub const DEFAULT_RETRY_BUDGET: f64 = 0.2;
    /// The `rehome_window` of a service that names none.
    pub const REHOME_WINDOW: Duration = Duration::from_secs(30);
}

impl Default for ServiceDefaults {
    fn default() -> Self {
        Self {
            format: FormatChoice::Auto,
            reading: Arc::default(),
            protocol: Protocol::Http1,
            balance: BalanceSpec::default(),
            connect_timeout: Duration::from_secs(1),
            dns_ttl: Duration::from_secs(30),
            primary: PrimaryRule::default(),
            zone: None,
            slow_start: None,
            retry_budget: Self::DEFAULT_RETRY_BUDGET,
            load: None,
            vanish_guard: None,
            ejection: Some(Arc::default()),
            drain_timeout: None,
            rehome: None,
            health_check: HealthCheck::default(),
        }
    }
}

/// `[services.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePlan {
    /// Its name.
    pub name: ServiceName,
    /// Where it is registered.
    pub registry: RegistryName,
    /// The directory in it: `/services/orders`.
    pub path: String,
    /// The rest.
    pub defaults: ServiceDefaults,
}

/// `[catalogs.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogPlan {
    /// Its name: one segment, like a service's.
    pub name: ServiceName,
    /// Where it is registered.
    pub registry: RegistryName,
    /// The directories that are services.
    pub path: CatalogPattern,
    /// What each child starts with.
    pub defaults: ServiceDefaults,
}

/// `[[listeners]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Where it accepts; port 0 picks a free one.
    pub listen: SocketAddr,
    /// What it accepts.
    pub kind: ListenerKind,
    /// Peers whose forwarding headers and request ids are believed.
    pub trusted: Vec<IpNet>,
}

impl ListenerPlan {
    /// Whether this is that listener, and where it was.
    pub fn is_where(&self, other: &Self) -> bool {
        self.name == other.name && self.listen == other.listen
    }
}

/// What a listener accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerKind {
    /// HTTP/1.1 and HTTP/2, routed by `[[routes]]`.
    Http,
    /// Bytes for one service.
    Tcp {
        /// The service, of protocol `tcp`.
        service: ServiceName,
    },
}

/// `[[routes]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutePlan {
    /// Its name, or its match as text.
    pub name: Arc<str>,
    /// Host to match; `None`: any.
    pub host: Option<HostMatch>,
    /// Path to match.
    pub path: PathMatch,
    /// Methods to match; empty: any.
    pub methods: Vec<Method>,
    /// Headers that must have exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters that must have exactly this value (decoded).
    pub query: Vec<(String, String)>,
    /// Who answers: at least one, of total weight above 0; none where there are shards.
    pub services: Vec<WeightedService>,
    /// The services of a catalog, one of which a key picks.
    pub shard: Option<ShardPlan>,
    /// Which of the service's instances.
    pub instances: InstanceChoice,
    /// How long a request waits for a primary; zero: not at all.
    pub primary_wait: Duration,
    /// When a request that was sent goes out again.
    pub retry: RetrySpec,
    /// After how long a second instance is asked as well; `None`: never.
    pub hedge: Option<Duration>,
    /// Until the answer's head; `None`: no deadline.
    pub timeout: Option<Duration>,
    /// What the path becomes on its way; `None`: it stays.
    pub rewrite: Option<Rewrite>,
    /// What holds its requests back.
    pub barrier: Option<BarrierPlan>,
    /// How many requests it takes.
    pub rate: Option<RatePlan>,
}

impl Default for RoutePlan {
    /// Matches everything, and has nobody who answers yet.
    fn default() -> Self {
        Self {
            name: "".into(),
            host: None,
            path: PathMatch { segments: Vec::new(), prefix: true },
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            services: Vec::new(),
            shard: None,
            instances: InstanceChoice::Any,
            primary_wait: Duration::ZERO,
            retry: RetrySpec::default(),
            hedge: None,
            timeout: Some(Self::DEFAULT_TIMEOUT),
            rewrite: None,
            barrier: None,
            rate: None,
        }
    }
}

impl RoutePlan {
    /// The `timeout` of a route that names none.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
}

/// One node of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodePlan {
    /// Which registry.
    pub registry: RegistryName,
    /// Its path there, below the chroot.
    pub path: String,
}

/// `barrier` and `barrier_wait`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BarrierPlan {
    /// While this node exists, requests are held back.
    pub node: NodePlan,
    /// For this long at the most; `None`: for the route's timeout.
    pub wait: Option<Duration>,
}

/// A key picks one of a catalog's services by consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    /// Whose services.
    pub catalog: ServiceName,
    /// What is hashed.
    pub key: HashKey,
    /// Points of each service on the ring.
    pub virtual_nodes: u32,
}

/// A host pattern, lower-case, without port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// This host.
    Exact(Box<str>),
    /// One or more labels before this suffix (held without `*.`).
    Wildcard(Box<str>),
    /// One label before a suffix, captured under a name.
    Capture {
        /// The capture's name.
        name: Box<str>,
        /// What follows the label and its dot.
        suffix: Box<str>,
    },
}

/// A path pattern, split at its slashes: `/` is one empty segment, `/a/` is `a` and an empty one,
/// `/*` is a prefix of no segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMatch {
    /// The segments before the star, or all of them.
    pub segments: Vec<Segment>,
    /// Whether it ends in `/*`: this path and everything below.
    pub prefix: bool,
}

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes (compared as they stand in the request).
    Literal(Box<str>),
    /// `{name}`: one non-empty segment.
    Capture(Box<str>),
}

/// A service of a route with its share.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedService {
    /// Which.
    pub service: ServiceRef,
    /// Its share among the route's services.
    pub weight: u32,
}

/// How a route names a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceRef {
    /// A configured service, or a fixed child of a catalog.
    Named(ServiceName),
    /// A catalog's child named by a capture: `apps/{service}`.
    Captured {
        /// The catalog.
        catalog: ServiceName,
        /// The capture's name.
        capture: Box<str>,
    },
}

/// A path rewrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// What the star matched goes under this prefix (held without the final `/*`; may be empty).
    Prefix(Box<str>),
    /// The whole path becomes this.
    Exact(Box<str>),
}
