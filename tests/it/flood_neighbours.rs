//! What others notice of an HTTP/2 client that floods: as little as of any other client that keeps a worker busy.
//!
//! With a release binary (`ZOOGATE_TEST_BINARY`) and `ZOOGATE_TEST_LONG=1` the figures are worth something.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, ORDERS};
use crate::support::http::Client;
use crate::support::instance::Instance;
use crate::wire_floods::*;

/// A way to flood: what a connection begins with, and what is said on it again and again.
struct Flood {
    name: &'static str,
    open: Vec<u8>,
    piece: fn(u32) -> Vec<u8>,
}

fn floods() -> Vec<Flood> {
    let open = Vec::new;
    vec![
        Flood { name: "rapid reset", open: open(), piece: rapid_reset },
        Flood { name: "made you reset", open: open(), piece: made_you_reset },
        Flood {
            name: "continuation",
            open: frame(HEADERS, END_STREAM, 1, &get_block("/o/")),
            piece: |_| frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y']).repeat(50),
        },
        Flood {
            name: "empty data",
            open: frame(HEADERS, END_HEADERS, 1, &block(3, "/o/")),
            piece: |_| frame(DATA, 0, 1, &[]).repeat(100),
        },
        Flood { name: "ping", open: open(), piece: |_| frame(PING, 0, 0, &[7; 8]).repeat(50) },
        Flood {
            name: "settings",
            open: open(),
            piece: |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(50),
        },
        Flood {
            name: "window update",
            open: open(),
            piece: |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(50),
        },
    ]
}

/// Floods on one connection after the other, until it is told to stop.
fn attack(gateway: SocketAddr, flood: &Flood, stop: &AtomicBool, cut: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(gateway) else { continue };
        let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let mut reader = stream.try_clone().unwrap();
        let drain = std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while matches!(reader.read(&mut buffer), Ok(1..)) {}
        });
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[]), &flood.open].concat();
        let mut sound = stream.write_all(&begin).is_ok();
        for index in 0.. {
            if !sound || stop.load(Ordering::Relaxed) {
                break;
            }
            sound = stream.write_all(&(flood.piece)(index)).is_ok();
        }
        cut.fetch_add(usize::from(!sound), Ordering::Relaxed);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = drain.join();
    }
}

/// How long a client's requests take, sorted: one after the other on one connection, each a little after the last.
fn neighbour(gateway: SocketAddr, count: usize) -> Vec<Duration> {
    let mut client = Client::connect(gateway).unwrap();
    let mut took: Vec<Duration> = (0..count)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            let begun = Instant::now();
            assert_eq!(client.request("GET", "/x", &[], b"").unwrap().status, 200);
            begun.elapsed()
        })
        .collect();
    took.sort();
    took
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

#[test]
fn a_neighbour_of_an_http2_flood_is_served_in_time() {
    let count = if std::env::var_os("ZOOGATE_TEST_LONG").is_some() { 2000 } else { 200 };
    let instance = Instance::start("a");
    let config = ORDERS.replace("[gateway]\n", "[gateway]\naccess_log = \"off\"\n");
    let gateway = Gateway::start("flood-neighbours", &config);
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    let public = gateway.listener("public");
    let quiet = p99(&neighbour(public, count));
    eprintln!("{:>16}: p99 {quiet:?}", "quiet");
    for flood in floods() {
        let (stop, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let name = flood.name;
        let attacker = std::thread::spawn({
            let (stop, cut) = (Arc::clone(&stop), Arc::clone(&cut));
            move || attack(public, &flood, &stop, &cut)
        });
        let took = neighbour(public, count);
        stop.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        let cut = cut.load(Ordering::Relaxed);
        let (half, most) = (took[took.len() / 2], took.last().unwrap());
        eprintln!("{name:>16}: p50 {half:?}, p99 {:?}, most {most:?}, {cut} connections cut", p99(&took));
        assert!(cut > 0, "{name}: nobody was cut");
        // Generous: the flood and the machine's other work share its cores with the gateway.
        assert!(p99(&took) < quiet * 50 + Duration::from_secs(1), "{name}: {:?}", p99(&took));
    }
    assert_eq!(gateway.metric("zoogate_panics_total"), Some(0.0));
}
