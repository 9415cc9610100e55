//! One worker of the proxy in a thread, a table made by hand, and instances that record every byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;
use zoogate::config::plan::{
    Limits, ListenerKind, ListenerPlan, PathMatch, RoutePlan, Segment, ServiceDefaults, ServicePlan,
    ServiceRef, WeightedService,
};
use zoogate::model::{
    Address, BalanceSpec, FormatChoice, Host, Incarnation, Instance as Registration, InstanceId, Protocol,
    RegistryName, RetrySpec, ServiceName, ServiceSnapshot,
};
use zoogate::proxy::{Filters, ListenerState, ProxyContext, Shared, serve};
use zoogate::table::{Settings, TableConfig, TableWriter};
use zoogate::telemetry::{LineSink, LineTarget, Metrics};

pub use crate::support::wait::{until, wait_for};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker is set up with; the rest is the same for every test.
pub struct Setup {
    pub limits: Limits,
    pub protocol: Protocol,
    pub kind: ListenerKind,
    pub timeout: Option<Duration>,
    pub retry: RetrySpec,
    pub hedge: Option<Duration>,
    pub retry_budget: f64,
    pub trusted: Vec<&'static str>,
    pub filters: Filters,
    pub log: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            max_connections: 100,
            max_headers: 100,
            max_header_size: 64 * 1024,
            max_body: None,
            max_memory: None,
            idle_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
        };
        let (protocol, kind) = (Protocol::Http1, ListenerKind::Http);
        Self {
            limits,
            protocol,
            kind,
            timeout: None,
            retry: RetrySpec::default(),
            hedge: None,
            retry_budget: ServiceDefaults::DEFAULT_RETRY_BUDGET,
            trusted: Vec::new(),
            filters: Filters::default(),
            log: false,
        }
    }
}

/// A worker of the proxy.
pub struct Worker {
    pub address: SocketAddr,
    pub metrics: Arc<Metrics>,
    pub shared: Shared,
    writer: TableWriter,
    orders: mpsc::Sender<Order>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    log: Option<(LineSink, std::path::PathBuf)>,
}

enum Order {
    Drain,
}

pub fn orders() -> ServiceName {
    ServiceName::new("orders").unwrap()
}

impl Worker {
    pub fn start(setup: Setup, instances: &[SocketAddr]) -> Self {
        let metrics = Metrics::new();
        let (mut writer, reader) = TableWriter::new(1);
        let route = RoutePlan {
            name: "all".into(),
            host: None,
            path: PathMatch { segments: vec![Segment::Literal("o".into())], prefix: true },
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            services: vec![WeightedService { service: ServiceRef::Named(orders()), weight: 1 }],
            timeout: setup.timeout,
            rewrite: None,
            retry: setup.retry,
            hedge: setup.hedge,
            ..RoutePlan::default()
        };
        let service = ServicePlan {
            name: orders(),
            registry: RegistryName::new("main").unwrap(),
            path: "/services/orders".into(),
            defaults: ServiceDefaults {
                format: FormatChoice::Auto,
                reading: std::sync::Arc::default(),
                protocol: setup.protocol,
                balance: BalanceSpec::default(),
                connect_timeout: Duration::from_secs(1),
                dns_ttl: Duration::from_secs(30),
                retry_budget: setup.retry_budget,
                // What becomes of one request is not to depend on those before it.
                ejection: None,
                ..ServiceDefaults::default()
            },
        };
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Arc::new(ListenerPlan {
            name: "public".into(),
            listen: address,
            kind: setup.kind,
            trusted: setup.trusted.iter().map(|net| net.parse().unwrap()).collect(),
        });
        writer.configure(TableConfig {
            settings: Settings {
                limits: setup.limits,
                listeners: vec![(*listener).clone()],
                drain_timeout: Duration::ZERO,
            },
            services: vec![service],
            catalogs: Vec::new(),
            routes: vec![route],
            deny: std::collections::HashMap::new(),
            balancers: std::collections::HashMap::new(),
        });
        writer.publish();
        let shared = Shared::new(reader, Arc::clone(&metrics), setup.filters);
        let log = setup.log.then(|| {
            let path =
                std::env::temp_dir().join(format!("zoogate-wire-{}-{}", std::process::id(), address.port()));
            (LineSink::open(LineTarget::File(path.clone())).unwrap(), path)
        });
        let (orders, inbox) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (theirs, sink) = (shared.clone(), log.as_ref().map(|(sink, _)| sink.clone()));
        let thread = thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build_local(LocalOptions::default()).unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = work(theirs, socket, listener, sink, inbox) => {}
                    _ = stopped => {}
                }
            });
        });
        let mut worker =
            Self { address, metrics, shared, writer, orders, stop: Some(stop), thread: Some(thread), log };
        worker.announce(instances);
        worker
    }

    /// The registry's news: these, and no others, are instances.
    pub fn announce(&mut self, instances: &[SocketAddr]) {
        let mut instances: Vec<_> = instances
            .iter()
            .map(|address| {
                Arc::new(Registration {
                    id: InstanceId {
                        name: format!("n{}", address.port()).into(),
                        incarnation: Incarnation(1, 0),
                    },
                    address: Address { host: Host::Ip(address.ip()), port: address.port() },
                    scheme: None,
                    tls: None,
                    weight: 1.0,
                    enabled: true,
                    zone: None,
                    role: None,
                    registered_ms: None,
                    warmup_ms: None,
                    facts: zoogate::model::NodeFacts::default(),
                    metadata: std::collections::BTreeMap::new(),
                })
            })
            .collect();
        instances.sort_by(|a, b| a.id.name.cmp(&b.id.name));
        self.writer.apply(&orders(), Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() }));
        self.writer.publish();
    }

    pub fn drain(&self) {
        self.orders.send(Order::Drain).unwrap();
    }

    pub fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// Sends raw bytes on a connection of their own, and reads to its end.
    pub fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.connect();
        wire.send(bytes);
        wire.read_all()
    }

    /// The value of a series whose line begins with the name and contains every label; 0 where it is not.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics.render();
        let found = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        text.lines().filter(found).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The access log's lines, once there are so many.
    pub fn log_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let (sink, path) = self.log.as_ref().expect("a worker with a log");
        wait_for("log lines", || {
            sink.flush(PATIENCE);
            let text = std::fs::read_to_string(path).unwrap();
            let lines: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.len() >= count).then_some(lines)
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        let thread = self.thread.take().map(thread::JoinHandle::join);
        if let Some((_, path)) = &self.log {
            let _ = std::fs::remove_file(path);
        }
        assert!(thread::panicking() || matches!(thread, Some(Ok(()))), "the worker panicked");
    }
}

async fn work(
    shared: Shared,
    socket: TcpListener,
    plan: Arc<ListenerPlan>,
    sink: Option<LineSink>,
    inbox: mpsc::Receiver<Order>,
) {
    let context = Rc::new(ProxyContext::new(0, shared));
    context.set_access_log(sink);
    let listener = Rc::new(ListenerState::new(plan, &context));
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::TcpListener::from_std(socket).unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            accepted = socket.accept() => {
                let (stream, peer) = accepted.unwrap();
                let stream = stream.into_std().unwrap();
                tokio::task::spawn_local(serve(stream, peer, Rc::clone(&listener), Rc::clone(&context)));
            }
            _ = tick.tick() => {
                if let Ok(Order::Drain) = inbox.try_recv() {
                    context.drain();
                }
                context.tick();
            }
        }
    }
}

/// A raw connection.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have closed: what it said before is what the tests look at.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn close_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("reading: {error}; so far: {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// Up to and with these bytes; `None` where the other side closes before.
    pub fn read_until(&mut self, mark: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark.as_bytes()) {
                let taken = self.buffer.drain(..at + mark.len()).collect();
                return Some(String::from_utf8(taken).unwrap());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub fn read_exact(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < len {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..len).collect())
    }

    pub fn read_all(&mut self) -> String {
        while self.fill() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// One message: its head, and its body by length or chunks.
    pub fn read_message(&mut self) -> Option<Message> {
        let head = self.read_until("\r\n\r\n")?;
        let header = |name: &str| {
            let line = |line: &str| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            head.lines().find_map(line)
        };
        let mut body = Vec::new();
        if header("transfer-encoding").is_some() {
            loop {
                let size = self.read_until("\r\n")?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    while self.read_until("\r\n")? != "\r\n" {}
                    break;
                }
                body.extend(self.read_exact(size)?);
                self.read_exact(2)?;
            }
        } else if let Some(len) = header("content-length") {
            body = self.read_exact(len.parse().unwrap())?;
        }
        Some(Message { head, body })
    }
}

/// What was read of a request or an answer.
#[derive(Debug, Clone)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn first_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An HTTP/1.1 instance that records what it gets.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    opened: Arc<Mutex<Vec<TcpStream>>>,
}

impl Recorder {
    /// Answers each whole request with these raw bytes.
    pub fn start(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |wire, seen| {
            while let Some(message) = wire.read_message() {
                seen.lock().unwrap().push(message.clone());
                wire.send(answer(&message));
            }
        })
    }

    /// Answers 200 and this text.
    pub fn saying(text: &'static str) -> Self {
        Self::start(move |_| ok(text))
    }

    /// Does with each connection what the script says.
    pub fn scripted(script: impl Fn(&mut Wire, &Mutex<Vec<Message>>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, opened) = (Arc::<Mutex<Vec<Message>>>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (theirs, streams, script) = (Arc::clone(&seen), Arc::clone(&opened), Arc::new(script));
        // Ends with the process: it holds a port that nobody else was promised.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (seen, script) = (Arc::clone(&theirs), Arc::clone(&script));
                thread::spawn(move || script(&mut Wire::over(stream), &seen));
            }
        });
        Self { address, seen, opened }
    }

    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    pub fn request_lines(&self) -> Vec<String> {
        self.seen().iter().map(|message| message.first_line().to_owned()).collect()
    }

    pub fn connections(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    /// Closes every connection that it has.
    pub fn hang_up(&self) {
        for stream in self.opened.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

pub fn ok(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// An address on which nobody listens.
pub fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n")
}
