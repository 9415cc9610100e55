//! Addresses, ranges, connect strings and registry paths. Each parser's error says what is wrong and
//! what is accepted, and leaves it to the caller to quote the text.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// An address to listen on.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    const ACCEPTED: &str = "accepted: IP:PORT, such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" (every IPv4 \
                            address), \"[::]:8080\", or port 0 for a free one";
    text.parse().map_err(|_| match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("has no IP address; accepted: \"0.0.0.0:{port}\" for every IPv4 address")
        }
        Some((host, port)) if is_host_name(host) && port.parse::<u16>().is_ok() && !is_digits(host) => {
            format!("has a host name where an IP address stands; {ACCEPTED}")
        }
        _ => format!("is no address to listen on; {ACCEPTED}"),
    })
}

/// A range of addresses; a bare address is a range of one.
pub(super) fn parse_range(text: &str) -> Result<IpNet, String> {
    let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let accepted = "is no range of addresses; accepted: an address, or one and its prefix length, such as \
                    \"10.0.0.0/8\" or \"2001:db8::/32\"";
    range.map(|range| range.trunc()).ok_or_else(|| accepted.to_owned())
}

/// Checks the path of a service or of a catalog in a registry, such as `/services/orders`.
pub fn check_registry_path(text: &str) -> Result<(), String> {
    // What ZooKeeper itself refuses in a node's name.
    let illegal = |c: char| c.is_control() || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}');
    let why = if !text.starts_with('/') {
        "does not start with a slash"
    } else if text == "/" {
        return Ok(());
    } else if text.ends_with('/') {
        "ends in a slash"
    } else if text.split('/').skip(1).any(str::is_empty) {
        "has two slashes in a row"
    } else if text.split('/').any(|segment| segment == "." || segment == "..") {
        "has a segment \".\" or \"..\""
    } else if text.split('/').any(|segment| segment == "*") {
        "has a segment \"*\""
    } else if text.chars().any(illegal) {
        "has a character that no node's name can have"
    } else {
        return Ok(());
    };
    Err(format!("{why}; accepted: a whole path in the registry, such as \"/services/orders\""))
}

/// A ZooKeeper connect string, with every port written out and a chroot of `/` left out.
pub(super) fn parse_connect(text: &str) -> Result<String, String> {
    let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
    if text.contains("://") {
        return Err(connect_error("has a scheme"));
    }
    if text.contains('@') {
        return Err(connect_error("has credentials, which belong in auth"));
    }
    if hosts.trim().is_empty() {
        return Err(connect_error("names no host"));
    }
    if !chroot.is_empty() {
        check_registry_path(chroot).map_err(|_| connect_error("has a chroot that is no path"))?;
    }
    let servers: Result<Vec<String>, String> =
        hosts.split(',').map(|server| parse_server(server.trim())).collect();
    let chroot = if chroot == "/" { "" } else { chroot };
    Ok(format!("{}{chroot}", servers?.join(",")))
}

fn parse_server(text: &str) -> Result<String, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, "2181"),
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("")),
        None => text.rsplit_once(':').unwrap_or((text, "2181")),
    };
    let bracketed = text.starts_with('[');
    let sound = if bracketed { host.parse::<std::net::Ipv6Addr>().is_ok() } else { is_host_name(host) };
    if !sound {
        return Err(connect_error("has a host that is none"));
    }
    match port.parse::<u16>() {
        Ok(number) if number > 0 && is_digits(port) => {
            Ok(if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        }
        _ => Err(connect_error("has a port that is none")),
    }
}

fn connect_error(why: &str) -> String {
    format!(
        "{why}; accepted: HOST:PORT,HOST:PORT/CHROOT, such as \"zk1:2181,zk2:2181/prod\" (the chroot may be left out)"
    )
}

/// Whether a text can be a host name or an IPv4 address.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_strings_are_made_whole() {
        for (text, whole) in [
            ("zk1", "zk1:2181"),
            ("zk1:2182, zk2", "zk1:2182,zk2:2181"),
            ("zk1:2181,zk2:2181,zk3:2181/prod", "zk1:2181,zk2:2181,zk3:2181/prod"),
            ("zk1:2181/", "zk1:2181"),
            ("127.0.0.1:2181/a/b", "127.0.0.1:2181/a/b"),
            ("[::1]:2182,[::1]", "[::1]:2182,[::1]:2181"),
        ] {
            assert_eq!(parse_connect(text).as_deref(), Ok(whole), "{text}");
        }
        for bad in [
            "",
            "/prod",
            "zk1:",
            "zk1:0",
            "zk1:65536",
            "zk1:+1",
            "zk1:2181,",
            ":2181",
            "zk 1",
            "zk1:2181/a/",
            "zk1:2181//a",
            "zk1/a/../b",
            "http://zk1",
            "u:p@zk1",
            "::1",
            "[::1",
            "[zk1]:2181",
            "[::1]2181",
        ] {
            assert!(parse_connect(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_registry_path_is_absolute_and_plain() {
        for good in ["/", "/a", "/services/orders", "/a b/ü.x/..."] {
            assert_eq!(check_registry_path(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "a/b", "/a/", "//", "/a//b", "/./a", "/a/..", "/services/*", "/a\0", "/\u{f000}"]
        {
            assert!(check_registry_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bare_address_is_a_range_of_one() {
        for (text, range) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(parse_range(text).map(|r| r.to_string()).as_deref(), Ok(range));
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.0/-1"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
