//! The encoder against our decoder, and both against a vendor's HPACK on a real connection in memory.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::{Decoder, Field, field, no_table, status};
use super::{decode, meaning};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const FIELDS_AND_END: u8 = 5;

fn headers() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let known = prop::sample::select(vec![
        "accept-charset",
        "content-type",
        "content-language",
        "date",
        "etag",
        "server",
        "set-cookie",
        "vary",
        "www-authenticate",
        "x-request-id",
        "alt-svc",
        "te-x",
        "x-b",
    ]);
    let name = prop_oneof![3 => known.prop_map(str::to_owned), 1 => "[a-z]{1,200}"];
    let name = name.prop_map(|name| HeaderName::from_lowercase(name.as_bytes()).unwrap());
    let byte = prop_oneof![4 => 0x20_u8..0x7f, 1 => 0x80_u8..=0xff];
    let value =
        prop_oneof![4 => "[a-c]{0,2}".prop_map(String::into_bytes), 1 => prop::collection::vec(byte, 0..400)];
    let value = (value, any::<bool>()).prop_map(|(value, sensitive)| {
        let mut value = HeaderValue::from_bytes(&value).unwrap();
        value.set_sensitive(sensitive);
        value
    });
    prop::collection::vec((name, value), 0..12)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(headers in headers()) {
        let mut out = BytesMut::new();
        no_table(&mut out);
        for (name, value) in &headers {
            field(&mut out, name, value.as_bytes(), value.is_sensitive());
        }
        let mut decoder = Decoder::new(4096);
        let decoded = decode(&mut decoder, &out).unwrap();
        prop_assert_eq!(decoder.table().size(), 0);
        let kept: Vec<_> = decoded.iter().map(|f| matches!(f, Field::Header(_, v) if v.is_sensitive())).collect();
        let given: Vec<_> = headers.iter().map(|(_, value)| value.is_sensitive()).collect();
        prop_assert_eq!(kept, given);
        let headers: Vec<_> = headers.into_iter().map(|(name, value)| Field::Header(name, value)).collect();
        prop_assert_eq!(decoded, headers);
    }
}

/// Known names take their index, so each of them is found.
#[test]
fn known_names_are_two_bytes() {
    for (at, (name, _)) in super::indexer::static_table().iter().enumerate().skip(14) {
        let mut out = BytesMut::new();
        field(&mut out, &HeaderName::from_lowercase(name.as_bytes()).unwrap(), b"", false);
        assert_eq!(&out[..], [0x0f, at as u8 + 1 - 15, 0], "{name}");
    }
}

#[test]
fn lengths_are_integers_of_the_rfc() {
    for length in [0, 1, 126, 127, 128, 254, 255, 256, 16_510, 16_511, 100_000, 3_000_000] {
        let (name, value) = (HeaderName::from_static("x-a"), vec![b'v'; length]);
        let mut out = BytesMut::new();
        field(&mut out, &name, &value, false);
        let expected = meaning(b"x-a", &value).unwrap();
        assert_eq!(decode(&mut Decoder::new(4096), &out), Ok(vec![expected]), "{length}");
    }
}

/// The next frame: its type, its flags, its stream and what it has.
async fn frame(io: &mut DuplexStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut body = vec![0; length as usize];
    io.read_exact(&mut body).await.unwrap();
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), body)
}

async fn send(io: &mut DuplexStream, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    let mut out = (body.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(body);
    io.write_all(&out).await.unwrap();
}

/// Answers each request with the fields of it as they were decoded, in the order of their states.
async fn echo(mut io: DuplexStream) -> Vec<Vec<Field>> {
    io.read_exact(&mut [0; 24]).await.unwrap();
    send(&mut io, SETTINGS, 0, 0, &[]).await;
    let (mut decoder, mut block, mut seen) = (Decoder::new(4096), Vec::new(), Vec::new());
    loop {
        let (kind, flags, stream, body) = frame(&mut io).await;
        match kind {
            SETTINGS if flags & 1 == 0 => send(&mut io, SETTINGS, 1, 0, &[]).await,
            HEADERS | CONTINUATION => block.extend(body),
            // GOAWAY
            7 => return seen,
            _ => {}
        }
        if block.is_empty() || flags & END_HEADERS == 0 {
            continue;
        }
        let fields = decode(&mut decoder, &block).unwrap();
        block.clear();
        let mut out = BytesMut::new();
        if seen.is_empty() {
            no_table(&mut out);
        }
        status(&mut out, StatusCode::from_u16(200 + seen.len() as u16).unwrap());
        for part in &fields {
            if let Field::Header(name, value) = part {
                field(&mut out, name, value.as_bytes(), value.is_sensitive());
            }
        }
        send(&mut io, HEADERS, FIELDS_AND_END, stream, &out).await;
        seen.push(fields);
    }
}

/// One request after the other, of fields that repeat and fields that push others out of the table.
#[tokio::test]
async fn a_vendor_is_understood_and_understands() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(echo(far));
    let (mut requests, connection) = ::h2::client::handshake(near).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut runner = TestRunner::deterministic();
    let mut sent = Vec::new();
    for nth in 0_u16..300 {
        let headers = headers().new_tree(&mut runner).unwrap().current();
        let path = format!("/{}?a=%20{}", nth % 7, "~".repeat(usize::from(nth % 5)));
        let mut request = Request::post(format!("https://host-{}:8080{path}", nth % 3)).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value);
        }
        requests = requests.ready().await.unwrap();
        let (answer, _) = requests.send_request(request.clone(), true).unwrap();
        let answer: Response<_> = answer.await.unwrap();
        assert_eq!(answer.status(), 200 + nth);
        assert_eq!(answer.headers(), request.headers());
        sent.push(request);
    }
    drop(requests);
    connection.await.unwrap().unwrap();
    let seen = server.await.unwrap();
    assert_eq!(seen.len(), sent.len());
    for (fields, request) in seen.into_iter().zip(sent) {
        let uri = request.uri();
        let pseudo = [
            Field::Method(request.method().clone()),
            Field::Scheme(uri.scheme().unwrap().clone()),
            Field::Authority(uri.authority().unwrap().clone()),
            Field::Path(uri.path_and_query().unwrap().clone()),
        ];
        let headers = request.headers().iter().map(|(n, v)| Field::Header(n.clone(), v.clone()));
        assert_eq!(fields, pseudo.into_iter().chain(headers).collect::<Vec<_>>());
    }
}

/// All states, the short ones as well.
#[test]
fn states_are_understood_as_names_of_answers() {
    for code in 100..1000 {
        let mut out = BytesMut::new();
        status(&mut out, StatusCode::from_u16(code).unwrap());
        let table = super::indexer::static_table();
        let read = match &out[..] {
            [index] => table[usize::from(index & 0x7f) - 1],
            [0x08, 3, digits @ ..] => (table[7].0, std::str::from_utf8(digits).unwrap()),
            other => panic!("{other:x?}"),
        };
        assert_eq!(read, (":status", &*code.to_string()));
    }
}
