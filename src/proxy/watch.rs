//! A strict reader of HTTP/1 framing, ahead of hyper and without I/O.
//!
//! hyper takes some heads that a gateway must refuse, and forgets what was wrong before a service can
//! see it: Content-Length beside Transfer-Encoding, line ends without CR, a repeated `chunked`. So every
//! head is checked here first, whole, and only then given to hyper; where a message ends is known here
//! too, which is why the next head is always seen from its first byte. Grammar inside a line is left to
//! hyper's own parser, which is strict there.

use memchr::memchr;

use super::error::Fault;

/// The longest request target.
pub(super) const MAX_URI: usize = 8 * 1024;
/// More than any method and version need beside the target.
const REQUEST_LINE_SLACK: usize = 64;
/// Trailer lines after the last chunk, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;

/// How the bytes after a head are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes (0: none).
    Length(u64),
    /// Chunks and trailers.
    Chunked,
}

/// What a buffer that begins with a head holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// The head goes on.
    Partial,
    /// A whole head.
    Whole {
        /// Its bytes, from the buffer's start.
        len: usize,
        /// What follows it.
        framing: Framing,
        /// It has an Upgrade header, is HTTP/1.1, and no body follows.
        upgrade: bool,
    },
    /// A head that must not go further.
    Refused(Fault),
}

/// What heads may measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    /// Bytes.
    pub(super) size: usize,
    /// Header lines.
    pub(super) headers: usize,
}

/// Examines the head at the start of `buf`.
pub(super) fn scan_head(buf: &[u8], limits: HeadLimits) -> Head {
    let mut at = 0;
    // Empty lines before a request line are allowed (RFC 9112, 2.2), but count as its bytes.
    while buf.len() >= at + 2 && &buf[at..at + 2] == b"\r\n" {
        at += 2;
    }
    let Some(end) = memchr(b'\n', &buf[at..]) else {
        return if buf.len() - at > MAX_URI + REQUEST_LINE_SLACK {
            Head::Refused(Fault::UriTooLong)
        } else {
            partial(buf, limits)
        };
    };
    let Some(line) = strip_cr(&buf[at..at + end]) else { return Head::Refused(Fault::Malformed) };
    if target_len(line) > MAX_URI {
        return Head::Refused(Fault::UriTooLong);
    }
    let http11 = line.ends_with(b" HTTP/1.1");
    at += end + 1;

    let (mut length, mut chunked, mut upgrade, mut count) = (None, false, false, 0_usize);
    loop {
        let Some(end) = memchr(b'\n', &buf[at..]) else { return partial(buf, limits) };
        let Some(line) = strip_cr(&buf[at..at + end]) else { return Head::Refused(Fault::Malformed) };
        at += end + 1;
        if at > limits.size {
            return Head::Refused(Fault::HeadTooLarge);
        }
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > limits.headers {
            return Head::Refused(Fault::HeadTooLarge);
        }
        match field(line) {
            Field::Other => {}
            Field::Bad => return Head::Refused(Fault::Malformed),
            Field::Upgrade => upgrade = true,
            Field::Length(n) => {
                if length.replace(n).is_some() || chunked {
                    return Head::Refused(Fault::Malformed);
                }
            }
            Field::Chunked => {
                if std::mem::replace(&mut chunked, true) || length.is_some() || !http11 {
                    return Head::Refused(Fault::Malformed);
                }
            }
        }
    }
    let framing = if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) };
    let upgrade = upgrade && http11 && framing == Framing::Length(0);
    Head::Whole { len: at, framing, upgrade }
}

fn partial(buf: &[u8], limits: HeadLimits) -> Head {
    if buf.len() > limits.size { Head::Refused(Fault::HeadTooLarge) } else { Head::Partial }
}

fn strip_cr(line: &[u8]) -> Option<&[u8]> {
    line.strip_suffix(b"\r")
}

fn target_len(line: &[u8]) -> usize {
    let Some(start) = memchr(b' ', line) else { return 0 };
    let rest = &line[start + 1..];
    memchr(b' ', rest).unwrap_or(rest.len())
}

enum Field {
    Other,
    Bad,
    Upgrade,
    Length(u64),
    Chunked,
}

/// Looks at the lines that decide framing. Their names differ in length, so that most lines cost a colon.
fn field(line: &[u8]) -> Field {
    if matches!(line[0], b' ' | b'\t') {
        return Field::Bad;
    }
    let Some(colon) = memchr(b':', line) else { return Field::Bad };
    let name = &line[..colon];
    if matches!(name.last(), None | Some(b' ' | b'\t')) {
        return Field::Bad;
    }
    match name.len() {
        7 if name.eq_ignore_ascii_case(b"upgrade") => Field::Upgrade,
        14 if name.eq_ignore_ascii_case(b"content-length") => {
            parse_length(trim(&line[colon + 1..])).map_or(Field::Bad, Field::Length)
        }
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
            if trim(&line[colon + 1..]).eq_ignore_ascii_case(b"chunked") {
                Field::Chunked
            } else {
                Field::Bad
            }
        }
        _ => Field::Other,
    }
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

/// Where in a body the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Bytes to come of a length that is known.
    Length(u64),
    /// In a chunk's size: digits seen, value so far.
    Size(u8, u64),
    /// After the size's CR; the value.
    SizeEnd(u64),
    /// Bytes to come of a chunk.
    Data(u64),
    /// The CR, then the LF, after a chunk.
    DataCr,
    /// The LF after a chunk.
    DataLf,
    /// In a trailer line: bytes of it so far, bytes of all.
    Trailer(usize, usize),
    /// After a trailer line's CR.
    TrailerLf(usize, usize),
    /// Complete.
    Done,
}

impl BodyState {
    /// The state right after a head.
    pub(super) fn after(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Size(0, 0),
        }
    }

    /// Takes what belongs to the body from `buf` and says how many bytes that is; `Err` where the bytes
    /// break the framing, with how many before them are sound.
    pub(super) fn advance(&mut self, buf: &[u8]) -> Result<usize, usize> {
        let mut at = 0;
        while at < buf.len() && *self != Self::Done {
            let byte = buf[at];
            match *self {
                Self::Length(left) => {
                    let taken = left.min((buf.len() - at) as u64);
                    at += taken as usize;
                    *self = if taken == left { Self::Done } else { Self::Length(left - taken) };
                    continue;
                }
                Self::Data(left) => {
                    let taken = left.min((buf.len() - at) as u64);
                    at += taken as usize;
                    *self = if taken == left { Self::DataCr } else { Self::Data(left - taken) };
                    continue;
                }
                Self::Size(digits, value) => {
                    *self = match (byte as char).to_digit(16) {
                        Some(digit) if digits < 15 => Self::Size(digits + 1, value * 16 + u64::from(digit)),
                        None if byte == b'\r' && digits > 0 => Self::SizeEnd(value),
                        // Extensions are refused: nobody uses them but to confuse.
                        _ => return Err(at),
                    };
                }
                Self::SizeEnd(value) if byte == b'\n' => {
                    *self = if value == 0 { Self::Trailer(0, 0) } else { Self::Data(value) };
                }
                Self::DataCr if byte == b'\r' => *self = Self::DataLf,
                Self::DataLf if byte == b'\n' => *self = Self::Size(0, 0),
                Self::Trailer(line, all) => {
                    *self = match byte {
                        b'\r' => Self::TrailerLf(line, all),
                        b'\n' => return Err(at),
                        _ if all < MAX_TRAILERS => Self::Trailer(line + 1, all + 1),
                        _ => return Err(at),
                    };
                }
                Self::TrailerLf(line, all) if byte == b'\n' => {
                    *self = if line == 0 { Self::Done } else { Self::Trailer(0, all) };
                }
                _ => return Err(at),
            }
            at += 1;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { size: 64 * 1024, headers: 100 };

    fn whole(text: &str) -> (Framing, bool) {
        match scan_head(text.as_bytes(), LIMITS) {
            Head::Whole { len, framing, upgrade } => {
                assert_eq!(len, text.len());
                (framing, upgrade)
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn sound_heads_tell_their_framing() {
        assert_eq!(whole("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), (Framing::Length(0), false));
        assert_eq!(whole("\r\nPOST / HTTP/1.1\r\nContent-Length:  7 \r\n\r\n"), (Framing::Length(7), false));
        assert_eq!(whole("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"), (Framing::Chunked, false));
        assert_eq!(whole("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), (Framing::Length(0), true));
        assert_eq!(whole("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n"), (Framing::Length(0), false));
    }

    #[test]
    fn every_prefix_of_a_head_is_partial() {
        let text = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(scan_head(&text[..cut], LIMITS), Head::Partial, "{cut}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for lines in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: 5 5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: \x0bchunked\r\n",
            "transfer-encoding : chunked\r\n",
            "a: b\r\n folded\r\n",
            "a: b\n",
            "no colon\r\n",
            ": empty\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
            assert_eq!(scan_head(text.as_bytes(), LIMITS), Head::Refused(Fault::Malformed), "{lines:?}");
        }
        let old = b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(scan_head(old, LIMITS), Head::Refused(Fault::Malformed));
    }

    #[test]
    fn limits_hold_at_the_byte() {
        let limits = HeadLimits { size: 40, headers: 2 };
        let exact = b"GET / HTTP/1.1\r\na: 123456789012345678\r\n\r\n";
        assert_eq!(exact.len(), 41);
        assert_eq!(scan_head(exact, limits), Head::Refused(Fault::HeadTooLarge));
        assert!(matches!(scan_head(exact, HeadLimits { size: 41, ..limits }), Head::Whole { .. }));
        let many = b"GET / HTTP/1.1\r\na:1\r\nb:2\r\nc:3\r\n\r\n";
        assert_eq!(scan_head(many, limits), Head::Refused(Fault::HeadTooLarge));
        for (len, ok) in [(MAX_URI, true), (MAX_URI + 1, false)] {
            let text = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(len - 1));
            assert_eq!(matches!(scan_head(text.as_bytes(), LIMITS), Head::Whole { .. }), ok, "{len}");
        }
    }

    #[test]
    fn chunked_bodies_end_where_they_end_however_they_are_cut() {
        let body = b"5\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx-sum: 1\r\n\r\n";
        let mut next = body.to_vec();
        next.extend_from_slice(b"GET /");
        for cut in 0..=next.len() {
            let mut state = BodyState::after(Framing::Chunked);
            let first = state.advance(&next[..cut]).unwrap();
            let second = state.advance(&next[first..]).unwrap();
            assert_eq!((first + second, state), (body.len(), BodyState::Done), "{cut}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in [
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "\r\n",
            "5;a=b\r\nhello\r\n",
            "5\r\nhelloX",
            "g\r\n",
            "1000000000000000\r\n",
            "0\r\nx: 1\n\r\n",
            "5 \r\n",
            "-1\r\n",
        ] {
            let mut state = BodyState::after(Framing::Chunked);
            assert!(state.advance(body.as_bytes()).is_err(), "{body:?}");
        }
    }
}
