//! `plain`: an address as text, with a weight or a tag behind it.

use super::address::{Parts, is_name};
use super::{DecodeError, Decoded, Format, Node, Options, bytes, fields};
use crate::model::{Address, Host, Instance, RejectReason};

pub(super) struct Plain;

impl Format for Plain {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let text = bytes::unquoted(node.data)?;
        let line = Line::of(&text)?;
        let mut instance = node.instance(line.address.address(options.default_port)?);
        instance.weight = fields::weight_text(line.weight, 1.0);
        if let Some(tag) = line.tag {
            instance.metadata.insert("tag".into(), tag.into());
        }
        Ok(Decoded::one(instance))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        let Instance { address, weight, .. } = instance;
        let whole = fields::whole_weight(*weight);
        let text = match address.host {
            _ if whole == 1 => address.to_string(),
            // More readers understand a tag than a third field behind brackets; a tag of 0 says nothing.
            Host::Ip(std::net::IpAddr::V6(_)) if whole > 0 => format!("{address} {whole}"),
            _ => format!("{address}:{whole}"),
        };
        Some(text.into_bytes())
    }
}

/// The text taken apart: `host:port`, `host`, `host:port:weight` or `host:port tag`.
struct Line<'a> {
    address: Parts<'a>,
    weight: Option<&'a str>,
    tag: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Result<Self, DecodeError> {
        if text.is_empty() || text == "null" {
            return Err(DecodeError::new(RejectReason::MissingHost, "no data"));
        }
        if text.contains(['\n', '\r', '\0']) {
            return Err(DecodeError::syntax("more than one line"));
        }
        if let Some((address, tag)) = text.split_once([' ', '\t']) {
            let tag = tag.trim_ascii();
            let weight = is_digits(tag) && tag.bytes().any(|digit| digit != b'0');
            return Ok(Self { address: Parts::of(address)?, weight: weight.then_some(tag), tag: Some(tag) });
        }
        let (address, weight) = split_weight(text);
        Ok(Self { address: Parts::of(address)?, weight, tag: None })
    }
}

/// Cuts the weight off `host:port:weight` and `[v6]:port:weight`.
fn split_weight(text: &str) -> (&str, Option<&str>) {
    let colons = text.rsplit_once(']').map_or(text, |(_, rest)| rest).matches(':').count();
    match text.rsplit_once(':') {
        Some((address, weight))
            if colons == 2 && is_digits(weight) && text.parse::<std::net::Ipv6Addr>().is_err() =>
        {
            (address, Some(weight))
        }
        _ => (text, None),
    }
}

/// The address in this data, if it has a host and a port and both are sound.
pub(super) fn complete(data: &[u8]) -> Option<Address> {
    let text = bytes::unquoted(data).ok()?;
    Line::of(&text).ok()?.address.address(None).ok()
}

/// Whether this data is meant as an address, be it incomplete or wrong.
pub(super) fn looks_like_address(data: &[u8]) -> bool {
    let Ok(text) = bytes::unquoted(data) else { return false };
    if let Some((address, _)) = text.split_once([' ', '\t']) {
        return !text.contains(['\n', '\r']) && is_host_and_port(address);
    }
    let (address, _) = split_weight(&text);
    if let Some(inner) = address.strip_prefix('[') {
        // Not a JSON array: those hold quotes, commas, or a lone number.
        let host = inner.split(']').next().unwrap_or_default();
        return host.contains([':', '.']) && host.chars().all(|c| c.is_alphanumeric() || ":.-_%".contains(c));
    }
    is_host_and_port(address) || is_lone_host(address)
}

/// `host:port` by its looks.
pub(super) fn is_host_and_port(text: &str) -> bool {
    match Parts::of(text) {
        Ok(Parts { host, port: Some(port), bracketed }) => {
            // A host that is one beyond doubt may have a port that is none; a mere word may not.
            let certain = host.contains('.') || host.contains(':') || host == "localhost";
            let host_ok = bracketed || is_name(host) || host.parse::<std::net::Ipv6Addr>().is_ok();
            is_digits(port) && (host_ok || host.is_empty()) || certain && host_ok
        }
        _ => false,
    }
}

fn is_lone_host(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || is_name(text)
            && text.chars().any(char::is_alphabetic)
            && !matches!(text, "null" | "true" | "false")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
