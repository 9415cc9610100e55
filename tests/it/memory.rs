//! Clients that make the gateway hold more than it may: work is turned away, the process stays within its limit, and all is
//! well again afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::http::{self, Client};

const MIB: f64 = 1048576.0;

/// Takes whole requests. Answers probes and `/quick` at once, the others when it is told to, `/large` with a GiB.
struct Slow {
    address: SocketAddr,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Slow {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&gate);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let gate = Arc::clone(&shared);
                std::thread::spawn(move || while serve(&stream, &gate).is_some() {});
            }
        });
        Self { address, gate }
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

fn serve(stream: &TcpStream, gate: &(Mutex<bool>, Condvar)) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
    let mut stream = stream;
    if !first.starts_with("OPTIONS ") && !first.starts_with("GET /quick") {
        drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
    }
    if first.starts_with("GET /large") {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").ok()?;
        let piece = vec![b'x'; 64 << 10];
        while stream.write(&piece).is_ok_and(|count| count > 0) {}
        return None;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()
}

fn start(name: &str, limit: &str, route: &str) -> (Gateway, Slow) {
    let slow = Slow::start();
    let config = ORDERS.replace("[gateway]\n", "[gateway]\naccess_log = \"off\"\n");
    let gateway = Gateway::start(name, &format!("{config}{route}[limits]\nmax_memory = \"{limit}\"\n"));
    gateway.register("orders/a", slow.address);
    gateway.instances("orders", &["a"]);
    assert!(resident(&gateway) > 0.0);
    (gateway, slow)
}

fn resident(gateway: &Gateway) -> f64 {
    gateway.metric("process_resident_memory_bytes").unwrap()
}

/// The most that the process takes while something else goes on.
struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<f64>,
}

impl Peak {
    fn of(gateway: &Gateway) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (status, ends) = (format!("/proc/{}/statm", gateway.pid()), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut most = 0.0_f64;
            while !ends.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(&status).unwrap();
                let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
                most = most.max(pages * 4096.0);
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        Self { stop, thread }
    }

    fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap() / MIB
    }
}

fn is_well_again(gateway: &Gateway) {
    gateway
        .log
        .find("a warning", |line| (line.contains("WARN") && line.contains("memory is short")).then_some(()));
    gateway.log.find("its end", |line| line.contains("memory suffices again").then_some(()));
    wait_for("no pressure", || {
        (gateway.metric("zoogate_memory_pressure") == Some(0.0) && resident(gateway) > 0.0).then_some(())
    });
    assert_eq!(gateway.metric("zoogate_panics_total"), Some(0.0));
    let public = gateway.listener("public");
    for _ in 0..50 {
        assert_eq!(http::get(public, "/quick").status, 200);
    }
}

#[test]
fn uploads_that_are_kept_for_a_retry_stay_within_the_limit_and_the_rest_get_a_503() {
    const CLIENTS: usize = 400;
    // Without a limit they would take 400 MiB.
    let retry = "retry = { buffer = \"1MiB\" }\ntimeout = \"120s\"\n";
    let (gateway, slow) = start("memory-uploads", "128MiB", retry);
    let public = gateway.listener("public");
    let peak = Peak::of(&gateway);
    let body: Arc<[u8]> = vec![b'x'; 1 << 20].into();
    let upload = || {
        let body = Arc::clone(&body);
        std::thread::spawn(move || {
            let mut client = Client::connect(public).unwrap();
            let head = format!("PUT /x HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len());
            // Who is turned away may find out while it sends.
            let _ = client.send(head.as_bytes()).and_then(|()| client.send(&body));
            client.answer(false).is_ok_and(|answer| answer.status == 200)
        })
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| upload()).collect();
    let mut told = 0;
    wait_for("some turned away", || {
        let answer = http::get(public, "/quick");
        if answer.status == 503 {
            assert_eq!(answer.header("x-zoogate-error"), Some("overloaded"), "{answer:?}");
            assert_eq!(answer.header("retry-after"), Some("1"));
            told += 1;
        } else {
            // Where all of them had begun before memory was short, giving their bodies up has made room again.
            clients.push(upload());
        }
        (told == 20).then_some(())
    });
    assert_eq!(gateway.admin("/livez").status, 200);
    slow.open();
    let asked = clients.len();
    let served = clients.into_iter().map(|client| client.join().unwrap()).filter(|ok| *ok).count();
    let peak = peak.end();
    let shed = |what: &str| {
        gateway.metric(&format!("zoogate_memory_shed_total{{what=\"{what}\"}}")).unwrap_or_default()
    };
    let turned_away = shed("request") + shed("connection");
    eprintln!(
        "{served} of {asked} served, {turned_away} turned away, {} bodies given up, {} clients cut, {peak:.0} MiB at the most",
        shed("body"),
        shed("client")
    );
    assert!(served >= 16, "{served} served");
    assert!(turned_away >= 20.0, "{turned_away}");
    // What comes between two looks is on top of the limit, and looks are late on a busy machine.
    assert!(peak < 256.0, "{peak} MiB, at a limit of 128");
    is_well_again(&gateway);
}

#[test]
fn readers_that_take_nothing_are_cut_at_the_limit_until_there_is_room_for_others() {
    const READERS: usize = 700;
    // Without a limit they would take 100 MiB: each is held a piece of its answer.
    let (gateway, slow) = start("memory-readers", "80MiB", "timeout = \"120s\"\n");
    let public = gateway.listener("public");
    let peak = Peak::of(&gateway);
    let readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(public).unwrap();
            stream.write_all(b"GET /large HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_for("all under way", || {
        let under_way = gateway.metric("zoogate_requests_in_flight{service=\"orders\"}")?;
        (under_way as usize == READERS).then_some(())
    });
    let before = resident(&gateway) / MIB;
    slow.open();
    let cut = "zoogate_memory_shed_total{what=\"client\"}";
    wait_for("some cut", || (gateway.metric(cut) > Some(0.0)).then_some(()));
    // While the others sit there, there is room.
    wait_for("an answer", || (http::get(public, "/quick").status == 200).then_some(()));
    // On a busy machine looks are late, and all may come between two of them; what is cut is given back within seconds.
    wait_for("the rest within the limit", || (resident(&gateway) < 80.0 * MIB).then_some(()));
    let left = gateway.metric("zoogate_requests_in_flight{service=\"orders\"}").unwrap();
    let peak = peak.end();
    let cut = gateway.metric(cut).unwrap();
    eprintln!("{cut} of {READERS} cut, {left} left, {before:.0} MiB before, {peak:.0} at the most");
    assert!(left > 0.0 && cut > 0.0);
    drop(readers);
    is_well_again(&gateway);
}
