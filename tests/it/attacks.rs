//! What hostile or merely many clients may cost: memory, descriptors, other clients' answers, the log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, ORDERS, PATIENCE, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;

fn start(name: &str, config: &str, instance: SocketAddr) -> Gateway {
    let gateway = Gateway::start(name, config);
    gateway.register("orders/a", instance);
    gateway.instances("orders", &["a"]);
    gateway
}

/// A server that a closure serves each connection of.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Lines of a head, without their ends; none at the end of the connection.
fn head(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line.to_owned());
    }
}

fn field<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    head.iter()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|f| f.1)
}

fn resident(gateway: &Gateway) -> f64 {
    gateway.metric("process_resident_memory_bytes").unwrap()
}

#[test]
fn a_hundred_slow_readers_of_a_gibibyte_cost_less_than_64_mib() {
    const READERS: usize = 100;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let instance = server(move |mut stream| {
        let Some(_) = head(&mut BufReader::new(stream.try_clone().unwrap())) else { return };
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
        let piece = vec![b'x'; 64 << 10];
        while let Ok(count @ 1..) = stream.write(&piece) {
            counted.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    let gateway = start("attack-readers", ORDERS, instance);
    let public = gateway.listener("public");
    assert!(resident(&gateway) > 0.0);
    let before = resident(&gateway);
    let readers: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(public).unwrap();
            stream.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
            // The head has come: the body is on its way, and nobody reads it.
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert!(stream.read(&mut [0; 16]).unwrap() > 0);
            stream
        })
        .collect();
    // Until nobody can send any more.
    let mut last = 0;
    wait_for("all stuck", || {
        let now = sent.load(Ordering::Relaxed);
        let stuck = now == last && now > 0;
        last = now;
        if !stuck {
            std::thread::sleep(Duration::from_millis(300));
        }
        stuck.then_some(())
    });
    let grown = (resident(&gateway) - before) / f64::from(1 << 20);
    eprintln!("{grown:.1} MiB for {READERS} readers, {} MiB on their way", last >> 20);
    assert!(grown < 64.0, "{grown} MiB");
    assert_eq!(gateway.metric("zoogate_requests_in_flight{service=\"orders\"}"), Some(READERS as f64));
    drop(readers);
}

#[test]
fn a_thousand_clients_at_256_descriptors_leave_a_gateway_that_accepts() {
    let instance = Instance::start("a");
    let gateway = Gateway::start_limited("attack-descriptors", ORDERS, 256);
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    gateway.log.find("a warning", |line| {
        (line.contains("max_connections") && line.contains("WARN") && line.contains("256")).then_some(())
    });
    let public = gateway.listener("public");
    // Ours are as many as the gateway's were to be.
    let (mut open, mut served, mut told) = (Vec::new(), 0, 0);
    for _ in 0..1000 {
        let Ok(mut client) = Client::connect(public) else { continue };
        match client.request("GET", "/x", &[], b"") {
            Ok(answer) if answer.status == 200 => {
                served += 1;
                open.push(client);
            }
            Ok(answer) => {
                assert_eq!(answer.status, 503);
                told += 1;
            }
            // Refused with a reset, where its request came while it was being told off.
            Err(_) => told += 1,
        }
    }
    assert_eq!(served, open.len());
    assert!((50..128).contains(&served) && told > 800, "{served} served, {told} told off");
    for client in &mut open {
        assert_eq!(client.request("GET", "/y", &[], b"").unwrap().status, 200, "who was in stays in");
    }
    drop(open);
    wait_for("an accept", || {
        (Client::connect(public).ok()?.request("GET", "/z", &[], b"").ok()?.status == 200).then_some(())
    });
    assert_eq!(gateway.admin("/livez").status, 200);
}

/// Answers with the request's own id: whole, before the body has come, or brokenly, as the path says.
fn mixed() -> SocketAddr {
    server(|stream| {
        let mut reader = BufReader::new(stream);
        while let Some(head) = head(&mut reader) {
            let id = field(&head, "x-id").unwrap_or("none").to_owned();
            let length: u64 = field(&head, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
            let path = head[0].split(' ').nth(1).unwrap_or("").to_owned();
            let early = path.starts_with("/early");
            if !early {
                let _ = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink());
            }
            let answer = match &*path {
                "/chunked" => format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{id}\r\n0\r\n\r\n",
                    id.len()
                ),
                // Cut short, more than was said, and not HTTP.
                "/short" => "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort".to_owned(),
                "/long" => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{id}stolen", id.len()),
                "/junk" => "HELLO\r\n\r\n".to_owned(),
                _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{id}", id.len()),
            };
            if reader.get_mut().write_all(answer.as_bytes()).is_err() || path == "/short" || path == "/junk" {
                return;
            }
            // After an early answer what is left of the body looks like a request to who pools the connection.
        }
    })
}

#[test]
fn of_ten_thousand_mixed_clients_each_gets_its_own_answer_or_none() {
    const EACH: usize = 500;
    const THREADS: usize = 20;
    let gateway = start("attack-mixed", ORDERS, mixed());
    let public = gateway.listener("public");
    let wrong = Arc::new(AtomicUsize::new(0));
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let wrong = Arc::clone(&wrong);
            std::thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(thread as u64));
                let mut client: Option<Client> = None;
                let mut good = 0;
                for number in 0..EACH {
                    let id = format!("{thread}-{number}");
                    let path = *rng
                        .choice(&[
                            "/", "/", "/", "/", "/chunked", "/chunked", "/early", "/short", "/long", "/junk",
                        ])
                        .unwrap();
                    // In an unread body there is a request for somebody else.
                    let body = match path {
                        "/early" => b"GET /stolen HTTP/1.1\r\nhost: h\r\nx-id: stolen\r\n\r\n"
                            .repeat(rng.usize(1..200)),
                        _ => b"x".repeat(rng.usize(..2000)),
                    };
                    if rng.u8(..) < 8 {
                        // One that leaves in the middle of its upload.
                        let mut leaving = TcpStream::connect(public).unwrap();
                        let half =
                            "POST / HTTP/1.1\r\nhost: h\r\nx-id: left\r\ncontent-length: 5000\r\n\r\nhalf";
                        leaving.write_all(half.as_bytes()).unwrap();
                    }
                    let mut open = match client.take() {
                        Some(open) => open,
                        None => Client::connect(public).unwrap(),
                    };
                    let answer = if path == "/early" {
                        // Half of it, the answer, and the rest when nobody wants it any more.
                        let head = format!(
                            "POST {path} HTTP/1.1\r\nhost: h\r\nx-id: {id}\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        let (first, rest) = body.split_at(body.len() / 2);
                        let asked = open.send(head.as_bytes()).and_then(|()| open.send(first));
                        let answer = asked.and_then(|()| open.answer(false));
                        let _ = open.send(rest);
                        answer
                    } else {
                        open.request("POST", path, &[("x-id", &id)], &body)
                    };
                    let Ok(answer) = answer else { continue };
                    if answer.status == 200 {
                        good += 1;
                        if answer.body != id {
                            eprintln!("{id} at {path} got {answer:?}");
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if answer.header("connection") != Some("close") {
                        client = Some(open);
                    }
                }
                good
            })
        })
        .collect();
    let good: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    assert!(good > EACH * THREADS / 2, "{good} good answers");
    assert_eq!(gateway.metric("zoogate_panics_total"), Some(0.0));
}

/// A path as a lenient server might read it: decoded, backslashes turned, dots resolved.
fn lenient(path: &str) -> String {
    let mut text = path.split(['?', '#', ';']).next().unwrap_or("").to_owned();
    for _ in 0..3 {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let mut out: Vec<&str> = Vec::new();
    let text = text.replace('\\', "/");
    for segment in text.split('/').filter(|s| !s.is_empty() && *s != ".") {
        if segment == ".." { _ = out.pop() } else { out.push(segment) }
    }
    out.join("/")
}

#[test]
fn no_trick_in_a_path_leads_past_the_route_that_it_matches() {
    let (public, secret) = (Instance::start("public"), Instance::start("secret"));
    let config = ORDERS.replace("path = \"/*\"\n", "path = \"/public/*\"\n")
        + "[services.secret]\npath = \"/secret\"\n[[routes]]\npath = \"/admin/*\"\nservice = \"secret\"\n";
    let gateway = start("attack-paths", &config, public.address);
    gateway.register("secret/s", secret.address);
    gateway.instances("secret", &["s"]);
    let address = gateway.listener("public");
    let ups =
        ["..", "%2e%2e", "%2E.", ".%2e", "..;", "%252e%252e", "..%00", "..%20", "%c0%ae%c0%ae", "...", ".. "];
    let slashes = ["/", "//", "%2f", "%2F", "\\", "%5c", "/./", "/%2e/", "%252f", "/;/"];
    let (mut tried, mut passed) = (0, 0);
    for up in ups {
        for slash in slashes {
            for path in [
                format!("/public{slash}{up}{slash}admin{slash}x"),
                format!("/public/a{slash}{up}/{up}{slash}admin"),
                format!("/{up}{slash}public/{up}/admin/x"),
            ] {
                tried += 1;
                let before = public.count();
                let answer = http::raw(
                    address,
                    format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").as_bytes(),
                );
                let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
                assert!(["200", "400", "404"].contains(&&*status), "{path}: {answer}");
                if public.count() > before {
                    passed += 1;
                    let seen = public.last();
                    let forwarded = seen.path();
                    assert!(forwarded.starts_with("/public"), "{path} went on as {forwarded}");
                    // What is left of disguises is refused, or resolved before the route was chosen: an instance that
                    // decodes once and resolves dots sees nothing but what the route is for.
                    let once =
                        percent_encoding::percent_decode_str(forwarded).decode_utf8_lossy().into_owned();
                    let dots = once.split(['/', '\\']).any(|segment| segment == "..");
                    assert!(!dots, "{path} went on as {forwarded}");
                }
            }
        }
    }
    assert!(tried >= 200 && passed > 0, "{passed} of {tried} passed");
    for seen in secret.seen() {
        assert_eq!(lenient(seen.path()).split('/').next(), Some("admin"), "{seen:?}");
    }
}

#[test]
fn the_log_holds_no_secret_and_no_line_of_a_clients_making() {
    let instance = Instance::start("a");
    let config =
        ORDERS.replace("[gateway]\n", "[log]\nlevel = \"trace\"\n[gateway]\naccess_log = \"stdout\"\n");
    let gateway = start("attack-log", &config, instance.address);
    let public = gateway.listener("public");
    let secret = "s3cr3t-of-this-test";
    let nasty = "a\u{1b}[31m%0d%0a{\"status\":200}\u{7}";
    for (request, status) in [
        (
            format!(
                "GET /x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {secret}\r\ncookie: sid={secret}\r\n"
            ),
            "200",
        ),
        (
            format!(
                "GET /x HTTP/1.1\r\nhost: h\r\nproxy-authorization: Basic {secret}\r\nx-request-id: {nasty}\r\n"
            ),
            "",
        ),
        (format!("GET /{nasty} HTTP/1.1\r\nhost: h\r\n"), ""),
        (format!("GET /x HTTP/1.1\r\nhost: {nasty}\r\n"), ""),
        ("GET /end%0d%0aforged HTTP/1.1\r\nhost: h\r\n".to_owned(), ""),
        (format!("GET /x HTTP/1.1\r\nhost: h\r\nuser-agent: {nasty}\r\nreferer: {nasty}\r\n"), ""),
    ] {
        let answer = http::raw(public, format!("{request}connection: close\r\n\r\n").as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    assert_eq!(http::get(public, "/last").status, 200);
    gateway.out.find("the last line", |line| line.contains("\"/last\"").then_some(()));
    for line in gateway.out.all() {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object() && !line.contains(secret), "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    for line in gateway.log.all() {
        assert!(!line.contains(secret) && !line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn an_upload_that_drips_is_cut_and_a_quiet_instance_is_waited_for() {
    let instance = Instance::start("a");
    let gateway = start("attack-drip", ORDERS, instance.address);
    let public = gateway.listener("public");
    let mut stream = TcpStream::connect(public).unwrap();
    stream.write_all(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    // Far above the idle timeout's pace, far below 256 bytes a second.
    let answer = loop {
        assert!(begun.elapsed() < Duration::from_secs(60), "it drips for ever");
        let _ = stream.write_all(b"x");
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => break String::from_utf8_lossy(&answer).into_owned(),
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break String::from_utf8_lossy(&answer).into_owned(),
        }
    };
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}: too early", begun.elapsed());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(http::get(public, "/x").status, 200);
}
