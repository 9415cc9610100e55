//! One registration, as a fact: who announced itself, where, and with what.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Where an instance listens: an IP literal or a name to be resolved when it is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address, printed canonically (RFC 5952).
    Ip(IpAddr),
    /// A host name, kept as the registration wrote it.
    Name(Box<str>),
}

impl fmt::Display for Host {
    /// The bare host: IPv6 without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Host and port. Displayed as `host:port`, IPv6 as `[2001:db8::1]:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Tells a node from another of the same name: two numbers that the registry never repeats for it.
///
/// In ZooKeeper the creation zxid (and 0), in a directory the inode and the birth time in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Incarnation(pub u64, pub u64);

/// Who an instance is: its node and that node's incarnation. A node created again is somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId {
    /// The node's name below its service; with `#endpoint` where one node holds several instances.
    pub name: Arc<str>,
    /// Which node of that name.
    pub incarnation: Incarnation,
}

/// What an instance is within a replicated service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// One that follows.
    Replica,
}

/// One registration, decoded. A value: equal means indistinguishable to the gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Who it is. `id.name` is what the admin shows as `id`.
    pub id: InstanceId,
    /// Where it listens.
    pub address: Address,
    /// The scheme that the registration names, lower-case.
    pub scheme: Option<Box<str>>,
    /// Whether it speaks TLS, where the registration says so.
    pub tls: Option<bool>,
    /// Its share, as registered: finite, not negative; the format's default where it is silent.
    pub weight: f64,
    /// False where the registration says that it wants no traffic.
    pub enabled: bool,
    /// Failure domain.
    pub zone: Option<Box<str>>,
    /// Its role, where the layout names one.
    pub role: Option<Role>,
    /// When it registered, milliseconds since 1970, where the payload says so.
    pub registered_ms: Option<u64>,
    /// Everything else the payload holds, as text.
    pub metadata: BTreeMap<Box<str>, Box<str>>,
}
