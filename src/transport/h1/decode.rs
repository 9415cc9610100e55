//! Bytes of a message's body to data, trailers and the end. No I/O; any split gives the same.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::HeadLimits;
use super::head::Framing;
use crate::transport::ProtocolError;

/// Data up to this size is copied out, so that a slow client does not pin a whole read buffer.
const COPY: usize = 8 * 1024;

/// What the bytes at hand amount to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Some of the body.
    Data(Bytes),
    /// The trailers; only the end follows.
    Trailers(HeaderMap),
    /// Nothing until more bytes come.
    More,
    /// The body is complete.
    End,
}

/// The state of one body.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Close,
    Chunked(Chunked),
    Done,
}

#[derive(Debug)]
struct Chunked {
    at: At,
    /// The size as far as it is read, then the data that is left.
    left: u64,
    digits: u8,
    extensions: u64,
    /// Bytes of trailers known not to hold their end.
    scanned: usize,
    limits: HeadLimits,
    trailers: Option<HeaderMap>,
    /// Broken, found while looking ahead; told once the data before it is delivered.
    broken: Option<ProtocolError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    End,
}

impl Decoder {
    pub(crate) fn new(framing: Framing, limits: HeadLimits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(len) => State::Length(len),
            Framing::Close => State::Close,
            Framing::Chunked => State::Chunked(Chunked {
                at: At::Size,
                left: 0,
                digits: 0,
                extensions: 0,
                scanned: 0,
                limits,
                trailers: None,
                broken: None,
            }),
        };
        Self { state }
    }

    /// Takes what there is off the front of `buf`.
    ///
    /// After data, chunk framing that follows in `buf` is consumed at once, so that
    /// [`Decoder::is_complete`] is true as soon as the last byte of the body is in.
    pub(crate) fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, ProtocolError> {
        match &mut self.state {
            State::Done => Ok(Step::End),
            State::Close | State::Length(_) if buf.is_empty() => Ok(Step::More),
            State::Close => Ok(Step::Data(carve(buf, buf.len()))),
            State::Length(left) => {
                let data = carve(buf, (*left).min(buf.len() as u64) as usize);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(Step::Data(data))
            }
            State::Chunked(chunked) => {
                let step = chunked.decode(buf)?;
                if matches!(step, Step::End) {
                    self.state = State::Done;
                }
                Ok(step)
            }
        }
    }

    /// The connection closed. True where that is the body's proper end.
    pub(crate) fn close(&mut self) -> bool {
        if matches!(self.state, State::Close) {
            self.state = State::Done;
        }
        matches!(self.state, State::Done)
    }

    /// Whether all bytes of the body were read; trailers may still wait to be taken.
    pub(crate) fn is_complete(&self) -> bool {
        match &self.state {
            State::Done => true,
            State::Chunked(chunked) => chunked.at == At::End,
            State::Length(_) | State::Close => false,
        }
    }

    /// Whether nothing more will come out.
    pub(crate) fn is_exhausted(&self) -> bool {
        match &self.state {
            State::Done => true,
            State::Chunked(chunked) => chunked.at == At::End && chunked.trailers.is_none(),
            State::Length(_) | State::Close => false,
        }
    }

    /// The data that is left, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.state {
            State::Done => Some(0),
            State::Length(left) => Some(*left),
            State::Chunked(chunked) => (chunked.at == At::End).then_some(0),
            State::Close => None,
        }
    }
}

impl Chunked {
    fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, ProtocolError> {
        self.framing(buf)?;
        match self.at {
            At::Data if !buf.is_empty() => {
                let data = carve(buf, self.left.min(buf.len() as u64) as usize);
                self.left -= data.len() as u64;
                self.extensions = self.extensions.saturating_sub(data.len() as u64);
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                // An error here is told by the next call.
                let _ = self.framing(buf);
                Ok(Step::Data(data))
            }
            At::End => Ok(self.trailers.take().map_or(Step::End, Step::Trailers)),
            _ => Ok(Step::More),
        }
    }

    /// Consumes everything up to the next byte of data, or to the end.
    fn framing(&mut self, buf: &mut BytesMut) -> Result<(), ProtocolError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = self.framing_inner(buf);
        if let Err(error) = &result {
            self.broken = Some(error.clone());
        }
        result
    }

    fn framing_inner(&mut self, buf: &mut BytesMut) -> Result<(), ProtocolError> {
        let mut used = 0;
        while !matches!(self.at, At::Data | At::Trailers | At::End) {
            let Some(&byte) = buf.get(used) else { break };
            used += 1;
            self.at = self.framing_byte(byte)?;
        }
        buf.advance(used);
        if self.at == At::Trailers { self.read_trailers(buf) } else { Ok(()) }
    }

    fn framing_byte(&mut self, byte: u8) -> Result<At, ProtocolError> {
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > 16 {
                    return Err(ProtocolError::Chunk("too large a size"));
                }
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                self.left = self.left << 4 | u64::from(digit);
                Ok(At::Size)
            }
            (At::Size, b';') if self.digits > 0 && self.limits.extensions > 0 => Ok(At::Extension),
            (At::Size, b'\r') if self.digits > 0 => Ok(At::SizeLf),
            (At::Size, _) => Err(ProtocolError::Chunk("a size that is not plain hexadecimal")),
            (At::Extension, b'\r') => Ok(At::SizeLf),
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extensions += 1;
                if self.extensions > self.limits.extensions {
                    return Err(ProtocolError::Chunk("too long extensions"));
                }
                Ok(At::Extension)
            }
            (At::Extension, _) => Err(ProtocolError::Chunk("a control character in an extension")),
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.left == 0 { At::Trailers } else { At::Data })
            }
            (At::DataCr, b'\r') => Ok(At::DataLf),
            (At::DataLf, b'\n') => Ok(At::Size),
            _ => Err(ProtocolError::Chunk("a line that does not end as it must")),
        }
    }

    /// Reads the trailer section once all of it is there.
    fn read_trailers(&mut self, buf: &mut BytesMut) -> Result<(), ProtocolError> {
        if buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.at = At::End;
            return Ok(());
        }
        let from = self.scanned.saturating_sub(3);
        let end = buf[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4);
        let limit = self.limits.max_header_size;
        if end.unwrap_or(buf.len()) > limit {
            return Err(ProtocolError::HeadTooLarge(limit));
        }
        let Some(end) = end else {
            self.scanned = buf.len();
            return Ok(());
        };
        let trailers = parse_trailers(&buf[..end], self.limits)?;
        buf.advance(end);
        self.at = At::End;
        self.trailers = (!trailers.is_empty()).then_some(trailers);
        Ok(())
    }
}

fn parse_trailers(section: &[u8], limits: HeadLimits) -> Result<HeaderMap, ProtocolError> {
    let bare_lf = section.iter().enumerate().any(|(i, b)| *b == b'\n' && (i == 0 || section[i - 1] != b'\r'));
    if bare_lf {
        return Err(ProtocolError::Chunk("a bare line feed"));
    }
    let mut slots = vec![httparse::EMPTY_HEADER; limits.max_headers];
    let parsed = match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((len, parsed))) if len == section.len() => parsed,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ProtocolError::TooManyHeaders(limits.max_headers));
        }
        _ => return Err(ProtocolError::Chunk("malformed trailers")),
    };
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(ProtocolError::Chunk("malformed trailers"));
        };
        if !is_forbidden_trailer(&name) {
            trailers.try_append(name, value).map_err(|_| ProtocolError::Chunk("too many trailers"))?;
        }
    }
    Ok(trailers)
}

/// Fields about framing, routing or the connection mean nothing after the body; they are dropped.
pub(super) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION, TE, TRAILER, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Takes `len` bytes off the front: small ones as a copy, large ones as they are.
fn carve(buf: &mut BytesMut, len: usize) -> Bytes {
    if len > COPY {
        return buf.split_to(len).freeze();
    }
    let data = Bytes::copy_from_slice(&buf[..len]);
    buf.advance(len);
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits::of_answers(10, 200);

    /// Data, trailers, how it ended, and how many bytes were left over.
    type Outcome = (Vec<u8>, Option<HeaderMap>, Result<bool, ProtocolError>, usize);

    fn feed<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
        let (mut decoder, mut buf) = (Decoder::new(framing, LIMITS), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), None);
        let mut ended = false;
        for piece in pieces {
            buf.extend_from_slice(piece);
            while !ended {
                match decoder.decode(&mut buf) {
                    Ok(Step::Data(bytes)) => data.extend_from_slice(&bytes),
                    Ok(Step::Trailers(map)) => trailers = Some(map),
                    Ok(Step::More) => break,
                    Ok(Step::End) => ended = true,
                    Err(error) => return (data, trailers, Err(error), 0),
                }
            }
        }
        let ended = ended || decoder.close();
        (data, trailers, Ok(ended), buf.len())
    }

    fn whole(framing: Framing, text: &[u8]) -> Outcome {
        feed(framing, std::iter::once(text))
    }

    #[test]
    fn chunks_become_data_and_trailers() {
        let text = b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n0\r\nx-sum: 1\r\nhost: evil\r\n\r\nrest";
        let (data, trailers, ended, left) = whole(Framing::Chunked, text);
        assert_eq!((&data[..], ended, left), (&b"hello world"[..], Ok(true), 4));
        let trailers = trailers.unwrap();
        assert_eq!(trailers.len(), 1, "framing and routing fields are dropped");
        assert_eq!(trailers["x-sum"], "1");
    }

    #[test]
    fn the_end_is_known_with_the_last_data() {
        let mut decoder = Decoder::new(Framing::Chunked, LIMITS);
        let mut buf = BytesMut::from(&b"3\r\nabc\r\n0\r\n\r\n"[..]);
        assert!(matches!(decoder.decode(&mut buf), Ok(Step::Data(_))));
        assert!(decoder.is_exhausted() && buf.is_empty());
    }

    #[test]
    fn broken_chunks_are_refused() {
        for text in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\t;a\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n",
            b"\r\n",
            b";a\r\n",
            b"10000000000000000\r\n",
            b"00000000000000005\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"5;a\0\r\nhello\r\n",
            b"5\rX",
            b"0\r\nbad name: 1\r\n\r\n",
            b"0\r\na: 1\nb: 2\r\n\r\n",
            b"0\r\na: 1\r\n folded\r\n\r\n",
        ] {
            let (_, _, outcome, _) = whole(Framing::Chunked, text);
            assert!(outcome.is_err(), "{:?}", text.escape_ascii().to_string());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let long = |n: usize| [b"1;", &vec![b'x'; n][..], b"\r\na\r\n0\r\n\r\n"].concat();
        assert_eq!(whole(Framing::Chunked, &long(16 * 1024)).2, Ok(true));
        assert!(whole(Framing::Chunked, &long(16 * 1024 + 1)).2.is_err());
        let trailers = |n: usize| [b"0\r\na: ", &vec![b'x'; n - 7][..], b"\r\n\r\n"].concat();
        assert_eq!(whole(Framing::Chunked, &trailers(200)).2, Ok(true));
        assert!(whole(Framing::Chunked, &trailers(201)).2.is_err());
    }

    #[test]
    fn a_body_cut_short_is_not_a_body() {
        for text in [&b""[..], b"5\r\nhel", b"5\r\nhello\r\n", b"0\r\n", b"0\r\na: b\r\n"] {
            assert_eq!(whole(Framing::Chunked, text).2, Ok(false));
        }
        assert_eq!(whole(Framing::Length(4), b"abc").2, Ok(false));
        assert_eq!(whole(Framing::Close, b"abc"), (b"abc".to_vec(), None, Ok(true), 0));
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let plausible = prop_oneof![
            4 => "[0-9a-fA-F]{1,2}(;[a-z=]{0,5})?\r\n".prop_map(String::into_bytes),
            4 => (0usize..40).prop_map(|n| [format!("{n:x}\r\n").as_bytes(), &vec![b'd'; n], b"\r\n"].concat()),
            2 => Just(b"0\r\n\r\n".to_vec()),
            1 => Just(b"0\r\na: b\r\n\r\n".to_vec()),
            1 => proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..6),
        ];
        proptest::collection::vec(plausible, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn any_split_of_a_body_decodes_the_same(
            text in bodies(),
            cuts in proptest::collection::vec(1usize..9, 1..20),
            framing in prop_oneof![
                4 => Just(Framing::Chunked), 1 => Just(Framing::Close), 1 => (1u64..60).prop_map(Framing::Length)
            ],
        ) {
            let mut rest = &text[..];
            let mut cuts = cuts.iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let at = (*cuts.next()?).min(rest.len());
                let piece;
                (piece, rest) = rest.split_at(at);
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(feed(framing, pieces), whole(framing, &text));
        }

        #[test]
        fn what_the_encoder_writes_the_decoder_reads(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..9)) {
            let mut text = BytesMut::new();
            for chunk in &chunks {
                crate::transport::h1::encode::chunk_size(chunk.len(), &mut text);
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            crate::transport::h1::encode::last_chunk(None, &mut text);
            let (data, _, ended, left) = whole(Framing::Chunked, &text);
            prop_assert_eq!((data, ended, left), (chunks.concat(), Ok(true), 0));
        }
    }
}
