//! Instances that record what reaches them, and die when they are told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One request as an instance saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
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
    open: Mutex<Vec<TcpStream>>,
    delay: Mutex<Duration>,
}

impl Instance {
    pub fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (name_, shared_) = (name.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || accept(&listener, &name_, &shared_));
        Self { name: name.to_owned(), address, shared }
    }

    /// Waits this long before each answer.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Dies like a killed process: the port refuses, connections are cut.
    pub fn kill(&self) {
        self.shared.dead.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then closes the listener.
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

fn accept(listener: &TcpListener, name: &str, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.dead.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        shared.open.lock().unwrap().push(stream.try_clone().unwrap());
        let (name, shared) = (name.to_owned(), Arc::clone(shared));
        std::thread::spawn(move || while serve(&stream, &name, &shared).is_some() {});
    }
}

/// One request and its answer; `None` when the connection is over.
fn serve(mut stream: &TcpStream, name: &str, shared: &Shared) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let at = Instant::now();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = vec![0; header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    if header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            body.push(byte[0]);
        }
    }
    let bodiless = line.starts_with("HEAD ");
    shared.seen.lock().unwrap().push(Seen { at, line, headers, body });
    std::thread::sleep(*shared.delay.lock().unwrap());
    let payload = if bodiless { "" } else { name };
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{payload}", name.len());
    stream.write_all(answer.as_bytes()).ok()
}
