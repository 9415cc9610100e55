//! `ranger`: Flipkart's Ranger.

use serde_json::Value;

use super::address::missing_port;
use super::{DecodeError, Decoded, Format, Node, Options, fields};
use crate::model::Address;

pub(super) struct Ranger;

impl Format for Ranger {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let host = fields::host(object.get("host"))?;
        let port = fields::port(object.get("port"))?.or(options.default_port).ok_or_else(missing_port)?;
        let mut instance = node.instance(Address { host, port });
        // A node that says nothing of its health is a healthy one: Ranger's own default.
        instance.enabled =
            object.get("healthcheckStatus").is_none_or(|status| status.as_str() == Some("healthy"));
        match object.get("nodeData") {
            Some(Value::Object(data)) => fields::collect(&mut instance.metadata, data, &[]),
            other => {
                let text = other.and_then(fields::as_text);
                instance.metadata.extend(text.map(|text| ("nodeData".into(), text.into())));
            }
        }
        instance.zone = fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }
}
