//! From the call that deletes a node to the last request that reaches its instance, under load.
//!
//! `cargo bench --bench discovery-removal`, with `DELETIONS` (1000), `RATE` (requests a second, 4000) and
//! `INSTANCES` (10). A real gateway, a real ZooKeeper; deletions and creations alternate.
#![allow(missing_docs, dead_code, unreachable_pub, missing_debug_implementations)]
#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::gateway::{Gateway, wait_for};
use support::http;
use support::zk::{self, OPEN, Standalone};

const CLIENTS: usize = 8;

/// Remembers when its last request came, and nothing else: it must cost next to nothing.
struct Lean {
    address: SocketAddr,
    last: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
}

impl Lean {
    fn start(epoch: Instant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (last, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (last_, count_) = (Arc::clone(&last), Arc::clone(&count));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (last, count) = (Arc::clone(&last_), Arc::clone(&count_));
                std::thread::spawn(move || serve(stream, epoch, &last, &count));
            }
        });
        Self { address, last, count }
    }
}

fn serve(mut stream: TcpStream, epoch: Instant, last: &AtomicU64, count: &AtomicU64) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            last.fetch_max(epoch.elapsed().as_nanos() as u64, Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
            filled = 0;
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

fn main() {
    let (deletions, rate, count) = (number("DELETIONS", 1000), number("RATE", 4000), number("INSTANCES", 10));
    let zk = Standalone::start();
    let connect = zk.server.address();
    let epoch = Instant::now();
    let instances: Vec<Lean> = (0..count).map(|_| Lean::start(epoch)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(zk::client(&connect));
    let path = |i: usize| format!("/orders/n{i}");
    runtime.block_on(async {
        client.create("/orders", b"", &OPEN).await.unwrap();
        for (i, instance) in instances.iter().enumerate() {
            client.create(&path(i), instance.address.to_string().as_bytes(), &OPEN).await.unwrap();
        }
    });
    let config = format!(
        "[gateway]\naccess_log = \"off\"\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [services.orders]\npath = \"/orders\"\nformat = \"plain\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    );
    let gateway = Gateway::start("removal", &config);
    gateway.ready();
    let listener = gateway.listener("public");
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || drive(listener, rate / CLIENTS, &stop))
        })
        .collect();
    wait_for("every instance to serve", || {
        instances.iter().all(|i| i.count.load(Ordering::SeqCst) > 20).then_some(())
    });

    let mut latencies = Vec::new();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let mut sum = Published::default();
    published(&gateway, &mut sum);
    let start = Instant::now();
    for round in 0..deletions {
        let i = round % count;
        let instance = &instances[i];
        let deleted = epoch.elapsed();
        runtime.block_on(client.delete(&path(i), None)).unwrap();
        // Far longer than anything that is measured: what comes later than this would be a fault, and is seen
        // in the next round of this instance as a count that moved.
        std::thread::sleep(Duration::from_millis(30));
        let last = Duration::from_nanos(instance.last.load(Ordering::SeqCst));
        latencies.push(last.saturating_sub(deleted));
        removed.push(published(&gateway, &mut sum));
        let settled = instance.count.load(Ordering::SeqCst);
        let data = instance.address.to_string();
        runtime.block_on(client.create(&path(i), data.as_bytes(), &OPEN)).unwrap();
        wait_for("it to serve again", || (instance.count.load(Ordering::SeqCst) > settled).then_some(()));
        added.push(published(&gateway, &mut sum));
    }
    let took = start.elapsed();
    stop.store(true, Ordering::SeqCst);
    let (requests, failures) =
        load.into_iter().map(|l| l.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let rate = requests as f64 / epoch.elapsed().as_secs_f64();
    println!(
        "{deletions} deletions in {took:?}, {count} instances, {requests} requests ({rate:.0}/s), {failures} failed"
    );
    tell("delete call to last request", latencies);
    tell("deletion's event to published table", removed);
    tell("creation's event to published table", added);
    assert_eq!(failures, 0, "a deletion costs no request");
}

fn tell(what: &str, mut values: Vec<Duration>) {
    values.sort();
    let at = |q: f64| values[((values.len() as f64 * q) as usize).min(values.len() - 1)];
    println!("{what}: p50 {:?}  p90 {:?}  p99 {:?}  max {:?}", at(0.5), at(0.9), at(0.99), at(1.0));
}

/// `zoogate_membership_publish_seconds` so far.
#[derive(Default)]
struct Published {
    sum: f64,
    count: f64,
}

/// What the one change since the last call took.
fn published(gateway: &Gateway, so_far: &mut Published) -> Duration {
    let text = gateway.admin("/metrics").body;
    let value = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse::<f64>().unwrap()
    };
    let now = Published {
        sum: value("zoogate_membership_publish_seconds_sum"),
        count: value("zoogate_membership_publish_seconds_count"),
    };
    let mean = (now.sum - so_far.sum) / (now.count - so_far.count).max(1.0);
    *so_far = now;
    Duration::from_secs_f64(mean)
}

/// Requests at a pace over one connection: how many, and how many failed.
fn drive(gateway: SocketAddr, rate: usize, stop: &AtomicBool) -> (usize, usize) {
    let mut client = http::Client::connect(gateway).unwrap();
    let (mut sent, mut failed) = (0, 0);
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_secs_f64(sent as f64 / rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        sent += 1;
        match client.request("GET", "/", &[], b"") {
            Ok(answer) if answer.status == 200 => {}
            other => {
                eprintln!("{other:?}");
                failed += 1;
                client = http::Client::connect(gateway).unwrap();
            }
        }
    }
    (sent, failed)
}
