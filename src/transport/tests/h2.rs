//! HTTP/2: streams that share connections, and connections that go away under them.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use super::support::{
    Peer, TestBody, data, eventually, get, listener, post, read, run, serve, target_of, transport,
};
use crate::model::Protocol;
use crate::transport::{ConnectError, Outgoing, SendError, Target, UpstreamBodyError};

fn h2(address: std::net::SocketAddr) -> Arc<Target> {
    Arc::new(target_of(address, Protocol::H2))
}

/// An HTTP/2 server that allows `streams` at a time and answers each with `answer`.
async fn h2_serve<F>(
    streams: u32,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) -> (std::net::SocketAddr, Rc<std::cell::Cell<usize>>)
where
    F: Future<Output = ()> + 'static,
{
    let answer = Rc::new(answer);
    serve(move |peer| {
        let answer = Rc::clone(&answer);
        async move {
            let mut builder = ::h2::server::Builder::new();
            builder.max_concurrent_streams(streams);
            let mut connection = builder.handshake::<_, Bytes>(peer.stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::task::spawn_local(answer(request, respond));
            }
        }
    })
    .await
}

/// Sends back what comes, trailers too.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut response = Response::new(());
    for name in ["te", "connection", "host", "content-length"] {
        if let Some(value) = request.headers().get(name) {
            response
                .headers_mut()
                .append("x-saw", format!("{name}={}", value.to_str().unwrap()).parse().unwrap());
        }
    }
    response.headers_mut().insert("x-uri", request.uri().to_string().parse().unwrap());
    let mut from = request.into_body();
    let Ok(mut to) = respond.send_response(response, false) else { return };
    while let Some(Ok(data)) = from.data().await {
        let _ = from.flow_control().release_capacity(data.len());
        let mut data = data;
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| to.poll_capacity(cx)).await else { return };
            to.send_data(data.split_to(room.min(data.len())), false).unwrap();
        }
    }
    match from.trailers().await {
        Ok(Some(trailers)) => to.send_trailers(trailers).unwrap(),
        _ => to.send_data(Bytes::new(), true).unwrap(),
    }
}

#[test]
fn many_requests_share_one_connection_and_one_dial() {
    run(async {
        let (address, accepted) = h2_serve(1000, echo).await;
        let (transport, target) = (transport(), h2(address));
        let mut tasks = Vec::new();
        for i in 0..50 {
            let (transport, target) = (transport.clone(), Arc::clone(&target));
            tasks.push(tokio::task::spawn_local(async move {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", i.into());
                let body = TestBody::frames(vec![data("ping"), Frame::trailers(trailers)]);
                let mut request = post(body);
                request.headers_mut().insert("te", "trailers".parse().unwrap());
                request.headers_mut().insert("connection", "keep-alive".parse().unwrap());
                let response = transport.connect(&target).await.unwrap().send_once(request).await.unwrap();
                assert_eq!(response.headers()["x-uri"], "http://test/");
                let saw: Vec<_> = response.headers().get_all("x-saw").iter().collect();
                assert_eq!(saw, ["te=trailers"], "no field of a connection, no host beside the authority");
                let (data, trailers) = read(response).await;
                assert_eq!(
                    (&data[..], trailers.unwrap()["x-sum"].to_str().unwrap()),
                    (&b"ping"[..], &*i.to_string())
                );
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((accepted.get(), transport.channels_len(target.id)), (1, 1));
    });
}

#[test]
fn a_new_connection_is_dialled_before_streams_run_out() {
    run(async {
        let (address, accepted) = h2_serve(2, echo).await;
        let (transport, target) = (transport(), h2(address));
        let mut open = Vec::new();
        for _ in 0..6 {
            let (feed, body) = TestBody::fed(None);
            let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
            open.push((feed, response));
        }
        assert_eq!(accepted.get(), 3);
        for (feed, response) in open {
            feed.send(Ok(data("x"))).unwrap();
            drop(feed);
            assert_eq!(read(response).await.0, b"x");
        }
        assert_eq!(transport.channels_len(target.id), 3);
    });
}

#[test]
fn an_empty_answer_is_whole_at_once() {
    run(async {
        let (address, _) = h2_serve(10, |_, mut respond| async move {
            respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let response = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
        assert_eq!(response.status(), 204);
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn a_refused_stream_hands_the_whole_request_back() {
    run(async {
        let refusals = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&refusals);
        let (address, accepted) = h2_serve(100, move |request, mut respond| {
            let count = Rc::clone(&count);
            async move {
                if count.replace(count.get() + 1) == 0 {
                    // Only once the body has been polled, so that it has to be put back.
                    let mut body = request.into_body();
                    body.data().await;
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    echo(request, respond).await;
                }
            }
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let body = TestBody::frames(vec![data("one"), data("two")]);
        let mut outgoing = Outgoing::from(post(body));
        let error = transport.connect(&target).await.unwrap().send(&mut outgoing).await.unwrap_err();
        assert!(matches!(error, SendError::Unsent { refused: true }) && outgoing.is_whole(), "{error}");
        let response = transport.connect(&target).await.unwrap().send(&mut outgoing).await.unwrap();
        assert_eq!(read(response).await.0, b"onetwo");
        assert_eq!((accepted.get(), refusals.get()), (1, 2), "the connection itself is good");
    });
}

#[test]
fn a_refused_stream_whose_body_is_gone_says_that_it_was_not_processed() {
    run(async {
        let (address, _) = h2_serve(100, |request, mut respond| async move {
            let mut body = request.into_body();
            for _ in 0..5 {
                if let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
            }
            respond.send_reset(Reason::REFUSED_STREAM);
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let body = TestBody::sized(vec![b'x'; 1 << 20]);
        let sent = transport.connect(&target).await.unwrap().send_once(post(body)).await;
        let Err(SendError::Reset(reset)) = sent else { panic!("{sent:?}") };
        assert_eq!((reset.unprocessed, reset.reason), (true, Some(7)));
    });
}

#[test]
fn a_goaway_below_the_stream_hands_the_request_back() {
    run(async {
        let (listener, address) = listener().await;
        let (transport, target) = (transport(), h2(address));
        let (sent, ()) = tokio::join!(
            async { transport.connect(&target).await.unwrap().send_once(get("/")).await },
            async {
                let mut peer = Peer::accept(&listener).await;
                peer.until_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                // SETTINGS; then, to the request's HEADERS, GOAWAY: no stream was processed.
                peer.write([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                peer.until_bytes(&[1, 5, 0, 0, 0, 1]).await;
                peer.write([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
                peer.closed().await;
            }
        );
        assert!(matches!(sent, Err(SendError::Unsent { .. })), "{sent:?}");
        assert!(transport.channels_len(target.id) <= 1);
    });
}

#[test]
fn a_connection_told_to_go_away_finishes_and_takes_no_more() {
    run(async {
        let (leave, go) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (told, may) = (Rc::clone(&leave), Rc::clone(&go));
        let (address, accepted) = serve(move |peer| {
            let (told, may) = (Rc::clone(&told), Rc::clone(&may));
            async move {
                let mut connection = ::h2::server::handshake(peer.stream).await.unwrap();
                let mut leaving = false;
                loop {
                    tokio::select! {
                        accepted = connection.accept() => match accepted {
                            Some(Ok((request, mut respond))) if request.uri().path() == "/slow" => {
                                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                                let may = Rc::clone(&may);
                                tokio::task::spawn_local(async move {
                                    may.notified().await;
                                    stream.send_data(Bytes::from_static(b"late"), true).unwrap();
                                });
                            }
                            Some(Ok((request, respond))) => {
                                tokio::task::spawn_local(echo(request, respond));
                            }
                            _ => return,
                        },
                        () = told.notified(), if !leaving => {
                            leaving = true;
                            connection.graceful_shutdown();
                        }
                    }
                }
            }
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let slow = transport.connect(&target).await.unwrap().send_once(get("/slow")).await.unwrap();
        leave.notify_one();
        eventually(|| {
            transport.tick(Instant::now());
            transport.channels_len(target.id) == 0
        })
        .await;
        let next = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
        assert_eq!((next.status().as_u16(), accepted.get()), (200, 2));
        read(next).await;
        go.notify_one();
        assert_eq!(read(slow).await.0, b"late", "what was in flight is finished");
    });
}

#[test]
fn large_bodies_flow_both_ways_under_back_pressure() {
    const LEN: usize = 10 << 20;
    run(async {
        let (address, _) = h2_serve(10, echo).await;
        let (transport, target) = (transport(), h2(address));
        let pattern: Bytes = (0..LEN).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
        let body = TestBody::sized(pattern.clone());
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        assert_eq!(response.headers()["x-saw"], format!("content-length={LEN}"));
        let (echoed, _) = read(response).await;
        assert!(echoed == pattern, "{} of {LEN} bytes came back", echoed.len());
    });
}

#[test]
fn slow_readers_do_not_hold_up_their_neighbours() {
    run(async {
        let (address, accepted) = h2_serve(100, |request, mut respond| async move {
            if request.uri().path() != "/endless" {
                return echo(request, respond).await;
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            loop {
                stream.reserve_capacity(65536);
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                stream.send_data(Bytes::from(vec![0; room]), false).unwrap();
            }
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let mut unread = Vec::new();
        for _ in 0..50 {
            unread.push(transport.connect(&target).await.unwrap().send_once(get("/endless")).await.unwrap());
        }
        let response =
            transport.connect(&target).await.unwrap().send_once(post(TestBody::sized("hi"))).await.unwrap();
        assert_eq!((read(response).await.0, accepted.get()), (b"hi".to_vec(), 1));
    });
}

#[test]
fn a_dropped_answer_and_a_failed_body_reset_the_stream() {
    run(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (address, _) = h2_serve(10, move |_, mut respond| {
            let tell = tell.clone();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"a"), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                tell.send(reason.unwrap()).unwrap();
            }
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let response = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
        drop(response);
        assert_eq!(told.recv().await, Some(Reason::CANCEL));

        let (feed, body) = TestBody::fed(None);
        let mut body =
            transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        feed.send(Err("gone".into())).unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, UpstreamBodyError::RequestBody(_)), "{error}");
        assert_eq!(told.recv().await, Some(Reason::CANCEL));
        assert_eq!(transport.channels_len(target.id), 1, "the connection is as good as before");
    });
}

#[test]
fn a_reset_answer_carries_its_code() {
    run(async {
        let (address, _) = h2_serve(10, |request, mut respond| async move {
            if request.uri().path() == "/before" {
                return respond.send_reset(Reason::INTERNAL_ERROR);
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            // A reset drops what waits before it: only once the head has arrived.
            let all_is_well = request.uri().path() == "/well";
            request.into_body().data().await;
            stream.send_reset(if all_is_well { Reason::NO_ERROR } else { Reason::ENHANCE_YOUR_CALM });
        })
        .await;
        let (transport, target) = (transport(), h2(address));
        let sent = transport.connect(&target).await.unwrap().send_once(get("/before")).await;
        let Err(SendError::Reset(reset)) = sent else { panic!("{sent:?}") };
        assert_eq!((reset.reason, reset.unprocessed), (Some(2), false));
        for (path, code) in [("/", 11), ("/well", 0)] {
            let (feed, body) = TestBody::fed(None);
            let mut request = post(body);
            *request.uri_mut() = format!("http://shop{path}").parse().unwrap();
            let response = transport.connect(&target).await.unwrap().send_once(request).await.unwrap();
            feed.send(Ok(data("go on"))).unwrap();
            let Err(UpstreamBodyError::Reset(reset)) = response.into_body().collect().await else {
                panic!("the body is not whole")
            };
            assert_eq!(reset.reason, Some(code));
        }
    });
}

#[test]
fn a_peer_that_does_not_speak_http2_is_a_failed_connect() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            peer.closed().await;
        })
        .await;
        let transport = transport();
        let error = transport.connect(&h2(address)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");

        let (silent, address) = listener().await;
        let mut target = target_of(address, Protocol::H2);
        target.connect_timeout = Duration::from_millis(50);
        let error = transport.connect(&Arc::new(target)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        drop(silent);
    });
}

#[test]
fn a_burst_on_a_cold_target_keeps_to_the_peers_limit() {
    run(async {
        let (address, accepted) = h2_serve(5, echo).await;
        let (transport, target) = (transport(), h2(address));
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (transport, target) = (transport.clone(), Arc::clone(&target));
            tasks.push(tokio::task::spawn_local(async move {
                let (feed, body) = TestBody::fed(None);
                let connection = transport.connect(&target).await.unwrap();
                (feed, connection.send_once(post(body)).await.expect("none is refused"))
            }));
        }
        let mut open = Vec::new();
        for task in tasks {
            open.push(task.await.unwrap());
        }
        assert_eq!(accepted.get(), 4);
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    run(async {
        let (listener, address) = listener().await;
        let (transport, target) = (transport(), h2(address));
        let accepting = tokio::task::spawn_local(async move {
            let mut peer = Peer::accept(&listener).await;
            peer.write([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            peer.closed().await;
        });
        let connection = transport.connect(&target).await.unwrap();
        let sending = tokio::task::spawn_local(connection.send_once(get("/")));
        tokio::task::yield_now().await;
        let start = Instant::now();
        for seconds in [0, 21, 42] {
            transport.tick(start + Duration::from_secs(seconds));
            tokio::task::yield_now().await;
        }
        let sent = sending.await.unwrap();
        assert!(matches!(sent, Err(SendError::Reset(_))), "{sent:?}");
        assert_eq!(transport.channels_len(target.id), 0);
        accepting.await.unwrap();
    });
}

#[test]
fn an_idle_connection_times_out_and_a_busy_one_does_not() {
    run(async {
        let (address, _) = h2_serve(10, echo).await;
        let (transport, target) = (transport(), h2(address));
        let (feed, body) = TestBody::fed(None);
        let response = transport.connect(&target).await.unwrap().send_once(post(body)).await.unwrap();
        let start = Instant::now();
        transport.tick(start + Duration::from_secs(61));
        assert_eq!(transport.channels_len(target.id), 1);
        drop(feed);
        read(response).await;
        transport.tick(start + Duration::from_secs(120));
        assert_eq!(transport.channels_len(target.id), 1, "idle for 59 s");
        transport.tick(start + Duration::from_secs(122));
        assert_eq!(transport.channels_len(target.id), 0);
    });
}

#[test]
fn who_waits_for_a_dial_shares_its_failure_and_survives_its_cancellation() {
    run(async {
        let (server, address) = listener().await;
        let (transport, target) = (transport(), h2(address));
        // Settings are all that a connection needs to be up.
        let accepting = tokio::task::spawn_local(async move {
            let mut peers = Vec::new();
            for _ in 0..2 {
                let mut peer = Peer::accept(&server).await;
                // The first is gone already.
                let _ = peer.stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                peers.push(peer);
            }
            peers
        });
        // The first dials and gives up before it is polled again; the second takes over.
        let mut first = Box::pin(transport.connect(&target));
        let waker = std::task::Waker::noop();
        assert!(first.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let mut second = Box::pin(transport.connect(&target));
        assert!(second.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        drop(first);
        assert!(second.await.is_ok());

        drop(accepting.await.unwrap());
        target.gone.store(true, Ordering::Relaxed);
        transport.tick(Instant::now());
        let (one, two) = tokio::join!(transport.connect(&target), transport.connect(&target));
        assert!(one.is_err() && two.is_err());
    });
}
