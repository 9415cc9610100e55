//! `spring`: Spring Cloud Zookeeper, which is Curator's format with a payload of its own.

use super::{DecodeError, Decoded, Format, Node, Options, curator, fields};

pub(super) struct Spring;

impl Format for Spring {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        // Applications that speak both register both in one folder, and Dubbo's port speaks no HTTP.
        if object.get("payload").and_then(curator::class) == Some(curator::DUBBO) {
            return Err(DecodeError::syntax("a Dubbo application's registration, not Spring Cloud's"));
        }
        let mut instance = curator::instance(node, &object, options)?;
        instance.enabled = instance.enabled && !curator::out_of_service(&instance);
        Ok(Decoded::one(instance))
    }
}
