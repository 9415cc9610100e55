//! `rpcx`: `NETWORK@HOST:PORT`, the data a query string.

use std::net::IpAddr;

use super::address::Parts;
use super::{DecodeError, Decoded, Format, Node, Options, bytes, fields, quote, url};

pub(super) struct Rpcx;

impl Format for Rpcx {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let (network, address) =
            node.name().split_once('@').filter(|(network, _)| !network.is_empty()).ok_or_else(|| {
                DecodeError::syntax(format!("the name is not NETWORK@HOST:PORT: {}", quote(node.name())))
            })?;
        let mut instance = node.instance(Parts::of(address)?.address(options.default_port)?);
        // A lone word is none of rpcx's: Curator writes its own address where it is told nothing.
        for (key, value) in
            url::pairs(bytes::text(node.data)?).filter(|(key, _)| key.parse::<IpAddr>().is_err())
        {
            instance.metadata.insert(key.into(), value.into());
        }
        let text = |key: &str| instance.metadata.get(key).map(|text| &**text);
        instance.weight = fields::weight_text(text("weight"), 1.0);
        instance.enabled = !text("state").is_some_and(|state| state.eq_ignore_ascii_case("inactive"));
        instance.zone = fields::zone_of(&instance.metadata);
        let network = network.to_ascii_lowercase();
        instance.tls = matches!(&*network, "quic" | "tls" | "https" | "wss").then_some(true);
        instance.scheme = Some(network.into());
        Ok(Decoded::one(instance))
    }
}
