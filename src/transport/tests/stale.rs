//! Pooled connections that died while nobody looked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::support::{
    Peer, TestBody, data, eventually, get, listener, post, read, run, serve, target_of, transport,
};
use crate::model::Protocol;
use crate::transport::{Outgoing, SendError, Target, Transport};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn http1(address: std::net::SocketAddr) -> Arc<Target> {
    Arc::new(target_of(address, Protocol::Http1))
}

#[test]
fn a_connection_that_closed_while_idle_is_not_used() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            peer.head().await;
            peer.write(OK).await;
        })
        .await;
        let (transport, target) = (transport(), http1(address));
        for round in 1..=10 {
            let response = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
            assert_eq!(read(response).await.0, b"ok");
            // The close may be on its way still; wait until it is here.
            eventually(|| {
                transport.tick(Instant::now());
                transport.idle_len(target.id) == 0
            })
            .await;
            assert_eq!(accepted.get(), round);
        }
    });
}

#[test]
fn a_pooled_connection_that_dies_before_a_byte_is_written_hands_the_request_back() {
    run(async {
        let chunks = TestBody::frames(vec![data("one"), data("two")]);
        handed_back(chunks, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n").await;
        handed_back(TestBody::sized("all of it"), "all of it").await;
        // More than is copied behind the head.
        let large = format!("{}.", "large ".repeat(10_000));
        handed_back(TestBody::sized(large.clone()), &large).await;
    });
}

/// Sends a request that is handed back, and then once more: what comes is `expected`.
async fn handed_back(body: TestBody, expected: &str) {
    let (listener, address) = listener().await;
    let (transport, target) = (transport(), http1(address));
    let (response, mut peer) = tokio::join!(
        async { transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap() },
        async {
            let mut peer = Peer::accept(&listener).await;
            peer.head().await;
            peer.write(OK).await;
            peer
        }
    );
    assert_eq!(read(response).await.0, b"ok");

    // Taken out while it lives; reset before anything is written.
    let connection = transport.connect(&target).await.unwrap();
    assert!(connection.dialled().is_none());
    peer.stream.write_all(b"x").await.unwrap();
    peer.stream.set_zero_linger().unwrap();
    drop(peer);
    // A real time, not a wait for an event: the reset of a loopback connection is immediate,
    // but nothing tells us of it without touching the connection under test.
    tokio::time::sleep(Duration::from_millis(50)).await;
    // PUT: with POST the socket would be looked at before the body is.
    let mut request = post(body);
    *request.method_mut() = http::Method::PUT;
    let mut outgoing = Outgoing::from(request);
    let error = connection.send(&mut outgoing).await.unwrap_err();
    assert!(matches!(error, SendError::Unsent { refused: false }) && outgoing.is_whole(), "{error}");

    // The frame that was polled for the write that failed goes out again, and first.
    let (response, ()) = tokio::join!(
        async { transport.connect(&target).await.unwrap().send(&mut outgoing).await.unwrap() },
        async {
            let mut peer = Peer::accept(&listener).await;
            peer.head().await;
            assert_eq!(peer.exactly(expected.len()).await, expected);
            peer.write(OK).await;
        }
    );
    assert_eq!(read(response).await.0, b"ok");
}

#[test]
fn a_post_is_not_written_to_a_connection_that_just_closed() {
    run(async {
        let (listener, address) = listener().await;
        let (transport, target) = (transport(), http1(address));
        let (response, peer) = tokio::join!(
            async { transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap() },
            async {
                let mut peer = Peer::accept(&listener).await;
                peer.head().await;
                peer.write(OK).await;
                peer
            }
        );
        assert_eq!(read(response).await.0, b"ok");
        // No await between the close and the request: the runtime can't have noticed.
        let connection = transport.connect(&target).await.unwrap();
        assert!(connection.dialled().is_none());
        drop(peer);
        let sent = connection.send_once(post(TestBody::sized("once"))).await;
        assert!(matches!(sent, Err(SendError::Unsent { .. })), "{sent:?}");
    });
}

#[test]
fn an_instance_that_closed_early_once_is_looked_at_before_every_post() {
    run(async {
        let (listener, address) = listener().await;
        let (transport, target) = (transport(), http1(address));
        let start = std::time::Instant::now();
        let exchange = async |transport: &Transport<TestBody>| {
            let (response, peer) = tokio::join!(
                async { transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap() },
                async {
                    let mut peer = Peer::accept(&listener).await;
                    peer.head().await;
                    peer.write(OK).await;
                    peer
                }
            );
            read(response).await;
            peer
        };
        // It keeps one over a tick, and so seems to be one that keeps them; then it closes one at once.
        let first = exchange(&transport).await;
        let tick = |n: u32| transport.tick(start + Duration::from_millis(50) * n);
        tick(1);
        tick(2);
        drop(first);
        while transport.idle_len(target.id) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tick(3);
        }
        let second = exchange(&transport).await;
        let connection = transport.connect(&target).await.unwrap();
        assert!(connection.dialled().is_none());
        drop(second);
        let sent = connection.send_once(post(TestBody::sized("once"))).await;
        assert!(matches!(sent, Err(SendError::Unsent { .. })), "{sent:?}");
    });
}
