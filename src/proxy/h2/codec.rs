//! HTTP/2 without a socket: what benchmarks and fuzzers call.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};

use super::wire::bounds;
use crate::http2::connection::{Begun, Close, Connection, Side};
use crate::http2::frame::Reason;
use crate::http2::hpack;
use crate::http2::stream::Stream;

/// A stream that a client began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// Its number.
    pub stream: u32,
    /// Method, target and fields; `None` where they are no request.
    pub head: Option<(Method, String, HeaderMap)>,
    /// What has come of its body.
    pub body: Vec<u8>,
    /// What has come behind it.
    pub trailers: Option<HeaderMap>,
    /// The client has sent all.
    pub ended: bool,
    /// It was reset, by whomever.
    pub over: bool,
}

/// What a client's bytes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// In the order in which they began.
    pub requests: Vec<StreamRequest>,
    /// All that was said to the client.
    pub said: Vec<u8>,
    /// The connection had to end.
    pub failed: bool,
}

/// Reads what follows the preface as it comes in, up to each of `cuts` in turn, and then the rest. Nothing is answered,
/// and no body read.
pub fn read_h2(input: &[u8], cuts: impl IntoIterator<Item = usize>) -> Spoken {
    let mut begun = Vec::new();
    let (said, failed) = speak(input, cuts, |_, new, _| begun.append(new));
    let requests = begun.into_iter().map(request).collect();
    Spoken { requests, said, failed }
}

/// The same, and each piece that came is answered before the next: bodies are read, and every request gets an answer of so
/// many bytes as its number says, as fast as the client's windows allow.
pub fn serve_h2(input: &[u8], cuts: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut open: Vec<(Rc<Stream>, Option<Vec<u8>>)> = Vec::new();
    let (said, _) = speak(input, cuts, |connection, new, out| {
        open.extend(new.drain(..).map(|begun| (begun.stream, None)));
        open.retain_mut(|(stream, left)| {
            let read = stream.take_body().len() as u32;
            connection.take(stream, read, out);
            if stream.over().is_some() {
                return false;
            }
            let left = left.get_or_insert_with(|| {
                connection.head(stream, false, out, |out| hpack::status(out, StatusCode::OK));
                vec![b'x'; stream.id as usize % 100_000]
            });
            loop {
                let written = connection.send_data(stream, left, true, out);
                left.drain(..written);
                if left.is_empty() || written == 0 {
                    break;
                }
            }
            let done = left.is_empty();
            if done {
                connection.close(stream, Close::Done(Reason::CANCEL), out);
            }
            !done
        });
    });
    said
}

/// Feeds a connection, and after each piece lets `then` see what began.
fn speak(
    input: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    mut then: impl FnMut(&mut Connection, &mut Vec<Begun>, &mut BytesMut),
) -> (Vec<u8>, bool) {
    let (now, mut out, mut begun) = (Instant::now(), BytesMut::new(), Vec::new());
    let mut connection = Connection::new(Side::Server, bounds(64 * 1024), now, &mut out);
    let (mut buffer, mut given, mut cuts) = (BytesMut::new(), 0, cuts.into_iter());
    while given < input.len() {
        let end = cuts.next().map_or(input.len(), |cut| cut.clamp(given, input.len()));
        buffer.extend_from_slice(&input[given..end]);
        given = end;
        let fed = connection.feed(&mut buffer, now, &mut out, &mut begun, HeaderMap::new);
        then(&mut connection, &mut begun, &mut out);
        if let Err(fatal) = fed {
            connection.goaway(fatal.0, &mut out);
            return (out.to_vec(), true);
        }
    }
    (out.to_vec(), false)
}

fn request(Begun { stream, head }: Begun) -> StreamRequest {
    StreamRequest {
        stream: stream.id,
        head: head.ok().map(|head| {
            let (parts, ()) = head.request.into_parts();
            (parts.method, parts.uri.to_string(), parts.headers)
        }),
        body: stream.take_body().to_vec(),
        trailers: stream.take_trailers(),
        ended: stream.ended.get(),
        over: stream.over().is_some(),
    }
}
