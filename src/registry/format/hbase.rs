//! `hbase`: HBase's region servers: `rs/HOST,PORT,STARTCODE`. The data is protobuf and says nothing more.

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options, quote};

pub(super) struct HBase;

impl Format for HBase {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let mut parts = node.name().split(',');
        let (Some(host), Some(port), Some(code), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(DecodeError::syntax(format!(
                "the name is not HOST,PORT,STARTCODE: {}",
                quote(node.name())
            )));
        };
        let parts =
            Parts { host: host.trim_matches(['[', ']']), bracketed: host.starts_with('['), port: Some(port) };
        let mut instance = node.instance(parts.address(options.default_port)?);
        instance.registered_ms = code.parse().ok();
        instance.metadata.insert("startcode".into(), code.into());
        Ok(Decoded::one(instance))
    }
}
