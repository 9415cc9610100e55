//! Which format a node looks like. The first rule that fits decides.

use serde_json::{Map, Value};

use super::{Node, bytes, curator, fields, json, name_addr, plain, url};
use crate::model::FormatName;

/// What this node looks like; `None`: nothing known. Pure; never panics.
pub fn detect(node: &Node<'_>) -> Option<FormatName> {
    if node.data.len() > super::MAX_DATA {
        return None;
    }
    by_name(node).or_else(|| by_place(node)).or_else(|| match fields::object(node.data) {
        Ok(object) => by_keys(node, &object),
        Err(_) => by_text(node),
    })
}

/// Names that only one format gives.
fn by_name(node: &Node<'_>) -> Option<FormatName> {
    let name = node.name();
    if contains_ignoring_case(name, "%3a%2f%2f") {
        return Some(if node.path.contains("sofa-rpc") { FormatName::Sofa } else { FormatName::Dubbo });
    }
    if name.starts_with("serverUri=") {
        return Some(FormatName::Hive);
    }
    let encoded = name.strip_prefix("base64_").and_then(|rest| rest.split_once('_'));
    encoded.filter(|(length, _)| is_number(length)).map(|_| FormatName::Nerve)
}

/// Places, together with the shape of the name or the data that belongs there.
fn by_place(node: &Node<'_>) -> Option<FormatName> {
    let (name, parent) = (node.name(), node.parent());
    if parent == "available" || node.path.rsplit('/').skip(1).take(2).eq(["readonly", "available"]) {
        return Some(FormatName::BookKeeper);
    }
    // A host may be an IPv6 literal: any of its colons may be the one before the port.
    let is_port = |(at, _)| name[at + 1..].split_once('_').is_some_and(|(port, _)| is_number(port));
    if parent == "live_nodes" && name.match_indices(':').any(is_port) {
        return Some(FormatName::Solr);
    }
    if parent == "rs" && name.split(',').count() == 3 && name.split(',').skip(1).all(is_number) {
        return Some(FormatName::HBase);
    }
    if let Some((network, address)) = name.split_once('@')
        && is_word(network)
        && address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && is_number(port))
    {
        return Some(FormatName::Rpcx);
    }
    let replica = name == "host" && node.path.rsplit('/').nth(2) == Some("replicas");
    if replica && bytes::text(node.data).is_ok_and(|text| text.starts_with("host: ")) {
        return Some(FormatName::ClickHouse);
    }
    if (name.starts_with("member_") || name.starts_with("vector_")) && is_server_set(node) {
        return Some(FormatName::ServerSet);
    }
    None
}

/// Whether data under a ServerSet's name is a ServerSet's, or nothing that anyone can read.
fn is_server_set(node: &Node<'_>) -> bool {
    match fields::object(node.data) {
        Ok(object) => {
            ["serviceEndpoint", "additionalEndpoints", "vector"].iter().any(|key| object.contains_key(*key))
        }
        Err(_) => plain::complete(node.data).is_none() && !is_url(node),
    }
}

/// JSON objects, by their keys.
fn by_keys(node: &Node<'_>, object: &Map<String, Value>) -> Option<FormatName> {
    let has = |key: &str| object.contains_key(key);
    let any = |keys: &[&str]| keys.iter().any(|key| object.contains_key(*key));
    let name = node.name();
    let look = match () {
        () if has("serviceEndpoint") => FormatName::ServerSet,
        () if has("address")
            && any(&["serviceType", "registrationTimeUTC", "uriSpec", "sslPort", "payload"])
            && any(&["name", "id"]) =>
        {
            // Spring Cloud and Dubbo 3 build on it and tell so by the payload's class.
            match object.get("payload").and_then(curator::class) {
                Some(curator::SPRING) => FormatName::Spring,
                Some(curator::DUBBO) => FormatName::DubboApp,
                _ => FormatName::Curator,
            }
        }
        () if has("druidNode") || has("maxSize") && has("tier") => FormatName::Druid,
        () if any(&["weights", "partitionDesc"]) => FormatName::D2,
        () if node.path.rsplit('/').skip(1).take(2).eq(["ids", "brokers"])
            || has("jmx_port") && any(&["endpoints", "host"]) =>
        {
            FormatName::Kafka
        }
        () if object.get("endpoints").is_some_and(Value::is_array) && has("name") => FormatName::Kratos,
        () if has("version") && has("address") => FormatName::ClickHouse,
        () if any(&["healthcheckStatus", "nodeData"]) && has("host") => FormatName::Ranger,
        () if !object.is_empty()
            && object.keys().all(|key| matches!(key.as_str(), "Weight" | "Tags"))
            && name_addr::looks_like_address(name) =>
        {
            FormatName::Kitex
        }
        () if is_sequential(name) && has("name") && any(&["host", "port"]) => FormatName::Nerve,
        () if any(&json::HOST_KEYS) => FormatName::Json,
        () => return None,
    };
    Some(look)
}

/// Anything that is no JSON object.
fn by_text(node: &Node<'_>) -> Option<FormatName> {
    if is_url(node) {
        return Some(FormatName::Url);
    }
    let named = name_addr::looks_like_address(node.name());
    if plain::complete(node.data).is_some() || !named && plain::looks_like_address(node.data) {
        return Some(FormatName::Plain);
    }
    named.then_some(FormatName::NameAddr)
}

fn is_url(node: &Node<'_>) -> bool {
    bytes::unquoted(node.data).is_ok_and(|text| url::scheme(&text).is_some())
}

/// Whether a name ends in `_` and the ten digits of a sequential node.
fn is_sequential(name: &str) -> bool {
    let base = name_addr::without_sequence(name);
    base.len() < name.len() && name.as_bytes().get(base.len()) == Some(&b'_')
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn contains_ignoring_case(text: &str, lower: &str) -> bool {
    text.as_bytes().windows(lower.len()).any(|window| window.eq_ignore_ascii_case(lower.as_bytes()))
}
