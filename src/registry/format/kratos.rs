//! `kratos`: one node announces a URL for each transport.

use serde_json::Value;

use super::url::Split;
use super::{DecodeError, Decoded, Format, Metadata, Node, Options, fields, quote, several};

pub(super) struct Kratos;

impl Format for Kratos {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let object = fields::object(node.data)?;
        let endpoints = match object.get("endpoints") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list,
            Some(other) => {
                return Err(DecodeError::syntax(format!("no endpoints: {}", quote(&other.to_string()))));
            }
        };
        let mut metadata = Metadata::new();
        if let Some(map) = object.get("metadata").and_then(Value::as_object) {
            fields::collect(&mut metadata, map, &[]);
        }
        if let Some(version) =
            object.get("version").and_then(Value::as_str).filter(|version| !version.is_empty())
        {
            metadata.insert("version".into(), version.into());
        }
        let mut list = Vec::new();
        for endpoint in endpoints {
            let text = endpoint.as_str().ok_or_else(|| DecodeError::syntax("an endpoint that is no text"))?;
            let url = Split::of(text.trim_ascii())?;
            // As `endpoint` a transport goes by its scheme.
            if options.endpoint.is_some_and(|wanted| wanted != url.scheme) {
                continue;
            }
            let mut instance = node.instance(url.address(options.default_port)?);
            let secure = url
                .query()
                .find(|(key, _)| key == "isSecure")
                .and_then(|(_, value)| fields::flag_text(&value));
            instance.tls = secure.or(fields::tls_of(&url.scheme));
            instance.weight = fields::weight_text(metadata.get("weight").map(|text| &**text), 1.0);
            instance.zone = fields::zone_of(&metadata);
            instance.metadata.clone_from(&metadata);
            instance.scheme = Some(url.scheme.clone().into());
            list.push((url.scheme, instance));
        }
        several(node, list, options)
    }
}
