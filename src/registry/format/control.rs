//! Nodes that belong to a layout and are no instances: what they are for, and what they say.

use std::collections::BTreeMap;

use super::address::Parts;
use crate::model::{Host, Instance};

/// What a node that is no instance is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// A client that announces its interest.
    Consumer,
    /// A rule of who may call whom, by the scheme it is written in: `condition`, `script`, `tag`.
    Router(&'static str),
    /// The word that there is nothing.
    Empty,
    /// A folder of the layout.
    Folder,
    /// What a distributed lock is held with.
    Lock,
    /// Something else that the layout allows.
    Ignored,
    /// The folder of a replica of this name, which has its address and the sign that it is alive in it.
    Replica(Box<str>),
    /// The sign that the replica of this name is alive.
    Active(Box<str>),
    /// The number of the primary; `None` where it cannot be read.
    Primary(Option<u64>),
    /// The counter that numbers are taken from.
    Top(Option<u64>),
    /// Weights for members.
    Vector(Vec<(Selector, f64)>),
    /// Parameters that providers get in place of their own.
    Override(Override),
}

impl Control {
    /// A word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Router(kind) => kind,
            Self::Empty => "empty",
            Self::Folder => "folder",
            Self::Lock => "lock",
            Self::Ignored => "ignored",
            Self::Replica(_) => "replica",
            Self::Active(_) => "active",
            Self::Primary(_) => "primary",
            Self::Top(_) => "top",
            Self::Vector(_) => "vector",
            Self::Override(_) => "override",
        }
    }
}

/// Which members of a ServerSet a weight is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The one at this node.
    Member(Box<str>),
    /// Those at this address.
    Inet(Box<str>),
    /// Those of this shard.
    Shard(i64),
}

impl Selector {
    /// Reads `member=…`, `inet=…` or `shard=…`.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (kind, value) = text.split_once('=')?;
        match kind {
            "member" => Some(Self::Member(value.into())),
            "inet" => Some(Self::Inet(value.into())),
            "shard" => value.parse().ok().map(Self::Shard),
            _ => None,
        }
    }

    /// Whether it means this instance.
    pub fn selects(&self, instance: &Instance) -> bool {
        match self {
            Self::Member(node) => **node == *instance.id.name,
            Self::Inet(address) => Parts::of(address)
                .and_then(|parts| parts.address(None))
                .is_ok_and(|address| address == instance.address),
            Self::Shard(shard) => {
                instance.metadata.get("shard").and_then(|text| text.parse().ok()) == Some(*shard)
            }
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(node) => write!(f, "member={node}"),
            Self::Inet(address) => write!(f, "inet={address}"),
            Self::Shard(shard) => write!(f, "shard={shard}"),
        }
    }
}

/// A rule of Dubbo's that changes what providers registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Whom it is for; `None`: everybody.
    pub host: Option<Host>,
    /// As it is written.
    pub written_host: Box<str>,
    /// Only for the provider at this port.
    pub port: Option<u16>,
    /// Whether it only fills in what a provider leaves out.
    pub only_absent: bool,
    /// Its parameters, conditions included.
    pub params: BTreeMap<Box<str>, Box<str>>,
}

/// Parameters that say for whom and how a rule holds, and are not handed on.
const CONDITIONS: [&str; 15] = [
    "application",
    "category",
    "check",
    "compatible_config",
    "config.version",
    "configVersion",
    "dynamic",
    "enabled",
    "group",
    "interface",
    "path",
    "priority",
    "providerAddresses",
    "side",
    "version",
];

impl Override {
    /// Whether it changes this provider.
    pub fn applies_to(&self, instance: &Instance) -> bool {
        let param = |key: &str| self.params.get(key).map(|text| &**text);
        // What the rule says of itself: "enabled" is whether it holds.
        let holds = param("enabled") != Some("false");
        let here = self.host.as_ref().is_none_or(|host| *host == instance.address.host)
            && self.port.is_none_or(|port| port == instance.address.port);
        let same = |key: &str, wanted: &str| {
            matches!(wanted, "" | "*") || instance.metadata.get(key).is_some_and(|own| **own == *wanted)
        };
        let asked = ["application", "group", "version"];
        let conditions =
            self.params.iter().filter_map(|(key, wanted)| Some((key.strip_prefix('~')?, wanted)));
        holds
            && here
            && asked.iter().all(|key| param(key).is_none_or(|wanted| same(key, wanted)))
            && conditions.into_iter().all(|(key, wanted)| same(key, wanted))
    }

    /// Of rules for the same providers, the one with the larger number is applied later.
    pub fn priority(&self) -> i64 {
        self.params.get("priority").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// What it sets.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .filter(|(key, _)| !key.starts_with('~') && !CONDITIONS.contains(key))
    }
}
