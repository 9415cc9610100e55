//! `balance`: a policy's name, or a table with its parameters.

use http::HeaderName;

use super::pattern::is_name;
use super::reader::{Node, Table};
use super::schema;
use crate::model::{BalancePolicy, BalanceSpec, HashKey};

pub(super) const VIRTUAL_NODES: u32 = 160;
const TABLE_SIZE: u32 = 65_537;
/// The parameters that only the two hash policies have.
const HASH_KEYS: [&str; 4] = ["key", "virtual_nodes", "table_size", "load_bound"];
pub(super) const KEY_FORMS: &str =
    "header:NAME, cookie:NAME, query:NAME, path, path:CAPTURE, host, client_ip";

/// Reads the choice of a service or a catalog.
pub(super) fn balance(node: &Node<'_>) -> Option<BalanceSpec> {
    if node.is_table() {
        return from_table(&node.table(&schema::BALANCE)?);
    }
    let policy = policy(node)?;
    if policy.is_hash() {
        let name = policy.as_str();
        node.fail(format!("\"{name}\" needs a key; accepted: {{ policy = \"{name}\", key = \"header:x-user-id\" }}, with a key of: {KEY_FORMS}"));
        return None;
    }
    Some(BalanceSpec { policy, ..BalanceSpec::default() })
}

fn policy(node: &Node<'_>) -> Option<BalancePolicy> {
    let policies = [
        BalancePolicy::RoundRobin,
        BalancePolicy::LeastRequest,
        BalancePolicy::PeakEwma,
        BalancePolicy::Random,
        BalancePolicy::Ring { virtual_nodes: VIRTUAL_NODES },
        BalancePolicy::Maglev { table_size: TABLE_SIZE },
    ];
    node.choice(&policies.map(|policy| (policy.as_str(), policy)))
}

fn from_table(table: &Table<'_>) -> Option<BalanceSpec> {
    let policy = table.require("policy", "\"ring\", \"maglev\" or another policy").and_then(|n| policy(&n));
    let key = table.get("key").map(|n| n.parse(KEY_FORMS, hash_key));
    let virtual_nodes = table.or("virtual_nodes", VIRTUAL_NODES, |n| n.integer(1..=10_000));
    let table_size = table.or("table_size", TABLE_SIZE, prime);
    let load_bound = table.or("load_bound", None, |n| n.number(1.0..=1000.0).map(Some));
    let policy = policy?;
    let unused: &[&'static str] = match policy {
        BalancePolicy::Ring { .. } => &["table_size"],
        BalancePolicy::Maglev { .. } => &["virtual_nodes"],
        _ => &HASH_KEYS,
    };
    for unused in unused.iter().filter_map(|key| table.get(key)) {
        let accepted = match policy {
            BalancePolicy::Ring { .. } => "policy, key, virtual_nodes, load_bound",
            BalancePolicy::Maglev { .. } => "policy, key, table_size, load_bound",
            _ => "policy alone; ring and maglev have a key",
        };
        unused.fail(format!("means nothing to policy \"{}\"; accepted: {accepted}", policy.as_str()));
    }
    if !policy.is_hash() {
        return Some(BalanceSpec { policy, ..BalanceSpec::default() });
    }
    if key.is_none() {
        table.missing(
            "key",
            &format!("is missing, and \"{}\" places requests by one; accepted: {KEY_FORMS}", policy.as_str()),
        );
    }
    let policy = match policy {
        BalancePolicy::Ring { .. } => BalancePolicy::Ring { virtual_nodes },
        BalancePolicy::Maglev { .. } => BalancePolicy::Maglev { table_size },
        other => other,
    };
    Some(BalanceSpec { policy, key: Some(key??), load_bound })
}

fn prime(node: &Node<'_>) -> Option<u32> {
    let size = node.integer(3..=16_777_213)?;
    let is_prime = (2..=size.isqrt()).all(|divisor| !size.is_multiple_of(divisor));
    if !is_prime {
        node.fail(format!("{size} is no prime; accepted: a prime well above 100 times the number of instances, such as 65537 or 655373"));
    }
    is_prime.then_some(size)
}

/// `header:x-user-id` and the like.
pub(super) fn hash_key(text: &str) -> Result<HashKey, String> {
    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    let bad = |what: &str| Err(format!("names no {what}; accepted: {KEY_FORMS}"));
    match (kind, name) {
        ("path", None) => Ok(HashKey::Path),
        ("host", None) => Ok(HashKey::Host),
        ("client_ip", None) => Ok(HashKey::ClientIp),
        ("header", Some(name)) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(HashKey::Header(name.as_str().into())),
            Err(_) => bad("header"),
        },
        // A cookie's name has the letters of a header's, but its case counts.
        ("cookie", Some(name)) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
            Ok(HashKey::Cookie(name.into()))
        }
        ("cookie", _) => bad("cookie"),
        ("query", Some(name)) if !name.is_empty() => Ok(HashKey::Query(name.into())),
        ("query", _) => bad("query parameter"),
        ("path", Some(name)) if is_name(name) => Ok(HashKey::PathCapture(name.into())),
        ("path", _) => bad("capture"),
        _ => Err(format!("is no key of a request; accepted: {KEY_FORMS}")),
    }
}
