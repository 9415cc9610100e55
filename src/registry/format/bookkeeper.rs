//! `bookkeeper`: BookKeeper's bookies, Pulsar's too: `available/ID`, `available/readonly/ID`.

use super::address::{Parts, missing_port};
use super::{Control, DecodeError, Decoded, Format, Metadata, Node, Options, name_addr};
use crate::model::{Address, RejectReason};

/// The protocol that clients of a ledger speak.
const RPC: &str = "bookie-rpc";

pub(super) struct BookKeeper;

impl Format for BookKeeper {
    fn decode(&self, node: &Node<'_>, options: Options<'_>) -> Result<Decoded, DecodeError> {
        if matches!(node.name(), "readonly" | "cookies") {
            return Ok(Decoded::Control(Control::Folder));
        }
        let info = BookieInfo::of(node.data);
        let named = name_addr::looks_like_address(node.name());
        let endpoints = info.as_ref().map_or(&[][..], |info| &info.endpoints);
        let chosen = match (options.endpoint, options.protocol) {
            (Some(id), _) => endpoints.iter().find(|endpoint| endpoint.id == id),
            (None, Some(protocol)) => endpoints.iter().find(|endpoint| endpoint.protocol == protocol),
            (None, None) => endpoints.iter().find(|endpoint| endpoint.protocol == RPC),
        };
        let address = match chosen {
            Some(endpoint) => endpoint.address()?,
            None if options.endpoint.is_some() || options.protocol.is_some_and(|asked| asked != RPC) => {
                return Ok(Decoded::Instances(Vec::new()));
            }
            // Bookies of old had their address for a name, and no data.
            None if named => Parts::of(node.name())?.address(options.default_port)?,
            None if info.is_none() => return Err(DecodeError::syntax("no sound protobuf")),
            None => {
                return Err(DecodeError::new(
                    RejectReason::MissingHost,
                    "no endpoint, and no address for a name",
                ));
            }
        };
        let mut instance = node.instance(address);
        for endpoint in
            endpoints.iter().filter(|endpoint| !chosen.is_some_and(|c| std::ptr::eq(c, *endpoint)))
        {
            if let Ok(address) = endpoint.address() {
                instance
                    .metadata
                    .insert(format!("endpoint.{}", endpoint.id).into(), address.to_string().into());
            }
        }
        instance.metadata.extend(info.map(|info| info.properties).unwrap_or_default());
        if node.parent() == "readonly" {
            instance.metadata.insert("readonly".into(), "true".into());
        }
        instance.zone = super::fields::zone_of(&instance.metadata);
        Ok(Decoded::one(instance))
    }
}

/// `BookieServiceInfoFormat`: field 6 are its endpoints, field 7 its properties.
#[derive(Default)]
struct BookieInfo {
    endpoints: Vec<Endpoint>,
    properties: Metadata,
}

#[derive(Default)]
struct Endpoint {
    id: String,
    port: u64,
    host: String,
    protocol: String,
}

impl BookieInfo {
    fn of(data: &[u8]) -> Option<Self> {
        let mut info = Self::default();
        for field in Fields(data) {
            match field? {
                (6, Content::Bytes(endpoint)) => info.endpoints.push(Endpoint::of(endpoint)?),
                (7, Content::Bytes(entry)) => {
                    let (mut key, mut value) = (String::new(), String::new());
                    for field in Fields(entry) {
                        match field? {
                            (1, Content::Bytes(text)) => key = string(text)?,
                            (2, Content::Bytes(text)) => value = string(text)?,
                            _ => {}
                        }
                    }
                    info.properties.insert(key.into(), value.into());
                }
                _ => {}
            }
        }
        Some(info)
    }
}

impl Endpoint {
    fn of(data: &[u8]) -> Option<Self> {
        let mut endpoint = Self::default();
        for field in Fields(data) {
            match field? {
                (1, Content::Bytes(text)) => endpoint.id = string(text)?,
                (2, Content::Number(port)) => endpoint.port = port,
                (3, Content::Bytes(text)) => endpoint.host = string(text)?,
                (4, Content::Bytes(text)) => endpoint.protocol = string(text)?,
                _ => {}
            }
        }
        Some(endpoint)
    }

    fn address(&self) -> Result<Address, DecodeError> {
        let host = super::address::host(&self.host)?;
        match u16::try_from(self.port) {
            Ok(0) => Err(missing_port()),
            Ok(port) => Ok(Address { host, port }),
            Err(_) => Err(super::address::bad_port(&self.port.to_string())),
        }
    }
}

fn string(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// What a field of a protobuf message holds.
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width: in none of the messages that are read here.
    Other,
}

/// The fields of a protobuf message; `None`, and nothing after it, where it is broken.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Content<'a>)> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => self.take(8).map(|_| Content::Other)?,
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => self.take(4).map(|_| Content::Other)?,
            _ => return None,
        };
        // Fields are counted from 1.
        (tag >> 3 != 0).then_some((tag >> 3, content))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}
