//! Payload formats: how a node's name and data become instances.
//!
//! One file a format, each a `Format`; [`detect()`] tells which one a node looks like. Everything here is
//! pure and bounded, and never panics: what a registry holds is untrusted. A new format is a file, a
//! variant of [`FormatName`], a line in `by_name` and the right-hand side of its rule in `detect`.

mod address;
mod bytes;
mod curator;
mod detect;
mod fields;
mod json;
mod name_addr;
mod plain;
mod url;
#[cfg(test)]
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use detect::{Look, detect};

use crate::model::{Address, FormatName, Incarnation, Instance, InstanceId, RejectReason};

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
pub struct Options {
    /// The port of registrations that name none.
    pub default_port: Option<u16>,
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

/// What a node that is no instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A client that announces its interest.
    Consumer,
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
    fn decode(&self, node: &Node<'_>, options: Options) -> Result<Decoded, DecodeError>;

    /// The data of a node that announces `instance` as a member of `service`.
    fn encode(&self, service: &str, instance: &Instance) -> Vec<u8>;
}

fn by_name(name: FormatName) -> &'static dyn Format {
    match name {
        FormatName::Plain => &plain::Plain,
        FormatName::Url => &url::Url,
        FormatName::Json => &json::Json,
        FormatName::Curator => &curator::Curator,
        FormatName::NameAddr => &name_addr::NameAddr,
    }
}

/// Reads one node. Pure; never panics, whatever the bytes.
pub fn decode(format: FormatName, node: &Node<'_>, options: Options) -> Result<Decoded, DecodeError> {
    if node.data.len() > MAX_DATA {
        let detail = format!("{} bytes, and at most {MAX_DATA} are read", node.data.len());
        return Err(DecodeError::new(RejectReason::TooLarge, detail));
    }
    by_name(format).decode(node, options)
}

/// The data of a node that announces `instance` as a member of `service`.
///
/// In `name_addr` the address is the node's name and the data is empty. `plain` has no fractions: a weight
/// is rounded there, though never down to 0.
pub fn encode(format: FormatName, service: &str, instance: &Instance) -> Vec<u8> {
    by_name(format).encode(service, instance)
}

/// Text from outside, made fit for a message: quoted, escaped, at most 80 characters.
fn quote(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}
