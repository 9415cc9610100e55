//! What RFC 9113 says of windows, of the frames that answers come in, and of answers that end early or have no body.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use zoogate::proxy::{Body, FilterService, Filters};

use crate::wire_floods::*;
use crate::wire_h2_client::*;
use crate::wire_support::*;

/// Keeps requests for `/o/hold` and reads nothing of them; answers those for `/o/early` and does not, either.
#[derive(Clone)]
struct Unread;

impl tower::Layer<FilterService> for Unread {
    type Service = FilterService;

    fn layer(&self, inner: FilterService) -> FilterService {
        let inner = Rc::new(RefCell::new(inner));
        FilterService::new(tower::service_fn(move |request: Request<Body>| {
            let inner = Rc::clone(&inner);
            async move {
                match request.uri().path() {
                    "/o/hold" => {
                        let _kept = request;
                        std::future::pending().await
                    }
                    "/o/early" => Ok(Response::new(Body::full("early"))),
                    _ => {
                        let sent = tower::Service::call(&mut *inner.borrow_mut(), request);
                        sent.await
                    }
                }
            }
        }))
    }
}

fn start() -> (Recorder, Worker) {
    let instance = instance();
    let filters = Filters::default().layer(Unread);
    let worker = Worker::start(Setup { filters, ..Setup::default() }, &[instance.address]);
    (instance, worker)
}

fn body(client: &Client, stream: u32) -> usize {
    client.streams.get(&stream).map_or(0, |stream| stream.body.len())
}

#[test]
fn windows_are_opened_by_something_and_not_too_far() {
    const MOST: u32 = LARGEST_WINDOW - 65_535;
    let open = |rest: Vec<u8>| [posts(1, "/o/never"), rest].concat();
    let nothing: &[May] = &[Reset(1, PROTOCOL_ERROR), Goaway(PROTOCOL_ERROR)];
    let overflow: &[May] = &[Reset(1, FLOW_CONTROL_ERROR), Goaway(FLOW_CONTROL_ERROR)];
    let overflows: &[May] = &[Goaway(FLOW_CONTROL_ERROR)];
    let (_instance, worker) = start();
    hold(
        &worker,
        &[
            ("6.9: the connection's, by nothing", update(0, 0), &[Goaway(PROTOCOL_ERROR)]),
            ("6.9: by nothing but the reserved bit", update(0, 1 << 31), &[Goaway(PROTOCOL_ERROR)]),
            ("6.9: by one and the reserved bit", update(0, 1 << 31 | 1), &[Pass]),
            ("6.9: a stream's, by nothing", open(update(1, 0)), nothing),
            ("6.9.1: the connection's, to the last", update(0, MOST), &[Pass]),
            ("6.9.1: the connection's, beyond", update(0, MOST + 1), overflows),
            ("6.9.1: the connection's, step by step", [update(0, MOST), update(0, 1)].concat(), overflows),
            ("6.9.1: a stream's, to the last", open(update(1, MOST)), &[Pass]),
            ("6.9.1: a stream's, beyond", open(update(1, MOST + 1)), overflow),
            ("6.9.1: a stream's, step by step", open([update(1, MOST), update(1, 1)].concat()), overflow),
            (
                "6.9.2: a stream's, by settings",
                open([update(1, 1), settings(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)])].concat()),
                overflows,
            ),
            (
                "6.9.2: settings leave the connection's alone",
                [settings(&[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]), update(0, MOST)].concat(),
                &[Pass],
            ),
        ],
    );
}

#[test]
fn an_answer_waits_for_its_window_and_takes_it_octet_by_octet() {
    let (_instance, worker) = start();
    let mut client = Client::with(&worker, &[(INITIAL_WINDOW_SIZE, 0)]);
    client.send([asks(1, "/o/bytes/9"), asks(3, "/o/bytes/0")].concat());
    client.until("heads", |c| c.streams.values().filter(|s| s.status == Some(200)).count() == 2);
    // What has no octets needs no window.
    client.answer(3);
    client.settle();
    assert_eq!(body(&client, 1), 0);
    for octets in 1..=5 {
        client.update(1, 1);
        client.until("an octet", |c| body(c, 1) == octets);
        client.settle();
    }
    assert_eq!(client.streams[&1].pieces, [1; 5]);
    // Settings open it as well.
    client.settings(&[(INITIAL_WINDOW_SIZE, 3)]);
    client.until("octets", |c| body(c, 1) == 8);
    client.settle();
    assert!(!client.streams[&1].ended);
    client.update(1, 1);
    assert_eq!(client.answer(1).body, [b'x'; 9]);
}

#[test]
fn a_window_below_zero_is_filled_before_anything_comes() {
    let (_instance, worker) = start();
    let mut client = Client::open(&worker);
    client.update(0, 1 << 20);
    client.send(asks(1, "/o/bytes/200000"));
    client.until("a window", |c| body(c, 1) == 65_535);
    client.settings(&[(INITIAL_WINDOW_SIZE, 1000)]);
    client.until("ACK", |client| client.acks == 2);
    client.update(1, 64_534);
    client.settle();
    // At nothing now.
    client.update(1, 1);
    client.settle();
    assert_eq!(body(&client, 1), 65_535);
    client.update(1, 10);
    client.until("ten more", |c| body(c, 1) == 65_545);
    // Down and up again in one: in the end as before.
    client.send([settings(&[(INITIAL_WINDOW_SIZE, 0)]), settings(&[(INITIAL_WINDOW_SIZE, 1000)])].concat());
    client.until("ACKs", |client| client.acks == 4);
    client.settle();
    assert_eq!(body(&client, 1), 65_545);
    client.settings(&[(INITIAL_WINDOW_SIZE, 2000)]);
    client.until("the rise", |c| body(c, 1) == 66_545);
    client.update(1, 200_000);
    assert_eq!(client.answer(1).body.len(), 200_000);
}

#[test]
fn streams_share_the_connections_window_and_none_starves() {
    const LEN: usize = 300_000;
    let (_instance, worker) = start();
    let mut client = Client::with(&worker, &[(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)]);
    let all = [1, 3, 5, 7];
    client.send(all.map(|stream| asks(stream, &format!("/o/bytes/{LEN}"))).concat());
    let sum = |client: &Client| all.iter().map(|stream| body(client, *stream)).sum::<usize>();
    let mut opened = 65_535;
    client.until("the window", |c| sum(c) == opened);
    client.settle();
    // A quarter of it in small steps: enough that each has had its turn.
    while opened < LEN {
        client.update(0, 3000);
        opened += 3000;
        client.until("the window", |c| sum(c) == opened);
    }
    let shares = all.map(|stream| body(&client, stream));
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    client.update(0, (4 * LEN) as u32);
    for stream in all {
        assert_eq!(client.answer(stream).body.len(), LEN);
    }
}

#[test]
fn an_answer_comes_in_frames_of_the_size_that_the_client_takes() {
    let (_instance, worker) = start();
    for size in [16_384, 20_000, (1 << 24) - 1] {
        let windows = (INITIAL_WINDOW_SIZE, LARGEST_WINDOW);
        let mut client = Client::with(&worker, &[windows, (MAX_FRAME_SIZE, size)]);
        client.update(0, 1 << 24);
        client.send([asks(1, "/o/bytes/1000000"), asks(3, "/o/large-head")].concat());
        // The client looks at each frame's size.
        assert_eq!(client.answer(1).body.len(), 1_000_000);
        let head = client.answer(3);
        assert_eq!(head.status, Some(200));
        if size == 16_384 {
            assert!(head.head_frames > 1, "30 kB in a frame");
        }
    }
}

#[test]
fn a_client_that_sends_beyond_our_windows_is_told() {
    let (_instance, worker) = start();
    // A stream's window.
    let mut client = Client::open(&worker);
    client.send(posts(1, "/o/hold"));
    client.until("settings", |client| client.acks > 0);
    client.settle();
    let window = client.credit(1);
    client.upload(1, window, 0);
    client.settle();
    assert_eq!(
        (client.credit(1), client.goaway),
        (0, None),
        "what was allowed, and nothing for what nobody read"
    );
    client.data(1, 0, b"x");
    while client.step() && client.streams[&1].reset.is_none() {}
    match client.streams[&1].reset {
        Some(code) => {
            assert_eq!(code, FLOW_CONTROL_ERROR);
            client.goes_on(3);
        }
        None => assert_eq!(client.goaway, Some(FLOW_CONTROL_ERROR)),
    }
    // The connection's.
    let mut client = Client::open(&worker);
    client.send(posts(1, "/o/hold"));
    client.until("settings", |client| client.acks > 0);
    client.settle();
    let mut stream = 1;
    loop {
        let room = client.credit(stream);
        client.upload(stream, room, 0);
        stream += 2;
        client.send(posts(stream, "/o/hold"));
        client.settle();
        if client.credit(stream) == 0 {
            break;
        }
    }
    client.data(stream, 0, b"x");
    while client.step() {}
    assert_eq!(client.goaway, Some(FLOW_CONTROL_ERROR), "on stream {stream}");
}

#[test]
fn what_nobody_reads_does_not_take_the_connections_window() {
    const BYTES: usize = 200_000;
    let (instance, worker) = start();
    let bad = |stream| {
        frame(HEADERS, END_HEADERS, stream, &[block(3, "/o/refused"), fields(&[("te", "x")])].concat())
    };
    type Begin<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let ways: [(&str, Begin<'_>, bool); 3] = [
        ("answered early", &|stream| posts(stream, "/o/early"), false),
        ("malformed", &bad, false),
        ("taken back", &|stream| posts(stream, "/o/hold"), true),
    ];
    for (name, begin, takes_back) in ways {
        let mut client = Client::open(&worker);
        client.until("settings", |client| client.acks > 0);
        client.settle();
        for stream in (0..10).map(|n| n * 2 + 1) {
            client.send(begin(stream));
            // All of it before the client knows that nobody wants it.
            let mut left = BYTES;
            while left > 0 {
                client.until("room of the connection", |client| client.credit(999) > 0);
                let step = left.min(client.credit(999)).min(16_384);
                client.data(stream, 0, &vec![b'u'; step]);
                left -= step;
            }
            if takes_back {
                client.send(reset(stream));
            } else {
                client.until("an end", |client| client.streams[&stream].reset.is_some());
            }
        }
        client.send(posts(101, "/o/after"));
        client.upload(101, 400_000, END_STREAM);
        assert_eq!(client.answer(101).status, Some(200), "{name}");
        assert_eq!(instance.seen().last().unwrap().body.len(), 400_000, "{name}");
    }
}

#[test]
fn an_answer_before_the_end_of_its_upload_is_whole_and_ends_it() {
    let (_instance, worker) = start();
    let mut client = Client::open(&worker);
    client.send([posts(1, "/o/early"), frame(DATA, 0, 1, b"some")].concat());
    client.until("a reset", |client| client.streams.get(&1).is_some_and(|s| s.reset.is_some()));
    let stream = &client.streams[&1];
    assert_eq!((stream.status, &stream.body[..], stream.ended), (Some(200), &b"early"[..], true));
    assert!(matches!(stream.reset, Some(NO_ERROR | CANCEL)), "{stream:?}");
    // What was under way is passed over.
    client.send([frame(DATA, 0, 1, b"more"), frame(DATA, END_STREAM, 1, b"")].concat());
    client.goes_on(3);
}

#[test]
fn uploads_larger_than_the_windows_arrive_whole() {
    let (instance, worker) = start();
    let mut client = Client::open(&worker);
    client.until("settings", |client| client.acks > 0);
    client.send([posts(1, "/o/"), posts(3, "/o/")].concat());
    client.upload(1, 1_500_000, 0);
    client.upload(3, 1_500_000, END_STREAM);
    client.upload(1, 500_000, END_STREAM);
    assert_eq!((client.answer(1).status, client.answer(3).status), (Some(200), Some(200)));
    let mut sizes: Vec<_> = instance.seen().iter().map(|seen| seen.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1_500_000, 2_000_000]);
    // Padding takes window, and gives it back: 400 kB of it here.
    client.send(posts(5, "/o/padded"));
    let payload = [&[255, b'u'][..], &[0; 255]].concat();
    for n in 0..1600 {
        client.until("room for a frame", |client| client.credit(5) >= payload.len());
        client.data(5, if n == 1599 { PADDED | END_STREAM } else { PADDED }, &payload);
    }
    assert_eq!(client.answer(5).status, Some(200));
    let seen = instance.seen().pop().unwrap();
    assert_eq!((seen.first_line(), seen.body.len()), ("POST /o/padded HTTP/1.1", 1600));
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let (_instance, worker) = start();
    let mut client = Client::open(&worker);
    let heads =
        |path| fields(&[(":method", "HEAD"), (":scheme", "http"), (":path", path), (":authority", "a")]);
    client.send(
        [
            frame(HEADERS, WHOLE, 1, &heads("/o/bytes/12345")),
            asks(3, "/o/204"),
            asks(5, "/o/304"),
            frame(HEADERS, WHOLE, 7, &heads("/nowhere")),
        ]
        .concat(),
    );
    for (stream, status, length) in [(1, 200, Some("12345")), (3, 204, None), (5, 304, None), (7, 404, None)]
    {
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.body.len()), (Some(status), 0), "{answer:?}");
        if length.is_some() || status == 204 {
            assert_eq!(answer.length.as_deref(), length, "{answer:?}");
        }
    }
    client.goes_on(9);
}

#[test]
fn a_client_that_closes_its_half_leaves_nothing_behind() {
    let (_instance, worker) = start();
    let mut client = Client::open(&worker);
    client.send([asks(1, "/o/bytes/1000"), posts(3, "/o/hold"), asks(5, "/o/never")].concat());
    client.settle();
    client.wire.close_write();
    while client.step() {}
    wait_for("the connection's end", || (worker.shared.open_connections() == 0).then_some(()));
}

/// Asks through the `h2` crate, which keeps windows of its own.
async fn ask(client: &h2::client::SendRequest<Bytes>, path: &str, upload: usize) -> usize {
    let mut client = client.clone().ready().await.unwrap();
    let request = Request::post(format!("http://shop.example{path}")).body(()).unwrap();
    let (answer, mut stream) = client.send_request(request, upload == 0).unwrap();
    let mut left = upload;
    while left > 0 {
        stream.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap().min(left);
        left -= room;
        stream.send_data(vec![b'u'; room].into(), left == 0).unwrap();
    }
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut body, mut len) = (answer.into_body(), 0);
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        len += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    len
}

#[test]
fn many_streams_go_both_ways_through_small_windows() {
    let (instance, worker) = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        let stream = tokio::net::TcpStream::connect(worker.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1000).initial_connection_window_size(70_000);
        let (client, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let client = client.clone();
            tasks.spawn(async move { ask(&client, &format!("/o/bytes/{}", 20_000 + n), 50_000 + n).await });
        }
        tasks.join_all().await
    };
    let mut lens = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() });
    lens.sort_unstable();
    assert_eq!(lens, (20_000..20_100).collect::<Vec<_>>());
    let mut sizes: Vec<_> = instance.seen().iter().map(|seen| seen.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (50_000..50_100).collect::<Vec<_>>());
}

#[test]
fn a_client_that_takes_nothing_for_now_is_listened_to() {
    let (instance, worker) = start();
    let mut client = Client::with(&worker, &[(INITIAL_WINDOW_SIZE, 100_000_000)]);
    client.until("settings", |client| client.acks > 0);
    client.update(0, 100_000_000);
    client.send(asks(1, "/o/bytes/20000000"));
    client.until("an answer", |client| body(client, 1) > 0);
    // More comes than the kernel takes for who does not read; what that one sends meanwhile arrives.
    client.send(posts(3, "/o/meanwhile"));
    for n in 1..=12 {
        client.data(3, if n == 12 { END_STREAM } else { 0 }, &[b'u'; 16_384]);
    }
    wait_for("the upload", || {
        let seen = instance.seen();
        let upload = seen.iter().find(|seen| seen.first_line().starts_with("POST /o/meanwhile"))?;
        (upload.body.len() == 12 * 16_384).then_some(())
    });
    client.until("the rest", |client| body(client, 1) == 20_000_000);
}
