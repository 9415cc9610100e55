//! The same bytes to hyper's client and to ours: what we accept, we read as hyper does.
//!
//! We refuse more (repeated lengths, white space in chunk sizes, both framings at once), never
//! less strictly, and never with another body.

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::run;
use crate::transport::h1::{Asked, Decoder, HeadLimits, HeadParser, Step};

/// Status, headers in order of name, body, trailers; or nothing where the answer is refused.
type Read = Option<(u16, Vec<(String, Vec<u8>)>, Vec<u8>, Vec<(String, Vec<u8>)>)>;

fn fields(map: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> =
        map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    fields.sort();
    fields
}

/// Our codec over bytes that arrive in pieces of `piece`, then the end.
fn ours(text: &[u8], head: bool, piece: usize) -> Read {
    let limits = HeadLimits::of_answers(100, 64 * 1024);
    let asked = Asked { head, ..Asked::default() };
    let (mut buf, mut parser) = (BytesMut::new(), HeadParser::default());
    let mut pieces = text.chunks(piece);
    let answer = loop {
        match parser.parse(&mut buf, limits, &asked).ok()? {
            Some(answer) if answer.is_interim() => {}
            Some(answer) => break answer,
            None => buf.extend_from_slice(pieces.next()?),
        }
    };
    let mut decoder = Decoder::new(answer.framing, limits);
    let (mut data, mut trailers) = (Vec::new(), Vec::new());
    loop {
        match decoder.decode(&mut buf).ok()? {
            Step::Data(bytes) => data.extend_from_slice(&bytes),
            Step::Trailers(map) => trailers = fields(&map),
            Step::End => break,
            Step::More => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None if decoder.close() => break,
                None => return None,
            },
        }
    }
    Some((answer.status.as_u16(), fields(&answer.headers), data, trailers))
}

async fn hypers(text: &[u8], head: bool) -> Read {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(client)).await.ok()?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    let method = if head { "HEAD" } else { "GET" };
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "test")
        .header("te", "trailers")
        .body(Empty::new())
        .ok()?;
    let answering = async {
        let mut request = [0; 1024];
        let _ = server.read(&mut request).await;
        let _ = server.write_all(text).await;
        drop(server);
    };
    let (response, ()) = tokio::join!(sender.send_request(request), answering);
    let (parts, body) = response.ok()?.into_parts();
    let body = body.collect().await.ok()?;
    let trailers = body.trailers().map(fields).unwrap_or_default();
    Some((parts.status.as_u16(), fields(&parts.headers), body.to_bytes().to_vec(), trailers))
}

fn line_ends() -> impl Strategy<Value = &'static str> {
    prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")]
}

fn header_lines() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        6 => "x-[a-z]{1,4}: [ -~]{0,12}",
        2 => (0u8..30).prop_map(|n| format!("content-length: {n}")),
        2 => Just("transfer-encoding: chunked".to_owned()),
        1 => prop_oneof![
            Just("Connection: close"), Just("connection: keep-alive"), Just("transfer-encoding: gzip"),
            Just("content-length: 3, 3"), Just("content-length: +3"), Just("content-length:"), Just("bad name: 1"),
            Just("x-a : 1"), Just(" folded"), Just("trailer: x-t"), Just("x-empty:"), Just("x-high: \u{e9}")
        ].prop_map(str::to_owned),
    ];
    let line = (field, line_ends()).prop_map(|(field, end)| field + end);
    proptest::collection::vec(line, 0..5).prop_map(|lines| lines.concat())
}

fn bodies() -> impl Strategy<Value = String> {
    let chunk = prop_oneof![
        8 => "[a-z]{1,20}".prop_map(|data| format!("{:x}\r\n{data}\r\n", data.len())),
        1 => "[a-z]{1,9}".prop_map(|data| format!("{:X};ext=1\r\n{data}\r\n", data.len())),
        1 => "[0-9a-f x;]{1,3}\r?\n[a-z]{0,9}\r?\n",
    ];
    let end = prop_oneof![
        4 => Just("0\r\n\r\n"), 1 => Just("0\r\nx-t: 1\r\n\r\n"), 1 => Just("0\r\n"), 1 => Just("")
    ];
    let chunked =
        (proptest::collection::vec(chunk, 0..4), end).prop_map(|(chunks, end)| chunks.concat() + end);
    prop_oneof![3 => chunked, 2 => "[a-z\r\n]{0,40}"]
}

fn answers() -> impl Strategy<Value = String> {
    let status = prop_oneof![
        12 => prop_oneof![Just("200 OK"), Just("404"), Just("500 Oh no")],
        3 => prop_oneof![Just("204 None"), Just("304 Same"), Just("205 Reset")],
        1 => prop_oneof![Just("99 Low"), Just("1000 High"), Just("abc")],
    ];
    let version = prop_oneof![12 => Just("HTTP/1.1"), 3 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0")];
    let interim = prop_oneof![6 => Just(""), 1 => Just("HTTP/1.1 100 Continue\r\n\r\n"), 1 => Just("HTTP/1.1 103 Early\r\nlink: a\r\n\r\n")];
    (interim, version, status, line_ends(), header_lines(), line_ends(), bodies()).prop_map(
        |(interim, version, status, first, headers, last, body)| {
            format!("{interim}{version} {status}{first}{headers}{last}{body}")
        },
    )
}

/// Four times the usual number: `PROPTEST_CASES` makes it a long run.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases * 4, failure_persistence: None, ..usual }
}

/// Up to three bytes of a text replaced, removed or doubled.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => proptest::sample::select(&b"\r\n\t :;,0x\0"[..]), 1 => any::<u8>()];
    let damage = (any::<proptest::sample::Index>(), 0u8..3, byte);
    (text, proptest::collection::vec(damage, 1..4)).prop_map(|(text, damage)| {
        let mut text = text.into_bytes();
        for (at, kind, byte) in damage {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 if text.len() > 1 => drop(text.remove(at)),
                _ => text.insert(at, byte),
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_we_accept_hyper_reads_alike(text in answers(), head in any::<bool>(), piece in 1usize..50) {
        let split = ours(text.as_bytes(), head, piece);
        prop_assert_eq!(&split, &ours(text.as_bytes(), head, usize::MAX), "split in {}", piece);
        if split.is_some() {
            let theirs = run(hypers(text.as_bytes(), head));
            prop_assert_eq!(split, theirs, "{:?}", text);
        }
    }

    #[test]
    fn what_we_accept_of_damaged_answers_hyper_reads_alike(
        text in damaged(answers()), head in any::<bool>(), piece in 1usize..50
    ) {
        let split = ours(&text, head, piece);
        prop_assert_eq!(&split, &ours(&text, head, usize::MAX), "split in {}", piece);
        if split.is_some() {
            let theirs = run(hypers(&text, head));
            prop_assert_eq!(split, theirs, "{}", text.escape_ascii());
        }
    }
}

#[test]
fn valid_answers_are_accepted_by_both_alike() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\n\r\nuntil the end".to_owned(),
        "HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\nx-b:   padded  \r\nx-c:\r\n\r\nuntil the end".to_owned(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 10\r\n\r\n".to_owned(),
        "HTTP/1.1 599 Odd\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        format!("{chunked}\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}\r\nA\r\n0123456789\r\n1;name=value\r\n!\r\n0\r\n\r\n"),
        format!("{chunked}Trailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"),
        format!("{chunked}\r\n0\r\n\r\n"),
    ] {
        let read = ours(text.as_bytes(), false, 7);
        assert!(read.is_some(), "{text:?}");
        assert_eq!(read, run(hypers(text.as_bytes(), false)), "{text:?}");
    }
}
