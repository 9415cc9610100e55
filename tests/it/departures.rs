//! Streams that outlast their place: the instance was removed, or the key belongs to another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::gateway::{Gateway, LOCAL, wait_for};
use crate::support::script::Script;
use crate::wire_h2::h2_streams;

/// `LOCAL` and a service `orders` with these keys behind every path.
fn config(keys: &str) -> String {
    format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\n{keys}[[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    )
}

/// An instance whose answers never end: each gets a first piece, and another for each [`Streaming::say`].
pub struct Streaming {
    pub address: SocketAddr,
    /// Each with whether it is a WebSocket.
    open: Arc<Mutex<Vec<(TcpStream, bool)>>>,
    /// The name of each client that has gone, as it was told in `x-user`.
    gone: Receiver<String>,
}

impl Streaming {
    pub fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let (told, gone) = channel();
        let all = Arc::clone(&open);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, all, told) = (stream.unwrap(), Arc::clone(&all), told.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let (mut user, mut line, mut socket) = (String::new(), String::new(), false);
                    while reader.read_line(&mut line).unwrap_or(0) > 2 {
                        if let Some(value) = line.to_lowercase().strip_prefix("x-user:") {
                            user = value.trim().to_owned();
                        }
                        socket |= line.to_lowercase().starts_with("upgrade:");
                        line.clear();
                    }
                    let head = if socket {
                        "HTTP/1.1 101 Whatever\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                            .to_owned()
                    } else {
                        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                        format!("{head}{:x}\r\n{name}\r\n", name.len())
                    };
                    {
                        // One step for who speaks: a client that has the first piece gets the next.
                        let mut open = all.lock().unwrap();
                        stream.write_all(head.as_bytes()).unwrap();
                        open.push((stream, socket));
                    }
                    let _ = reader.read(&mut [0]);
                    let _ = told.send(user);
                });
            }
        });
        Self { address, open, gone }
    }

    pub fn say(&self) {
        self.send(b"4\r\nmore\r\n", b"\x81\x04more");
    }

    /// Ends every answer well, and every WebSocket.
    pub fn finish(&self) {
        self.send(b"0\r\n\r\n", b"\x88\x02\x03\xe8");
        for (stream, _) in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }

    fn send(&self, chunk: &[u8], frame: &[u8]) {
        for (stream, socket) in &mut *self.open.lock().unwrap() {
            let _ = stream.write_all(if *socket { frame } else { chunk });
        }
    }
}

/// A client of an endless answer, once it has its first piece.
pub struct Endless(BufReader<TcpStream>);

impl Endless {
    /// Returns the first piece, too.
    fn open(gateway: SocketAddr, user: &str) -> (Self, String) {
        Self::open_at(gateway, "/", user)
    }

    pub fn open_at(gateway: SocketAddr, path: &str, user: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let mut open = Self(reader);
        let piece = open.next().expect("a first piece");
        (open, piece)
    }

    /// Whether the last chunk is next.
    pub fn ends(mut self) -> bool {
        let mut line = String::new();
        self.0.read_line(&mut line).is_ok() && line == "0\r\n"
    }

    /// The next chunk; nothing once the connection has ended without a last one.
    pub fn next(&mut self) -> Option<String> {
        let mut size = String::new();
        match self.0.read_line(&mut size) {
            Ok(1..) => {}
            // With what the instance sent on the way a close is a reset.
            Ok(_) | Err(_) => return None,
        }
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        assert!(size > 0, "a stream that is broken off must not look whole");
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).ok()?;
        Some(String::from_utf8(chunk[..size].to_vec()).unwrap())
    }
}

fn draining(gateway: &Gateway, id: &str) {
    gateway.state("orders", id, "draining");
}

#[test]
fn a_websocket_on_a_removed_instance_has_its_time_then_both_sides_are_told_that_we_go_away() {
    let gateway = Gateway::start("departures-ws", &config("drain_timeout = \"24h\"\n"));
    let mut server = Script::start("websocket_server.py", &[]);
    let address = format!("127.0.0.1:{}", server.line());
    gateway.register("orders/ws", &address);
    gateway.instances("orders", &["ws"]);
    let target = format!("ws://{}/chat", gateway.listener("public"));
    let mut client = Script::start("websocket_waiting.py", &[&target]);
    assert_eq!((client.line(), client.ask("one")), ("path /chat".into(), "one".into()));
    gateway.withdraw("orders/ws");
    draining(&gateway, "ws");
    assert_eq!(client.ask("two"), "two", "it has a day");

    // The next is removed from a service that grants nothing. At another address: at its own it would keep the first one.
    let mut server = Script::start("websocket_server.py", &[]);
    gateway.reload(&config("drain_timeout = \"0s\"\n"));
    gateway.register("orders/again", format!("127.0.0.1:{}", server.line()));
    gateway.state("orders", "again", "up");
    let mut next = Script::start("websocket_waiting.py", &[&target]);
    assert_eq!((next.line(), next.ask("one")), ("path /chat".into(), "one".into()));
    gateway.withdraw("orders/again");
    assert_eq!(next.line(), "closed 1001");
    assert_eq!(server.line(), "closed 1001");
    let line = gateway
        .out
        .find("the access line", |line| line.contains("instance_removed").then(|| line.to_owned()));
    assert!(line.contains("\"status\":101"), "{line}");
}

#[test]
fn a_grpc_stream_on_a_removed_instance_ends_with_unavailable() {
    let keys = "protocol = \"h2\"\ndrain_timeout = \"100ms\"\n";
    let gateway = Gateway::start("departures-grpc", &config(keys));
    let mut server = Script::start("grpc_server.py", &[]);
    gateway.register("orders/py", format!("127.0.0.1:{}", server.line()));
    gateway.instances("orders", &["py"]);
    let mut client = Script::start("grpc_waiting.py", &[&gateway.listener("public").to_string()]);
    assert_eq!(client.ask("a"), "echo:a");
    assert_eq!(client.ask("b"), "echo:b");
    gateway.withdraw("orders/py");
    assert_eq!(client.line(), "ended UNAVAILABLE the instance of this stream was removed");
}

#[test]
fn an_endless_answer_of_a_removed_instance_breaks_off_in_http1_and_is_reset_in_http2() {
    let gateway = Gateway::start("departures-http", &config("drain_timeout = \"0s\"\n"));
    let (a, b) = (Streaming::start("from a"), Streaming::start("from b"));
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let public = gateway.listener("public");
    let (mut http1, piece) = Endless::open(public, "h1");
    assert_eq!(piece, "from a");
    a.say();
    assert_eq!(http1.next().as_deref(), Some("more"));
    let streams = h2_streams(public, 1, || {
        gateway.register("orders/b", b.address);
        gateway.instances("orders", &["a", "b"]);
        gateway.withdraw("orders/a");
    });
    assert_eq!(streams, [("from a".to_owned(), Some(h2::Reason::CANCEL))]);
    assert_eq!(http1.next(), None);
    let mut gone = [a.gone.recv().unwrap(), a.gone.recv().unwrap()];
    gone.sort();
    assert_eq!(gone, ["", "h1"], "the instance is left, too");
    assert_eq!(Endless::open(public, "again").1, "from b");
}

#[test]
fn a_tcp_connection_of_a_removed_instance_gets_a_fin_on_both_sides() {
    let keys = "protocol = \"tcp\"\ndrain_timeout = \"100ms\"\n";
    let config = format!(
        "{LOCAL}protocol = \"tcp\"\nservice = \"orders\"\n[services.orders]\npath = \"/orders\"\n{keys}"
    );
    let gateway = Gateway::start("departures-tcp", &config);
    let instance = TcpListener::bind("127.0.0.1:0").unwrap();
    gateway.register("orders/a", instance.local_addr().unwrap());
    gateway.instances("orders", &["a"]);
    let mut client = TcpStream::connect(gateway.listener("public")).unwrap();
    let (mut upstream, _) = instance.accept().unwrap();
    for stream in [&client, &upstream] {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }
    upstream.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    gateway.withdraw("orders/a");
    assert_eq!((client.read(&mut [0]).unwrap(), upstream.read(&mut [0]).unwrap()), (0, 0));
    drop((client, upstream));
    gateway.out.find("the access line", |line| line.contains("\"error\":\"instance_removed\"").then_some(()));
    wait_for("the instance to leave the list", || {
        gateway.json("/api/services/orders")["instances"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn streams_follow_their_key_to_a_new_instance_and_only_those_whose_key_moved() {
    let balance = "balance = { policy = \"ring\", key = \"header:x-user\" }\n";
    let keys = format!("{balance}rehome = true\nrehome_window = \"300ms\"\n");
    let gateway = Gateway::start("departures-rehome", &config(&keys));
    let (a, b) = (Streaming::start("a"), Streaming::start("b"));
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let public = gateway.listener("public");
    let users: Vec<String> = (0..24).map(|user| format!("user-{user}")).collect();
    let mut open: Vec<Endless> = users
        .iter()
        .map(|user| {
            let (open, piece) = Endless::open(public, user);
            assert_eq!(piece, "a");
            open
        })
        .collect();
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    let owner = |user: &str| {
        let told = gateway.json(&format!("/api/explain?method=GET&url=http://h/&header=x-user:{user}"));
        told["instance"].as_str().unwrap().to_owned()
    };
    let owners: Vec<String> = users.iter().map(|user| owner(user)).collect();
    let moved = owners.iter().filter(|owner| *owner == "b").count();
    assert!((1..24).contains(&moved), "{owners:?}");
    let mut gone: Vec<String> =
        (0..moved).map(|_| a.gone.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    gone.sort();
    let mut wanted: Vec<String> =
        users.iter().zip(&owners).filter(|(_, owner)| *owner == "b").map(|(user, _)| user.clone()).collect();
    wanted.sort();
    assert_eq!(gone, wanted);
    a.say();
    for ((user, owner), open) in users.iter().zip(&owners).zip(&mut open) {
        let expected = (owner == "a").then_some("more");
        assert_eq!(open.next().as_deref(), expected, "{user}");
        if owner == "b" {
            assert_eq!(Endless::open(public, user).1, "b", "whoever comes back is where it belongs");
        }
    }
    assert!(a.gone.try_recv().is_err());
}

#[test]
fn a_drain_that_is_over_tells_a_websocket_and_a_grpc_stream() {
    let text = format!(
        "{}[services.echo]\npath = \"/echo\"\nprotocol = \"h2\"\n[[routes]]\npath = \"/test.Echo/*\"\nservice = \"echo\"\n",
        config("").replace("workers = 1", "workers = 1\ndrain_timeout = \"100ms\"")
    );
    let mut gateway = Gateway::start("departures-stop", &text);
    let mut server = Script::start("websocket_server.py", &[]);
    let mut grpc = Script::start("grpc_server.py", &[]);
    gateway.register("orders/ws", format!("127.0.0.1:{}", server.line()));
    gateway.register("echo/py", format!("127.0.0.1:{}", grpc.line()));
    gateway.instances("orders", &["ws"]);
    gateway.instances("echo", &["py"]);
    let public = gateway.listener("public");
    let mut socket = Script::start("websocket_waiting.py", &[&format!("ws://{public}/chat")]);
    let mut call = Script::start("grpc_waiting.py", &[&public.to_string()]);
    assert_eq!((socket.line(), call.ask("a")), ("path /chat".into(), "echo:a".into()));
    gateway.signal("TERM");
    assert_eq!(socket.line(), "closed 1001");
    assert_eq!(call.line(), "ended UNAVAILABLE the gateway stops");
    assert_eq!(gateway.wait().code(), Some(0));
}
