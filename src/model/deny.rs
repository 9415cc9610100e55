//! Addresses that no registration may name: what a registry holds is untrusted.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Why an address is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// It lies in a range that is denied.
    Range(IpNet),
    /// It is our own.
    Own,
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(net) => write!(f, "lies in {net}"),
            Self::Own => f.write_str("is the gateway's own admin"),
        }
    }
}

/// Ranges that a registry denies, and the gateway's own admin address, which every registry denies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    nets: Vec<IpNet>,
    own: Vec<SocketAddr>,
}

impl DenyList {
    /// Ranges from the configuration, and sockets of our own.
    pub fn new(nets: Vec<IpNet>, own: Vec<SocketAddr>) -> Self {
        Self { nets, own }
    }

    /// Why a registration may not lead here, if so. An IPv4-mapped IPv6 address counts as what it maps.
    pub fn denies(&self, ip: IpAddr, port: u16) -> Option<Denial> {
        let (given, ip) = (ip, ip.to_canonical());
        if let Some(net) = self.nets.iter().find(|net| net.contains(&ip) || net.contains(&given)) {
            return Some(Denial::Range(*net));
        }
        let ours = self.own.iter().any(|own| {
            let to_us =
                if own.ip().is_unspecified() { is_this_host(ip) } else { own.ip().to_canonical() == ip };
            own.port() == port && (to_us || ip.is_unspecified())
        });
        ours.then_some(Denial::Own)
    }

    /// Whether a connection that was made must not be used: it leads from this machine to itself, at a port of
    /// our own that listens on every address. Catches what [`Self::denies`] cannot know: the machine's addresses.
    pub fn denies_connected(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        local.ip().to_canonical() == peer.ip().to_canonical()
            && self.own.iter().any(|own| own.ip().is_unspecified() && own.port() == peer.port())
    }
}

fn is_this_host(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_and_our_own_sockets_are_denied_in_every_spelling() {
        let nets = vec!["169.254.0.0/16".parse().unwrap()];
        let list = DenyList::new(nets, vec!["127.0.0.1:9901".parse().unwrap()]);
        assert!(list.denies(ip("169.254.169.254"), 80).is_some());
        assert!(list.denies(ip("::ffff:169.254.169.254"), 80).is_some());
        assert!(list.denies(ip("127.0.0.1"), 9901).is_some());
        assert!(list.denies(ip("::ffff:127.0.0.1"), 9901).is_some());
        assert!(list.denies(ip("0.0.0.0"), 9901).is_some());
        assert!(list.denies(ip("127.0.0.1"), 9902).is_none());
        assert!(list.denies(ip("10.0.0.1"), 9901).is_none());
    }

    #[test]
    fn an_admin_on_every_address_is_denied_by_any_of_them() {
        let list = DenyList::new(vec![], vec!["0.0.0.0:9901".parse().unwrap()]);
        assert!(list.denies(ip("127.0.0.7"), 9901).is_some());
        assert!(list.denies(ip("::1"), 9901).is_some());
        let (local, peer) = ("10.0.0.5:40000".parse().unwrap(), "10.0.0.5:9901".parse().unwrap());
        assert!(list.denies_connected(local, peer));
        assert!(!list.denies_connected("10.0.0.6:40000".parse().unwrap(), peer));
    }
}
