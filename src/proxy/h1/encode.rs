//! An answer, to bytes: its head, and the framing of its body. No I/O.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, StatusCode};

use crate::model::decimal;
use crate::transport::h1::{chunk_size, last_chunk, number, put};

/// What of the request bears on its answer.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "four questions, each answered yes or no")]
pub(super) struct Asked {
    /// The method was HEAD: there is no body.
    pub(super) head: bool,
    /// The client speaks HTTP/1.0: there are no chunks.
    pub(super) http10: bool,
    /// The connection ends with this answer.
    pub(super) last: bool,
    /// Trailers may follow.
    pub(super) trailers: bool,
}

/// What is known of a body before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// There is none.
    None,
    Known(u64),
    Unknown,
}

/// How an answer's body is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes to come.
    Length(u64),
    /// Chunks, and which trailers may follow them.
    Chunked(Vec<HeaderName>),
    /// The connection's end is the body's.
    Close,
}

/// An answer whose head is written.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) framing: Framing,
    /// There is no body to send, whatever the answer holds.
    pub(super) bodiless: bool,
    /// The connection ends with it.
    pub(super) last: bool,
}

/// The answer ended before its length, so that the connection must.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Short;

/// Writes an answer's head, with what is `added` to its fields. Framing is ours; every other header goes out as it is.
pub(super) fn head(
    parts: &Parts,
    added: &[(HeaderName, HeaderValue)],
    size: Size,
    asked: Asked,
    date: impl FnOnce() -> HeaderValue,
    out: &mut BytesMut,
) -> Begun {
    let status = parts.status;
    if status == StatusCode::OK && !asked.http10 {
        put(out, &[b"HTTP/1.1 200 OK\r\n"]);
    } else {
        let version: &[u8] = if asked.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
        // A reason must be there: many a parser expects one.
        let reason = status.canonical_reason().unwrap_or("<none>");
        put(out, &[version, status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    }
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let has_no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || switches;
    let may_chunk = !asked.http10 && !asked.head && !has_no_body;

    let (mut last, mut dated, mut announced, mut trailers) = (asked.last, false, None, Vec::new());
    for (name, value) in &parts.headers {
        match *name {
            CONTENT_LENGTH => {
                announced = decimal(value.as_bytes());
                continue;
            }
            TRANSFER_ENCODING => continue,
            CONNECTION if has_close(value) => {
                last = true;
                continue;
            }
            TRAILER if !may_chunk => continue,
            TRAILER if asked.trailers => trailers.extend(names(value)),
            DATE => dated = true,
            _ => {}
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    for (name, value) in added {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    let length = match (size, announced) {
        (Size::Known(length), _) | (Size::Unknown, Some(length)) => Some(length),
        // The length that a GET's answer would have.
        (Size::None, announced) if asked.head => announced,
        (Size::None, _) => Some(0),
        (Size::Unknown, None) => None,
    };
    let framing = match length {
        Some(length) => {
            if !has_no_body {
                put(out, &[b"content-length: "]);
                number(length, 10, out);
                put(out, &[b"\r\n"]);
            }
            Framing::Length(length)
        }
        None if may_chunk => {
            put(out, &[b"transfer-encoding: chunked\r\n"]);
            Framing::Chunked(trailers)
        }
        None if asked.head || has_no_body => Framing::Length(0),
        None => {
            last = true;
            Framing::Close
        }
    };
    if last && !switches {
        put(out, &[b"connection: close\r\n"]);
    } else if asked.http10 && !switches {
        put(out, &[b"connection: keep-alive\r\n"]);
    }
    if dated {
        put(out, &[b"\r\n"]);
    } else {
        put(out, &[b"date: ", date().as_bytes(), b"\r\n\r\n"]);
    }
    let bodiless = asked.head || has_no_body || size == Size::None;
    Begun { framing, bodiless, last }
}

/// Writes what stands before some data, and returns the data with what comes after it; no more of it than the head
/// has promised. `ends`: these are the last.
pub(super) fn data(
    framing: &mut Framing,
    mut data: Bytes,
    ends: bool,
    out: &mut BytesMut,
) -> Result<(Bytes, &'static [u8]), Short> {
    let tail: &[u8] = match (&mut *framing, data.is_empty(), ends) {
        (Framing::Close, ..) | (Framing::Chunked(_), true, false) => b"",
        (Framing::Length(left), ..) => {
            data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= data.len() as u64;
            if ends && *left > 0 {
                return Err(Short);
            }
            b""
        }
        (Framing::Chunked(_), true, true) => b"0\r\n\r\n",
        (Framing::Chunked(_), false, ends) => {
            chunk_size(data.len(), out);
            if ends { b"\r\n0\r\n\r\n" } else { b"\r\n" }
        }
    };
    Ok((data, tail))
}

/// Writes what ends a body.
pub(super) fn end(framing: &Framing, trailers: Option<HeaderMap>, out: &mut BytesMut) -> Result<(), Short> {
    match framing {
        Framing::Length(0) | Framing::Close => Ok(()),
        Framing::Length(_) => Err(Short),
        Framing::Chunked(allowed) => {
            let named = trailers.map(|trailers| {
                let mut named = HeaderMap::new();
                for (name, value) in &trailers {
                    if allowed.contains(name) {
                        named.append(name, value.clone());
                    }
                }
                named
            });
            last_chunk(named.as_ref(), out);
            Ok(())
        }
    }
}

fn has_close(value: &HeaderValue) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn names(value: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    value.as_bytes().split(|b| *b == b',').filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const GET: Asked = Asked { head: false, http10: false, last: false, trailers: false };

    fn written(answer: http::response::Builder, size: Size, asked: Asked) -> (String, Begun) {
        let (parts, ()) = answer.body(()).unwrap().into_parts();
        let mut out = BytesMut::new();
        let begun = head(&parts, &[], size, asked, || HeaderValue::from_static("now"), &mut out);
        (String::from_utf8(out.to_vec()).unwrap(), begun)
    }

    fn ok() -> http::response::Builder {
        Response::builder()
    }

    #[test]
    fn a_body_of_known_length_says_so_whatever_the_headers_say() {
        let answer = ok().header("content-length", "9").header("transfer-encoding", "gzip").header("x", "1");
        let (text, begun) = written(answer, Size::Known(1_234_567_890), GET);
        assert_eq!(text, "HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 1234567890\r\ndate: now\r\n\r\n");
        assert_eq!((begun.framing, begun.last), (Framing::Length(1_234_567_890), false));
        let (text, _) = written(ok().status(404).header("date", "then"), Size::None, GET);
        assert_eq!(text, "HTTP/1.1 404 Not Found\r\ndate: then\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn a_body_of_unknown_length_is_framed_as_the_client_can_read_it() {
        let (text, begun) = written(ok(), Size::Unknown, GET);
        assert!(text.contains("transfer-encoding: chunked\r\n"), "{text}");
        assert_eq!(begun.framing, Framing::Chunked(vec![]));
        let (text, begun) = written(ok().header("content-length", "7"), Size::Unknown, GET);
        assert!(text.contains("content-length: 7\r\n") && begun.framing == Framing::Length(7), "{text}");
        let old = Asked { http10: true, ..GET };
        let (text, begun) = written(ok(), Size::Unknown, old);
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.contains("connection: close\r\n"), "{text}");
        assert!(begun.framing == Framing::Close && begun.last);
        let (text, begun) = written(ok(), Size::Known(3), old);
        assert!(text.contains("connection: keep-alive\r\n") && !begun.last, "{text}");
    }

    #[test]
    fn answers_that_have_no_body_promise_none() {
        let head = Asked { head: true, ..GET };
        let (text, begun) = written(ok().header("content-length", "5"), Size::None, head);
        assert!(text.contains("content-length: 5\r\n") && begun.bodiless, "{text}");
        let (text, begun) = written(ok(), Size::Unknown, head);
        assert!(!text.contains("content-length") && !text.contains("chunked") && begun.bodiless, "{text}");
        for status in [204, 304] {
            for size in [Size::None, Size::Known(3), Size::Unknown] {
                let (text, begun) = written(ok().status(status).header("content-length", "3"), size, GET);
                assert!(!text.contains("content-length") && !text.contains("chunked"), "{text}");
                assert!(begun.bodiless);
            }
        }
        let answer = ok().status(101).header("connection", "upgrade").header("upgrade", "x");
        let (text, begun) = written(answer, Size::None, Asked { last: true, ..GET });
        assert!(text.contains("connection: upgrade\r\n") && !text.contains("close"), "{text}");
        assert!(!text.contains("content-length") && begun.bodiless);
    }

    #[test]
    fn the_last_answer_says_so_once() {
        for (answer, asked) in [
            (ok(), Asked { last: true, ..GET }),
            (ok().header("connection", "Close"), GET),
            (ok().header("connection", "close"), Asked { last: true, ..GET }),
        ] {
            let (text, begun) = written(answer, Size::None, asked);
            assert!(text.matches("connection: close\r\n").count() == 1 && begun.last, "{text}");
        }
    }

    #[test]
    fn data_is_framed_and_never_more_than_was_promised() {
        let mut out = BytesMut::new();
        let mut framing = Framing::Length(5);
        assert_eq!(data(&mut framing, "abc".into(), false, &mut out), Ok(("abc".into(), &b""[..])));
        assert_eq!(end(&framing, None, &mut out), Err(Short));
        assert_eq!(data(&mut framing.clone(), "d".into(), true, &mut out), Err(Short));
        assert_eq!(data(&mut framing, "defg".into(), true, &mut out), Ok(("de".into(), &b""[..])));
        assert_eq!((end(&framing, None, &mut out), &out[..]), (Ok(()), &b""[..]));

        let mut framing = Framing::Chunked(vec![HeaderName::from_static("x-sum")]);
        assert_eq!(data(&mut framing, Bytes::new(), false, &mut out), Ok((Bytes::new(), &b""[..])));
        assert_eq!(data(&mut framing, Bytes::new(), true, &mut out).unwrap().1, b"0\r\n\r\n");
        assert_eq!(data(&mut framing, "x".into(), true, &mut BytesMut::new()).unwrap().1, b"\r\n0\r\n\r\n");
        assert_eq!(data(&mut framing, vec![b'x'; 0xbe].into(), false, &mut out).unwrap().1, b"\r\n");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-other", HeaderValue::from_static("2"));
        end(&framing, Some(trailers), &mut out).unwrap();
        assert_eq!(&out[..], b"be\r\n0\r\nx-sum: 1\r\n\r\n");
    }
}
