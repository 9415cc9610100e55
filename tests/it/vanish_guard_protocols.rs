//! The vanish guard over what is not HTTP/1.1: who is held is asked in the protocol of the service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::gateway::{Gateway, LOCAL, signal, wait_for};
use crate::support::script::{self, Script};

fn vanish(gateway: &Gateway, ids: &[&str]) {
    for id in ids {
        gateway.withdraw(&format!("orders/{id}"));
    }
    gateway.log.find("the guard's warning", |line| {
        (line.contains("WARN") && line.contains("vanish guard engaged")).then_some(())
    });
}

#[test]
fn grpc_servers_that_vanish_are_held_while_they_answer_pings() {
    let ids = ["a", "b", "c", "d"];
    let mut servers: Vec<Script> = ids.iter().map(|_| Script::start("health_server.py", &[])).collect();
    let ports: Vec<String> = servers.iter_mut().map(Script::line).collect();
    for server in &mut servers {
        server.ask("SERVING");
    }
    let gateway = Gateway::start(
        "vanish-h2",
        &format!(
            "{LOCAL}[services.orders]\npath = \"/orders\"\nprotocol = \"h2\"\nvanish_guard = {{}}\n\
             [[routes]]\nservice = \"orders\"\n"
        ),
    );
    for (id, port) in ids.iter().zip(&ports) {
        gateway.register(&format!("orders/{id}"), format!("127.0.0.1:{port}"));
    }
    gateway.instances("orders", &ids);
    vanish(&gateway, &["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        gateway.state("orders", id, "limbo");
    }
    // They are in rotation: the fourth alone would not have been asked so little.
    let public = gateway.listener("public").to_string();
    let called = |id: &str| {
        let series = "zoogate_upstream_requests_total";
        gateway.metric(&format!("{series}{{instance=\"{id}\",outcome=\"ok\",service=\"orders\"}}"))
    };
    wait_for("a call at each of the held", || {
        let asked = script::command("health_client.py").arg(&public).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "SERVING", "{asked:?}");
        ["a", "b", "c"].iter().all(|id| called(id) > Some(0.0)).then_some(())
    });
    // A process that is gone, and one that hangs: the kernel goes on accepting for it, but nobody answers a ping.
    servers[0].kill();
    signal(servers[1].pid(), "STOP");
    gateway.instances("orders", &["c", "d"]);
    signal(servers[1].pid(), "CONT");
    gateway.state("orders", "c", "limbo");
    gateway.register("orders/c", format!("127.0.0.1:{}", ports[2]));
    gateway.state("orders", "c", "up");
    gateway.log.find("the guard's end", |line| line.contains("back=1 dead=2 expired=0").then_some(()));
}

/// A server of bytes: says its name to whoever connects, until it is closed.
struct Greeter {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Greeter {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let closed = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&closed);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
            }
        });
        Self { address, closed }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn tcp_servers_that_vanish_are_held_while_they_accept() {
    let servers = [("a", Greeter::start("a")), ("b", Greeter::start("b")), ("c", Greeter::start("c"))];
    let gateway = Gateway::start(
        "vanish-tcp",
        &LOCAL
            .replace("name = \"public\"\n", "name = \"public\"\nprotocol = \"tcp\"\nservice = \"orders\"\n")
            .replace(
                "[[listeners]]",
                "[services.orders]\npath = \"/orders\"\nprotocol = \"tcp\"\nvanish_guard = {}\n[[listeners]]",
            ),
    );
    for (id, server) in &servers {
        gateway.register(&format!("orders/{id}"), server.address);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    vanish(&gateway, &["a", "b"]);
    gateway.state("orders", "a", "limbo");
    gateway.state("orders", "b", "limbo");
    let public = gateway.listener("public");
    let greeting = || {
        let mut stream = TcpStream::connect(public).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for name in ["a", "b", "c"] {
        wait_for(&format!("a greeting of {name}"), || (greeting() == name).then_some(()));
    }
    servers[0].1.close();
    gateway.instances("orders", &["b", "c"]);
    assert!((0..10).all(|_| ["b", "c"].contains(&&*greeting())), "nobody meets the closed one");
    gateway.state("orders", "b", "limbo");
    servers[1].1.close();
    gateway.instances("orders", &["c"]);
    gateway.log.find("the guard's end", |line| line.contains("back=0 dead=2 expired=0").then_some(()));
}
