//! HTTP/2 and gRPC on the wire, in every pairing of the two sides.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use zoogate::model::Protocol;

use crate::wire_support::*;

/// Runs a client's side; all that it spawns ends with it.
fn run<T>(client: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client).await.expect("a deadline of the test") })
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://shop.example{path}"))
}

fn call(path: &str) -> http::request::Builder {
    request(path).header("content-type", "application/grpc").header("te", "trailers")
}

/// Reads an answer to its end.
async fn read(response: Response<RecvStream>) -> (StatusCode, HeaderMap, Bytes, Option<HeaderMap>) {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    (parts.status, parts.headers, bytes.into(), body.trailers().await.unwrap())
}

async fn send(client: &mut SendRequest<Bytes>, request: Request<()>, body: &[u8]) -> Response<RecvStream> {
    let (answer, mut stream) = client.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
    }
    answer.await.unwrap()
}

/// An HTTP/2 instance: echoes each piece of the body as it comes, then sends trailers. `/o/die` ends the
/// connection when the second piece comes, `/o/never` gives none.
pub fn echo() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let (die, mut dying) = tokio::sync::mpsc::channel::<()>(1);
                    loop {
                        tokio::select! {
                            Some(()) = dying.recv() => return,
                            next = connection.accept() => match next {
                                Some(Ok((request, answer))) => {
                                    tokio::spawn(serve(request, answer, die.clone()));
                                }
                                _ => return,
                            },
                        }
                    }
                });
            }
        });
    });
    address
}

async fn serve(
    request: Request<RecvStream>,
    mut answer: h2::server::SendResponse<Bytes>,
    die: tokio::sync::mpsc::Sender<()>,
) {
    let path = request.uri().path().to_owned();
    if path == "/o/never" {
        std::future::pending::<()>().await;
    }
    let kind = request.headers().get("content-type").cloned();
    let te = request.headers().get("te").cloned();
    let authority = request.uri().authority().unwrap().to_string();
    let mut head = Response::builder().header("x-authority", authority);
    if let Some(kind) = kind {
        head = head.header("content-type", kind);
    }
    if let Some(te) = te {
        head = head.header("x-te", te);
    }
    let mut stream: SendStream<Bytes> = answer.send_response(head.body(()).unwrap(), false).unwrap();
    let mut body = request.into_body();
    let mut pieces = 0;
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        pieces += 1;
        if path == "/o/die" && pieces == 2 {
            die.send(()).await.unwrap();
            return;
        }
        stream.send_data(data, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    if let Ok(Some(theirs)) = body.trailers().await {
        trailers.extend(theirs);
    }
    stream.send_trailers(trailers).unwrap();
}

fn h2_setup() -> Setup {
    Setup { protocol: Protocol::H2, ..Setup::default() }
}

#[test]
fn a_grpc_call_streams_both_ways_and_ends_with_trailers() {
    let worker = Worker::start(h2_setup(), &[echo()]);
    run(async {
        let mut client = connect(worker.address).await;
        let (answer, mut up) = client.send_request(call("/o/echo").body(()).unwrap(), false).unwrap();
        up.send_data("one".into(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.headers()["x-te"], "trailers");
        assert_eq!(answer.headers()["x-authority"], "shop.example");
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "one", "before the call's end");
        up.send_data("two".into(), false).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "two");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        trailers.insert("host", "smuggled".parse().unwrap());
        up.send_trailers(trailers).unwrap();
        assert!(answer.body_mut().data().await.is_none());
        let trailers = answer.body_mut().trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-sum"]),
            (&"0".parse().unwrap(), &"7".parse().unwrap())
        );
        assert!(!trailers.contains_key("host"));
    });
    assert!((worker.metric("zoogate_requests_total", &["code=\"200\""]) - 1.0).abs() < 0.5);
}

#[test]
fn http2_clients_reach_http1_instances() {
    let instance = Recorder::start(|seen| ok(if seen.body.len() == 100_000 { "large" } else { "small" }));
    let worker = Worker::start(Setup::default(), &[instance.address]);
    run(async {
        let mut client = connect(worker.address).await;
        let answer = send(&mut client, request("/o/a?b=c").body(()).unwrap(), b"hello").await;
        let (status, headers, body, _) = read(answer).await;
        assert_eq!((status, body), (StatusCode::OK, Bytes::from("small")));
        assert!(headers["via"].to_str().unwrap().starts_with("1.1 zoogate-"));
        let (answer, mut up) = client.send_request(request("/o/").body(()).unwrap(), false).unwrap();
        up.reserve_capacity(100_000);
        let mut left = 100_000;
        while left > 0 {
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap().min(left);
            left -= room;
            up.send_data(vec![b'x'; room].into(), left == 0).unwrap();
        }
        assert_eq!(read(answer.await.unwrap()).await.2, "large");
    });
    let seen = instance.seen();
    assert_eq!(seen[0].first_line(), "POST /o/a?b=c HTTP/1.1");
    assert_eq!((seen[0].header("host"), seen[0].text().as_str()), (Some("shop.example"), "hello"));
    assert!(seen[0].header("via").unwrap().starts_with("2 zoogate-"));
}

#[test]
fn http1_clients_reach_http2_instances() {
    let worker = Worker::start(h2_setup(), &[echo()]);
    let mut wire = worker.connect();
    for _ in 0..3 {
        wire.send("POST /o/ HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        let answer = wire.read_message().unwrap();
        assert_eq!((answer.text().as_str(), answer.header("x-authority")), ("abc", Some("shop.example")));
    }
    wire.send("GET /o/ HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert!(
        wire.read_message().unwrap().first_line().contains("200"),
        "an upgrade is an ordinary request there"
    );
    wire.send(get("/o/"));
    assert!(wire.read_message().unwrap().first_line().contains("200"));
}

#[test]
fn a_grpc_client_gets_errors_as_trailers_only_statuses() {
    let check = |worker: &Worker, request: Request<()>, status: &str, code: &str| {
        run(async {
            let mut client = connect(worker.address).await;
            let answer = send(&mut client, request, b"").await;
            assert_eq!(answer.status(), 200);
            assert!(answer.body().is_end_stream(), "trailers only");
            assert_eq!(answer.headers()["grpc-status"], status, "{code}");
            assert_eq!(answer.headers()["x-zoogate-error"], code);
            assert_eq!(answer.headers()["content-type"], "application/grpc");
        });
    };
    let empty = Worker::start(h2_setup(), &[]);
    check(&empty, call("/nowhere").body(()).unwrap(), "12", "no_route");
    check(&empty, call("/o/x").body(()).unwrap(), "14", "no_instances");
    check(&empty, call("/o/%00").body(()).unwrap(), "13", "bad_request");
    let refused = Worker::start(h2_setup(), &[dead()]);
    check(&refused, call("/o/x").body(()).unwrap(), "14", "connect_failed");
    let slow = Worker::start(h2_setup(), &[echo()]);
    let request = call("/o/never").header("grpc-timeout", "150m").body(()).unwrap();
    check(&slow, request, "4", "upstream_timeout");
    let timed = Worker::start(Setup { timeout: Some(Duration::from_millis(150)), ..h2_setup() }, &[echo()]);
    let request = call("/o/never").header("grpc-timeout", "1H").body(()).unwrap();
    check(&timed, request, "4", "upstream_timeout");
}

#[test]
fn an_instance_that_dies_under_a_call_ends_it_with_unavailable() {
    let worker = Worker::start(h2_setup(), &[echo()]);
    run(async {
        let mut client = connect(worker.address).await;
        let (answer, mut up) = client.send_request(call("/o/die").body(()).unwrap(), false).unwrap();
        up.send_data("one".into(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "one");
        up.send_data("two".into(), false).unwrap();
        assert!(answer.body_mut().data().await.is_none());
        let trailers = answer.body_mut().trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "14");

        let (answer, mut up) = client.send_request(request("/o/die").body(()).unwrap(), false).unwrap();
        up.send_data("one".into(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "one");
        up.send_data("two".into(), false).unwrap();
        assert!(answer.body_mut().data().await.unwrap().is_err(), "plain HTTP has only a reset for that");
    });
    assert!((worker.metric("zoogate_requests_total", &["code=\"200\""]) - 2.0).abs() < 0.5);
}

#[test]
fn http2_requests_that_break_the_rules_are_refused() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    run(async {
        let mut client = connect(worker.address).await;
        let big = "y".repeat(70_000);
        for (request, status) in [
            (request("/o/").header("host", "other"), 400),
            (request("/o/").header("x", "trailing\t"), 400),
            (request("/o/%2e%2e/a"), 400),
            (request("/o/").header("big", &big), 431),
            (request(&format!("/o/{}", "x".repeat(8192))), 414),
            (request("/o/").header("expect", "miracles"), 400),
        ] {
            let answer = send(&mut client, request.body(()).unwrap(), b"").await;
            assert_eq!(answer.status(), status);
            assert!(answer.headers().contains_key("x-zoogate-error"));
        }
        let connect = Request::connect("a:80").body(()).unwrap();
        assert_eq!(send(&mut client, connect, b"").await.status(), 405);
        assert_eq!(send(&mut client, request("/o/").body(()).unwrap(), b"").await.status(), 200);
    });
    assert_eq!(instance.seen().len(), 1);
    for (code, count) in [("400", 3.0), ("431", 1.0), ("414", 1.0), ("405", 1.0)] {
        let counted = worker.metric("zoogate_requests_total", &[&format!("code=\"{code}\"")]);
        assert!(counted >= count, "{code}: {counted}");
    }
}

#[test]
fn a_stream_that_is_reset_takes_its_upstream_work_along() {
    let (gone, told) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let instance = Recorder::scripted(move |wire, _| {
        wire.read_until("\r\n\r\n");
        wire.read_all();
        gone.lock().unwrap().send(()).unwrap();
    });
    let worker = Worker::start(Setup::default(), &[instance.address]);
    run(async {
        let mut client = connect(worker.address).await;
        let (answer, mut up) = client.send_request(request("/o/").body(()).unwrap(), false).unwrap();
        until("the instance's connection", async || (instance.connections() > 0).then_some(())).await;
        up.send_reset(h2::Reason::CANCEL);
        drop(answer);
        tokio::task::spawn_blocking(move || told.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    });
    wait_for("the count", || {
        (worker.metric("zoogate_requests_total", &["code=\"499\""]) >= 1.0).then_some(())
    });
}

#[test]
fn a_flood_of_pings_ends_the_connection_with_goaway() {
    let worker = Worker::start(Setup::default(), &[]);
    let mut wire = worker.connect();
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let flood: Vec<u8> = ping.iter().copied().cycle().take(17 * 900).collect();
    wire.send(&flood);
    let mut answered = 0;
    let frame = |wire: &mut Wire| {
        let head = wire.read_exact(9)?;
        wire.read_exact(usize::from(head[1]) << 8 | usize::from(head[2]))?;
        Some(head[3])
    };
    while answered < 900 {
        answered += usize::from(frame(&mut wire).expect("900 are allowed") == 6);
    }
    wire.send(&flood);
    let goaway = std::iter::from_fn(|| frame(&mut wire)).any(|kind| kind == 7);
    assert!(goaway, "GOAWAY, and the end");
}

#[test]
fn draining_says_goaway_and_lets_open_calls_finish() {
    let worker = Worker::start(h2_setup(), &[echo()]);
    run(async {
        let mut client = connect(worker.address).await;
        let (answer, mut up) = client.send_request(call("/o/echo").body(()).unwrap(), false).unwrap();
        up.send_data("one".into(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "one");
        worker.drain();
        // GOAWAY came when the client may open no more streams.
        let refused = async || std::future::poll_fn(|cx| client.poll_ready(cx)).await.err();
        until("GOAWAY", refused).await;
        up.send_data("two".into(), true).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "two");
        assert!(answer.body_mut().data().await.is_none());
        assert_eq!(answer.body_mut().trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
    wait_for("the connection's end", || (worker.shared.open_connections() == 0).then_some(()));
}

#[test]
fn a_client_that_takes_nothing_is_cut_however_it_pings() {
    let (gone, told) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let instance = Recorder::scripted(move |wire, _| {
        wire.read_until("\r\n\r\n").unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
        while std::io::Write::write(&mut wire.stream, &[b'x'; 64 * 1024]).is_ok() {}
        gone.lock().unwrap().send(()).unwrap();
    });
    let limits =
        zoogate::config::plan::Limits { idle_timeout: Duration::from_millis(300), ..Setup::default().limits };
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    run(async {
        let stream = tokio::net::TcpStream::connect(worker.address).await.unwrap();
        let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let ended = tokio::spawn(connection);
        let mut client: SendRequest<Bytes> = client.ready().await.unwrap();
        let (answer, _) = client.send_request(request("/o/").body(()).unwrap(), true).unwrap();
        // Kept, and never read: its window stays full.
        let _answer = answer.await.unwrap();
        while !ended.is_finished() {
            let _ = pings.ping(h2::Ping::opaque()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::task::spawn_blocking(move || told.recv_timeout(PATIENCE).unwrap()).await.unwrap();
    });
}

/// Opens so many streams of GET /, fifty on a connection, calls `then` once the first piece of each is here, and returns all
/// that came of each and what it was reset with.
pub fn h2_streams(
    gateway: SocketAddr,
    count: usize,
    then: impl FnOnce(),
) -> Vec<(String, Option<h2::Reason>)> {
    run(async {
        let mut client = connect(gateway).await;
        let mut open = Vec::new();
        for stream in 1..=count {
            if stream % 50 == 0 {
                // The client that is used here counts small frames that nobody has read yet.
                client = connect(gateway).await;
            }
            let get = Request::get("http://shop.example/").body(()).unwrap();
            client = client.ready().await.unwrap();
            let mut body = client.send_request(get, true).unwrap().0.await.unwrap().into_body();
            let piece = body.data().await.unwrap().unwrap();
            let _ = body.flow_control().release_capacity(piece.len());
            open.push((String::from_utf8_lossy(&piece).into_owned(), body));
        }
        then();
        let mut ended = Vec::new();
        for (mut text, mut body) in open {
            let reason = loop {
                match body.data().await {
                    Some(Ok(data)) => {
                        let _ = body.flow_control().release_capacity(data.len());
                        text += &String::from_utf8_lossy(&data);
                    }
                    Some(Err(error)) => break error.reason(),
                    None => break None,
                }
            };
            ended.push((text, reason));
        }
        ended
    })
}
