//! `curator`: Apache Curator's service discovery (`ServiceInstance` as JSON).

use serde_json::{Value, json};

use super::address::{self, missing_port};
use super::{DecodeError, Decoded, Format, Metadata, Node, Options, fields};
use crate::model::{Address, Instance, RejectReason};

/// What Spring Cloud tags its payloads with.
const SPRING: &str = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";

pub(super) struct Curator;

impl Format for Curator {
    fn decode(&self, node: &Node<'_>, options: Options) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let host = match object.get("address") {
            None | Some(Value::Null) => {
                return Err(DecodeError::new(RejectReason::MissingHost, "no address"));
            }
            Some(Value::String(text)) => address::host(text)?,
            Some(other) => return Err(address::bad_host(&other.to_string(), "is no text")),
        };
        let (port, tls) = match ssl_port(object.get("sslPort"))? {
            Some(port) => (port, true),
            None => {
                (fields::port(object.get("port"))?.or(options.default_port).ok_or_else(missing_port)?, false)
            }
        };
        let payload = object.get("payload").unwrap_or(&Value::Null);
        let mut instance = node.instance(Address { host, port });
        instance.tls = Some(tls);
        instance.metadata = metadata(payload);
        instance.weight = fields::weight_text(instance.metadata.get("weight").map(|text| &**text), 1.0);
        instance.zone = fields::zone_of(&instance.metadata);
        instance.enabled = enabled(object.get("enabled")) && !out_of_service(payload, &instance.metadata);
        instance.registered_ms = object.get("registrationTimeUTC").and_then(Value::as_u64);
        Ok(Decoded::one(instance))
    }

    fn encode(&self, service: &str, instance: &Instance) -> Vec<u8> {
        let tls = instance.tls == Some(true);
        let port = instance.address.port;
        let mut payload = json!(instance.metadata);
        if instance.weight.to_bits() != 1f64.to_bits() {
            payload["weight"] = instance.weight.to_string().into();
        }
        if let Some(zone) = &instance.zone {
            payload["zone"] = (&**zone).into();
        }
        // Curator's readers need the tag to make a map of it.
        if payload.as_object().is_some_and(serde_json::Map::is_empty) {
            payload = Value::Null;
        } else {
            payload["@class"] = "java.util.HashMap".into();
        }
        let mut object = json!({
            "name": service,
            "id": &*instance.id.name,
            "address": instance.address.host.to_string(),
            "port": (!tls).then_some(port),
            "sslPort": tls.then_some(port),
            "payload": payload,
            "registrationTimeUTC": instance.registered_ms.unwrap_or(0),
            "serviceType": "DYNAMIC",
            "uriSpec": null,
        });
        // Absent means enabled, and old readers refuse the key.
        if !instance.enabled {
            object["enabled"] = false.into();
        }
        object.to_string().into_bytes()
    }
}

/// The TLS port, where there is one: Java writes 0 or -1 for none as well as null.
fn ssl_port(value: Option<&Value>) -> Result<Option<u16>, DecodeError> {
    let number = match value {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim_ascii().parse().ok(),
        _ => None,
    };
    if number.is_some_and(|number| number <= 0.0) { Ok(None) } else { fields::port(value) }
}

/// As Jackson fills a primitive boolean: absent is the default, null is false.
fn enabled(value: Option<&Value>) -> bool {
    value.is_none_or(|value| fields::flag(value) == Some(true))
}

fn metadata(payload: &Value) -> Metadata {
    let mut metadata = Metadata::new();
    match payload {
        Value::Object(map) => {
            let inner = map.get("metadata").and_then(Value::as_object);
            fields::collect(&mut metadata, map, if inner.is_some() { &["metadata"] } else { &[] });
            if let Some(inner) = inner {
                fields::collect(&mut metadata, inner, &[]);
            }
        }
        // A list is written beside its type: ["java.util.ArrayList", […]].
        Value::Array(pair) if pair.len() == 2 && pair[0].is_string() && pair[1].is_array() => {
            metadata.insert("payload".into(), pair[1].to_string().into());
        }
        other => metadata.extend(fields::as_text(other).map(|text| ("payload".into(), text.into()))),
    }
    metadata
}

/// Whether a Spring Cloud application asks for no traffic. Of its conventions only this one can do harm
/// when it is read as any other Curator payload.
fn out_of_service(payload: &Value, metadata: &Metadata) -> bool {
    payload.get("@class").and_then(Value::as_str) == Some(SPRING)
        && metadata.get("instance_status").is_some_and(|status| {
            let status = status.trim_ascii();
            !status.is_empty() && !status.eq_ignore_ascii_case("UP")
        })
}
