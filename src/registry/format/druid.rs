//! `druid`: Druid's nodes, from `internal-discovery/ROLE` and from `announcements`.

use serde_json::{Map, Value};

use super::address::{Parts, missing_port};
use super::{DecodeError, Decoded, Format, Node, Options, fields};
use crate::model::{Address, Host, RejectReason};

pub(super) struct Druid;

impl Format for Druid {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let inner = object.get("druidNode").and_then(Value::as_object);
        let (host, tls, plain) = match inner {
            Some(inner) => discovered(inner)?,
            None => announced(&object)?,
        };
        let plain = plain.or(options.default_port.filter(|_| tls.is_none()));
        if tls.is_none() && plain.is_none() {
            return Err(missing_port());
        }
        let (port, secure) = options.choose_port(tls, plain)?;
        let mut instance = node.instance(Address { host, port });
        instance.tls = Some(secure);
        for (from, keys) in
            [(inner, &["service"][..]), (Some(&object), &["nodeType", "type", "tier", "priority"][..])]
        {
            for key in keys {
                if let Some(text) = from.and_then(|map| map.get(*key)).and_then(fields::as_text) {
                    instance.metadata.insert((*key).into(), text.into());
                }
            }
        }
        Ok(Decoded::one(instance))
    }
}

type Ports = (Host, Option<u16>, Option<u16>);

fn discovered(node: &Map<String, Value>) -> Result<Ports, DecodeError> {
    let host = fields::host(node.get("host"))?;
    let tls = port(node.get("tlsPort"))?;
    let plain = match port(node.get("plaintextPort"))? {
        Some(port) => Some(port),
        // Where older versions wrote it.
        None => port(node.get("port"))?,
    };
    let offered = node.get("enablePlaintextPort").and_then(fields::flag) != Some(false);
    Ok((host, tls, plain.filter(|_| offered)))
}

/// Here an address stands in one field, with and without TLS.
fn announced(object: &Map<String, Value>) -> Result<Ports, DecodeError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let plain = text("host").map(Parts::of).transpose()?;
    let tls = text("hostAndTlsPort").map(Parts::of).transpose()?;
    let host = tls.or(plain).ok_or_else(|| DecodeError::new(RejectReason::MissingHost, "no host"))?.host()?;
    let port = |parts: Option<Parts<'_>>| parts.map_or(Ok(None), |parts| parts.port());
    Ok((host, port(tls)?, port(plain)?))
}

/// A port, where 0 and less stand for none.
fn port(value: Option<&Value>) -> Result<Option<u16>, DecodeError> {
    if value.and_then(Value::as_f64).is_some_and(|number| number <= 0.0) {
        Ok(None)
    } else {
        fields::port(value)
    }
}
