//! `url`: `scheme://host[:port][/path][?key=value]`.

use percent_encoding::percent_decode_str;

use super::address::{Parts, missing_port};
use super::{Control, DecodeError, Decoded, Format, Metadata, Node, Options, bytes, fields, quote};
use crate::model::{Address, Instance};

pub(super) struct Url;

impl Format for Url {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let client = node.parent() == "client";
        if client && node.is_below("motan") {
            return Ok(Decoded::Control(Control::Consumer));
        }
        let text = bytes::unquoted(node.data)?;
        let url = Split::of(&text)?;
        let motan = node.is_below("motan") || url.scheme.starts_with("motan");
        if client && motan {
            return Ok(Decoded::Control(Control::Consumer));
        }
        let mut instance = node.instance(url.address(options.default_port)?);
        let mut metadata = Metadata::new();
        for (key, value) in url.query() {
            metadata.insert(key.into(), value.into());
        }
        let flag = |key: &str| metadata.get(key).and_then(|text| fields::flag_text(text));
        instance.enabled = match flag("disabled") {
            Some(disabled) => !disabled,
            None => flag("enabled") != Some(false),
        } && !(motan && node.parent() == "unavailableServer");
        instance.tls = flag("isSecure").or(fields::tls_of(&url.scheme));
        instance.weight = fields::weight_text(metadata.get("weight").map(|text| &**text), 1.0);
        instance.zone = fields::zone_of(&metadata);
        if !matches!(url.path, "" | "/") {
            metadata.insert("path".into(), url.path.into());
        }
        instance.scheme = Some(url.scheme.into());
        instance.metadata = metadata;
        Ok(Decoded::one(instance))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        let scheme = instance.scheme.as_deref().unwrap_or(match instance.tls {
            Some(true) => "https",
            _ => "http",
        });
        let mut text = format!("{scheme}://{}", instance.address);
        // A path is written as it was read; one that would end the URL's path early is left out.
        let path = instance.metadata.get("path").filter(|path| {
            path.starts_with('/') && !path.contains(|c: char| c.is_control() || " ?#".contains(c))
        });
        text.extend(path.map(|path| &**path));
        let mut separator = '?';
        let mut add = |key: &str, value: &str| {
            text.push(separator);
            separator = '&';
            text.extend(percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC));
            text.push('=');
            text.extend(percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC));
        };
        if instance.weight.to_bits() != 1f64.to_bits() {
            add("weight", &instance.weight.to_string());
        }
        if let Some(zone) = &instance.zone {
            add("zone", zone);
        }
        if !instance.enabled {
            add("enabled", "false");
        }
        if let Some(tls) = instance.tls.filter(|tls| fields::tls_of(scheme) != Some(*tls)) {
            add("isSecure", if tls { "true" } else { "false" });
        }
        for (key, value) in &instance.metadata {
            if !matches!(&**key, "path" | "isSecure" | "weight" | "zone" | "enabled" | "disabled") {
                add(key, value);
            }
        }
        Some(text.into_bytes())
    }
}

/// A URL taken apart, without its credentials and fragment.
pub(super) struct Split<'a> {
    /// Lower-case.
    pub(super) scheme: String,
    authority: &'a str,
    /// With its leading slash, as written; or empty.
    pub(super) path: &'a str,
    query: &'a str,
}

impl<'a> Split<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, DecodeError> {
        let broken = || DecodeError::syntax(format!("no URL: {}", quote(text)));
        let scheme = scheme(text).ok_or_else(broken)?;
        let rest = &text[scheme.len() + 3..];
        if rest.chars().any(|c| c.is_control() || c == ' ') {
            return Err(broken());
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (body, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = body.split_at(body.find('/').unwrap_or(body.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Ok(Self { scheme: scheme.to_ascii_lowercase(), authority, path, query })
    }

    /// Where it points: its port, else its scheme's, else `default`.
    pub(super) fn address(&self, default: Option<u16>) -> Result<Address, DecodeError> {
        let parts = Parts::of(self.authority)?;
        let host = parts.host()?;
        let port = parts.port()?.or(fields::port_of(&self.scheme)).or(default).ok_or_else(missing_port)?;
        Ok(Address { host, port })
    }

    /// Its parameters, decoded.
    pub(super) fn query(&self) -> impl Iterator<Item = (String, String)> {
        pairs(self.query)
    }
}

/// The parameters of a query, decoded.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(key), form_decoded(value))
    })
}

/// The scheme of a text that begins like a URL.
pub(super) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let sound = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'_'));
    sound.then_some(scheme)
}

fn form_decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}
