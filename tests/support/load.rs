//! Load with a memory: every request has an id, and afterwards each is held against what the instances saw.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http::Client;
use super::instance::{Instance, Request};

/// One request as its client saw it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub id: String,
    pub method: &'static str,
    pub at: Instant,
    pub took: Duration,
    /// 0 where no answer came.
    pub status: u16,
    /// The instance's name, or the code of the gateway's own error.
    pub answer: String,
    /// The id that the answer bears.
    pub echo: Option<String>,
}

/// Who wrote down what came.
pub trait Witness {
    fn name(&self) -> &str;

    fn requests(&self) -> Vec<Request>;
}

impl Witness for Instance {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests(&self) -> Vec<Request> {
        // A probe of the gateway's own has no id.
        let probe = |line: &str| line.starts_with("OPTIONS * ") || line.starts_with("HEAD / ");
        let seen = self.seen().into_iter().filter(|request| !probe(&request.line));
        seen.map(|seen| Request::of(&seen).expect("every request of a load has an id")).collect()
    }
}

/// At how many instances a request may be that may be repeated.
const ATTEMPTS: usize = 3;

/// Who asks, each in a thread of its own.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// What their ids begin with. Two loads on the same instances need two names.
    pub name: &'static str,
    pub count: usize,
    /// Each sends a request every so often, or as soon as the one before is answered.
    pub pace: Duration,
    /// Every other request is a POST.
    pub posts: bool,
    /// Each request has a connection of its own.
    pub fresh: bool,
}

/// Threads that ask until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sent>>>,
}

/// The result of a check.
#[derive(Debug)]
pub struct History {
    pub requests: usize,
    pub longest: Duration,
    pub failures: Vec<Sent>,
}

impl Load {
    /// Each of `threads` sends a request every `pace`, or as soon as the one before is answered. Half are GETs.
    pub fn start(gateway: SocketAddr, threads: usize, pace: Duration) -> Self {
        Self::of(gateway, Clients { name: "", count: threads, pace, posts: true, fresh: false })
    }

    pub fn of(gateway: SocketAddr, clients: Clients) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |thread| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || ask(gateway, thread, clients, &stop))
        };
        Self { threads: (0..clients.count).map(run).collect(), stop }
    }

    pub fn stop(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn ask(gateway: SocketAddr, thread: usize, clients: Clients, stop: &AtomicBool) -> Vec<Sent> {
    let Clients { name, pace, posts, fresh, .. } = clients;
    let mut sent = Vec::new();
    let mut client = None;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{name}{thread}-{}", sent.len());
        let (method, body) = if posts && sent.len() % 2 == 1 { ("POST", &*id) } else { ("GET", "") };
        let at = Instant::now();
        let path = format!("/load?id={id}");
        let answer = match &mut client {
            Some(client) => Client::request(client, method, &path, &[("x-id", &id)], body.as_bytes()),
            None => Client::connect(gateway).and_then(|fresh| {
                client.insert(fresh).request(method, &path, &[("x-id", &id)], body.as_bytes())
            }),
        };
        let (status, answer, echo) = match answer {
            Ok(answer) => {
                let header = |name| answer.header(name).map(str::to_owned);
                let (error, echo) = (header("x-zoogate-error"), header("x-id"));
                if fresh || answer.header("connection") == Some("close") {
                    client = None;
                }
                (answer.status, error.unwrap_or(answer.body), echo)
            }
            Err(error) => {
                client = None;
                (0, error.to_string(), None)
            }
        };
        sent.push(Sent { id, method, at, took: at.elapsed(), status, answer, echo });
        // A pace, not a wait for anything. Late is late: no burst makes up for it.
        due = (due + pace).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    sent
}

/// Holds what was sent against what was seen: every 2xx was served by the instance that it names, with its own body, and
/// is the answer to that very request. A POST was at one instance, or where it failed at most at one; a GET was at no more
/// than its attempts.
pub fn check<'w, W: Witness + ?Sized + 'w>(
    sent: &[Sent],
    witnesses: impl IntoIterator<Item = &'w W>,
) -> History {
    let mut seen: HashMap<String, Vec<Served>> = HashMap::new();
    for witness in witnesses {
        for Request { id, body } in witness.requests() {
            seen.entry(id).or_default().push((witness.name().to_owned(), body));
        }
    }
    compare(sent, seen)
}

/// What an instance saw: its name, and the body.
pub type Served = (String, Vec<u8>);

/// The same, of histories. Panics at what must not be.
pub fn compare(sent: &[Sent], mut seen: HashMap<String, Vec<Served>>) -> History {
    let mut failures = Vec::new();
    for request in sent {
        let served = seen.remove(&request.id).unwrap_or_default();
        let most = if request.method == "GET" { ATTEMPTS } else { 1 };
        assert!(served.len() <= most, "{request:?} was tried at {served:?}");
        let own = |body: &[u8]| body.is_empty() || body == request.id.as_bytes();
        assert!(served.iter().all(|(_, body)| own(body)), "{request:?} came with another's body: {served:?}");
        if !(200..300).contains(&request.status) {
            failures.push(request.clone());
            continue;
        }
        let whole = |body: &[u8]| request.method == "GET" || body == request.id.as_bytes();
        let named = served.iter().any(|(by, body)| *by == request.answer && whole(body));
        assert!(named, "{request:?} was served by {served:?}");
        assert!(request.echo.as_ref() == Some(&request.id), "{request:?} got another's answer");
    }
    assert!(seen.is_empty(), "nobody sent these: {seen:?}");
    let longest = sent.iter().map(|s| s.took).max().unwrap_or_default();
    History { requests: sent.len(), longest, failures }
}
