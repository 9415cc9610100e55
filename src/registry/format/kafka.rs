//! `kafka`: Kafka's brokers, `brokers/ids/N`.

use serde_json::{Map, Value};

use super::address::{Parts, missing_port};
use super::{DecodeError, Decoded, Format, Node, Options, fields, quote, several};
use crate::model::{Address, Instance, RejectReason};

pub(super) struct Kafka;

impl Format for Kafka {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        if let Some(version) = object.get("version")
            && !version.as_f64().is_some_and(|version| version >= 1.0)
        {
            let detail = format!("version {}", quote(&version.to_string()));
            return Err(DecodeError::new(RejectReason::UnsupportedVersion, detail));
        }
        let endpoints = match object.get("endpoints") {
            Some(Value::Array(endpoints)) if object.get("version").and_then(Value::as_u64) != Some(1) => {
                endpoints
            }
            _ => {
                // The first version has one address and no TLS.
                let host = fields::host(object.get("host"))?;
                let port =
                    fields::port(object.get("port"))?.or(options.default_port).ok_or_else(missing_port)?;
                let mut instance = broker(node, Address { host, port }, &object);
                instance.tls = Some(false);
                let elsewhere =
                    options.endpoint.is_some_and(|wanted| !wanted.eq_ignore_ascii_case("PLAINTEXT"));
                return Ok(Decoded::Instances(if elsewhere { Vec::new() } else { vec![instance] }));
            }
        };
        if endpoints.is_empty() {
            return Err(DecodeError::new(RejectReason::MissingHost, "no endpoint"));
        }
        let protocols = object.get("listener_security_protocol_map").and_then(Value::as_object);
        let mut list = Vec::new();
        for endpoint in endpoints {
            let text = endpoint.as_str().unwrap_or_default().trim_ascii();
            let (listener, address) = text.split_once("://").ok_or_else(|| {
                DecodeError::syntax(format!("no endpoint: {}", quote(&endpoint.to_string())))
            })?;
            if options.endpoint.is_some_and(|wanted| wanted != listener) {
                continue;
            }
            let protocol =
                protocols.and_then(|map| map.get(listener)).and_then(Value::as_str).unwrap_or(listener);
            if options.protocol.is_some_and(|wanted| !protocol.eq_ignore_ascii_case(wanted)) {
                continue;
            }
            let address = Parts::of(address)?.address(options.default_port)?;
            let mut instance = broker(node, address, &object);
            instance.tls = tls(protocol);
            instance.metadata.insert("listener".into(), listener.into());
            list.push((listener.to_owned(), instance));
        }
        several(node, list, options)
    }
}

fn broker(node: &Node<'_>, address: Address, object: &Map<String, Value>) -> Instance {
    let mut instance = node.instance(address);
    for key in ["version", "rack"] {
        if let Some(text) = object.get(key).and_then(fields::as_text) {
            instance.metadata.insert(key.into(), text.into());
        }
    }
    instance.zone = fields::zone_of(&instance.metadata);
    let started = object.get("timestamp").and_then(fields::as_text);
    instance.registered_ms = started.and_then(|text| text.parse().ok());
    instance
}

fn tls(protocol: &str) -> Option<bool> {
    match protocol.to_ascii_uppercase().as_str() {
        "SSL" | "SASL_SSL" => Some(true),
        "PLAINTEXT" | "SASL_PLAINTEXT" => Some(false),
        _ => None,
    }
}
