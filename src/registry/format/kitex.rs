//! `kitex`: the node's name is the address, its data a weight and tags.

use serde_json::Value;

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options, fields};
use crate::model::FormatName;

pub(super) struct Kitex;

impl Format for Kitex {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let mut instance = node.instance(Parts::of(node.name())?.address(options.default_port)?);
        instance.weight = fields::weight(object.get("Weight"), FormatName::Kitex.default_weight());
        if let Some(tags) = object.get("Tags").and_then(Value::as_object) {
            fields::collect(&mut instance.metadata, tags, &[]);
        }
        instance.zone = fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }
}
