//! `clickhouse`: clusters that ClickHouse discovers, and the replicas of its tables.
//!
//! A replica's address stays when its server dies: `is_active` beside it is what its session keeps.

use std::sync::Arc;

use serde_json::Value;

use super::address::{self, Parts, missing_port};
use super::{Control, DecodeError, Decoded, Format, Node, Options, bytes, fields, quote};
use crate::model::{Address, RejectReason};

/// The folder of a table's replicas.
const REPLICAS: &str = "replicas";

pub(super) struct ClickHouse;

impl Format for ClickHouse {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let mut above = node.path.rsplit('/').skip(1);
        let (parent, replicas) = (above.next(), above.next());
        match node.name() {
            name if parent == Some(REPLICAS) => Ok(Decoded::Control(Control::Replica(name.into()))),
            "is_active" if replicas == Some(REPLICAS) => {
                Ok(Decoded::Control(Control::Active(node.parent().into())))
            }
            name if name != "host" && replicas == Some(REPLICAS) => Ok(Decoded::Control(Control::Ignored)),
            _ if bytes::text(node.data)?.starts_with('{') => shard(node, options),
            _ => replica(node, options),
        }
    }
}

/// `shards/UUID`: JSON.
fn shard(node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
    let object = fields::object(node.data)?;
    match object.get("version") {
        Some(version) if version.as_f64().is_some_and(|version| version.to_bits() == 1f64.to_bits()) => {}
        other => {
            let found = other.map_or("none".to_owned(), |version| quote(&version.to_string()));
            return Err(DecodeError::new(RejectReason::UnsupportedVersion, format!("version: {found}")));
        }
    }
    let text = object.get("address").and_then(Value::as_str).unwrap_or_default();
    let mut instance = node.instance(Parts::of(text.trim_ascii())?.address(options.default_port)?);
    instance.tls = object.get("secure").and_then(fields::flag);
    fields::collect(&mut instance.metadata, &object, &["version", "address", "secure"]);
    instance.zone = fields::zone_of(&instance.metadata);
    Ok(Decoded::one(instance))
}

/// `replicas/NAME/host`: lines of `key: value`. `port` is for other replicas; queries go to `tcp_port`.
fn replica(node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
    let text = bytes::text(node.data)?;
    let lines: Vec<_> = text.lines().filter_map(|line| line.split_once(": ")).collect();
    let get = |wanted: &str| {
        lines.iter().find(|(key, _)| key.trim_ascii() == wanted).map(|(_, value)| value.trim_ascii())
    };
    if lines.is_empty() && !text.is_empty() {
        return Err(DecodeError::syntax(format!("neither JSON nor lines of key: value: {}", quote(text))));
    }
    let host = address::host(get("host").unwrap_or_default())?;
    let port = address::port_text(get("tcp_port").unwrap_or_default())?;
    let address = Address { host, port: port.or(options.default_port).ok_or_else(missing_port)? };
    let mut instance = node.instance(address);
    if node.name() == "host" && !node.parent().is_empty() {
        instance.id.name = Arc::from(node.parent());
    }
    for (key, value) in &lines {
        instance.metadata.insert(key.trim_ascii().into(), value.trim_ascii().into());
    }
    Ok(Decoded::one(instance))
}
