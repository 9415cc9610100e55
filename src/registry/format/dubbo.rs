//! `dubbo`: Apache Dubbo, registered by interface: the node's name is the whole URL of a provider.

use percent_encoding::percent_decode_str;

use super::address::{Parts, missing_port};
use super::{Control, DecodeError, Decoded, Format, Metadata, Node, Options, Override, fields, quote};
use crate::model::{Address, FormatName, Host, Instance};

/// The ramp of a provider that tells when it started and asks for none of its own, in milliseconds.
const WARMUP: u32 = 600_000;

/// The folders of an interface.
const FOLDERS: [&str; 4] = ["providers", "consumers", "configurators", "routers"];

pub(super) struct Dubbo;

impl Format for Dubbo {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        if FOLDERS.contains(&node.name()) {
            return Ok(Decoded::Control(Control::Folder));
        }
        let mut decoded = ProviderUrl::of(node.name())?.decode(node, options)?;
        if let Decoded::Instances(list) = &mut decoded {
            for instance in list {
                settle(FormatName::Dubbo, instance);
            }
        }
        Ok(decoded)
    }
}

/// Sets what a provider's parameters say, by its metadata.
pub(super) fn settle(format: FormatName, instance: &mut Instance) {
    let text = |key: &str| instance.metadata.get(key).map(|text| &**text);
    instance.enabled = wants_traffic(&instance.metadata);
    instance.weight = fields::weight_text(text("weight"), format.default_weight());
    instance.zone = fields::zone_of(&instance.metadata);
    if format == FormatName::Dubbo {
        let number = |key: &str| text(key).and_then(|text| text.trim().parse::<i64>().ok());
        instance.registered_ms =
            number("timestamp").and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let warmup = number("warmup").map_or(WARMUP, |ms| u32::try_from(ms.max(0)).unwrap_or(u32::MAX));
        instance.warmup_ms = instance.registered_ms.map(|_| warmup);
        instance.tls = text("ssl-enabled").and_then(fields::flag_text);
    }
}

/// Whether a provider's parameters ask for traffic. Java takes an empty one for none.
pub(super) fn wants_traffic(params: &Metadata) -> bool {
    let text = |key: &str| params.get(key).map(|text| &**text).filter(|text| !text.is_empty());
    match text("disabled") {
        Some(disabled) => fields::flag_text(disabled) != Some(true),
        None => text("enabled").and_then(fields::flag_text) != Some(false),
    }
}

/// A URL as Dubbo and SOFA name their nodes with: decoded and taken apart.
pub(super) struct ProviderUrl {
    scheme: String,
    authority: String,
    path: String,
    params: Metadata,
}

impl ProviderUrl {
    /// Reads a node's name. It is decoded once, as form data, before anything is looked for in it.
    pub(super) fn of(name: &str) -> Result<Self, DecodeError> {
        let whole = form_decoded(name)?;
        let (body, params) = whole.split_once('?').unwrap_or((&whole, ""));
        let (scheme, rest) = body
            .split_once("://")
            .filter(|(scheme, _)| !scheme.is_empty())
            .ok_or_else(|| DecodeError::syntax(format!("the name is no URL: {}", quote(&whole))))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            params: self::params(params),
        })
    }

    /// A provider, or what else stands in such folders.
    pub(super) fn decode(self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let control = match &*self.scheme {
            "consumer" => Control::Consumer,
            "condition" | "route" => Control::Router("condition"),
            "script" => Control::Router("script"),
            "tag" => Control::Router("tag"),
            "empty" => Control::Empty,
            "override" | "absent" => Control::Override(self.rule()?),
            // Whatever it is, in such a folder it is nobody who serves.
            _ if node.parent() == "consumers" => Control::Consumer,
            _ if matches!(node.parent(), "routers" | "configurators") => Control::Ignored,
            _ => return self.provider(node, options).map(Decoded::one),
        };
        Ok(Decoded::Control(control))
    }

    fn provider(self, node: &Node<'_>, options: Options<'_>) -> Result<Instance, DecodeError> {
        let parts = parts(&self.authority)?;
        let host = parts.host()?;
        let port = parts
            .port()?
            .or(fields::port_of(&self.scheme))
            .or(options.default_port)
            .ok_or_else(missing_port)?;
        let address = Address { host, port };
        let mut instance = node.instance(address);
        instance.id.name = instance.address.to_string().into();
        instance.scheme = Some(self.scheme.into());
        instance.metadata = self.params;
        if !self.path.is_empty() {
            instance.metadata.insert("path".into(), self.path.into());
        }
        settle(FormatName::Sofa, &mut instance);
        Ok(instance)
    }

    fn rule(self) -> Result<Override, DecodeError> {
        let parts = parts(&self.authority)?;
        let host = match parts.host {
            "0.0.0.0" | "anyhost" | "*" | "" => None,
            _ => Some(parts.host()?),
        };
        let written = match &host {
            Some(Host::Ip(ip)) => ip.to_string(),
            _ => parts.host.to_owned(),
        };
        // Java writes port 0 for none.
        let port = if parts.port == Some("0") { None } else { parts.port()? };
        Ok(Override {
            host,
            written_host: written.into(),
            port,
            only_absent: self.scheme == "absent",
            params: self.params,
        })
    }
}

/// The text after the LAST colon is the port, also behind IPv6 without brackets.
fn parts(authority: &str) -> Result<Parts<'_>, DecodeError> {
    if authority.starts_with('[') {
        return Parts::of(authority);
    }
    Ok(match authority.rsplit_once(':') {
        Some((host, port)) => Parts { host, bracketed: false, port: Some(port) },
        None => Parts { host: authority, bracketed: false, port: None },
    })
}

fn params(text: &str) -> Metadata {
    let mut params = Metadata::new();
    for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        params.insert(key.into(), decoded_again(value).into());
    }
    let defaults: Vec<_> = params
        .iter()
        .filter_map(|(key, value)| Some((Box::<str>::from(key.strip_prefix("default.")?), value.clone())))
        .collect();
    for (key, value) in defaults {
        params.entry(key).or_insert(value);
    }
    params
}

/// Some clients encode values twice. What is no sound encoding is meant as it stands.
fn decoded_again(value: &str) -> String {
    match strict_percent(value) {
        Some(bytes) => String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned()),
        None => value.to_owned(),
    }
}

fn form_decoded(name: &str) -> Result<String, DecodeError> {
    let spaced = name.replace('+', " ");
    let bytes = strict_percent(&spaced)
        .ok_or_else(|| DecodeError::syntax(format!("a broken % in the name: {}", quote(name))))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| DecodeError::syntax(format!("the name, decoded, is not UTF-8: {e}")))?;
    if text.contains(char::is_control) {
        return Err(DecodeError::syntax("a control character in the name, decoded"));
    }
    Ok(text)
}

/// Decoded, or nothing where a `%` is not followed by two hex digits.
fn strict_percent(text: &str) -> Option<Vec<u8>> {
    let sound =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    text.split('%').skip(1).all(sound).then(|| percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_twice_is_decoded_twice_and_what_is_broken_once() {
        assert_eq!(decoded_again("a%2Cb"), "a,b");
        assert_eq!(decoded_again("100%"), "100%");
        assert_eq!(decoded_again("%zz"), "%zz");
        assert_eq!(decoded_again("%ff"), "%ff");
        assert_eq!(decoded_again("a+b"), "a+b");
        assert!(form_decoded("a%2").is_err());
    }
}
