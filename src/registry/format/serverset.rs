//! `serverset`: Twitter's and Finagle's ServerSets: members, and vectors with weights for them.

use serde_json::{Map, Value, json};

use super::address::missing_port;
use super::{Control, DecodeError, Decoded, Format, Node, Options, Selector, fields};
use crate::model::{Address, Instance, RejectReason};

/// The prefix of an additional endpoint's place in the metadata.
const ENDPOINT: &str = "endpoint.";

pub(super) struct ServerSet;

impl Format for ServerSet {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let member = object.contains_key("serviceEndpoint") || object.contains_key("additionalEndpoints");
        if node.name().starts_with("vector_") || !member && object.contains_key("vector") {
            return Ok(Decoded::Control(Control::Vector(vector(object.get("vector")))));
        }
        let additional = object.get("additionalEndpoints").and_then(Value::as_object);
        let chosen = match options.endpoint {
            None => object.get("serviceEndpoint").filter(|value| !value.is_null()),
            Some(name) => match additional.and_then(|all| all.get(name)) {
                // Not offered here.
                None => return Ok(Decoded::Instances(Vec::new())),
                chosen => chosen,
            },
        };
        let Some(endpoint) = chosen.and_then(Value::as_object) else {
            return Err(DecodeError::new(RejectReason::MissingHost, "no endpoint"));
        };
        let mut instance = node.instance(address(endpoint, options)?);
        instance.enabled = object.get("status").and_then(Value::as_str) == Some("ALIVE");
        let metadata = &mut instance.metadata;
        let known = ["serviceEndpoint", "additionalEndpoints", "status", "metadata"];
        fields::collect(metadata, &object, &known);
        fields::collect(metadata, endpoint, &["host", "port"]);
        if let Some(map) = object.get("metadata").and_then(Value::as_object) {
            fields::collect(metadata, map, &[]);
        }
        for (name, endpoint) in additional.into_iter().flatten() {
            // One that cannot be read is missed by nobody who did not ask for it.
            if let Some(address) =
                endpoint.as_object().and_then(|endpoint| self::address(endpoint, options).ok())
            {
                metadata.insert(format!("{ENDPOINT}{name}").into(), address.to_string().into());
            }
        }
        instance.zone = fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        let (mut additional, mut metadata) = (Map::new(), Map::new());
        let endpoint = |address: &Address| json!({ "host": address.host.to_string(), "port": address.port });
        let shard = instance.metadata.get("shard").and_then(|text| text.parse::<i64>().ok());
        for (key, value) in &instance.metadata {
            match key.strip_prefix(ENDPOINT).and_then(|name| Some((name, value.parse::<Address>().ok()?))) {
                Some((name, address)) => {
                    additional.insert(name.to_owned(), endpoint(&address));
                }
                None if &**key == "shard" && shard.is_some() => {}
                None => {
                    metadata.insert(key.to_string(), (&**value).into());
                }
            }
        }
        if let Some(zone) = &instance.zone {
            metadata.insert("zone".to_owned(), (&**zone).into());
        }
        let mut object = json!({
            "serviceEndpoint": endpoint(&instance.address),
            "additionalEndpoints": additional,
            "status": if instance.enabled { "ALIVE" } else { "STOPPED" },
        });
        if let Some(shard) = shard {
            object["shard"] = shard.into();
        }
        if !metadata.is_empty() {
            object["metadata"] = metadata.into();
        }
        Some(object.to_string().into_bytes())
    }
}

fn address(endpoint: &Map<String, Value>, options: Options<'_>) -> Result<Address, DecodeError> {
    let host = fields::host(endpoint.get("host"))?;
    let port = fields::port(endpoint.get("port"))?.or(options.default_port).ok_or_else(missing_port)?;
    Ok(Address { host, port })
}

/// The weights of a vector; entries that select nothing known are dropped.
fn vector(entries: Option<&Value>) -> Vec<(Selector, f64)> {
    let entry = |entry: &Value| {
        let selector = Selector::of(entry.get("select")?.as_str()?)?;
        let weight = entry.get("weight").map_or(Some(1.0), Value::as_f64)?;
        Some((selector, weight))
    };
    entries.and_then(Value::as_array).into_iter().flatten().filter_map(entry).collect()
}
