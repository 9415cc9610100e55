//! `solr`: Solr's live nodes: `live_nodes/HOST:PORT_CONTEXT`, without data.

use percent_encoding::percent_decode_str;

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options};

pub(super) struct Solr;

impl Format for Solr {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let name = node.name();
        // A host may have a `_` of its own: the context begins behind the port. It may have a `:` of its own.
        let host_end = if name.starts_with('[') { name.find(']').unwrap_or(0) } else { 0 };
        let colon = name[host_end..].find(':').map_or(name.len(), |at| host_end + at);
        let (address, context) = match name[colon..].find('_') {
            Some(at) => (&name[..colon + at], Some(&name[colon + at + 1..])),
            None => (name, None),
        };
        let mut instance = node.instance(Parts::of(address)?.address(options.default_port)?);
        if let Some(context) = context {
            let context = percent_decode_str(&context.replace('+', " ")).decode_utf8_lossy().into_owned();
            instance.metadata.insert("context".into(), context.into());
        }
        Ok(Decoded::one(instance))
    }
}
