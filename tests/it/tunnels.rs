//! Bytes both ways: upgrades, and listeners of protocol `tcp`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::http;
use crate::support::instance::{Instance, pattern};
use crate::support::script::{Script, run_script};
use crate::support::zk::free_port;

#[test]
fn a_websocket_of_others_passes_through() {
    let gateway = Gateway::start("websocket", ORDERS);
    let mut server = Script::start("websocket_server.py", &[]);
    gateway.register("orders/ws", format!("127.0.0.1:{}", server.line()));
    gateway.instances("orders", &["ws"]);
    let target = format!("ws://{}/chat?room=1", gateway.listener("public"));
    let told = run_script("websocket_client.py", &[&target]);
    assert_eq!(told, "path /chat?room=1\necho text\necho 300000 bytes\nclosed 4000 enough\n");
    let line = gateway.out.find("the access line", |line| line.contains("/chat").then(|| line.to_owned()));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["status"], &line["instance"]), (&101.into(), &"ws".into()));
    assert!(line["bytes_sent"].as_u64().unwrap() > 300_000, "{line}");
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let gateway = Gateway::start("declined", ORDERS);
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    let mut client = http::Client::connect(gateway.listener("public")).unwrap();
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(client.request("GET", "/", &upgrade, b"").unwrap().body, "a");
    assert_eq!(instance.last().header("upgrade"), Some("websocket"));
    assert_eq!(client.request("GET", "/", &[], b"").unwrap().body, "a", "the connection goes on");
}

const TCP: &str = "\
[gateway]
workers = 1
[registries.local]
kind = \"directory\"
path = \"services\"
[services.db]
path = \"/db\"
protocol = \"tcp\"
[[listeners]]
name = \"public\"
listen = \"127.0.0.1:0\"
protocol = \"tcp\"
service = \"db\"
";

/// Reads a connection to its end, then answers with its name, the length and the CRC: works only with half-close.
fn measuring(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                let _ = write!(stream, "{name} {} {:08x}", all.len(), crc32fast::hash(&all));
            });
        }
    });
    address
}

/// Sends, closes its half, and reads to the end.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn tcp_connections_are_balanced_keep_their_half_close_and_leave_with_the_node() {
    let gateway = Gateway::start("tcp", TCP);
    gateway.register("db/a", measuring("a"));
    gateway.register("db/b", measuring("b"));
    gateway.instances("db", &["a", "b"]);
    let public = gateway.listener("public");
    let big = pattern(10 << 20);
    let crc = format!("{} {:08x}", big.len(), crc32fast::hash(&big));
    let mut names: Vec<_> = (0..2).map(|_| exchange(public, &big)).collect();
    names.sort();
    assert_eq!(names, [format!("a {crc}"), format!("b {crc}")]);

    let mut open = TcpStream::connect(public).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    open.write_all(b"first").unwrap();
    wait_for("the open connection", || {
        (gateway.metric("zoogate_requests_in_flight{service=\"db\"}") == Some(1.0)).then_some(())
    });
    gateway.withdraw("db/a");
    wait_for("a to leave", || {
        (gateway.metric("zoogate_service_instances{service=\"db\",state=\"up\"}") == Some(1.0)).then_some(())
    });
    for _ in 0..4 {
        assert!(exchange(public, b"x").starts_with("b "));
    }
    open.write_all(b" second").unwrap();
    open.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&format!(" 12 {:08x}", crc32fast::hash(b"first second"))), "{answer}");
    gateway.instances("db", &["b"]);
}

#[test]
fn a_tcp_connect_that_fails_goes_to_the_next_instance() {
    let gateway = Gateway::start("tcp-failover", TCP);
    gateway.register("db/a", measuring("a"));
    gateway.register("db/dead", format!("127.0.0.1:{}", free_port()));
    gateway.instances("db", &["a", "dead"]);
    let public = gateway.listener("public");
    for _ in 0..6 {
        assert!(exchange(public, b"x").starts_with("a 1 "));
    }
    gateway.state("db", "dead", "ejected");
}

#[test]
fn a_tcp_listener_without_instances_closes_at_once() {
    let gateway = Gateway::start("tcp-none", TCP);
    gateway.ready();
    let mut stream = TcpStream::connect(gateway.listener("public")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let end = stream.read(&mut [0; 10]);
    assert!(
        matches!(end, Ok(0) | Err(_))
            && !matches!(&end, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    );
}
