//! Listening sockets: one a worker, sharing a port among themselves and with nobody else.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait to be accepted, a socket.
const BACKLOG: i32 = 4096;

/// So many bytes of an answer the kernel holds for a client that it cannot send yet.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 256 * 1024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason(.source))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process holds the port; stop it or choose another address".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        _ => error.to_string(),
    }
}

/// Binds `count` sockets to one address; port 0 picks one port for all of them.
///
/// The first binds without port sharing, so that a port which another process holds is refused (otherwise a second
/// gateway would silently take half of the connections), and only then admits the others.
pub(super) fn bind(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source| BindError { address, source };
    let first = socket(address).map_err(fail)?;
    first.bind(&address.into()).map_err(fail)?;
    first.set_reuse_port(true).map_err(fail)?;
    first.listen(BACKLOG).map_err(fail)?;
    let first = TcpListener::from(first);
    let actual = first.local_addr().map_err(fail)?;
    let mut sockets = vec![first];
    sockets.extend(bind_beside(actual, count - 1)?);
    Ok(sockets)
}

/// Lets no new connection begin on a listening socket, while those that are beginning get through: closing it under a
/// connection that the kernel has completed would reset that. To be followed by the close, on sockets that nobody else
/// accepts on: what asks for a connection meanwhile asks again a second later, and is refused.
#[cfg(target_os = "linux")]
pub(super) fn admit_no_more(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    // Of what comes for a socket, the filter sees the TCP header: a packet with SYN in its flags is dropped.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&filter)
}

/// There is no way to: a connection that comes in the very moment of the close may be reset.
#[cfg(not(target_os = "linux"))]
pub(super) fn admit_no_more(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Binds `count` sockets to an address that sockets of [`bind`]'s hold already.
///
/// A reload gives one listener's address to another this way: connections find either the old or the new sockets.
pub(super) fn bind_beside(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source| BindError { address, source };
    let next = || {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        next.listen(BACKLOG)?;
        Ok(next.into())
    };
    (0..count).map(|_| next().map_err(fail)).collect()
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means IPv6 alone, whatever the machine's default says; both families take two listeners.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for TIME_WAIT; this shares nothing with a socket that listens.
    socket.set_reuse_address(true)?;
    tune(&SockRef::from(&socket))?;
    Ok(socket)
}

/// Sets what every connection inherits that is accepted on a listening socket: system calls saved for each.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // The kernel would take megabytes of an answer for a client that takes it slowly, and a thousand such clients would
    // have all the memory that TCP may use on the machine. What is under way does not count, so that a long way is filled.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_that_a_second_gateway_is_refused() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|s| s.local_addr().unwrap() == address));
        let client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = sockets.iter().find_map(|socket| socket.accept().ok()).unwrap();
        assert!(accepted.nodelay().unwrap(), "inherited");
        drop(client);
        let error = bind(address, 2).unwrap_err();
        assert!(error.to_string().contains("another process holds the port"), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_takes_little_for_a_client_that_takes_nothing() {
        use std::io::Write;
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = std::net::TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
        let mut accepted = loop {
            match sockets[0].accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        accepted.set_nonblocking(true).unwrap();
        let piece = vec![0; 64 * 1024];
        // In pieces as large as an answer's: the limit is looked at before each.
        let taken: usize = std::iter::from_fn(|| accepted.write(&piece).ok()).sum();
        assert!((UNSENT as usize..1024 * 1024).contains(&taken), "{taken} bytes");
    }
}
