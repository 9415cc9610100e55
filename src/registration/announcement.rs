//! What stands in a registry for an instance: a node's name and its payload.

use crate::model::{FormatName, Instance};
use crate::registry::format::encode;

/// An instance as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The service's path in the registry: `/services/orders`.
    pub path: String,
    /// The node's name; with `sequential` what the registry's number is put behind.
    pub node: String,
    /// Whether the registry numbers the node.
    pub sequential: bool,
    /// The payload.
    pub data: Vec<u8>,
}

/// An instance that cannot be written like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// The format is only read.
    #[error("{0} is only read; accepted: {list}", list = FormatName::WRITABLE.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(", "))]
    Format(FormatName),
    /// The layout knows its members by numbers.
    #[error(
        "{0:?} is no number, and in numbered layouts the node's name is one; accepted: digits, or a sequential node"
    )]
    NoNumber(String),
}

impl Announcement {
    /// An instance in a format. Its id is the node's name, except where the format has names of its own:
    ///
    /// | format | node | sequential |
    /// | --- | --- | --- |
    /// | `name_addr` | the address | the address, `-` and the number |
    /// | `serverset` | always sequential | `member_` and the number |
    /// | `nerve` | always sequential | the id, `_` and the number |
    /// | `numbered` | the id, which must be a number | the number |
    /// | `curator` | the id | the id and the number |
    /// | any other | the id | the id, `-` and the number |
    pub fn new(
        format: FormatName,
        path: &str,
        instance: &Instance,
        sequential: bool,
    ) -> Result<Self, NotWritable> {
        let name = format.as_str();
        let id = &*instance.id.name;
        let sequential = sequential || matches!(name, "serverset" | "nerve");
        let node = match (name, sequential) {
            ("serverset", _) => "member_".to_owned(),
            ("nerve", _) => format!("{id}_"),
            ("name_addr", true) => format!("{}-", instance.address),
            ("name_addr", false) => instance.address.to_string(),
            ("numbered", true) => String::new(),
            ("numbered", false) if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(NotWritable::NoNumber(id.to_owned()));
            }
            ("curator", _) | (_, false) => id.to_owned(),
            (_, true) => format!("{id}-"),
        };
        let service = path.rsplit('/').next().unwrap_or_default();
        let data = encode(format, service, instance).ok_or(NotWritable::Format(format))?;
        Ok(Self { path: path.to_owned(), node, sequential, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_as_the_format_wants_it() {
        let instance = Instance::new("me".into(), "[::1]:80".parse().unwrap());
        for format in FormatName::WRITABLE {
            let told = |sequential| {
                Announcement::new(*format, "/a/b", &instance, sequential).map(|a| (a.node, a.sequential))
            };
            let (named, numbered) = match format.as_str() {
                "name_addr" => (Ok(("[::1]:80".to_owned(), false)), ("[::1]:80-", true)),
                "serverset" => (Ok(("member_".to_owned(), true)), ("member_", true)),
                "nerve" => (Ok(("me_".to_owned(), true)), ("me_", true)),
                "numbered" => (Err(NotWritable::NoNumber("me".to_owned())), ("", true)),
                "curator" => (Ok(("me".to_owned(), false)), ("me", true)),
                _ => (Ok(("me".to_owned(), false)), ("me-", true)),
            };
            assert_eq!(told(false), named, "{format}");
            assert_eq!(told(true), Ok((numbered.0.to_owned(), numbered.1)), "{format}");
        }
    }
}
