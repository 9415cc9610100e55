//! Instances that record what reaches them, and die when they are told.
//!
//! What one answers depends on the path: its name, or for `/bytes/N` and `/chunks/N` that many bytes, for `/measure`
//! length and CRC of the request's body, for `/echo` the body, for `/status/N` that status, for `/break` nothing.
//! A request's `x-id` is in its answer, too, so that an answer which is given to another client shows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::wait::wait_for;

/// Bodies up to this are kept as they are; of longer ones the beginning.
const KEPT: usize = 1 << 20;

/// One request as an instance saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without the chunks' framing.
    pub body: Vec<u8>,
    /// All of it, however much `body` keeps.
    pub length: u64,
    pub crc: u32,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }
}

/// A request of a load, as an instance had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: String,
    pub body: Vec<u8>,
}

impl Request {
    /// `None` for one without an id, such as a probe of the gateway's own.
    pub fn of(seen: &Seen) -> Option<Self> {
        Some(Self { id: seen.header("x-id")?.to_owned(), body: seen.body.clone() })
    }

    /// As a line of a record.
    fn line(&self) -> String {
        format!("{} {}\n", self.id, self.body.escape_ascii())
    }

    /// Out of a line of a record; the ids and bodies of a load need no escapes.
    pub fn from_line(line: &str) -> Option<Self> {
        let (id, body) = line.split_once(' ')?;
        Some(Self { id: id.to_owned(), body: body.as_bytes().to_vec() })
    }
}

/// An HTTP/1.1 server whose every answer is its name.
pub struct Instance {
    pub name: String,
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    dead: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    /// Questions of the gateway's own.
    probes: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    /// Connections that are being served.
    served: AtomicUsize,
    delay: Mutex<Duration>,
    held: (Mutex<bool>, Condvar),
    /// The status of every answer that has none of its own; 0: 200.
    status: AtomicU16,
    /// Where requests are written down as well, for when this process is killed.
    record: Option<File>,
}

impl Instance {
    pub fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        Self::start_recording(name, address, None)
    }

    /// The same, and a line of [`Request`] for each request with an id is appended to a file before it is answered.
    pub fn start_recording(name: &str, address: SocketAddr, record: Option<File>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { record, ..Shared::default() });
        let (name_, shared_) = (name.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || accept(&listener, &name_, &shared_));
        Self { name: name.to_owned(), address, shared }
    }

    /// Waits this long before each answer.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Answers with this status from now on.
    pub fn says(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Keeps every answer back until told otherwise. Requests count as seen meanwhile.
    pub fn hold(&self, held: bool) {
        *self.shared.held.0.lock().unwrap() = held;
        self.shared.held.1.notify_all();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.shared.seen.lock().unwrap().last().expect("a request has come").clone()
    }

    /// How often the gateway has asked whether it is there.
    pub fn probes(&self) -> usize {
        self.shared.probes.load(Ordering::SeqCst)
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Stops in order: once nobody is connected any more. Who asks it must have been told that it goes.
    pub fn leave(&self) {
        wait_for("the clients of an instance to leave", || {
            (self.shared.served.load(Ordering::SeqCst) == 0).then_some(())
        });
        self.kill();
    }

    /// Dies like a killed process: the port refuses, connections are cut.
    pub fn kill(&self) {
        let open = {
            let mut open = self.shared.open.lock().unwrap();
            // Dead already: the port may be another's now.
            if self.shared.dead.swap(true, Ordering::SeqCst) {
                return;
            }
            std::mem::take(&mut *open)
        };
        self.hold(false);
        // Wakes the accept loop, which then closes the listener.
        let _ = TcpStream::connect(self.address);
        for stream in open {
            let _ = stream.shutdown(Shutdown::Both);
        }
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !self.shared.dead.load(Ordering::SeqCst) {
            self.kill();
        }
    }
}

/// `count` bytes that hardly repeat, so that a lost or doubled piece shows in the CRC.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8).collect()
}

fn accept(listener: &TcpListener, name: &str, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            if shared.dead.load(Ordering::SeqCst) {
                return;
            }
            continue;
        };
        let _ = stream.set_nodelay(true);
        {
            let mut open = shared.open.lock().unwrap();
            if shared.dead.load(Ordering::SeqCst) {
                return;
            }
            open.push(stream.try_clone().unwrap());
        }
        let (name, shared) = (name.to_owned(), Arc::clone(shared));
        shared.served.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone().unwrap());
            while serve(&mut reader, &stream, &name, &shared).is_some() {}
            // The clone that is kept for the kill holds the descriptor open.
            let _ = stream.shutdown(Shutdown::Both);
            shared.served.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// One request and its answer; `None` when the connection is over.
fn serve(
    reader: &mut BufReader<TcpStream>,
    mut stream: &TcpStream,
    name: &str,
    shared: &Shared,
) -> Option<()> {
    let line = read_line(reader)?;
    let at = Instant::now();
    let mut headers: Vec<(String, String)> = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { at, line, headers, body: Vec::new(), length: 0, crc: 0 };
    if seen.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    read_body(reader, &mut seen)?;
    if let (Some(mut record), Some(request)) = (shared.record.as_ref(), Request::of(&seen)) {
        record.write_all(request.line().as_bytes()).ok()?;
    }
    // A question of the gateway's own, which may come whenever an instance takes long, is no request.
    if seen.line.starts_with("OPTIONS * ") {
        shared.probes.fetch_add(1, Ordering::SeqCst);
    } else {
        shared.seen.lock().unwrap().push(seen.clone());
    }
    std::thread::sleep(*shared.delay.lock().unwrap());
    let held = shared.held.0.lock().unwrap();
    drop(shared.held.1.wait_while(held, |held| *held).unwrap());
    let status = match shared.status.load(Ordering::SeqCst) {
        0 => 200,
        status => status,
    };
    answer(stream, name, &seen, status)
}

fn answer(mut stream: &TcpStream, name: &str, seen: &Seen, mut status: u16) -> Option<()> {
    let path = seen.path().split('?').next().unwrap_or_default();
    let number = || path.rsplit('/').next().and_then(|n| n.parse::<usize>().ok());
    let body = match path.split('/').nth(1).unwrap_or_default() {
        "break" => return None,
        "bytes" | "chunks" => pattern(number()?),
        "measure" => format!("{} {:08x}", seen.length, seen.crc).into_bytes(),
        "echo" => seen.body.clone(),
        "status" => {
            status = number()? as u16;
            name.as_bytes().to_vec()
        }
        _ => name.as_bytes().to_vec(),
    };
    let chunked = path.starts_with("/chunks/");
    let framing =
        if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {}", body.len()) };
    let echo = seen.header("x-id").map(|id| format!("x-id: {id}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {status} Whatever\r\nx-instance: {name}\r\n{echo}{framing}\r\n\r\n");
    let mut out = head.into_bytes();
    if seen.line.starts_with("HEAD ") {
        return stream.write_all(&out).ok();
    }
    if chunked {
        for chunk in body.chunks(10_000) {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
    } else {
        out.extend_from_slice(&body);
    }
    stream.write_all(&out).ok()
}

fn read_body(reader: &mut BufReader<TcpStream>, seen: &mut Seen) -> Option<()> {
    if seen.header("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(read_line(reader)?.split(';').next()?, 16).ok()?;
            if size == 0 {
                while !read_line(reader)?.is_empty() {}
                return Some(());
            }
            take(reader, size, seen)?;
            read_line(reader)?;
        }
    }
    let length = seen.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    take(reader, length, seen)
}

fn take(reader: &mut BufReader<TcpStream>, mut count: usize, seen: &mut Seen) -> Option<()> {
    let mut crc = crc32fast::Hasher::new_with_initial_len(seen.crc, seen.length);
    while count > 0 {
        let chunk = reader.fill_buf().ok()?;
        let part = &chunk[..chunk.len().min(count)];
        if part.is_empty() {
            return None;
        }
        crc.update(part);
        let room = KEPT.saturating_sub(seen.body.len()).min(part.len());
        seen.body.extend_from_slice(&part[..room]);
        let used = part.len();
        seen.length += used as u64;
        count -= used;
        reader.consume(used);
    }
    seen.crc = crc.finalize();
    Some(())
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.take(64 * 1024).read_until(b'\n', &mut line).ok()?;
    let line = line.strip_suffix(b"\r\n")?;
    Some(String::from_utf8_lossy(line).into_owned())
}
