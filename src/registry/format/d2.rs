//! `d2`: LinkedIn's D2: one node announces URIs with weights by partition.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::url::Split;
use super::{DecodeError, Decoded, Format, Node, Options, fields, several};
use crate::model::Instance;

pub(super) struct D2;

impl Format for D2 {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let map = |key: &str| object.get(key).and_then(Value::as_object);
        let (partitions, weights) = (map("partitionDesc"), map("weights"));
        let properties = map("uriSpecificProperties");
        let uris: BTreeSet<&String> =
            partitions.into_iter().chain(weights).flat_map(serde_json::Map::keys).collect();
        let mut list = Vec::new();
        for uri in uris {
            let own = properties.and_then(|all| all.get(uri)).and_then(Value::as_object);
            let mut instance = self::instance(node, uri, own, options)?;
            let partition = partitions.and_then(|all| all.get(uri)).and_then(Value::as_object);
            instance.weight = match partition {
                Some(partition) => partition_weight(partition),
                None => fields::weight(weights.and_then(|all| all.get(uri)), 1.0),
            };
            list.push((uri.clone(), instance));
        }
        several(node, list, options)
    }
}

fn instance(
    node: &Node<'_>,
    uri: &str,
    properties: Option<&Map<String, Value>>,
    options: Options<'_>,
) -> Result<Instance, DecodeError> {
    let url = Split::of(uri)?;
    let mut instance = node.instance(url.address(options.default_port)?);
    if let Some(properties) = properties {
        fields::collect(&mut instance.metadata, properties, &[]);
        instance.enabled = properties.get("doNotLoadBalance").and_then(fields::flag) != Some(true);
    }
    instance.zone = fields::zone_of(&instance.metadata);
    if !matches!(url.path, "" | "/") {
        instance.metadata.insert("path".into(), url.path.into());
    }
    instance.tls = fields::tls_of(&url.scheme);
    instance.scheme = Some(url.scheme.into());
    Ok(instance)
}

/// The weight in partition 0, else the largest in any.
fn partition_weight(partitions: &Map<String, Value>) -> f64 {
    let weight = |partition: &Value| fields::weight(partition.get("weight"), 1.0);
    match partitions.get("0") {
        Some(partition) => weight(partition),
        None => partitions.values().map(weight).reduce(f64::max).unwrap_or(1.0),
    }
}
