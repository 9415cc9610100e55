//! One registration, as a fact: who announced itself, where, and with what.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
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

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; accepted: HOST:PORT, such as 10.0.0.7:8080, orders.internal:8080 or [::1]:8080")]
pub struct InvalidAddress(&'static str);

impl FromStr for Address {
    type Err = InvalidAddress;

    /// `host:port`, or `[v6]:port`.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress("there is no port"))?;
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or(InvalidAddress("the port is none, from 1 to 65535"))?;
        let host = if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Host::Ip(
                v6.parse::<Ipv6Addr>().map_err(|_| InvalidAddress("the host is no IPv6 address"))?.into(),
            )
        } else if let Ok(v4) = host.parse::<Ipv4Addr>() {
            Host::Ip(v4.into())
        } else if !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            Host::Name(host.into())
        } else {
            return Err(InvalidAddress("the host is none"));
        };
        Ok(Self { host, port })
    }
}

impl From<SocketAddr> for Address {
    /// What a socket is bound to. Port 0 is nobody's address: ask the socket after it is bound.
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
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

impl From<&str> for InstanceId {
    /// By its node's name alone: who registers does not know the incarnation yet.
    fn from(name: &str) -> Self {
        Self { name: name.into(), incarnation: Incarnation::default() }
    }
}

/// What an instance is within a replicated service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// One that follows.
    Replica,
    /// The server that rules the others.
    Master,
    /// One that is ruled.
    Slave,
}

impl Role {
    /// The word in payloads, metadata and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Master => "master",
            Self::Slave => "slave",
        }
    }
}

/// Who keeps a node alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Owner {
    /// The registry does not say.
    #[default]
    Unknown,
    /// Nobody: it is persistent, and stays when its process dies.
    Nobody,
    /// A session, by its id: the node vanishes with it.
    Session(i64),
}

/// What the registry itself knows of a node, beside its data. Fixed for an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NodeFacts {
    /// When it was created, milliseconds since 1970 by the registry's clock.
    pub created_ms: Option<u64>,
    /// Who keeps it alive.
    pub owner: Owner,
    /// Whether it vanished, and is held as long as it answers.
    pub limbo: bool,
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
    /// How long its share is to grow from nothing, milliseconds, where the payload says so.
    pub warmup_ms: Option<u32>,
    /// What the registry knows of its node.
    pub facts: NodeFacts,
    /// Everything else the payload holds, as text.
    pub metadata: BTreeMap<Box<str>, Box<str>>,
}

impl Instance {
    /// An instance that says no more than where it listens: of weight 1, and wanting traffic.
    pub fn new(id: InstanceId, address: Address) -> Self {
        Self {
            id,
            address,
            scheme: None,
            tls: None,
            weight: 1.0,
            enabled: true,
            zone: None,
            role: None,
            registered_ms: None,
            warmup_ms: None,
            facts: NodeFacts::default(),
            metadata: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_shown() {
        for text in ["10.0.0.7:8080", "orders.internal:80", "[2001:db8::1]:65535", "a_b-c:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for bad in [
            "", "a", ":80", "a:", "a:0", "a:65536", "a:+1", "::1:80", "[::1:80", "[a]:80", "a b:80", "a/b:80",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        let bound: SocketAddr = "[::1]:80".parse().unwrap();
        assert_eq!(Address::from(bound).to_string(), bound.to_string());
    }
}
