//! `nerve`: Airbnb's nerve and synapse (SmartStack).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::address::missing_port;
use super::{DecodeError, Decoded, Format, Node, Options, fields, quote};
use crate::model::{Address, Instance};

/// Options for HAProxy, in which some words concern everybody.
const HAPROXY: &str = "haproxy_server_options";

pub(super) struct Nerve;

impl Format for Nerve {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let data = match node.name().strip_prefix("base64_") {
            // Then the name alone counts, as it does for synapse.
            Some(encoded) => Cow::Owned(from_name(encoded)?),
            None => Cow::Borrowed(node.data),
        };
        let object = fields::object(&data)?;
        let host = fields::host(object.get("host"))?;
        let port = fields::port(object.get("port"))?.or(options.default_port).ok_or_else(missing_port)?;
        let mut instance = node.instance(Address { host, port });
        fields::collect(&mut instance.metadata, &object, &["host", "port", "weight", "labels"]);
        if let Some(labels) = object.get("labels").and_then(Value::as_object) {
            fields::collect(&mut instance.metadata, labels, &[]);
        }
        let weight = object.get("weight").filter(|weight| !weight.is_null());
        instance.weight = fields::weight(weight, 1.0);
        let haproxy = object.get(HAPROXY).and_then(Value::as_str).unwrap_or_default();
        let mut words = haproxy.split_ascii_whitespace();
        while let Some(word) = words.next() {
            match word {
                "backup" => {
                    instance.metadata.insert("backup".into(), "true".into());
                }
                "disabled" => instance.enabled = false,
                "ssl" => instance.tls = Some(true),
                "weight" => {
                    let own = words.next();
                    if weight.is_none() {
                        instance.weight = fields::weight_text(own, 1.0);
                    }
                }
                _ => {}
            }
        }
        instance.zone = fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        let mut labels = Map::new();
        for (key, value) in &instance.metadata {
            labels.insert(key.to_string(), (&**value).into());
        }
        if let Some(zone) = &instance.zone {
            labels.insert("zone".to_owned(), (&**zone).into());
        }
        let words = [(!instance.enabled, "disabled"), (instance.tls == Some(true), "ssl")];
        let words: Vec<_> = words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).collect();
        let mut object = json!({
            "host": instance.address.host.to_string(),
            "port": instance.address.port,
            "name": &*instance.id.name,
        });
        let weight = fields::whole_weight(instance.weight);
        if weight != 1 {
            object["weight"] = weight.into();
        }
        if !words.is_empty() {
            object[HAPROXY] = words.join(" ").into();
        }
        if !labels.is_empty() {
            object["labels"] = labels.into();
        }
        Some(object.to_string().into_bytes())
    }
}

/// The JSON in a name of the form `base64_LENGTH_TEXT_SEQUENCE`. The alphabet has `_` in it: the length cuts.
fn from_name(encoded: &str) -> Result<Vec<u8>, DecodeError> {
    let broken = |why: &str| DecodeError::syntax(format!("{why} in the name: base64_{}", quote(encoded)));
    let (length, rest) = encoded.split_once('_').ok_or_else(|| broken("no length"))?;
    let length: usize = length.parse().map_err(|_| broken("no length"))?;
    let text = rest.get(..length).ok_or_else(|| broken("less than the length says"))?;
    base64(text.as_bytes()).ok_or_else(|| broken("broken base64"))
}

/// URL-safe base64, padded or not. The usual alphabet is taken too.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let (digits, padding) = text.split_at(end);
    if padding.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' | b'+' => 62,
                b'_' | b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - chunk.len());
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend(&bytes[..chunk.len() - 1]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_padded_or_not_and_refused_when_broken() {
        for (text, bytes) in
            [("", &b""[..]), ("TQ==", b"M"), ("TWE=", b"Ma"), ("TWFu", b"Man"), ("TWE", b"Ma")]
        {
            assert_eq!(base64(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(base64(b"-_-_"), Some(vec![0xfb, 0xff, 0xbf]));
        for broken in ["T", "TQ=a", "T===", "T W=", "\u{e9}\u{e9}"] {
            assert_eq!(base64(broken.as_bytes()), None, "{broken}");
        }
    }
}
