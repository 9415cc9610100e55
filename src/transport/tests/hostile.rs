//! Answers of an instance that means ill, or is broken: none of it reaches the next request.

use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt;

use super::support::{TestBody, eventually, get, post, read, run, serve, target_of, transport};
use crate::model::Protocol;
use crate::transport::{ProtocolError, SendError, UpstreamBodyError};

/// How an exchange went.
#[derive(Debug, PartialEq)]
enum Outcome {
    Whole(u16, String),
    Refused,
    Broken,
    BrokenBody,
}

/// Sends `request` to a server that answers each request on a connection with `answer`, then one
/// more request; says how the first went and whether the second had a connection of its own.
async fn provoke(answer: String, request: Request<TestBody>, close: bool) -> (Outcome, bool) {
    let (address, accepted) = serve(move |mut peer| {
        let answer = answer.clone();
        async move {
            loop {
                let head = peer.head().await;
                if head.starts_with("GET /marker") {
                    peer.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nmarker").await;
                } else {
                    peer.write(&answer).await;
                    if close {
                        return;
                    }
                }
            }
        }
    })
    .await;
    let transport = transport();
    let target = Arc::new(target_of(address, Protocol::Http1));
    let sent = transport.connect(&target).await.unwrap().send_once(request).await;
    let outcome = match sent {
        Ok(response) => {
            let status = response.status().as_u16();
            match response.into_body().collect().await {
                Ok(body) => Outcome::Whole(status, String::from_utf8(body.to_bytes().to_vec()).unwrap()),
                Err(UpstreamBodyError::Protocol(_) | UpstreamBodyError::Reset(_)) => Outcome::BrokenBody,
                Err(error) => panic!("{error}"),
            }
        }
        Err(SendError::Protocol(_)) => Outcome::Refused,
        Err(SendError::Reset(_)) => Outcome::Broken,
        Err(error) => panic!("{error}"),
    };
    let pooled = transport.idle_len(target.id) > 0;
    let next = transport.connect(&target).await.unwrap().send_once(get("/marker")).await.unwrap();
    assert_eq!(read(next).await.0, b"marker", "the next request gets its own answer");
    let own = accepted.get() == 2;
    assert!(own || pooled, "a connection that is not pooled is not used again");
    (outcome, own)
}

#[test]
fn a_refused_answer_costs_its_connection() {
    run(async {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2 \r\n : x\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\r\n folded\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx a: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a : 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: \x01\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
            "HTTP/1.1 099 Hm\r\ncontent-length: 0\r\n\r\n",
            "HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "<html>\r\n\r\n",
        ] {
            let outcome = provoke(answer.to_owned(), get("/"), false).await;
            assert_eq!(outcome, (Outcome::Refused, true), "{answer:?}");
        }
        for body in [
            "2\nok\r\n0\r\n\r\n",
            "0x2\r\nok\r\n0\r\n\r\n",
            "2 \r\nok\r\n0\r\n\r\n",
            "2\r\nokk\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nok",
            "2\r\nok\r\n0\r\nb ad: 1\r\n\r\n",
        ] {
            let outcome = provoke(format!("{chunked}\r\n{body}"), get("/"), false).await;
            assert_eq!(outcome, (Outcome::BrokenBody, true), "{body:?}");
        }
    });
}

#[test]
fn sixteen_interim_answers_are_read_and_one_more_is_refused() {
    run(async {
        let with = |n: usize| {
            format!(
                "{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 103 Early\r\nlink: x\r\n\r\n".repeat(n)
            )
        };
        assert_eq!(provoke(with(16), get("/"), false).await, (Outcome::Whole(200, "ok".into()), false));
        assert_eq!(provoke(with(17), get("/"), false).await, (Outcome::Refused, true));
    });
}

#[test]
fn a_head_over_the_limits_is_refused() {
    run(async {
        let lines =
            |n: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n", "a: b\r\n".repeat(n - 1));
        assert_eq!(provoke(lines(100), get("/"), false).await.0, Outcome::Whole(200, String::new()));
        assert_eq!(provoke(lines(101), get("/"), false).await, (Outcome::Refused, true));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(70_000));
        assert_eq!(provoke(endless, get("/"), false).await, (Outcome::Refused, true));
    });
}

#[test]
fn bytes_behind_the_answer_never_become_the_next_one() {
    run(async {
        let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let head = || Request::head("/").header("host", "test").body(TestBody::empty()).unwrap();
        for (first, request, whole) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", get("/"), "ok"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", get("/"), "ok"),
            ("HTTP/1.1 204 No Content\r\n\r\n", get("/"), ""),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", get("/"), ""),
            ("HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n", head(), ""),
        ] {
            let status = first[9..12].parse().unwrap();
            let outcome = provoke(format!("{first}{evil}"), request, false).await;
            assert_eq!(outcome, (Outcome::Whole(status, whole.into()), true), "{first:?}");
        }
        // A body where there must be none, announced or not.
        for first in [
            "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n",
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            let outcome = provoke(first.to_owned(), get("/"), false).await;
            assert_eq!(outcome, (Outcome::Whole(204, String::new()), true), "{first:?}");
        }
    });
}

#[test]
fn bytes_that_come_while_a_connection_idles_close_it() {
    run(async {
        let (address, accepted) = serve(|mut peer| async move {
            peer.head().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            // Sent apart, once the client has read the answer.
            tokio::task::yield_now().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
            peer.closed().await;
        })
        .await;
        let transport = transport();
        let target = Arc::new(target_of(address, Protocol::Http1));
        let first = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
        assert_eq!(read(first).await.0, b"ok");
        eventually(|| {
            transport.tick(std::time::Instant::now());
            transport.idle_len(target.id) == 0
        })
        .await;
        let next = transport.connect(&target).await.unwrap().send_once(get("/")).await.unwrap();
        assert_eq!((read(next).await.0, accepted.get()), (b"ok".to_vec(), 2));
    });
}

#[test]
fn an_answer_cut_short_is_an_error_and_a_close_delimited_one_is_not() {
    run(async {
        let cut = |text: &str| provoke(text.to_owned(), get("/"), true);
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            assert_eq!(cut(text).await, (Outcome::BrokenBody, true), "{text:?}");
        }
        for text in
            ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
        {
            assert_eq!(cut(text).await, (Outcome::Broken, true), "{text:?}");
        }
        let open = "HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\nto the end";
        assert_eq!(cut(open).await, (Outcome::Whole(200, "to the end".into()), true));
        let old = "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(cut(old).await, (Outcome::Whole(200, "ok".into()), true));
    });
}

#[test]
fn a_switch_before_the_request_is_whole_is_refused() {
    run(async {
        let (address, _) = serve(|mut peer| async move {
            peer.head().await;
            peer.write("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
            peer.closed().await;
        })
        .await;
        let transport = transport();
        let target = Arc::new(target_of(address, Protocol::Http1));
        let (_feed, body) = TestBody::fed(None);
        let mut request = post(body);
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "x".parse().unwrap());
        let error = transport.connect(&target).await.unwrap().send_once(request).await.unwrap_err();
        assert!(matches!(error, SendError::Protocol(ProtocolError::Upgrade)), "{error}");
    });
}
