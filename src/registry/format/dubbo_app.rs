//! `dubbo_app`: Apache Dubbo 3, registered by application: Curator's format with a payload of its own.

use serde_json::Value;

use super::address::missing_port;
use super::{DecodeError, Decoded, Format, Metadata, Node, Options, curator, fields};
use crate::model::{Address, FormatName};

/// What the application's exported services are hashed to; older versions used the second name.
const REVISIONS: [&str; 2] = ["dubbo.metadata.revision", "dubbo.exported-services.revision"];

pub(super) struct DubboApp;

impl Format for DubboApp {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let payload = object.get("payload").unwrap_or(&Value::Null);
        if curator::class(payload) == Some(curator::SPRING) {
            return Err(DecodeError::syntax("a Spring Cloud registration, not a Dubbo application's"));
        }
        let host = fields::host(object.get("address"))?;
        let metadata = curator::metadata(payload);
        let endpoints = endpoints(&metadata);
        let (port, scheme) = if let Some(wanted) = options.protocol {
            match endpoints.into_iter().find(|(protocol, _)| protocol.eq_ignore_ascii_case(wanted)) {
                Some((protocol, port)) => (port, Some(protocol)),
                None => return Ok(Decoded::Instances(Vec::new())),
            }
        } else {
            let own = fields::port(object.get("port"))?.or(options.default_port).ok_or_else(missing_port)?;
            (own, endpoints.into_iter().find(|(_, port)| *port == own).map(|(protocol, _)| protocol))
        };
        let mut instance = node.instance(Address { host, port });
        let text = |key: &str| metadata.get(key).map(|text| &**text);
        instance.weight = fields::weight_text(text("weight"), FormatName::DubboApp.default_weight());
        // An application of no revision, or of revision 0, exports nothing: its own clients pass it by.
        let exports = REVISIONS.iter().find_map(|key| text(key)).is_some_and(|r| !matches!(r, "" | "0"));
        instance.enabled = exports && curator::enabled(object.get("enabled"));
        instance.zone = fields::zone_of(&metadata);
        instance.registered_ms = object.get("registrationTimeUTC").and_then(Value::as_u64);
        instance.scheme = scheme.map(|scheme| scheme.to_ascii_lowercase().into());
        instance.metadata = metadata;
        Ok(Decoded::one(instance))
    }
}

/// Protocols and their ports. What cannot be read of them is no reason to lose the instance.
fn endpoints(metadata: &Metadata) -> Vec<(String, u16)> {
    let list = metadata.get("dubbo.endpoints").and_then(|text| fields::nested(text));
    let Some(Value::Array(list)) = list else { return Vec::new() };
    let endpoint = |endpoint: &Value| {
        let protocol = endpoint.get("protocol")?.as_str()?.to_owned();
        Some((protocol, fields::port(endpoint.get("port")).ok()??))
    };
    list.iter().filter_map(endpoint).collect()
}
