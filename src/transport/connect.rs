//! Dialling: every address of a target in turn, within one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::resolve::Resolver;
use super::{ConnectError, Target};
use crate::model::Host;

/// A TCP connection to `target`, without Nagle's delay.
///
/// Addresses are tried in the resolver's order. Each gets an even share of the time that is left,
/// so that a first address that swallows packets leaves time for the next.
pub(crate) async fn dial(target: &Target, resolver: &Resolver) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + target.connect_timeout;
    let addresses: Rc<[IpAddr]> = match &target.address.host {
        Host::Ip(ip) => Rc::from([*ip]),
        Host::Name(name) => match timeout_at(deadline, resolver.lookup(name, target.dns_ttl)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(cause)) => return Err(ConnectError::Dns { address: label(target, None), cause }),
            Err(_) => {
                let cause = io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer in time");
                return Err(ConnectError::Dns { address: label(target, None), cause: Arc::new(cause) });
            }
        },
    };
    let port = target.address.port;
    let mut left = addresses.iter().filter(|ip| target.deny.denies(**ip, port).is_none()).count() as u32;
    let mut failure = None;
    for &ip in addresses.iter() {
        if target.deny.denies(ip, port).is_some() {
            failure.get_or_insert(ConnectError::Denied { address: label(target, None), ip });
            continue;
        }
        let now = Instant::now();
        let share = now + deadline.saturating_duration_since(now) / left;
        left -= 1;
        match timeout_at(share, open(SocketAddr::new(ip, target.address.port))).await {
            Ok(Ok(stream)) if leads_home(target, &stream) => {
                failure = Some(ConnectError::Denied { address: label(target, None), ip });
            }
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => failure = Some(refusal(target, ip, cause)),
            Err(_) => {
                let address = label(target, Some(ip));
                failure = Some(ConnectError::Timeout { address, within: target.connect_timeout });
            }
        }
    }
    Err(failure.unwrap_or_else(|| {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no address");
        ConnectError::Dns { address: label(target, None), cause: Arc::new(cause) }
    }))
}

/// Whether what was reached is a socket of our own that the address did not show to be one.
fn leads_home(target: &Target, stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(local), Ok(peer)) if target.deny.denies_connected(local, peer))
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn refusal(target: &Target, ip: IpAddr, cause: io::Error) -> ConnectError {
    let address = label(target, Some(ip));
    let refused = cause.kind() == io::ErrorKind::ConnectionRefused;
    let cause = Arc::new(cause);
    if refused {
        ConnectError::Refused { address, cause }
    } else {
        ConnectError::Unreachable { address, cause }
    }
}

/// The registered address, with what it resolved to where that says more.
pub(crate) fn label(target: &Target, ip: Option<IpAddr>) -> Arc<str> {
    match (&target.address.host, ip) {
        (Host::Name(_), Some(ip)) => format!("{} ({ip})", target.address).into(),
        _ => target.address.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{DenyList, Protocol};
    use crate::transport::tests::support::{listener, run, target_of};

    fn named(port: u16) -> Target {
        let mut target = target_of(SocketAddr::from(([127, 0, 0, 1], port)), Protocol::Http1);
        target.address.host = Host::Name("localhost".into());
        target
    }

    #[test]
    fn a_name_is_dialled_at_the_address_that_answers() {
        run(async {
            // `localhost` may be ::1 first, where nobody listens on this port.
            let (server, address) = listener().await;
            let stream = dial(&named(address.port()), &Resolver::default()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), address);
            assert!(stream.nodelay().unwrap());
            drop(server);
        });
    }

    #[test]
    fn what_a_name_resolves_to_can_be_denied() {
        run(async {
            let (_server, address) = listener().await;
            let mut target = named(address.port());
            target.deny = Arc::new(DenyList::new(
                vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
                vec![],
            ));
            let error = dial(&target, &Resolver::default()).await.unwrap_err();
            assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
            target.address.host = Host::Ip("::ffff:127.0.0.1".parse().unwrap());
            let error = dial(&target, &Resolver::default()).await.unwrap_err();
            assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
        });
    }

    #[test]
    fn a_closed_port_is_refused_and_named() {
        run(async {
            let (server, address) = listener().await;
            drop(server);
            let error = dial(&target_of(address, Protocol::Http1), &Resolver::default()).await.unwrap_err();
            assert!(matches!(error, ConnectError::Refused { .. }));
            assert_eq!(error.to_string(), format!("{address} refused the connection"));
        });
    }

    #[test]
    fn a_silent_address_costs_no_more_than_the_timeout() {
        run(async {
            // A listener whose queue is full drops connects, as a black hole does.
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let server = socket.listen(1).unwrap();
            let address = server.local_addr().unwrap();
            let mut target = target_of(address, Protocol::Http1);
            target.connect_timeout = Duration::from_millis(100);
            let resolver = Resolver::default();
            let mut held = Vec::new();
            let error = loop {
                match dial(&target, &resolver).await {
                    Ok(stream) => held.push(stream),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        });
    }
}
