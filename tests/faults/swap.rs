//! One process after another on the same sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::departures::{Endless, Streaming};
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;
use crate::wire_h2::h2_streams;

/// Two workers in front of a directory registry in `folder`.
fn config(folder: &Scratch, workers: usize) -> String {
    let folder = folder.path().display();
    format!(
        "[gateway]\nworkers = {workers}\nhandover = \"{folder}/door\"\ndrain_timeout = \"30s\"\n\
         [registries.local]\nkind = \"directory\"\npath = \"{folder}/services\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [services.orders]\npath = \"/orders\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    )
}

/// A WebSocket that is open, as bytes.
fn websocket(gateway: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Requests without a pause, each on a new connection or all on one, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: std::net::SocketAddr) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |keep: bool| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let answer = if keep {
                        let client = kept.get_or_insert_with(|| Client::connect(address).unwrap());
                        let answer =
                            client.request("GET", "/", &[], b"").expect("a kept connection was reset");
                        if answer.header("connection") == Some("close") {
                            kept = None;
                        }
                        answer
                    } else {
                        http::get(address, "/")
                    };
                    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = [false, false, true, true].map(client).into();
        Self { stop, done, clients }
    }

    fn more(&self, count: u64) {
        let goal = self.done.load(Ordering::Relaxed) + count;
        wait_for("more answers", || (self.done.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a request was lost");
        }
        self.done.load(Ordering::Relaxed)
    }
}

#[test]
fn a_successor_takes_over_under_load_and_no_connection_is_refused_or_reset() {
    let folder = Scratch::new("handover");
    let instance = Instance::start("a");
    folder.write("services/orders/a", &instance.address.to_string());
    let mut old = Gateway::start("handover-1", &config(&folder, 2));
    old.instances("orders", &["a"]);
    let (address, admin) = (old.listener("public"), old.admin);
    let load = Load::start(address);
    load.more(50);
    // More workers, fewer, and as many as before.
    for (round, workers) in [3, 1, 2].into_iter().enumerate() {
        let new = Gateway::start(&format!("handover-{}", round + 2), &config(&folder, workers));
        assert_eq!((new.listener("public"), new.admin), (address, admin), "the very same sockets");
        new.log.find("the take-over", |line| line.contains("taken over").then_some(()));
        load.more(50);
        assert!(old.wait().success(), "the old one drained");
        old = new;
        load.more(50);
        assert_eq!(old.admin("/readyz").status, 200);
    }
    assert!(load.end() >= 350);
}

#[test]
fn streams_that_are_open_across_a_swap_finish_on_the_old_process() {
    // Of each kind: HTTP/1 answers, WebSockets, HTTP/2 streams.
    let each = if std::env::var_os("ZOOGATE_TEST_LONG").is_some() { 170 } else { 10 };
    let folder = Scratch::new("handover-streams");
    let (streaming, plain) = (Streaming::start("first"), Instance::start("a"));
    folder.write("services/orders/a", &streaming.address.to_string());
    let mut old = Gateway::start("handover-streams-1", &config(&folder, 2));
    old.instances("orders", &["a"]);
    let public = old.listener("public");
    let mut answers: Vec<Endless> = (0..each).map(|_| Endless::open_at(public, "/", "").0).collect();
    let mut sockets: Vec<TcpStream> = (0..each).map(|_| websocket(public)).collect();
    let mut new = None;
    let streams = h2_streams(public, each, || {
        // From here on there is an instance whose answers end.
        folder.write("services/orders/b", &plain.address.to_string());
        std::fs::remove_file(folder.path().join("services/orders/a")).unwrap();
        old.state("orders", "b", "up");
        old.state("orders", "a", "draining");
        let load = Load::start(public);
        let successor = Gateway::start("handover-streams-2", &config(&folder, 2));
        successor.log.find("the take-over", |line| line.contains("taken over").then_some(()));
        load.more(50);
        assert!(load.end() >= 50);
        new = Some(successor);
        streaming.say();
        for answer in &mut answers {
            assert_eq!(answer.next().as_deref(), Some("more"));
        }
        for socket in &mut sockets {
            let mut frame = [0; 6];
            socket.read_exact(&mut frame).unwrap();
            assert_eq!(&frame, b"\x81\x04more");
        }
        streaming.finish();
    });
    assert_eq!(streams, vec![("firstmore".to_owned(), None); each]);
    for mut socket in sockets {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"\x88\x02\x03\xe8", "the instance's own close, and a FIN");
    }
    drop(answers);
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(new.unwrap().get("/").status, 200);
}

#[test]
fn a_successor_that_does_not_get_ready_changes_nothing() {
    let folder = Scratch::new("handover-dies");
    let instance = Instance::start("a");
    folder.write("services/orders/a", &instance.address.to_string());
    let old = Gateway::start("handover-old", &config(&folder, 1));
    old.instances("orders", &["a"]);
    // It waits for an ensemble that nobody runs.
    let waiting = config(&folder, 1)
        .replace(
            "[[listeners]]",
            "[registries.main]\nkind = \"zookeeper\"\nconnect = \"127.0.0.1:1\"\n\
         [services.users]\nregistry = \"main\"\npath = \"/users\"\n[[listeners]]",
        )
        .replace("[services.orders]\n", "[services.orders]\nregistry = \"local\"\n");
    let file = folder.write("successor.toml", &format!("[admin]\nlisten = \"127.0.0.1:0\"\n{waiting}"));
    let mut successor = binary().args(["run", "--config"]).arg(file).spawn().unwrap();
    old.log.find("the request", |line| line.contains("a successor asks").then_some(()));
    for _ in 0..20 {
        assert_eq!(old.get("/").status, 200, "the old one serves meanwhile");
    }
    assert_eq!(old.admin("/readyz").status, 200);
    successor.kill().unwrap();
    successor.wait().unwrap();
    old.log.find("the end of it", |line| line.contains("gave up").then_some(()));
    assert_eq!((old.get("/").status, old.admin("/readyz").status), (200, 200));
}
