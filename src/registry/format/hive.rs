//! `hive`: HiveServer2 and Kyuubi: `serverUri=HOST:PORT;version=V;sequence=N`.

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options, bytes, fields};

pub(super) struct Hive;

impl Format for Hive {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let uri = pairs(node.name()).find(|(key, _)| *key == "serverUri").map(|(_, uri)| uri);
        let uri = uri.ok_or_else(|| DecodeError::syntax("no serverUri in the name"))?;
        let mut instance = node.instance(Parts::of(uri)?.address(options.default_port)?);
        let data = bytes::text(node.data)?;
        for (key, value) in pairs(node.name()).chain(pairs(data)) {
            if !matches!(key, "serverUri" | "sequence") {
                instance.metadata.insert(key.into(), value.into());
            }
        }
        instance.tls = instance.metadata.get("hive.server2.use.SSL").and_then(|text| fields::flag_text(text));
        instance.zone = fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(';')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim_ascii(), value.trim_ascii()))
}
