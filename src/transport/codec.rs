//! The codecs without a connection: what benchmarks and fuzzers call.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::h1::{Asked, Decoder, HeadLimits, HeadParser, Step, write_head};
use super::{ProtocolError, TransportOptions};
use crate::http2::connection::{Bounds, Connection, Side};
use crate::http2::hpack;
use crate::http2::stream::Stream;

/// Reads the answer to a GET as it would come in, `piece` bytes at a time.
///
/// Its status and the length of its body, or `None` where `input` does not hold all of it.
pub fn read_answer(input: &[u8], piece: usize) -> Result<Option<(StatusCode, u64)>, ProtocolError> {
    let options = TransportOptions::default();
    let limits = limits(&options);
    let (asked, mut parser, mut buf) = (Asked::default(), HeadParser::default(), BytesMut::new());
    let mut pieces = input.chunks(piece.max(1));
    let answer = loop {
        match parser.parse(&mut buf, limits, &asked)? {
            Some(answer) if answer.is_interim() => continue,
            Some(answer) => break answer,
            None => {}
        }
        let Some(piece) = pieces.next() else { return Ok(None) };
        buf.extend_from_slice(piece);
    };
    let (mut decoder, mut length) = (Decoder::new(answer.framing, limits), 0);
    loop {
        match decoder.decode(&mut buf)? {
            Step::Data(data) => length += data.len() as u64,
            Step::Trailers(_) => {}
            Step::End => return Ok(Some((answer.status, length))),
            Step::More => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None if decoder.close() => {}
                None => return Ok(None),
            },
        }
    }
}

/// The answer to one of our HTTP/2 streams, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAnswer {
    /// Status and fields.
    pub head: Option<(StatusCode, HeaderMap)>,
    /// What it carries.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
    /// The instance has said all.
    pub ended: bool,
    /// It was broken off.
    pub over: bool,
}

/// Reads what an instance says over HTTP/2 as it comes in, up to each of `cuts` in turn, and then the rest: the answers to
/// three GETs, all that was said to it, and whether the connection had to end.
pub fn read_h2_answers(
    input: &[u8],
    cuts: impl IntoIterator<Item = usize>,
) -> (Vec<StreamAnswer>, Vec<u8>, bool) {
    let options = TransportOptions::default();
    let window = options.stream_window;
    let bounds =
        Bounds { streams: 0, stream_window: window, window: 4 * window, head: options.max_header_size };
    let (now, mut out) = (Instant::now(), BytesMut::new());
    let mut connection = Connection::new(Side::Client, bounds, now, &mut out);
    let head = |out: &mut BytesMut| hpack::request(out, &Method::GET, b"shop", b"/");
    let streams = [(); 3].map(|()| connection.open(true, false, &mut out, head));
    let (mut buffer, mut given, mut cuts, mut failed) = (BytesMut::new(), 0, cuts.into_iter(), false);
    while given < input.len() && !failed {
        let end = cuts.next().map_or(input.len(), |cut| cut.clamp(given, input.len()));
        buffer.extend_from_slice(&input[given..end]);
        given = end;
        if let Err(fatal) = connection.feed(&mut buffer, now, &mut out, &mut Vec::new(), HeaderMap::new) {
            connection.goaway(fatal.0, &mut out);
            failed = true;
        }
    }
    let answer = |stream: &Rc<Stream>| StreamAnswer {
        head: stream.take_head().map(|head| (head.status(), head.headers().clone())),
        body: stream.take_body().to_vec(),
        trailers: stream.take_trailers(),
        ended: stream.ended.get(),
        over: stream.over().is_some(),
    };
    (streams.iter().map(answer).collect(), out.to_vec(), failed)
}

fn limits(options: &TransportOptions) -> HeadLimits {
    HeadLimits::of_answers(options.max_headers, options.max_header_size)
}

/// An answer, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields in the order of the map.
    pub headers: HeaderMap,
    /// What it carries.
    pub body: Vec<u8>,
    /// Its trailers: none without chunks.
    pub trailers: HeaderMap,
    /// How many bytes it took, interim answers included.
    pub taken: usize,
}

/// Reads the answer to a GET or a HEAD as it comes in, up to each of `cuts` in turn, and then the rest; the
/// connection is closed behind it. `None` where it is not whole then.
pub fn read_whole(
    input: &[u8],
    head: bool,
    cuts: impl IntoIterator<Item = usize>,
) -> Result<Option<WholeAnswer>, ProtocolError> {
    let options = TransportOptions::default();
    let limits = limits(&options);
    let asked = Asked { head, ..Asked::default() };
    let (mut parser, mut buf) = (HeadParser::default(), BytesMut::new());
    let (mut cuts, mut given) = (cuts.into_iter(), 0);
    let mut more = |buf: &mut BytesMut| {
        if given == input.len() {
            return false;
        }
        let end = cuts.next().map_or(input.len(), |cut| cut.clamp(given, input.len()));
        buf.extend_from_slice(&input[given..end]);
        given = end;
        true
    };
    let answer = loop {
        match parser.parse(&mut buf, limits, &asked)? {
            Some(answer) if answer.is_interim() => {}
            Some(answer) => break answer,
            None if more(&mut buf) => {}
            None => return Ok(None),
        }
    };
    let mut decoder = Decoder::new(answer.framing, limits);
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match decoder.decode(&mut buf)? {
            Step::Data(data) => body.extend_from_slice(&data),
            Step::Trailers(map) => trailers = map,
            Step::End => break,
            Step::More => {
                if !more(&mut buf) && !decoder.close() {
                    return Ok(None);
                }
            }
        }
    }
    let (status, headers, taken) = (answer.status, answer.headers, given - buf.len());
    Ok(Some(WholeAnswer { status, headers, body, trailers, taken }))
}

/// Writes the head of a request without a body, as it goes to an instance.
pub fn write_request(parts: &Parts, out: &mut BytesMut) {
    write_head(parts, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_in_whatever_pieces_it_comes() {
        let whole = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
        for piece in 1..=whole.len() {
            assert_eq!(read_answer(whole, piece).unwrap(), Some((StatusCode::OK, 3)), "{piece}");
        }
        assert_eq!(read_answer(&whole[..whole.len() - 1], 7).unwrap(), None);
        assert!(read_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", 64).is_err());
    }
}
