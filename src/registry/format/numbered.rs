//! `numbered`: instances by number, beside `primary`, which names one of them, `top` and `lock`.
//!
//! Never detected: to the eye it is `plain`. Which number is the primary is settled over the whole folder.

use super::{Control, DecodeError, Decoded, Format, Node, Options, bytes, plain};
use crate::model::{Instance, Role};

/// The folder of servers, of which number 0 is the master.
const SERVERS: &str = "server";

/// What is locked with, in a folder of members and in the one above.
const LOCK: &str = "lock";

/// The node that holds the number of the primary.
const POINTER: &str = "primary";

pub(super) struct Numbered;

impl Format for Numbered {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        let control = match node.name() {
            POINTER => Control::Primary(number_in(node.data)),
            "top" => Control::Top(number_in(node.data)),
            LOCK => Control::Lock,
            name if name.is_empty() || !name.bytes().all(|b| b.is_ascii_digit()) => Control::Ignored,
            _ => {
                let mut decoded = plain::Plain.decode(node, options)?;
                if let Decoded::Instances(list) = &mut decoded
                    && node.parent() == SERVERS
                {
                    list.iter_mut().for_each(assign_rank);
                }
                return Ok(decoded);
            }
        };
        Ok(Decoded::Control(control))
    }

    fn encode(&self, _service: &str, instance: &Instance) -> Option<Vec<u8>> {
        Some(instance.address.to_string().into_bytes())
    }
}

fn assign_rank(instance: &mut Instance) {
    let master = number(&instance.id.name).is_some_and(|number| number == "0");
    assign(instance, if master { Role::Master } else { Role::Slave });
}

/// Whether a folder beside those of groups is none itself.
pub(super) fn is_no_group(name: &str) -> bool {
    name == LOCK
}

/// Whether the pointer of a folder, which says this, is one of these nodes or names one of them.
pub(super) fn points_into<'n>(pointer: Option<u64>, mut nodes: impl Iterator<Item = &'n str>) -> bool {
    let wanted = pointer.map(|number| number.to_string());
    nodes.any(|node| node == POINTER || wanted.as_deref().is_some_and(|wanted| number(node) == Some(wanted)))
}

/// Gives a role, to be seen in the metadata too.
pub(super) fn assign(instance: &mut Instance, role: Role) {
    instance.role = Some(role);
    instance.metadata.insert("role".into(), role.as_str().into());
}

/// A number in canonical form: numbers compare by value, however many zeros are in front.
pub(super) fn number(name: &str) -> Option<&str> {
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| {
        let short = name.trim_start_matches('0');
        if short.is_empty() { "0" } else { short }
    })
}

fn number_in(data: &[u8]) -> Option<u64> {
    let text = bytes::unquoted(data).ok()?;
    number(&text)?.parse().ok()
}
