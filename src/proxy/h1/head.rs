//! The head of a request, read strictly and in one pass; without I/O.
//!
//! `httparse` holds the grammar inside a line. What it takes and a gateway must not is refused here: line ends
//! without CR, and every framing that two servers could read differently.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use memchr::memchr;

use super::super::body::Body;
use super::super::error::Fault;
use crate::model::decimal;
use crate::transport::Outgoing;
use crate::transport::h1::Framing;

/// The longest request target.
pub(in super::super) const MAX_URI: usize = 8 * 1024;
/// More than any method and version need beside the target.
const REQUEST_LINE_SLACK: usize = 64;
/// Heads with up to this many header lines are parsed on the stack.
const STACK_HEADERS: usize = 128;
/// More digits than any length needs.
const MAX_DIGITS: usize = 18;

/// What heads may measure.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct HeadLimits {
    /// Bytes.
    pub(in super::super) size: usize,
    /// Header lines.
    pub(in super::super) headers: usize,
}

/// A request's head, and what it says about the connection.
#[derive(Debug)]
pub(in super::super) struct Head {
    pub(in super::super) request: Box<Outgoing<Body>>,
    /// `None`, a length that is not 0, or chunks.
    pub(in super::super) framing: Framing,
    /// The client sends no other request.
    pub(in super::super) last: bool,
    /// The body comes when it is asked for.
    pub(super) expects: bool,
    /// The client takes trailers.
    pub(super) trailers: bool,
}

/// Finds and reads heads at the front of a buffer that grows.
#[derive(Debug, Default)]
pub(in super::super) struct HeadReader {
    /// Bytes already known not to hold the end of the head.
    scanned: usize,
    /// An empty map for the next head.
    pub(super) spare: HeaderMap,
}

impl HeadReader {
    /// Takes one whole head off the front of `buf`, or nothing while it is not all there.
    pub(in super::super) fn read(
        &mut self,
        buf: &mut BytesMut,
        limits: HeadLimits,
    ) -> Result<Option<Head>, Fault> {
        if self.scanned > 0 && !has_end(buf, self.scanned) {
            return self.partial(buf, limits);
        }
        let mut stack = [const { MaybeUninit::uninit() }; STACK_HEADERS];
        let mut allocated;
        let slots = if limits.headers <= STACK_HEADERS {
            &mut stack[..limits.headers]
        } else {
            allocated = vec![MaybeUninit::uninit(); limits.headers];
            &mut allocated[..]
        };
        let mut parsed = httparse::Request::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_request_with_uninit_headers(&mut parsed, buf, slots) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return self.partial(buf, limits),
            Err(httparse::Error::TooManyHeaders) => return Err(too_long(buf).unwrap_or(Fault::HeadTooLarge)),
            Err(_) => return Err(too_long(buf).unwrap_or(Fault::Malformed)),
        };
        let head = interpret(&parsed, &buf[..len], limits, std::mem::take(&mut self.spare))?;
        if len == buf.len() {
            // Back to its start: one that is advanced has to be reclaimed.
            buf.clear();
        } else {
            buf.advance(len);
        }
        self.scanned = 0;
        Ok(Some(head))
    }

    /// Nothing is kept of a head that can't come to a good end.
    fn partial(&mut self, buf: &[u8], limits: HeadLimits) -> Result<Option<Head>, Fault> {
        if let Some(fault) = too_long(buf) {
            return Err(fault);
        }
        if buf.len() > limits.size {
            return Err(Fault::HeadTooLarge);
        }
        self.scanned = buf.len();
        Ok(None)
    }
}

/// Whether an empty line ends at or after `from`. Spares a drip of bytes the repeated parse.
fn has_end(buf: &[u8], from: usize) -> bool {
    (from..buf.len()).any(|i| buf[i] == b'\n' && (buf[..i].ends_with(b"\n\r") || buf[..i].ends_with(b"\n")))
}

/// Empty lines before a request line are allowed (RFC 9112, 2.2), but count as its bytes.
fn skip_empty_lines(mut buf: &[u8]) -> &[u8] {
    while let Some(rest) = buf.strip_prefix(b"\r\n") {
        buf = rest;
    }
    buf
}

/// Whether the target, as far as it is there, is too long.
fn too_long(buf: &[u8]) -> Option<Fault> {
    let buf = skip_empty_lines(buf);
    let target = match memchr(b'\n', &buf[..buf.len().min(MAX_URI + REQUEST_LINE_SLACK + 1)]) {
        None => buf.len().saturating_sub(REQUEST_LINE_SLACK),
        Some(end) => {
            let start = memchr(b' ', &buf[..end]).map_or(end, |space| space + 1);
            let rest = &buf[start..end];
            memchr(b' ', rest).unwrap_or(rest.len())
        }
    };
    (target > MAX_URI).then_some(Fault::UriTooLong)
}

fn interpret(
    parsed: &httparse::Request<'_, '_>,
    raw: &[u8],
    limits: HeadLimits,
    mut headers: HeaderMap,
) -> Result<Head, Fault> {
    let (Some(method), Some(path), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Fault::Malformed);
    };
    let at = |text: &[u8]| text.as_ptr() as usize - raw.as_ptr() as usize;
    if path.len() > MAX_URI {
        return Err(Fault::UriTooLong);
    }
    if raw.len() > limits.size {
        return Err(Fault::HeadTooLarge);
    }
    let start = at(method.as_bytes());
    let path_end = at(path.as_bytes()) + path.len();
    // Line ends are checked where each line ends: after the version, each value, and the last line.
    let sound = skip_empty_lines(&raw[..start]).is_empty()
        && raw[path_end..].get(" HTTP/1.1".len()) == Some(&b'\r')
        && raw.ends_with(b"\r\n\r\n");
    if !sound {
        return Err(Fault::Malformed);
    }
    let http11 = minor == 1;
    // One copy that the target and every value share: the read buffer is free again at once.
    let text = Bytes::copy_from_slice(&raw[start..]);
    let slice = |part: &[u8]| {
        let from = at(part) - start;
        text.slice(from..from + part.len())
    };
    headers.reserve(parsed.headers.len());
    let (mut length, mut chunked) = (None, false);
    let (mut close, mut keep, mut expects, mut trailers) = (false, false, false, false);
    for header in parsed.headers.iter() {
        if !ends_with_crlf(&raw[at(header.value) + header.value.len()..]) {
            return Err(Fault::Malformed);
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Fault::Malformed)?;
        match name {
            CONTENT_LENGTH => {
                if header.value.len() > MAX_DIGITS || chunked {
                    return Err(Fault::Malformed);
                }
                let value = decimal(header.value).ok_or(Fault::Malformed)?;
                if length.replace(value).is_some() {
                    return Err(Fault::Malformed);
                }
            }
            TRANSFER_ENCODING => {
                let sound = http11 && !chunked && length.is_none();
                if !sound || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Malformed);
                }
                chunked = true;
            }
            CONNECTION => {
                for token in tokens(header.value) {
                    close |= token.eq_ignore_ascii_case(b"close");
                    keep |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            EXPECT => expects |= header.value.eq_ignore_ascii_case(b"100-continue"),
            TE => trailers |= tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"trailers")),
            _ => {}
        }
        let value = if header.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(slice(header.value)).map_err(|_| Fault::Malformed)?
        };
        headers.try_append(name, value).map_err(|_| Fault::HeadTooLarge)?;
    }
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, None | Some(0)) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::Malformed)?;
    *request.uri_mut() = Uri::from_maybe_shared(slice(path.as_bytes())).map_err(|_| Fault::Malformed)?;
    *request.version_mut() = if http11 { Version::HTTP_11 } else { Version::HTTP_10 };
    *request.headers_mut() = headers;
    Ok(Head {
        request: request.into(),
        expects: expects && http11 && framing != Framing::None,
        framing,
        last: close || !http11 && !keep,
        trailers,
    })
}

/// Whether a line that is over but for white space ends as it must.
fn ends_with_crlf(rest: &[u8]) -> bool {
    let end = rest.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(rest.len());
    rest[end..].starts_with(b"\r\n")
}

/// The members of a list, trimmed.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { size: 64 * 1024, headers: 100 };

    fn read(text: &[u8], limits: HeadLimits) -> Result<Option<Head>, Fault> {
        HeadReader::default().read(&mut text.into(), limits)
    }

    fn whole(text: &str) -> Head {
        let mut buf = BytesMut::from(text);
        let head = HeadReader::default().read(&mut buf, LIMITS).unwrap().expect("a whole head");
        assert!(buf.is_empty(), "{text:?}");
        head
    }

    #[test]
    fn sound_heads_tell_their_framing() {
        assert_eq!(whole("GET / HTTP/1.1\r\nhost: a\r\n\r\n").framing, Framing::None);
        assert_eq!(whole("GET / HTTP/1.1\r\n\r\n").framing, Framing::None);
        assert_eq!(
            whole("\r\n\r\nPOST / HTTP/1.1\r\nContent-Length:  7 \t\r\n\r\n").framing,
            Framing::Length(7)
        );
        assert_eq!(whole("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n").framing, Framing::None);
        assert_eq!(whole("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n").framing, Framing::Chunked);
    }

    #[test]
    fn a_head_becomes_a_request() {
        let head = whole("PUT /a?b=c HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nx-two: 1\r\nX-Two:  2 \r\n\r\n");
        let request = head.request.request();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::PUT, "/a?b=c".into()));
        assert_eq!(request.headers()["x-empty"], "");
        let two: Vec<_> = request.headers().get_all("x-two").iter().collect();
        assert_eq!(two, ["1", "2"]);
        assert!(!head.last && !head.expects && !head.trailers);
    }

    #[test]
    fn what_is_said_of_the_connection_is_heard() {
        let last = |lines: &str| {
            let text = format!("GET / HTTP/{lines}\r\n\r\n");
            whole(&text).last
        };
        assert!(!last("1.1") && last("1.0"));
        assert!(last("1.1\r\nconnection: a, Close") && !last("1.0\r\nconnection: Keep-Alive"));
        assert!(last("1.0\r\nconnection: keep-alive\r\nconnection: close"));
        let expects = |lines: &str| whole(&format!("POST / HTTP/{lines}\r\n\r\n")).expects;
        assert!(expects("1.1\r\nexpect: 100-Continue\r\ncontent-length: 3"));
        assert!(!expects("1.1\r\nexpect: 100-continue"), "there is nothing to wait for");
        assert!(!expects("1.0\r\nexpect: 100-continue\r\ncontent-length: 3"));
        assert!(whole("GET / HTTP/1.1\r\nte: gzip, Trailers\r\n\r\n").trailers);
    }

    #[test]
    fn every_prefix_of_a_head_is_partial() {
        let text = b"\r\nPOST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
        for cut in 0..text.len() {
            assert!(matches!(read(&text[..cut], LIMITS), Ok(None)), "{cut}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for lines in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: 5 5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 0000000000000000005\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: \x0bchunked\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding : chunked\r\n",
            "transfer-encoding:\r\n chunked\r\n",
            "a: b\r\n folded\r\n",
            "a: b\r\n\tfolded\r\n",
            "a: b\n",
            "a: b \n",
            "a:\n",
            "a: b\rc\r\n",
            "a: b\0c\r\n",
            "no colon\r\n",
            ": empty\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
            assert_eq!(read(text.as_bytes(), LIMITS).map(|_| ()), Err(Fault::Malformed), "{lines:?}");
        }
        for text in [
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\n\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\r\n\r\n",
        ] {
            assert_eq!(read(text.as_bytes(), LIMITS).map(|_| ()), Err(Fault::Malformed), "{text:?}");
        }
    }

    #[test]
    fn limits_hold_at_the_byte() {
        let limits = HeadLimits { size: 40, headers: 2 };
        let exact = b"GET / HTTP/1.1\r\na: 123456789012345678\r\n\r\n";
        assert_eq!(exact.len(), 41);
        assert_eq!(read(exact, limits).map(|_| ()), Err(Fault::HeadTooLarge));
        assert!(read(exact, HeadLimits { size: 41, ..limits }).unwrap().is_some());
        let many = b"GET / HTTP/1.1\r\na:1\r\nb:2\r\nc:3\r\n\r\n";
        assert_eq!(read(many, limits).map(|_| ()), Err(Fault::HeadTooLarge));
        assert_eq!(
            read(&[b"GET / HTTP/1.1\r\na: ", &[b'x'; 30][..]].concat(), limits).map(|_| ()),
            Err(Fault::HeadTooLarge)
        );
        for (len, ok) in [(MAX_URI, true), (MAX_URI + 1, false)] {
            let text = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(len - 1));
            assert_eq!(read(text.as_bytes(), LIMITS).is_ok(), ok, "{len}");
            assert_eq!(read(&text.as_bytes()[..text.len() - 2], LIMITS).is_ok(), ok, "{len}");
        }
        let endless = [b"GET /", &[b'x'; MAX_URI + REQUEST_LINE_SLACK][..]].concat();
        assert_eq!(read(&endless, LIMITS).map(|_| ()), Err(Fault::UriTooLong));
    }

    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            6 => "[a-zA-Z-]{1,8}: ?[ -~]{0,8}\r\n".prop_map(String::into_bytes),
            2 => "(content-length|transfer-encoding|connection|expect): ?(chunked|close|100-continue|[0-9]{1,3})\r\n"
                .prop_map(String::into_bytes),
            1 => proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..6),
        ];
        let start = prop_oneof![
            8 => "(\r\n)?(GET|POST) /[a-z%?]{0,6} HTTP/1\\.[01]\r\n".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
        ];
        (start, proptest::collection::vec(line, 0..6))
            .prop_map(|(start, lines)| [start, lines.concat(), b"\r\nrest".to_vec()].concat())
    }

    proptest! {
        #[test]
        fn any_split_of_a_head_reads_the_same(text in heads(), cuts in proptest::collection::vec(1usize..9, 1..20)) {
            let told = |head: Head| format!("{:?} {head:?}", head.request.request());
            let mut all = BytesMut::from(&text[..]);
            let whole = HeadReader::default().read(&mut all, LIMITS).map(|head| head.map(told));
            let (mut reader, mut buf, mut rest) = (HeadReader::default(), BytesMut::new(), &text[..]);
            let mut cuts = cuts.iter().cycle();
            let cut = loop {
                let step = cuts.next().map_or(1, |cut| (*cut).min(rest.len()));
                buf.extend_from_slice(&rest[..step]);
                rest = &rest[step..];
                match reader.read(&mut buf, LIMITS) {
                    Ok(None) if !rest.is_empty() => {}
                    other => break other.map(|head| head.map(told)),
                }
            };
            match (&whole, &cut) {
                (Ok(Some(_)), _) | (_, Ok(Some(_))) => {
                    prop_assert_eq!(&whole, &cut);
                    prop_assert_eq!([&buf[..], rest].concat(), &all[..]);
                }
                // A broken head that comes in pieces is not looked at before its end is there.
                (Err(_) | Ok(None), Err(_) | Ok(None)) => {}
            }
        }
    }
}
