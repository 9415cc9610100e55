//! A route's `shard`: a key picks one of a catalog's services.

use super::balance::{KEY_FORMS, VIRTUAL_NODES, hash_key};
use super::names::{Captures, Known};
use super::plan::ShardPlan;
use super::reader::Node;
use super::schema;
use crate::model::HashKey;

/// Reads it. The key may only be a capture that the route has.
pub(super) fn shard(node: &Node<'_>, known: &Known, captures: Captures<'_>) -> Option<ShardPlan> {
    let table = node.table(&schema::SHARD)?;
    let catalog = table
        .require("catalog", "the name of a catalog, whose services are the shards")
        .and_then(|n| known.catalog(&n));
    let policy = table.get("policy").map(|n| n.choice(&[("ring", ())]));
    let virtual_nodes = table.or("virtual_nodes", VIRTUAL_NODES, |n| n.integer(1..=10_000));
    let key = table.require("key", KEY_FORMS).and_then(|node| route_key(&node, captures));
    if policy == Some(None) {
        return None;
    }
    Some(ShardPlan { catalog: catalog?, key: key?, virtual_nodes })
}

/// A key of a route's requests: of captures only those that it has.
pub(super) fn route_key(node: &Node<'_>, captures: Captures<'_>) -> Option<HashKey> {
    let key = node.parse(KEY_FORMS, hash_key)?;
    match &key {
        HashKey::PathCapture(name) if !captures.offer(name) => {
            let names = captures.names();
            let names: Vec<String> = names.iter().map(|name| format!("path:{name}")).collect();
            let accepted = if names.is_empty() { "a path with a {capture}".into() } else { names.join(", ") };
            node.fail(format!("{} is no capture of this route; accepted: {accepted}", node.quoted()));
            None
        }
        _ => Some(key),
    }
}
