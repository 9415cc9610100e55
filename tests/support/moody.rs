//! An instance whose moods change: it answers well, fails, breaks connections off, or hangs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it does with each connection that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Answers 200 with its name.
    Well,
    /// Answers 503.
    Fails,
    /// Reads a request and closes without a word.
    Breaks,
    /// Answers nobody, for as long as the mood lasts; then it answers those too.
    Hangs,
    /// Answers a GET after a second and a half, everything else at once.
    Slow,
}

/// Each connection carries one request.
pub struct Moody {
    pub address: SocketAddr,
    mood: Arc<AtomicU8>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Moody {
    pub fn start(name: &str, mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let moody = Self {
            address: listener.local_addr().unwrap(),
            mood: Arc::new(AtomicU8::new(mood as u8)),
            seen: Arc::default(),
        };
        let (name, mood, seen) = (name.to_owned(), Arc::clone(&moody.mood), Arc::clone(&moody.seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (name, mood, seen) = (name.clone(), Arc::clone(&mood), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &name, &mood, &seen));
            }
        });
        moody
    }

    pub fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// The request lines so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How many of them are GETs, which no probe is.
    pub fn gets(&self) -> usize {
        self.seen().iter().filter(|line| line.starts_with("GET ")).count()
    }
}

fn serve(mut stream: TcpStream, name: &str, mood: &AtomicU8, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head).lines().next()?.to_owned();
    let get = line.starts_with("GET ");
    seen.lock().unwrap().push(line);
    while mood.load(Ordering::SeqCst) == Mood::Hangs as u8 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mood = mood.load(Ordering::SeqCst);
    if mood == Mood::Breaks as u8 {
        return None;
    }
    if mood == Mood::Slow as u8 && get {
        std::thread::sleep(Duration::from_millis(1500));
    }
    let status = if mood == Mood::Fails as u8 { "503 Service Unavailable" } else { "200 OK" };
    let length = name.len();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}");
    stream.write_all(answer.as_bytes()).ok()
}
