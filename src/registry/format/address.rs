//! Hosts and ports as registrations write them.

use std::net::{IpAddr, Ipv6Addr};

use super::{DecodeError, quote};
use crate::model::{Address, Host, RejectReason};

/// The longest host name that DNS can carry, as text.
const MAX_HOST: usize = 253;

/// An address as text, taken apart and not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// Without brackets.
    pub(super) host: &'a str,
    /// Whether it stood in brackets: then it must be a literal.
    pub(super) bracketed: bool,
    /// What follows the colon; `None` without one.
    pub(super) port: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Takes `host`, `host:port`, `[v6]`, `[v6]:port`, a bare IPv6 literal, or `v6:port` apart.
    ///
    /// Of an unbracketed text that is no IPv6 literal as a whole, the text after the last colon is the port.
    pub(super) fn of(text: &'a str) -> Result<Self, DecodeError> {
        if let Some(inner) = text.strip_prefix('[') {
            let Some((host, rest)) = inner.split_once(']') else {
                return Err(bad_host(text, "has no closing bracket"));
            };
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(bad_host(text, "goes on behind its bracket")),
            };
            return Ok(Self { host, bracketed: true, port });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self { host: text, bracketed: false, port: None });
        }
        Ok(match text.rsplit_once(':') {
            Some((host, port)) => Self { host, bracketed: false, port: Some(port) },
            None => Self { host: text, bracketed: false, port: None },
        })
    }

    /// The host, checked.
    pub(super) fn host(&self) -> Result<Host, DecodeError> {
        let text = self.host;
        if text.is_empty() {
            return Err(DecodeError::new(RejectReason::MissingHost, "no host"));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Host::Ip(ip));
        }
        if self.bracketed {
            return Err(bad_host(text, "stands in brackets and is no IP literal"));
        }
        if text.len() > MAX_HOST {
            return Err(bad_host(text, "is longer than 253 bytes"));
        }
        if !is_name(text) {
            return Err(bad_host(text, "is neither an IP literal nor a host name"));
        }
        // Resolvers read such names as IPv4 in old notations (`127.1`, `0x7f000001`): never what was meant.
        if ends_in_number(text) {
            return Err(bad_host(text, "ends in a number and is no IP literal"));
        }
        Ok(Host::Name(text.into()))
    }

    /// The port, checked; `None` where there is none or nothing stands behind the colon.
    pub(super) fn port(&self) -> Result<Option<u16>, DecodeError> {
        self.port.map_or(Ok(None), port_text)
    }

    /// The whole address; `default` where it names no port.
    pub(super) fn address(&self, default: Option<u16>) -> Result<Address, DecodeError> {
        let host = self.host()?;
        let port = self.port()?.or(default).ok_or_else(missing_port)?;
        Ok(Address { host, port })
    }
}

/// A host alone, from a field of its own: no port can hide in it.
pub(super) fn host(text: &str) -> Result<Host, DecodeError> {
    let text = text.trim_ascii();
    match Parts::of(text)? {
        parts @ Parts { port: None, .. } => parts.host(),
        Parts { .. } => Err(bad_host(text, "is neither an IP literal nor a host name")),
    }
}

/// A port as text; `None` where it is empty.
pub(super) fn port_text(text: &str) -> Result<Option<u16>, DecodeError> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(Some(port)),
        _ => Err(bad_port(text)),
    }
}

pub(super) fn missing_port() -> DecodeError {
    DecodeError::new(RejectReason::MissingPort, "no port")
}

pub(super) fn bad_port(given: &str) -> DecodeError {
    DecodeError::new(RejectReason::BadPort, format!("{} is no port from 1 to 65535", quote(given)))
}

pub(super) fn bad_host(given: &str, why: &str) -> DecodeError {
    DecodeError::new(RejectReason::BadHost, format!("{} {why}", quote(given)))
}

/// Whether only such characters stand in it as host names are made of.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn ends_in_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = name.rsplit('.').next().unwrap_or_default();
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, &'static str> {
        Parts::of(text).and_then(|p| p.address(None)).map(|a| a.to_string()).map_err(|e| e.reason.code())
    }

    #[test]
    fn addresses_are_read_and_printed_canonically() {
        for (text, expected) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("Echo-1.example.net:9001", "Echo-1.example.net:9001"),
            ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
            ("[192.0.2.1]:80", "192.0.2.1:80"),
            ("2001:db8:0:0:0:0:0:82:9003", "[2001:db8::82]:9003"),
            ("a_b:065", "a_b:65"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_code() {
        for (text, code) in [
            ("", "missing_host"),
            (":80", "missing_host"),
            ("[]:80", "missing_host"),
            ("a", "missing_port"),
            ("a:", "missing_port"),
            ("::1", "missing_port"),
            ("a:0", "bad_port"),
            ("a:65536", "bad_port"),
            ("a:+80", "bad_port"),
            ("a:http", "bad_port"),
            ("[::g]:80", "bad_host"),
            ("[a]:80", "bad_host"),
            ("[::1:80", "bad_host"),
            ("[::1]80", "bad_host"),
            ("1::2::3:80", "bad_host"),
            ("256.0.0.1:80", "bad_host"),
            ("127.1:80", "bad_host"),
            ("0x7f000001:80", "bad_host"),
            ("a/b:80", "bad_host"),
            ("a b:80", "bad_host"),
        ] {
            assert_eq!(read(text), Err(code), "{text}");
        }
    }
}
