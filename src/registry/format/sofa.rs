//! `sofa`: SOFA-RPC: the node's name is the provider's URL, its data one byte that says whether it is online.

use super::dubbo::ProviderUrl;
use super::{DecodeError, Decoded, Format, Node, Options};

/// The data of a provider that is offline.
const OFFLINE: &[u8] = &[0];

pub(super) struct Sofa;

impl Format for Sofa {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        match ProviderUrl::of(node.name())?.decode(node, options)? {
            Decoded::Instances(mut list) => {
                if node.data == OFFLINE {
                    for instance in &mut list {
                        instance.enabled = false;
                    }
                }
                Ok(Decoded::Instances(list))
            }
            control @ Decoded::Control(_) => Ok(control),
        }
    }
}
