//! HTTP/1.1 on an edge-triggered poll. Knows just enough of a request to tell where it ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Larger than any request here with its body.
const ROOM: usize = 64 * 1024;

struct Answers {
    small: Vec<u8>,
    big: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// Of a request that is not whole.
    pending: Vec<u8>,
    /// Of answers that the socket had no room for.
    unsent: Vec<u8>,
}

pub fn serve(ports: &[u16]) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)))?;
        poll.registry().register(&mut listener, Token(i), Interest::READABLE)?;
        listeners.push(listener);
    }
    let answers = Answers { small: answer(128), big: answer(64 * 1024) };
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(256);
    let mut room = vec![0; ROOM];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let Token(token) = event.token();
            if let Some(listener) = listeners.get(token) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.set_nodelay(true);
                    let at = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    let token = Token(listeners.len() + at);
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    connections[at] = Some(Connection { stream, pending: Vec::new(), unsent: Vec::new() });
                }
                continue;
            }
            let at = token - listeners.len();
            let Some(connection) = &mut connections[at] else { continue };
            let alive = connection.send(&[]).and_then(|()| {
                if event.is_readable() { connection.receive(&mut room, &answers) } else { Ok(()) }
            });
            if alive.is_err() {
                connections[at] = None;
                free.push(at);
            }
        }
    }
}

impl Connection {
    fn receive(&mut self, room: &mut [u8], answers: &Answers) -> io::Result<()> {
        loop {
            let len = match self.stream.read(room) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.pending.is_empty() {
                let used = self.answer(&room[..len], answers)?;
                self.pending.extend_from_slice(&room[used..len]);
            } else {
                self.pending.extend_from_slice(&room[..len]);
                let pending = std::mem::take(&mut self.pending);
                let used = self.answer(&pending, answers)?;
                self.pending.extend_from_slice(&pending[used..]);
            }
            if len < room.len() {
                return Ok(());
            }
        }
    }

    /// Answers every whole request of `input` and says how many bytes that was.
    fn answer(&mut self, input: &[u8], answers: &Answers) -> io::Result<usize> {
        let mut used = 0;
        while let Some(len) = request_len(&input[used..]) {
            let big = input[used..].starts_with(b"GET /big");
            used += len;
            self.send(if big { &answers.big } else { &answers.small })?;
        }
        Ok(used)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let len = write(&mut self.stream, &unsent)?;
            self.unsent.extend_from_slice(&unsent[len..]);
        }
        if self.unsent.is_empty() && !bytes.is_empty() {
            sent = write(&mut self.stream, bytes)?;
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}

/// Writes what the socket takes.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(len) => sent += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// The bytes of the first request, where all of it is there.
fn request_len(input: &[u8]) -> Option<usize> {
    let head = input.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let lines = input[..head].split(|byte| *byte == b'\n');
    let mut body = 0;
    for line in lines {
        if line.len() > 15 && line[..15].eq_ignore_ascii_case(b"content-length:") {
            body = std::str::from_utf8(&line[15..]).ok()?.trim().parse().ok()?;
        }
        if line.len() > 18 && line[..18].eq_ignore_ascii_case(b"transfer-encoding:") {
            let end = input[head..].windows(5).position(|w| w == b"0\r\n\r\n")? + 5;
            return Some(head + end);
        }
    }
    (input.len() >= head + body).then_some(head + body)
}

fn answer(len: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: origin\r\n\
         content-length: {len}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + len, b'.');
    answer
}
