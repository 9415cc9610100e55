//! `json`: an object with a host under one of the usual keys.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::address::{self, Parts, missing_port};
use super::{DecodeError, Decoded, Format, Metadata, Node, Options, fields};
use crate::model::{Address, Instance, RejectReason};

/// Where the host may stand, best first.
pub(super) const HOST_KEYS: [&str; 8] =
    ["ip", "ipAddr", "ipAddress", "host", "address", "addr", "hostname", "hostName"];

/// Where the word on TLS may stand, best first.
const TLS_KEYS: [&str; 4] = ["tls", "ssl", "secure", "https"];

/// What a `status` says of an instance that wants traffic, in any case.
const UP: [&str; 5] = ["UP", "ALIVE", "HEALTHY", "ONLINE", "PASSING"];

/// Maps of text within the object, in which a zone may stand too.
const MAPS: [&str; 3] = ["metadata", "labels", "params"];

/// Fields that have a place of their own in an instance.
const OWN: [&str; 6] = ["port", "weight", "enabled", "disabled", "status", "metadata"];

pub(super) struct Json;

impl Format for Json {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let mut instance = node.instance(self::address(&object, options)?);
        instance.weight = fields::weight(object.get("weight"), 1.0);
        instance.enabled = enabled(&object);
        instance.tls = TLS_KEYS.iter().filter_map(|key| object.get(*key)).find_map(fields::flag);
        let maps: Vec<_> = MAPS.iter().filter_map(|key| object.get(*key)?.as_object()).collect();
        instance.zone = fields::zone(|key| {
            std::iter::once(&object)
                .chain(maps.iter().copied())
                .map(|map| map.get(key).and_then(fields::as_text).map(Cow::Owned))
                .collect::<Vec<_>>()
        });
        instance.metadata = metadata(&object);
        Ok(Decoded::one(instance))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        let mut object = json!({
            "host": instance.address.host.to_string(),
            "port": instance.address.port,
            "weight": instance.weight,
        });
        if let Some(tls) = instance.tls {
            object["tls"] = tls.into();
        }
        if let Some(zone) = &instance.zone {
            object["zone"] = (&**zone).into();
        }
        if !instance.enabled {
            object["enabled"] = false.into();
        }
        if !instance.metadata.is_empty() {
            object["metadata"] = json!(instance.metadata);
        }
        Some(object.to_string().into_bytes())
    }
}

fn address(object: &Map<String, Value>, options: Options<'_>) -> Result<Address, DecodeError> {
    let host = HOST_KEYS.iter().filter_map(|key| object.get(*key)).find(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.trim_ascii().is_empty(),
        _ => true,
    });
    let text = match host {
        None => return Err(DecodeError::new(RejectReason::MissingHost, "no host")),
        Some(Value::String(text)) => text.trim_ascii(),
        Some(other) => return Err(address::bad_host(&other.to_string(), "is no text")),
    };
    let parts = Parts::of(text)?;
    let host = parts.host()?;
    let port = match fields::port(object.get("port"))? {
        Some(port) => port,
        None => parts.port()?.or(options.default_port).ok_or_else(missing_port)?,
    };
    Ok(Address { host, port })
}

fn enabled(object: &Map<String, Value>) -> bool {
    let flag = |key: &str| object.get(key).and_then(fields::flag);
    let wanted = match flag("disabled") {
        Some(disabled) => !disabled,
        None => flag("enabled") != Some(false),
    };
    let up = match object.get("status") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(up)) => *up,
        Some(Value::String(text)) => {
            let text = text.trim_ascii();
            text.is_empty() || UP.iter().any(|word| word.eq_ignore_ascii_case(text))
        }
        Some(_) => false,
    };
    wanted && up
}

/// What has no other place: the fields that nobody knows, and the `metadata` map, which wins.
fn metadata(object: &Map<String, Value>) -> Metadata {
    let mut metadata = Metadata::new();
    let known: Vec<&str> = OWN.iter().chain(&HOST_KEYS).chain(&TLS_KEYS).copied().collect();
    fields::collect(&mut metadata, object, &known);
    match object.get("metadata") {
        Some(Value::Object(inner)) => fields::collect(&mut metadata, inner, &[]),
        Some(other) => {
            metadata.extend(fields::as_text(other).map(|text| ("metadata".into(), text.into())));
        }
        None => {}
    }
    metadata
}
