//! What a configuration chooses among, as enums with their names in the file.

use std::fmt;

/// A word that names none of the choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is none of: {accepted}")]
pub struct UnknownName {
    /// What was given.
    pub given: String,
    /// The choices, comma-separated.
    pub accepted: String,
}

macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every choice, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in configuration files and answers.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownName {
                    given: text.to_owned(),
                    accepted: Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

named_enum! {
    /// What an upstream speaks.
    Protocol {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 with prior knowledge (gRPC).
        H2 = "h2",
        /// Bytes.
        Tcp = "tcp",
    }
}

named_enum! {
    /// How a node's name and data become instances.
    FormatName {
        /// `host:port`, `host:port:weight`, `host:port tag`.
        Plain = "plain",
        /// `scheme://host:port/path?key=value`.
        Url = "url",
        /// An object with a host under one of the usual keys.
        Json = "json",
        /// Apache Curator's service discovery.
        Curator = "curator",
        /// The address is the node's name.
        NameAddr = "name_addr",
        /// Spring Cloud Zookeeper.
        Spring = "spring",
        /// Apache Dubbo 3, by application.
        DubboApp = "dubbo_app",
        /// Apache Dubbo, by interface.
        Dubbo = "dubbo",
        /// SOFA-RPC.
        Sofa = "sofa",
        /// Twitter's and Finagle's ServerSets.
        ServerSet = "serverset",
        /// Airbnb's nerve (SmartStack).
        Nerve = "nerve",
        /// LinkedIn's D2.
        D2 = "d2",
        /// Kafka's brokers.
        Kafka = "kafka",
        /// Solr's live nodes.
        Solr = "solr",
        /// HBase's region servers.
        HBase = "hbase",
        /// HiveServer2 and Kyuubi.
        Hive = "hive",
        /// rpcx.
        Rpcx = "rpcx",
        /// BookKeeper's bookies.
        BookKeeper = "bookkeeper",
        /// Druid's nodes.
        Druid = "druid",
        /// ClickHouse's replicas and discovered clusters.
        ClickHouse = "clickhouse",
        /// Kratos.
        Kratos = "kratos",
        /// Kitex.
        Kitex = "kitex",
        /// Flipkart's Ranger.
        Ranger = "ranger",
        /// Numbered children beside `primary`, `top` and `lock`.
        Numbered = "numbered",
    }
}

impl FormatName {
    /// The formats that a registration can be written in.
    pub const WRITABLE: &'static [Self] = &[
        Self::Plain,
        Self::Url,
        Self::Json,
        Self::Curator,
        Self::NameAddr,
        Self::ServerSet,
        Self::Nerve,
        Self::Numbered,
    ];

    /// The weight of a registration that names none: what one ordinary share is.
    pub fn default_weight(self) -> f64 {
        match self {
            Self::Dubbo | Self::DubboApp | Self::Sofa => 100.0,
            Self::Kitex => 10.0,
            _ => 1.0,
        }
    }
}

named_enum! {
    /// Which of an instance's ports are taken, where it has one for TLS and one without.
    TlsChoice {
        /// The TLS port where there is one, as the frameworks' own clients do.
        Prefer = "prefer",
        /// Only ports without TLS.
        Never = "never",
        /// Only ports that the registration says speak TLS.
        Require = "require",
    }
}

#[expect(clippy::derivable_impls, reason = "the variants come out of a macro")]
impl Default for TlsChoice {
    fn default() -> Self {
        Self::Prefer
    }
}

named_enum! {
    /// Which of a service's instances answer a route.
    InstanceChoice {
        /// All of them.
        Any = "any",
        /// The one that the service names as its primary.
        Primary = "primary",
        /// All but that one.
        Replicas = "replicas",
    }
}

/// How a service names its primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum PrimaryRule {
    /// By its layout, or a role in its payloads.
    #[default]
    Registered,
    /// The node with the lowest sequence number in the service's own directory.
    LowestSequence,
    /// The node with the lowest sequence number in this directory names it, in its data.
    Election(Box<str>),
}

/// The configured format of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FormatChoice {
    /// Decided per service folder from what its nodes look like.
    #[default]
    Auto,
    /// This one, whatever the nodes look like.
    Fixed(FormatName),
}

/// Which part of a request decides where a hash policy sends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A header's value; the name is lower-case.
    Header(Box<str>),
    /// A cookie's value.
    Cookie(Box<str>),
    /// A query parameter's value, decoded.
    Query(Box<str>),
    /// The path as it is forwarded, without the query.
    Path,
    /// A capture of the route.
    PathCapture(Box<str>),
    /// The host, lower-case, without port.
    Host,
    /// The client's address (behind trusted peers: the one they name).
    ClientIp,
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Path => f.write_str("path"),
            Self::PathCapture(name) => write!(f, "path:{name}"),
            Self::Host => f.write_str("host"),
            Self::ClientIp => f.write_str("client_ip"),
        }
    }
}

/// How an instance is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BalancePolicy {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Power of two choices by requests in flight.
    LeastRequest,
    /// Power of two choices by peak-sensitive latency × load.
    PeakEwma,
    /// Weighted random.
    Random,
    /// CRC-32 consistent hashing.
    Ring {
        /// Points of an instance of the format's default weight.
        virtual_nodes: u32,
    },
    /// Maglev table.
    Maglev {
        /// Slots: a prime.
        table_size: u32,
    },
}

impl BalancePolicy {
    /// The name in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequest => "least_request",
            Self::PeakEwma => "peak_ewma",
            Self::Random => "random",
            Self::Ring { .. } => "ring",
            Self::Maglev { .. } => "maglev",
        }
    }

    /// Whether it places requests by a hash key.
    pub fn is_hash(self) -> bool {
        matches!(self, Self::Ring { .. } | Self::Maglev { .. })
    }
}

/// A service's whole balancing choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BalanceSpec {
    /// The policy with its size.
    pub policy: BalancePolicy,
    /// For hash policies: what is hashed. Always set there, never elsewhere.
    pub key: Option<HashKey>,
    /// For hash policies: no instance takes more than this many times the mean load. At least 1.
    pub load_bound: Option<f64>,
}

/// Whether what we know of a service is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Watched and listed: what stands here is what the registry holds.
    Live,
    /// The last known state: the registry is out of reach, or refuses.
    Stale,
}
