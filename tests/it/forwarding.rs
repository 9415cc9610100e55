//! What passes from client to instance and back, over HTTP/1.1 and HTTP/2.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::gateway::{Gateway, LOCAL, ORDERS, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::{Instance, pattern};
use crate::support::script::curl;

const LARGE: usize = 40 << 20;

fn one(name: &str, config: &str) -> (Gateway, Instance) {
    let gateway = Gateway::start(name, config);
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    (gateway, instance)
}

fn url(gateway: &Gateway, path: &str) -> String {
    format!("http://{}{path}", gateway.listener("public"))
}

#[test]
fn forwarding_headers_are_set_and_hop_by_hop_ones_never_pass() {
    let (gateway, instance) = one("headers", ORDERS);
    let sent = [
        ("host", "shop.example:8080"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-request-id", "chosen-by-the-client"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("connection", "x-private, keep-alive"),
        ("x-private", "for this hop"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eA=="),
        ("authorization", "Bearer mine"),
        ("cookie", "a=b"),
        ("te", "gzip, trailers"),
    ];
    let answer = http::get_with(gateway.listener("public"), "/p?q=1", &sent);
    assert_eq!(answer.status, 200);
    let seen = instance.last();
    assert_eq!(seen.line, "GET /p?q=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some("shop.example:8080"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.example:8080"));
    let id = seen.header("x-request-id").unwrap();
    assert_ne!(id, "chosen-by-the-client");
    assert_eq!(answer.header("x-request-id"), Some(id));
    assert!(seen.header("via").is_some_and(|via| via.starts_with("1.1 ")), "{seen:?}");
    assert!(answer.header("via").is_some());
    assert!(seen.header("traceparent").is_some());
    assert_eq!(seen.header("authorization"), Some("Bearer mine"));
    assert_eq!(seen.header("cookie"), Some("a=b"));
    for gone in ["x-private", "keep-alive", "proxy-authorization"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[test]
fn a_trusted_peer_is_believed() {
    let config =
        ORDERS.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:0\"\ntrusted = [\"127.0.0.0/8\"]");
    let (gateway, instance) = one("trusted", &config);
    let sent = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", "from-the-edge"),
    ];
    let answer = http::get_with(gateway.listener("public"), "/", &sent);
    let seen = instance.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.example"));
    assert_eq!(seen.header("x-request-id"), Some("from-the-edge"));
    assert_eq!(answer.header("x-request-id"), Some("from-the-edge"));
}

#[test]
fn a_request_that_comes_back_is_a_loop() {
    let gateway = Gateway::start("loop", ORDERS);
    gateway.register("orders/self", gateway.listener("public"));
    wait_for("the gateway as its own instance, or its refusal", || {
        let view = gateway.json("/api/services/orders");
        let known = view["instances"].as_array()?.len() + view["rejected"].as_array()?.len();
        (known == 1).then_some(())
    });
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (508, Some("loop")));
}

#[test]
fn methods_and_bodies_pass_as_they_are() {
    let (gateway, instance) = one("bodies", ORDERS);
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
        let answer = client.request(method, "/echo", &[], b"what was sent").unwrap();
        assert_eq!(answer.body, "what was sent", "{method}");
        assert_eq!(instance.last().header("content-length"), Some("13"));
    }
    let head = client.request("HEAD", "/bytes/5000", &[], b"").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5000")));
    assert_eq!(client.request("GET", "/status/418", &[], b"").unwrap().status, 418);

    // Chunks in, chunks out, and the connection goes on.
    let mut stream = TcpStream::connect(gateway.listener("public")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(
            b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
              5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /chunks/25000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("hello world"), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(instance.seen().iter().filter(|s| s.body == b"hello world").count(), 1);
    let whole = client.request("GET", "/chunks/25000", &[], b"").unwrap();
    assert_eq!(whole.header("transfer-encoding"), Some("chunked"));
    assert_eq!(whole.body, String::from_utf8_lossy(&pattern(25_000)));
}

#[test]
fn large_bodies_stream_both_ways_over_both_versions() {
    let (gateway, _instance) = one("large", ORDERS);
    let whole = pattern(LARGE);
    let crc = format!("{LARGE} {:08x}", crc32fast::hash(&whole));
    let upload = gateway.folder().join("upload");
    std::fs::write(&upload, &whole).unwrap();
    let (upload, download) = (format!("@{}", upload.display()), gateway.folder().join("download"));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for framing in [&[][..], &["-H", "transfer-encoding: chunked"]] {
            if version == "--http2-prior-knowledge" && !framing.is_empty() {
                continue;
            }
            let target = url(&gateway, "/measure");
            let arguments = [&[version, "--data-binary", &upload, &target], framing].concat();
            assert_eq!(curl(&arguments), crc, "{arguments:?}");
        }
        for framing in ["bytes", "chunks"] {
            let target = url(&gateway, &format!("/{framing}/{LARGE}"));
            curl(&[version, "-o", download.to_str().unwrap(), &target]);
            assert!(std::fs::read(&download).unwrap() == whole, "{version} {framing}");
        }
    }
    let series = "zoogate_requests_total{code=\"200\",listener=\"public\",route=\"/*\",service=\"orders\"}";
    assert_eq!(gateway.metric(series), Some(7.0));
}

#[test]
fn curl_with_100_continue_is_told_to_go_on() {
    let (gateway, instance) = one("continue", ORDERS);
    let target = url(&gateway, "/measure");
    let told = curl(&[
        "-v",
        "--stderr",
        "-",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "30",
        "--data",
        "twelve bytes",
        &target,
    ]);
    assert!(told.contains("HTTP/1.1 100 Continue"), "{told}");
    assert!(told.contains(&format!("12 {:08x}", crc32fast::hash(b"twelve bytes"))), "{told}");
    assert_eq!(instance.last().body, b"twelve bytes");
}

#[test]
fn the_absolute_form_is_taken_and_connect_is_refused() {
    let (gateway, instance) = one("forms", ORDERS);
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let answer = client.request("GET", "http://abs.example/p?q", &[("host", "other.example")], b"").unwrap();
    assert_eq!(answer.status, 200);
    let seen = instance.last();
    assert_eq!((seen.line.as_str(), seen.header("host")), ("GET /p?q HTTP/1.1", Some("abs.example")));

    let count = instance.count();
    let answer = client.request("CONNECT", "abs.example:443", &[], b"").unwrap();
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (405, Some("bad_request")));
    assert_eq!(instance.count(), count);
}

#[test]
fn http2_clients_share_the_listener() {
    let (gateway, instance) = one("h2", ORDERS);
    let target = url(&gateway, "/p?q=1");
    let told = curl(&[
        "--http2-prior-knowledge",
        "-i",
        "-H",
        "x-forwarded-for: 6.6.6.6",
        "-H",
        "te: trailers",
        &target,
    ]);
    assert!(told.starts_with("HTTP/2 200"), "{told}");
    assert!(told.ends_with("\r\n\r\na"), "{told}");
    let seen = instance.last();
    assert_eq!(seen.line, "GET /p?q=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some(gateway.listener("public").to_string().as_str()));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert!(seen.header("via").is_some_and(|via| via.starts_with("2")), "{seen:?}");

    // An offer to upgrade to h2c is declined by an answer in HTTP/1.1.
    let told = curl(&["--http2", "-i", &target]);
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(instance.last().header("upgrade"), None);
    assert_eq!(instance.last().header("http2-settings"), None);
    let posted = curl(&["--http2-prior-knowledge", "--data", "x", &url(&gateway, "/echo")]);
    assert_eq!(posted, "x");
    let problem = Gateway::start("h2-problem", LOCAL);
    let told = curl(&["--http2-prior-knowledge", "-i", &url(&problem, "/")]);
    assert!(told.starts_with("HTTP/2 404") && told.contains("x-zoogate-error: no_route"), "{told}");
}

#[test]
fn limits_refuse_with_their_codes() {
    let config = format!(
        "{ORDERS}[limits]\nmax_body = \"1KiB\"\nmax_headers = 20\nmax_header_size = \"12KiB\"\nheader_timeout = \"300ms\"\n"
    );
    let (gateway, instance) = one("limits", &config);
    let public = gateway.listener("public");
    let case = |what: &str, bytes: String, status: u16| {
        let answer = http::raw(public, bytes.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    };
    let get = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    case("fits", format!("{get}\r\n"), 200);
    case("lines", format!("{get}{}\r\n", "x: y\r\n".repeat(30)), 431);
    case("bytes", format!("{get}x: {}\r\n\r\n", "y".repeat(13_000)), 431);
    case("target", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(9000)), 414);
    case("body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n".into(), 413);
    case(
        "chunked body",
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
            "y".repeat(2000)
        ),
        413,
    );
    case("slow head", "GET / HTTP/1.1\r\nhost: a\r\n".into(), 408);
    case(
        "two lengths",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".into(),
        400,
    );
    case("no host", "GET / HTTP/1.1\r\n\r\n".into(), 400);
    assert!(instance.count() <= 2, "only what fits arrives, and the beginning of what turns out too long");
}
