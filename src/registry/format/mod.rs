//! Payload formats: how a node's name and data become instances.
//!
//! One file a format, each a `Format`; [`detect()`] tells which one a node looks like. Everything here is
//! pure and bounded, and never panics: what a registry holds is untrusted. A new format is a file, a
//! variant of [`FormatName`], a line in `by_name` and its rule in `detect`.

mod address;
mod bookkeeper;
mod bytes;
mod clickhouse;
mod control;
mod curator;
mod d2;
mod detect;
mod druid;
mod dubbo;
mod dubbo_app;
mod fields;
mod fold;
mod hbase;
mod hive;
mod json;
mod kafka;
mod kitex;
mod kratos;
mod name_addr;
mod nerve;
mod numbered;
mod plain;
mod ranger;
mod rpcx;
mod serverset;
mod sofa;
mod solr;
mod spring;
mod url;
#[cfg(test)]
pub(super) mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use control::{Control, Override, Selector};
pub use detect::detect;
pub use fold::{fold, may_lead};

use crate::model::{
    Address, FormatName, Incarnation, Instance, InstanceId, Reading, RejectReason, Role, TlsChoice,
};

/// The most data that a node may hold, in bytes.
pub const MAX_DATA: usize = 1 << 20;

/// The deepest nesting of a JSON payload that is read.
pub const MAX_DEPTH: usize = 64;

/// Metadata of an instance while it is put together.
type Metadata = BTreeMap<Box<str>, Box<str>>;

/// One node of a registry, as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its whole path: `/services/orders/node1`. Some formats look at the folders above.
    pub path: &'a str,
    /// Which node of that path.
    pub incarnation: Incarnation,
    /// Its data.
    pub data: &'a [u8],
}

impl<'a> Node<'a> {
    /// The last component of its path.
    pub fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The component before the last, or nothing.
    pub fn parent(&self) -> &'a str {
        self.path.rsplit('/').nth(1).unwrap_or_default()
    }

    /// Whether one of the folders above it has this name.
    pub fn is_below(&self, folder: &str) -> bool {
        self.path.rsplit('/').skip(1).any(|segment| segment == folder)
    }

    /// An instance that says no more than where it listens.
    fn instance(&self, address: Address) -> Instance {
        let id = InstanceId { name: Arc::from(self.name()), incarnation: self.incarnation };
        Instance::new(id, address)
    }
}

/// What a service may set about the reading of its nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The port of registrations that name none.
    pub default_port: Option<u16>,
    /// Which of several named endpoints of a registration is taken.
    pub endpoint: Option<&'a str>,
    /// Which scheme, or protocol, is taken where the format names one.
    pub protocol: Option<&'a str>,
    /// Which ports are taken.
    pub tls: TlsChoice,
}

impl<'a> From<&'a Reading> for Options<'a> {
    fn from(reading: &'a Reading) -> Self {
        Self {
            default_port: reading.default_port,
            endpoint: reading.endpoint.as_deref(),
            protocol: reading.scheme.as_deref(),
            tls: reading.tls,
        }
    }
}

impl Options<'_> {
    /// Whether an instance of this scheme is wanted.
    fn takes_scheme(&self, scheme: Option<&str>) -> bool {
        self.protocol.zip(scheme).is_none_or(|(wanted, scheme)| scheme.eq_ignore_ascii_case(wanted))
    }

    /// Whether a port is wanted that speaks TLS, or does not, or does not say.
    fn takes_tls(&self, tls: Option<bool>) -> bool {
        match self.tls {
            TlsChoice::Prefer => true,
            TlsChoice::Never => tls != Some(true),
            TlsChoice::Require => tls == Some(true),
        }
    }

    /// The port among one for TLS and one without; and whether it is the former.
    fn choose_port(&self, tls: Option<u16>, plain: Option<u16>) -> Result<(u16, bool), DecodeError> {
        let tls = tls.filter(|_| self.tls != TlsChoice::Never).map(|port| (port, true));
        let plain = plain.filter(|_| self.tls != TlsChoice::Require).map(|port| (port, false));
        tls.or(plain).ok_or_else(|| match self.tls {
            TlsChoice::Prefer => address::missing_port(),
            TlsChoice::Never => DecodeError::new(RejectReason::MissingPort, "no port without TLS"),
            TlsChoice::Require => DecodeError::new(RejectReason::MissingPort, "no port with TLS"),
        })
    }
}

/// What a node turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// Instances: nearly always one.
    Instances(Vec<Instance>),
    /// A node that belongs to the layout and is no instance.
    Control(Control),
}

impl Decoded {
    fn one(instance: Instance) -> Self {
        Self::Instances(vec![instance])
    }
}

/// Why a node cannot be read. Displayed as `code: detail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .reason.code())]
pub struct DecodeError {
    /// The code.
    pub reason: RejectReason,
    /// In words, with what comes from the payload quoted, escaped and cut.
    pub detail: String,
}

impl DecodeError {
    fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    fn syntax(detail: impl Into<String>) -> Self {
        Self::new(RejectReason::Syntax, detail)
    }
}

/// A payload format. Implementations hold no state.
trait Format: Sync {
    /// What this node is.
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError>;

    /// The data of a node that announces `instance` as a member of `service`; `None` where the format is only read.
    fn encode(&self, _service: &str, _instance: &Instance) -> Option<Vec<u8>> {
        None
    }
}

fn by_name(name: FormatName) -> &'static dyn Format {
    match name {
        FormatName::Plain => &plain::Plain,
        FormatName::Url => &url::Url,
        FormatName::Json => &json::Json,
        FormatName::Curator => &curator::Curator,
        FormatName::NameAddr => &name_addr::NameAddr,
        FormatName::Spring => &spring::Spring,
        FormatName::DubboApp => &dubbo_app::DubboApp,
        FormatName::Dubbo => &dubbo::Dubbo,
        FormatName::Sofa => &sofa::Sofa,
        FormatName::ServerSet => &serverset::ServerSet,
        FormatName::Nerve => &nerve::Nerve,
        FormatName::D2 => &d2::D2,
        FormatName::Kafka => &kafka::Kafka,
        FormatName::Solr => &solr::Solr,
        FormatName::HBase => &hbase::HBase,
        FormatName::Hive => &hive::Hive,
        FormatName::Rpcx => &rpcx::Rpcx,
        FormatName::BookKeeper => &bookkeeper::BookKeeper,
        FormatName::Druid => &druid::Druid,
        FormatName::ClickHouse => &clickhouse::ClickHouse,
        FormatName::Kratos => &kratos::Kratos,
        FormatName::Kitex => &kitex::Kitex,
        FormatName::Ranger => &ranger::Ranger,
        FormatName::Numbered => &numbered::Numbered,
    }
}

/// Reads one node. Pure; never panics, whatever the bytes.
pub fn decode(format: FormatName, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
    if node.data.len() > MAX_DATA {
        let detail = format!("{} bytes, and at most {MAX_DATA} are read", node.data.len());
        return Err(DecodeError::new(RejectReason::TooLarge, detail));
    }
    match by_name(format).decode(node, options)? {
        Decoded::Instances(list) => wanted(list, options).map(Decoded::Instances),
        control @ Decoded::Control(_) => Ok(control),
    }
}

/// What holds of instances in every format: whether the service takes them, and the role that they name.
fn wanted(mut list: Vec<Instance>, options: Options<'_>) -> Result<Vec<Instance>, DecodeError> {
    list.retain(|instance| options.takes_scheme(instance.scheme.as_deref()));
    let before = list.len();
    list.retain(|instance| options.takes_tls(instance.tls));
    if list.is_empty() && before > 0 {
        return Err(options.choose_port(None, None).err().unwrap_or_else(address::missing_port));
    }
    for instance in &mut list {
        instance.role = instance.role.or_else(|| instance.metadata.get("role").and_then(|word| role(word)));
    }
    Ok(list)
}

/// The instances of a node with several endpoints, each named: those that are wanted; where that leaves more than one,
/// each with its endpoint in its id.
fn several(
    node: &Node<'_>,
    list: Vec<(String, Instance)>,
    options: Options<'_>,
) -> Result<Decoded, DecodeError> {
    let (names, list): (Vec<_>, Vec<_>) =
        list.into_iter().filter(|(_, instance)| options.takes_scheme(instance.scheme.as_deref())).unzip();
    let before = list.len();
    let mut left: Vec<_> =
        names.into_iter().zip(list).filter(|(_, instance)| options.takes_tls(instance.tls)).collect();
    if left.is_empty() && before > 0 {
        return Err(options.choose_port(None, None).err().unwrap_or_else(address::missing_port));
    }
    if left.len() > 1 {
        let mut given = std::collections::BTreeSet::new();
        for (name, instance) in &mut left {
            // Two endpoints of one name are told apart by their addresses.
            let id = if given.insert(name.clone()) {
                format!("{}#{name}", node.name())
            } else {
                format!("{}#{name}@{}", node.name(), instance.address)
            };
            instance.id.name = id.into();
        }
    }
    Ok(Decoded::Instances(left.into_iter().map(|(_, instance)| instance).collect()))
}

/// A role by the words that are in use for it.
fn role(word: &str) -> Option<Role> {
    let is = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word.trim_ascii()));
    match () {
        () if is(&["primary", "leader"]) => Some(Role::Primary),
        () if is(&["replica", "follower", "standby", "secondary"]) => Some(Role::Replica),
        () if is(&["master"]) => Some(Role::Master),
        () if is(&["slave"]) => Some(Role::Slave),
        () => None,
    }
}

/// The data of a node that announces `instance` as a member of `service`; `None` where the format is only read, which
/// [`FormatName::WRITABLE`] tells beforehand.
///
/// In `name_addr` the address is the node's name and the data is empty. `plain` and `nerve` have no fractions: a weight
/// is rounded there, though never down to 0. `serverset` and `numbered` know no weights.
pub fn encode(format: FormatName, service: &str, instance: &Instance) -> Option<Vec<u8>> {
    by_name(format).encode(service, instance)
}

/// Whether a folder of this name, where those of a catalog's services are, belongs to the format's layout and is no service.
pub fn is_control_folder(format: FormatName, name: &str) -> bool {
    format == FormatName::Numbered && numbered::is_no_group(name)
}

/// Text from outside, made fit for a message: quoted, escaped, at most 80 characters.
fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
