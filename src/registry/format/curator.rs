//! `curator`: Apache Curator's service discovery (`ServiceInstance` as JSON).

use serde_json::{Map, Value, json};

use super::address::missing_port;
use super::{DecodeError, Decoded, Format, Metadata, Node, Options, fields};
use crate::model::{Address, Instance};

/// What Spring Cloud tags its payloads with.
pub(super) const SPRING: &str = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";

/// What Dubbo 3 tags its payloads with.
pub(super) const DUBBO: &str = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance";

pub(super) struct Curator;

impl Format for Curator {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let payload = object.get("payload").unwrap_or(&Value::Null);
        let mut instance = self::instance(node, &object, options)?;
        // Of Spring's conventions only this one can do harm when its registrations are read as any other's.
        if class(payload) == Some(SPRING) && out_of_service(&instance) {
            instance.enabled = false;
        }
        Ok(Decoded::one(instance))
    }

    fn encode(&self, service: &str, instance: &Instance) -> Option<Vec<u8>> {
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
        Some(object.to_string().into_bytes())
    }
}

/// The class that a payload is tagged with.
pub(super) fn class(payload: &Value) -> Option<&str> {
    payload.get("@class").and_then(Value::as_str)
}

/// An instance as Curator itself writes it, its payload as metadata.
pub(super) fn instance(
    node: &Node<'_>,
    object: &Map<String, Value>,
    options: Options<'_>,
) -> Result<Instance, DecodeError> {
    let host = fields::host(object.get("address"))?;
    let ssl = ssl_port(object.get("sslPort"))?;
    let (port, tls) = match ssl {
        // What is wrong with a port that is not taken does not matter.
        Some(_) if options.choose_port(ssl, None).is_ok() => options.choose_port(ssl, None)?,
        _ => {
            let plain = fields::port(object.get("port"))?.or(options.default_port);
            if ssl.is_none() && plain.is_none() {
                return Err(missing_port());
            }
            options.choose_port(None, plain)?
        }
    };
    let mut instance = node.instance(Address { host, port });
    instance.tls = Some(tls);
    instance.metadata = metadata(object.get("payload").unwrap_or(&Value::Null));
    instance.weight = fields::weight_text(instance.metadata.get("weight").map(|text| &**text), 1.0);
    instance.zone = fields::zone_of(&instance.metadata);
    // DYNAMIC goes without saying. The other kinds stay when their process dies.
    if let Some(kind @ ("STATIC" | "PERMANENT")) = object.get("serviceType").and_then(Value::as_str) {
        instance.metadata.insert("serviceType".into(), kind.into());
    }
    instance.enabled = enabled(object.get("enabled"));
    instance.registered_ms = object.get("registrationTimeUTC").and_then(Value::as_u64);
    Ok(instance)
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
pub(super) fn enabled(value: Option<&Value>) -> bool {
    value.is_none_or(|value| fields::flag(value) == Some(true))
}

pub(super) fn metadata(payload: &Value) -> Metadata {
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

/// Whether a Spring Cloud application asks for no traffic.
pub(super) fn out_of_service(instance: &Instance) -> bool {
    instance
        .metadata
        .get("instance_status")
        .is_some_and(|status| !status.trim().is_empty() && !status.eq_ignore_ascii_case("UP"))
}
