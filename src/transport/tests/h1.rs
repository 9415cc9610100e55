//! HTTP/1.1 exchanges: connections kept and given up, both directions at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{Peer, TestBody, data, get, listener, post, read, run, serve, target_of, transport};
use crate::model::Protocol;
use crate::transport::{SendError, Target, Transport, TransportOptions, UpstreamBodyError};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn http1(address: std::net::SocketAddr) -> Arc<Target> {
    Arc::new(target_of(address, Protocol::Http1))
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            loop {
                let head = peer.head().await;
                assert!(head.starts_with("GET /a?b HTTP/1.1\r\nhost: test\r\n\r\n"), "{head}");
                peer.write(OK).await;
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        for round in 0..20 {
            let connection = transport.connect(&target).await.unwrap();
            assert_eq!(connection.dialled().is_some(), round == 0);
            let response = connection.send_once(get("/a?b")).await.unwrap();
            assert_eq!(transport.idle_len(target.id), 1, "back in the pool with the last byte");
            assert_eq!(response.body().size_hint().exact(), Some(2));
            assert_eq!(read(response).await.0, b"ok");
        }
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn close_from_either_side_is_respected() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            loop {
                let head = peer.head().await;
                let close = if head.contains("/bye") { "connection: close\r\n" } else { "" };
                peer.write(format!("HTTP/1.1 200 OK\r\n{close}content-length: 2\r\n\r\nok")).await;
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let mut asking = get("/");
        asking.headers_mut().insert("connection", "close".parse().unwrap());
        for request in [get("/bye"), asking] {
            let response = transport.connect(&target).await.unwrap().send_once(request).await.unwrap();
            assert_eq!(read(response).await.0, b"ok");
            assert_eq!(transport.idle_len(target.id), 0);
        }
        assert_eq!(accepted.get(), 2);
    });
}

#[test]
fn a_connection_that_dies_after_the_request_went_out_is_a_reset() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.head().await;
            peer.write(OK).await;
            peer.head().await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        for reused in [false, true] {
            let sent = transport.connect(&target).await.unwrap().send_once(get("/")).await;
            match sent {
                Ok(response) if !reused => assert_eq!(read(response).await.0, b"ok"),
                Err(SendError::Reset(reset)) if reused => assert!(reset.reused && !reset.unprocessed),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_request_goes_out_in_one_piece_with_its_small_body() {
    run(async {
        let (listener, address) = listener().await;
        let (transport, target) = (transport(), http1(address));
        let frames = vec![data("hello"), Frame::trailers(HeaderMap::new())];
        for (body, expected) in [
            (TestBody::sized("hello"), "content-length: 5\r\n\r\nhello"),
            (TestBody::sized(""), "content-length: 0\r\n\r\n"),
            (
                TestBody::frames(vec![data("hello")]),
                "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
            (TestBody::frames(frames), "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let sending = async {
                let connection = transport.connect(&target).await.unwrap();
                let mut request = post(body);
                request.headers_mut().insert("connection", "close".parse().unwrap());
                connection.send_once(request).await.unwrap()
            };
            let (response, ()) = tokio::join!(sending, async {
                let mut peer = Peer::accept(&listener).await;
                let head = "POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n";
                let all = format!("{head}{expected}");
                assert_eq!(peer.until(expected).await, all);
                peer.write(OK).await;
            });
            assert_eq!(read(response).await.0, b"ok");
        }
    });
}

#[test]
fn chunks_and_trailers_go_both_ways() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            let sent = peer.until("0\r\nx-up: 1\r\n\r\n").await;
            assert!(sent.ends_with("\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-up: 1\r\n\r\n"), "{sent}");
            peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n").await;
            peer.write("3\r\nabc\r\n2;e=1\r\nde\r\n0\r\nx-down: 2\r\n\r\n").await;
            peer.head().await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-up", "1".parse().unwrap());
        trailers.insert("transfer-encoding", "evil".parse().unwrap());
        let body = TestBody::frames(vec![data("abc"), data(""), data("de"), Frame::trailers(trailers)]);
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        let (data, trailers) = read(response).await;
        assert_eq!((&data[..], trailers.unwrap()["x-down"].as_bytes()), (&b"abcde"[..], &b"2"[..]));
        assert_eq!(transport.idle_len(target.id), 1);
    });
}

#[test]
fn an_interim_answer_lets_the_body_flow_and_is_not_seen() {
    run(async {
        let (feed, body) = TestBody::fed(Some(4));
        let (address, _) = serve(move |mut peer| {
            let feed = feed.clone();
            async move {
                let head = peer.head().await;
                assert!(
                    head.contains("content-length: 4\r\n"),
                    "the head goes before the body is there: {head}"
                );
                peer.write("HTTP/1.1 100 Continue\r\n\r\n").await;
                feed.send(Ok(data("body"))).unwrap();
                peer.until("body").await;
                peer.write("HTTP/1.1 102 Processing\r\n\r\n").await;
                peer.write(OK).await;
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await.0, b"ok");
    });
}

#[test]
fn an_early_answer_streams_while_the_request_still_does() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.head().await;
            peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            // Echo, chunk by chunk, as a dialogue.
            for text in ["one", "two"] {
                let chunk = format!("3\r\n{text}\r\n");
                assert_eq!(peer.until(text).await + "\r\n", chunk);
                peer.until("\r\n").await;
                peer.write(chunk).await;
            }
            assert_eq!(peer.until("0\r\n\r\n").await, "0\r\n\r\n");
            peer.write("0\r\n\r\n").await;
            peer.head().await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let (feed, body) = TestBody::fed(None);
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        let mut body = response.into_body();
        for text in ["one", "two"] {
            feed.send(Ok(data(text))).unwrap();
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(frame, text);
        }
        drop(feed);
        assert!(body.frame().await.is_none());
        // This one has read it all; another would not have, and nobody could tell.
        assert_eq!(transport.idle_len(target.id), 0, "who answers early is not asked again");
    });
}

#[test]
fn an_answer_that_ends_before_the_request_does_closes_the_connection() {
    run(async {
        let (closed, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let (address, _) = serve(move |mut peer| {
            let closed = closed.clone();
            async move {
                peer.head().await;
                peer.write("HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await;
                peer.closed().await;
                closed.send(()).unwrap();
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let (_feed, body) = TestBody::fed(Some(1_000_000));
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(read(response).await.0, b"no");
        assert_eq!(transport.idle_len(target.id), 0);
        hears.recv().await.unwrap();
    });
}

#[test]
fn what_is_left_unread_by_who_answered_early_is_no_request_of_somebody_else() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.head().await;
            // The answer begins, all of the body comes, and the answer ends: nobody has read the body.
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await;
            peer.until("stolen\r\n\r\n").await;
            peer.write("ay").await;
            peer.closed().await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let rest = "GET /stolen HTTP/1.1\r\nhost: stolen\r\n\r\n";
        let (feed, body) = TestBody::fed(Some(rest.len() as u64));
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        let mut answer = response.into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
        feed.send(Ok(data(rest))).unwrap();
        drop(feed);
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "ay");
        assert!(answer.frame().await.is_none());
        assert_eq!(transport.idle_len(target.id), 0);
    });
}

#[test]
fn an_answer_before_a_reset_of_the_upload_still_arrives() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.head().await;
            peer.write("HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await;
            // Closed with unread data: the kernel sends a reset behind the answer.
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let body = TestBody::sized(vec![b'x'; 8 << 20]);
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await;
        // A reset may overtake the answer in the peer's kernel; what must not happen is a hang,
        // a success of another kind, or a pooled connection.
        match response {
            Ok(response) => assert_eq!(response.status(), 413),
            Err(SendError::Reset(reset)) => assert!(!reset.reused),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(transport.idle_len(target.id), 0);
    });
}

#[test]
fn a_failing_request_body_aborts_the_exchange() {
    run(async {
        let (closed, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let (address, _) = serve(move |mut peer| {
            let closed = closed.clone();
            async move {
                let head = peer.head().await;
                if head.contains("chunked") {
                    peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
                }
                peer.closed().await;
                closed.send(()).unwrap();
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        // Before the answer: the client failed, sent too little, or too much.
        for wrong in [Err("gone".into()), Ok(data("12345"))] {
            let (feed, body) = TestBody::fed(Some(4));
            feed.send(Ok(data("12"))).unwrap();
            feed.send(wrong).unwrap();
            let sent = transport.connect(&target).await.unwrap().send_once(post(body)).await;
            assert!(matches!(sent, Err(SendError::RequestBody(_))), "{sent:?}");
            hears.recv().await.unwrap();
        }
        let (feed, body) = TestBody::fed(Some(4));
        feed.send(Ok(data("12"))).unwrap();
        drop(feed);
        let sent = transport.connect(&target).await.unwrap().send_once(post(body)).await;
        assert!(matches!(sent, Err(SendError::RequestBody(_))), "{sent:?}");
        hears.recv().await.unwrap();
        // After the answer's head.
        let (feed, body) = TestBody::fed(None);
        let mut body =
            transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        feed.send(Err("gone".into())).unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, UpstreamBodyError::RequestBody(_)), "{error}");
        assert!(body.frame().await.is_none() && body.is_end_stream());
        hears.recv().await.unwrap();
    });
}

#[test]
fn a_dropped_body_closes_the_connection() {
    run(async {
        let (closed, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let (address, _) = serve(move |mut peer| {
            let closed = closed.clone();
            async move {
                peer.head().await;
                peer.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
                peer.closed().await;
                closed.send(()).unwrap();
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let mut body =
            transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(6), false));
        drop(body);
        hears.recv().await.unwrap();
        assert_eq!(transport.idle_len(target.id), 0);
    });
}

#[test]
fn large_bodies_flow_both_ways_under_back_pressure() {
    const LEN: usize = 10 << 20;
    const CHUNK: usize = 48 * 1024;
    run(async {
        for length in [Some(LEN as u64), None] {
            let (address, _) = serve(move |peer| async move {
                // An echo that starts at once, so that both directions are full together. Framing
                // comes back as it was sent.
                let mut peer = peer;
                let head = peer.head().await;
                let framing =
                    head.lines().find(|l| l.starts_with("content-length") || l.starts_with("transfer"));
                peer.write(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", framing.unwrap())).await;
                let early = peer.take();
                peer.write(early).await;
                let (mut from, mut to) = peer.stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            })
            .await;
            let (transport, target) = (transport(), http1(address));
            let (feed, body) = TestBody::fed(length);
            let pattern: Bytes = (0..LEN).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
            for at in (0..LEN).step_by(CHUNK) {
                feed.send(Ok(Frame::data(pattern.slice(at..(at + CHUNK).min(LEN))))).unwrap();
            }
            drop(feed);
            let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
            let (echoed, _) = read(response).await;
            assert!(echoed == pattern, "{} of {LEN} bytes came back", echoed.len());
            assert_eq!(transport.idle_len(target.id), 0, "who answers early is not asked again");
        }
    });
}

#[test]
fn a_reader_that_stops_stops_the_instance() {
    run(async {
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&sent);
        let (address, _) = serve(move |mut peer| {
            let count = std::rc::Rc::clone(&count);
            async move {
                peer.head().await;
                peer.write("HTTP/1.1 200 OK\r\n\r\n").await;
                loop {
                    count.set(count.get() + peer.stream.write(&[b'x'; 8192]).await.unwrap_or(0));
                }
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let mut body =
            transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        // Socket buffers fill, then nothing moves: the same count twice, some time apart.
        let mut before = usize::MAX;
        while before != sent.get() {
            before = sent.get();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < 64 << 20, "{before} bytes went into nowhere");
    });
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_its_half_close() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            let head = peer.head().await;
            assert!(head.contains("connection: upgrade\r\nupgrade: echo\r\n"), "{head}");
            peer.write("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: Echo\r\n\r\nearly").await;
            let mut all = Vec::new();
            peer.stream.read_to_end(&mut all).await.unwrap();
            peer.write(all).await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        let request = Request::get("/")
            .header("host", "test")
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .body(TestBody::empty())
            .unwrap();
        let response = transport.connect(&target).await.unwrap().send_once(request).await.unwrap();
        assert_eq!(response.status(), 101);
        assert!(response.body().is_end_stream());
        let mut tunnel = response.into_body().into_upgraded().unwrap();
        tunnel.write_all(b" bird").await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut all = String::new();
        tunnel.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "early bird");
        assert_eq!(transport.idle_len(target.id), 0);
    });
}

#[test]
fn a_head_answer_keeps_its_length_and_the_connection() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            loop {
                peer.head().await;
                peer.write("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n").await;
            }
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        for _ in 0..3 {
            let head = Request::head("/").header("host", "test").body(TestBody::empty()).unwrap();
            let response = transport.connect(&target).await.unwrap().send_once(head).await.unwrap();
            assert_eq!(response.headers()["content-length"], "5000");
            assert!(response.body().is_end_stream());
        }
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn the_pool_is_bounded_and_forgets_targets_that_are_gone() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            loop {
                peer.head().await;
                peer.write(OK).await;
            }
        })
        .await;
        let options = TransportOptions {
            max_idle_per_target: 3,
            max_idle: 4,
            idle_timeout: Duration::from_secs(10),
            ..TransportOptions::default()
        };
        let transport = Transport::<TestBody>::new(options);
        let (one, two) = (http1(address), http1(address));
        for (target, kept) in [(&one, 3), (&two, 1)] {
            let mut open = Vec::new();
            for _ in 0..5 {
                open.push(transport.connect(target).await.unwrap());
            }
            for connection in open {
                let response = connection.send_once(get("/")).await.unwrap();
                assert_eq!(read(response).await.0, b"ok");
            }
            assert_eq!(transport.idle_len(target.id), kept);
        }
        assert_eq!(accepted.get(), 10);

        // A target that goes while a request runs on it gets no connection back.
        let running = transport.connect(&one).await.unwrap();
        one.gone.store(true, Ordering::Relaxed);
        transport.tick(Instant::now());
        assert_eq!(read(running.send_once(get("/")).await.unwrap()).await.0, b"ok");
        assert_eq!((transport.idle_len(one.id), transport.idle_len(two.id)), (0, 1));

        let now = Instant::now();
        transport.tick(now + Duration::from_secs(9));
        assert_eq!(transport.idle_len(two.id), 1);
        transport.tick(now + Duration::from_secs(12));
        assert_eq!(transport.idle_len(two.id), 0);
    });
}
