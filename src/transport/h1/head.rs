//! The head of an answer, parsed strictly: what it says about framing is decided here.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::HeadLimits;
use crate::model::decimal;
use crate::transport::ProtocolError;

/// Heads with up to this many header lines are parsed on the stack.
const STACK_HEADERS: usize = 128;

/// What of the request bears on how its answer is read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// The method was HEAD: no answer has a body.
    pub(crate) head: bool,
    /// The protocols that the request offered to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The request itself said that the connection ends with it.
    pub(crate) close: bool,
}

/// How the end of an answer's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, with trailers perhaps.
    Chunked,
    /// The connection closes.
    Close,
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// The connection may serve another request once the body is read.
    pub(crate) keep_alive: bool,
}

impl Answer {
    /// Whether another head follows for the same request.
    pub(crate) fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Finds and parses heads at the front of a buffer that grows.
#[derive(Debug, Default)]
pub(crate) struct HeadParser {
    /// Bytes already known not to hold the end of the head.
    scanned: usize,
    /// An empty map for the next head.
    spare: HeaderMap,
}

impl HeadParser {
    /// One that has a map to put the first head's fields in.
    pub(crate) fn with(spare: HeaderMap) -> Self {
        Self { scanned: 0, spare }
    }

    /// Takes one whole head off the front of `buf`, or nothing while it is not all there.
    pub(crate) fn parse(
        &mut self,
        buf: &mut BytesMut,
        limits: HeadLimits,
        asked: &Asked,
    ) -> Result<Option<Answer>, ProtocolError> {
        if buf.is_empty() || (self.scanned > 0 && !has_end(buf, self.scanned)) {
            return self.incomplete(buf, limits);
        }
        if buf[0] != b'H' {
            return Err(ProtocolError::Head("something other than a status line"));
        }
        let mut stack = [const { MaybeUninit::uninit() }; STACK_HEADERS];
        let mut heap;
        let slots = if limits.max_headers <= STACK_HEADERS {
            &mut stack[..limits.max_headers]
        } else {
            heap = vec![MaybeUninit::uninit(); limits.max_headers];
            &mut heap[..]
        };
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_response_with_uninit_headers(&mut parsed, buf, slots) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return self.incomplete(buf, limits),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ProtocolError::TooManyHeaders(limits.max_headers));
            }
            Err(error) => return Err(ProtocolError::Head(words(error))),
        };
        if len > limits.max_header_size {
            return Err(ProtocolError::HeadTooLarge(limits.max_header_size));
        }
        let answer = interpret(&parsed, &buf[..len], asked, std::mem::take(&mut self.spare))?;
        buf.advance(len);
        self.scanned = 0;
        Ok(Some(answer))
    }

    fn incomplete(&mut self, buf: &BytesMut, limits: HeadLimits) -> Result<Option<Answer>, ProtocolError> {
        if buf.len() > limits.max_header_size {
            return Err(ProtocolError::HeadTooLarge(limits.max_header_size));
        }
        self.scanned = buf.len();
        Ok(None)
    }
}

/// Whether an empty line ends at or after `from`. Spares a drip of bytes the repeated parse.
fn has_end(buf: &[u8], from: usize) -> bool {
    (from..buf.len()).any(|i| buf[i] == b'\n' && (buf[..i].ends_with(b"\n\r") || buf[..i].ends_with(b"\n")))
}

fn interpret(
    parsed: &httparse::Response<'_, '_>,
    raw: &[u8],
    asked: &Asked,
    mut headers: HeaderMap,
) -> Result<Answer, ProtocolError> {
    let code = parsed.code.ok_or(ProtocolError::Head("no status"))?;
    let status = StatusCode::from_u16(code).map_err(|_| ProtocolError::Head("an impossible status"))?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };

    // One copy that every value shares: the read buffer is free again at once, and a slow client
    // holds on to a few hundred bytes instead of all of it.
    let text = Bytes::copy_from_slice(raw);
    headers.reserve(parsed.headers.len());
    let mut lengths = Lengths::default();
    let (mut encodings, mut chunked) = (0, true);
    let (mut close, mut keep) = (asked.close, false);
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| ProtocolError::Head("an invalid header name"))?;
        let value = if header.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let start = header.value.as_ptr() as usize - raw.as_ptr() as usize;
            HeaderValue::from_maybe_shared(text.slice(start..start + header.value.len()))
                .map_err(|_| ProtocolError::Head("an invalid header value"))?
        };
        if name == CONTENT_LENGTH {
            lengths.add(value.as_bytes());
        } else if name == TRANSFER_ENCODING {
            encodings += 1;
            chunked &= value.as_bytes().eq_ignore_ascii_case(b"chunked");
        } else if name == CONNECTION {
            for token in tokens(&value) {
                close |= token.eq_ignore_ascii_case(b"close");
                keep |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        headers.try_append(name, value).map_err(|_| ProtocolError::Head("too many headers"))?;
    }

    let mut keep_alive = !close && (keep || version == Version::HTTP_11);
    let framing = if status.is_informational() {
        // Framing fields have no meaning here, and nobody honest sends them.
        keep_alive &= encodings == 0 && lengths.count == 0;
        if status == StatusCode::SWITCHING_PROTOCOLS && !switches_as_asked(&headers, asked) {
            return Err(ProtocolError::Upgrade);
        }
        Framing::None
    } else {
        if encodings > 0 && lengths.count > 0 {
            return Err(ProtocolError::LengthAndEncoding);
        }
        if encodings > 1 || !chunked || (encodings == 1 && version == Version::HTTP_10) {
            return Err(ProtocolError::Encoding);
        }
        let length = lengths.value()?;
        if status == StatusCode::NO_CONTENT {
            // Some send `content-length: 0`. A body, though forbidden, may be on its way.
            keep_alive &= encodings == 0 && length.unwrap_or(0) == 0;
            Framing::None
        } else if asked.head || status == StatusCode::NOT_MODIFIED {
            Framing::None
        } else if encodings == 1 {
            Framing::Chunked
        } else {
            length.map_or(Framing::Close, Framing::Length)
        }
    };
    keep_alive &= framing != Framing::Close;
    Ok(Answer { status, version, headers, framing, keep_alive })
}

/// What the Content-Length lines say.
#[derive(Default)]
struct Lengths {
    count: usize,
    value: Option<u64>,
}

impl Lengths {
    fn add(&mut self, text: &[u8]) {
        self.count += 1;
        self.value = decimal(text);
    }

    /// The one value; a repeated line is refused even where it agrees.
    fn value(&self) -> Result<Option<u64>, ProtocolError> {
        match (self.count, self.value) {
            (0, _) => Ok(None),
            (1, Some(value)) => Ok(Some(value)),
            _ => Err(ProtocolError::Length),
        }
    }
}

/// The comma-separated members of a value, trimmed.
pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a 101 switches to one protocol, and to one that was offered.
fn switches_as_asked(headers: &HeaderMap, asked: &Asked) -> bool {
    let mut chosen = headers.get_all(UPGRADE).iter();
    let (Some(chosen), None, Some(offered)) = (chosen.next(), chosen.next(), &asked.upgrade) else {
        return false;
    };
    let chosen = chosen.as_bytes().trim_ascii();
    tokens(offered).any(|offer| offer.eq_ignore_ascii_case(chosen))
}

fn words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "an invalid header name",
        httparse::Error::HeaderValue => "an invalid header value",
        httparse::Error::NewLine => "an invalid line ending",
        httparse::Error::Status => "an invalid status",
        httparse::Error::Version => "an unknown version",
        httparse::Error::Token | httparse::Error::TooManyHeaders => "an invalid byte",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { max_headers: 10, max_header_size: 400, extensions: 0 };

    fn parse(text: &str) -> Result<Option<Answer>, ProtocolError> {
        HeadParser::default().parse(&mut text.into(), LIMITS, &Asked::default())
    }

    fn framing(text: &str) -> (Framing, bool) {
        let answer = parse(text).unwrap().expect("a whole head");
        (answer.framing, answer.keep_alive)
    }

    #[test]
    fn framing_follows_the_rfc() {
        for (text, framed, keep_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false),
            ("HTTP/1.1 204 No\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", Framing::None, true),
            ("HTTP/1.1 204 No\r\ncontent-length: 4\r\n\r\n", Framing::None, false),
            ("HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", Framing::None, false),
            ("HTTP/1.1 304 Same\r\ncontent-length: 4\r\n\r\n", Framing::None, true),
            (
                "HTTP/1.1 200 OK\r\nconnection: a, Close\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                true,
            ),
        ] {
            assert_eq!(framing(text), (framed, keep_alive), "{text:?}");
        }
    }

    #[test]
    fn a_head_request_has_no_body_whatever_the_length() {
        let asked = Asked { head: true, ..Asked::default() };
        let mut text = BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        let answer = HeadParser::default().parse(&mut text, LIMITS, &asked).unwrap().unwrap();
        assert_eq!((answer.framing, answer.keep_alive), (Framing::None, true));
    }

    #[test]
    fn ambiguous_and_malformed_heads_are_refused() {
        use ProtocolError as E;
        for (lines, error) in [
            ("content-length: 5\r\ntransfer-encoding: chunked\r\n", E::LengthAndEncoding),
            ("content-length: 5\r\ncontent-length: 6\r\n", E::Length),
            ("content-length: 5\r\ncontent-length: 5\r\n", E::Length),
            ("content-length: 5, 5\r\n", E::Length),
            ("content-length: +5\r\n", E::Length),
            ("content-length:\r\n", E::Length),
            ("content-length: 0x5\r\n", E::Length),
            ("content-length: 9223372036854775808\r\n", E::Length),
            ("content-length: 99999999999999999999\r\n", E::Length),
            ("transfer-encoding: gzip, chunked\r\n", E::Encoding),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", E::Encoding),
            ("transfer-encoding: chunked, chunked\r\n", E::Encoding),
            ("transfer-encoding: xchunked\r\n", E::Encoding),
            ("transfer-encoding:\r\n", E::Encoding),
            ("a: 1\r\n  folded\r\n", E::Head("an invalid header name")),
            ("a : 1\r\n", E::Head("an invalid header name")),
            (": 1\r\n", E::Head("an invalid header name")),
            ("a: x\0y\r\n", E::Head("an invalid header value")),
            ("a: x\ry\r\n", E::Head("an invalid header value")),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            assert_eq!(parse(&text).map(|_| ()), Err(error), "{lines:?}");
        }
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse(old).map(|_| ()), Err(E::Encoding));
        for text in
            ["HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n", "garbage"]
        {
            assert!(matches!(parse(text), Err(E::Head(_))), "{text:?}");
        }
    }

    #[test]
    fn heads_over_the_limits_are_refused_and_at_the_limits_are_not() {
        let with = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert!(parse(&with(10)).unwrap().is_some());
        assert_eq!(parse(&with(11)).map(|_| ()), Err(ProtocolError::TooManyHeaders(10)));
        let sized = |n: usize| format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(n - 24));
        assert!(parse(&sized(400)).unwrap().is_some());
        assert_eq!(parse(&sized(401)).map(|_| ()), Err(ProtocolError::HeadTooLarge(400)));
        assert_eq!(parse(&sized(500)[..450]).map(|_| ()), Err(ProtocolError::HeadTooLarge(400)));
    }

    #[test]
    fn a_switch_must_be_one_that_was_asked_for() {
        let offered = |offer: &'static str| Asked {
            upgrade: Some(HeaderValue::from_static(offer)),
            ..Asked::default()
        };
        let text = "HTTP/1.1 101 Go\r\nupgrade: WebSocket\r\n\r\n";
        let mut parser = HeadParser::default();
        assert!(parser.parse(&mut text.into(), LIMITS, &offered("h2c, websocket")).unwrap().is_some());
        for (text, asked) in [
            (text, Asked::default()),
            (text, offered("h2c")),
            ("HTTP/1.1 101 Go\r\n\r\n", offered("websocket")),
        ] {
            let refused = HeadParser::default().parse(&mut text.into(), LIMITS, &asked);
            assert_eq!(refused.map(|_| ()), Err(ProtocolError::Upgrade));
        }
    }

    #[test]
    fn a_head_that_drips_in_is_the_same_head() {
        let text = b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 3\r\n\r\n";
        let (mut parser, mut buf) = (HeadParser::default(), BytesMut::new());
        for (i, byte) in text.iter().enumerate() {
            buf.extend_from_slice(&[*byte]);
            let answer = parser.parse(&mut buf, LIMITS, &Asked::default()).unwrap();
            assert_eq!(answer.is_some(), i + 1 == text.len());
        }
        assert!(buf.is_empty());
    }
}
