//! Fields of payloads: JSON objects, and the readings of weight, zone, flags and schemes that formats share.

use serde_json::{Map, Value};

use super::address::{self, bad_port, port_text};
use super::{DecodeError, MAX_DEPTH, Metadata, bytes};
use crate::model::{Host, RejectReason};

/// Where an instance's failure domain may stand, best first.
const ZONE_KEYS: [&str; 6] =
    ["zone", "availability_zone", "availabilityZone", "az", "topology.kubernetes.io/zone", "rack"];

/// The JSON object that a node's data is.
pub(super) fn object(data: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    let text = bytes::text(data)?;
    if too_deep(text.as_bytes()) {
        return Err(DecodeError::syntax(format!("JSON nested deeper than {MAX_DEPTH}")));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(DecodeError::syntax("JSON, and no object")),
        Err(e) => Err(DecodeError::syntax(format!("no JSON object: {e}"))),
    }
}

/// A JSON value within a payload that is text itself. `None` where that is broken or too deep.
pub(super) fn nested(text: &str) -> Option<Value> {
    if too_deep(text.as_bytes()) { None } else { serde_json::from_str(text).ok() }
}

/// A host in a field of its own.
pub(super) fn host(value: Option<&Value>) -> Result<Host, DecodeError> {
    match value {
        None | Some(Value::Null) => Err(DecodeError::new(RejectReason::MissingHost, "no host")),
        Some(Value::String(text)) => address::host(text),
        Some(other) => Err(address::bad_host(&other.to_string(), "is no text")),
    }
}

/// Whether JSON text nests deeper than is read. Counts brackets outside of strings.
fn too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A value as metadata holds it: strings as they are, null not at all, the rest as compact JSON.
pub(super) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Adds an object's fields to metadata, but for Java's class tags and the fields named.
pub(super) fn collect(into: &mut Metadata, from: &Map<String, Value>, except: &[&str]) {
    for (key, value) in from {
        if key == "@class" || except.contains(&key.as_str()) {
            continue;
        }
        if let Some(text) = as_text(value) {
            into.insert(key.as_str().into(), text.into());
        }
    }
}

/// The first zone that is not empty, over the usual keys and then over `sources`.
pub(super) fn zone<'a, I>(sources: impl Fn(&'static str) -> I) -> Option<Box<str>>
where
    I: IntoIterator<Item = Option<std::borrow::Cow<'a, str>>>,
{
    ZONE_KEYS.iter().flat_map(|key| sources(key)).flatten().find_map(|found| {
        let found = found.trim_ascii();
        (!found.is_empty()).then(|| found.into())
    })
}

/// The zone that metadata names.
pub(super) fn zone_of(metadata: &Metadata) -> Option<Box<str>> {
    zone(|key| [metadata.get(key).map(|text| std::borrow::Cow::Borrowed(&**text))])
}

/// A weight as text: the default where it is no finite number, 0 where it is negative.
pub(super) fn weight_text(text: Option<&str>, default: f64) -> f64 {
    sound_weight(text.and_then(|text| text.trim_ascii().parse().ok()), default)
}

/// A weight as a JSON number or as text in a string.
pub(super) fn weight(value: Option<&Value>, default: f64) -> f64 {
    match value {
        Some(Value::String(text)) => weight_text(Some(text), default),
        other => sound_weight(other.and_then(Value::as_f64), default),
    }
}

/// A weight for a format without fractions: rounded, though never down to 0.
pub(super) fn whole_weight(weight: f64) -> u64 {
    if weight > 0.0 { weight.round().max(1.0) as u64 } else { 0 }
}

/// A weight that is one, whatever the number.
pub(super) fn sound_weight(weight: Option<f64>, default: f64) -> f64 {
    match weight {
        Some(weight) if !weight.is_finite() => default,
        Some(weight) if weight > 0.0 => weight,
        Some(_) => 0.0,
        None => default,
    }
}

/// A port as Jackson reads one: a number, an integral float, or digits in a string.
pub(super) fn port(value: Option<&Value>) -> Result<Option<u16>, DecodeError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => port_text(text),
        Some(number @ Value::Number(_)) => match number.as_f64() {
            Some(n) if n.fract() == 0.0 && (1.0..=65535.0).contains(&n) => Ok(Some(n as u16)),
            _ => Err(bad_port(&number.to_string())),
        },
        Some(other) => Err(bad_port(&other.to_string())),
    }
}

/// A yes or no as text.
pub(super) fn flag_text(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.trim_ascii().eq_ignore_ascii_case(word));
    match text {
        _ if is(["true", "1", "yes", "on"]) => Some(true),
        _ if is(["false", "0", "no", "off"]) => Some(false),
        _ => None,
    }
}

/// A yes or no as JSON: a boolean, a number (0 is no), or text.
pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => number.as_f64().map(|n| n != 0.0),
        Value::String(text) => flag_text(text),
        _ => None,
    }
}

/// Whether a scheme means TLS; `None` where it does not tell.
pub(super) fn tls_of(scheme: &str) -> Option<bool> {
    match scheme {
        "https" | "wss" | "grpcs" | "tls" | "ssl" | "rediss" | "quic" | "mqtts" | "amqps" => Some(true),
        "http" | "ws" | "h2c" | "grpc" | "redis" | "mqtt" | "amqp" => Some(false),
        _ => None,
    }
}

/// The port that a scheme has of its own.
pub(super) fn port_of(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" | "ws" | "h2c" => 80,
        "https" | "wss" => 443,
        "redis" | "rediss" => 6379,
        "mqtt" => 1883,
        "mqtts" => 8883,
        "amqp" => 5672,
        "amqps" => 5671,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_coerced_as_jackson_does_and_no_further() {
        for ok in [json!(80), json!(80.0), json!("80"), json!(" 80 ")] {
            assert_eq!(port(Some(&ok)).unwrap(), Some(80), "{ok}");
        }
        for missing in [None, Some(json!(null)), Some(json!(""))] {
            assert_eq!(port(missing.as_ref()).unwrap(), None);
        }
        for bad in [
            json!(0),
            json!(-1),
            json!(65536),
            json!(80.5),
            json!("x"),
            json!(true),
            json!([80]),
            json!(1e300),
        ] {
            assert_eq!(port(Some(&bad)).unwrap_err().reason.code(), "bad_port", "{bad}");
        }
    }

    #[test]
    fn a_weight_is_finite_and_not_negative_whatever_is_written() {
        for (value, expected) in [
            (json!(2.5), 2.5),
            (json!("30"), 30.0),
            (json!(0), 0.0),
            (json!(-3), 0.0),
            (json!("-inf"), 7.0),
            (json!("NaN"), 7.0),
            (json!("1e999"), 7.0),
            (json!("heavy"), 7.0),
            (json!(true), 7.0),
            (json!(null), 7.0),
        ] {
            assert_eq!(weight(Some(&value), 7.0).to_bits(), f64::to_bits(expected), "{value}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(object(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert!(object(nested(MAX_DEPTH).as_bytes()).is_err());
        assert!(object(format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(500)).as_bytes()).is_ok());
        assert!(object("[".repeat(1 << 20).as_bytes()).is_err());
    }
}
