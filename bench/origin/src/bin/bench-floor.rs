//! The least that a proxy in user space costs here: passes bytes on between two sockets and looks at none of them.
//!
//!     bench-floor LISTEN ORIGIN...
//!
//! Each client gets a connection to one of the origins, in turn, for as long as it stays. One thread, one receive and
//! one send for each message, one look at all sockets for as many as are ready.
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

/// Two ends of one way: client at an even token, origin behind it.
struct Ends(Vec<Option<TcpStream>>);

impl Ends {
    fn pass(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<bool> {
        let to = from ^ 1;
        loop {
            let Some(source) = self.0[from].as_mut() else { return Ok(true) };
            let read = match source.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let Some(sink) = self.0[to].as_mut() else { return Ok(false) };
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                match sink.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    // Full: the other side runs on another core, and takes it in a moment.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => return Err(error),
                }
            }
            // Edges are told anew: what fitted was all there is.
            if read < buffer.len() {
                return Ok(true);
            }
        }
    }
}

fn main() -> io::Result<()> {
    let addresses: Vec<SocketAddr> =
        std::env::args().skip(1).map(|a| a.parse().map_err(io::Error::other)).collect::<io::Result<_>>()?;
    let [listen, origins @ ..] = &addresses[..] else { return Err(io::Error::other("bench-floor LISTEN ORIGIN...")) };
    let mut listener = TcpListener::bind(*listen)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut ends, mut free) = (Events::with_capacity(1024), Ends(Vec::new()), Vec::new());
    let (mut buffer, mut turn) = (vec![0; 128 * 1024], 0);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    turn += 1;
                    let origin = TcpStream::connect(origins[turn % origins.len()])?;
                    let at = free.pop().unwrap_or_else(|| {
                        ends.0.extend([None, None]);
                        ends.0.len() - 2
                    });
                    for (offset, mut stream) in [client, origin].into_iter().enumerate() {
                        stream.set_nodelay(true)?;
                        poll.registry().register(&mut stream, Token(at + offset), Interest::READABLE)?;
                        ends.0[at + offset] = Some(stream);
                    }
                }
                continue;
            }
            let from = event.token().0;
            if !ends.pass(from, &mut buffer).unwrap_or(false) {
                let pair = from & !1;
                if ends.0[pair].take().is_some() {
                    ends.0[pair + 1] = None;
                    free.push(pair);
                }
            }
        }
    }
}
