//! `name_addr`: the node's name is the address, with or without a sequence number behind it.

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options, plain};
use crate::model::Instance;

pub(super) struct NameAddr;

impl Format for NameAddr {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        // Complete data says more than the name; a bare address is only what Curator writes of its own accord.
        if plain::complete(node.data).is_some() {
            return plain::Plain.decode(node, options);
        }
        let parts = Parts::of(without_sequence(node.name()))?;
        Ok(Decoded::one(node.instance(parts.address(options.default_port)?)))
    }

    fn encode(&self, _service: &str, _instance: &Instance) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

/// Whether a node's name is meant as `host:port`.
pub(super) fn looks_like_address(name: &str) -> bool {
    plain::is_host_and_port(without_sequence(name))
}

/// A name without `-` or `_` and the ten digits that ZooKeeper appends.
pub(super) fn without_sequence(name: &str) -> &str {
    let Some((start, tail)) = name.len().checked_sub(11).and_then(|at| name.split_at_checked(at)) else {
        return name;
    };
    let sequence = tail.starts_with(['-', '_']) && tail[1..].bytes().all(|b| b.is_ascii_digit());
    if sequence { start } else { name }
}
