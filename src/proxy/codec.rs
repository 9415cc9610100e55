//! The reading of requests without a connection: what benchmarks and fuzzers call.

use bytes::BytesMut;
use http::{HeaderMap, Method, Version};

pub use super::h2::codec::{Spoken, StreamRequest, read_h2, serve_h2};

use super::h1::{HeadLimits, HeadReader, body_decoder};
use crate::transport::h1::Step;

/// A request, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeRequest {
    /// Its method.
    pub method: Method,
    /// Its target as it came.
    pub target: String,
    /// HTTP/1.0 or 1.1.
    pub version: Version,
    /// Its fields in the order of the map.
    pub headers: HeaderMap,
    /// What it carries.
    pub body: Vec<u8>,
    /// Its trailers: none without chunks.
    pub trailers: HeaderMap,
    /// The client promised that no other follows.
    pub last: bool,
}

/// Why no other request was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The bytes end between two requests.
    Between,
    /// The bytes end within a head or a body.
    Cut,
    /// What comes is no request that may go further.
    Refused,
}

/// Reads requests, one behind the other, as they come in, up to each of `cuts` in turn, and then the rest.
pub fn read_requests(input: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<WholeRequest>, Ending) {
    let limits = HeadLimits { size: 64 * 1024, headers: 100 };
    let (mut reader, mut buf) = (HeadReader::default(), BytesMut::new());
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
    let mut requests = Vec::new();
    loop {
        let head = loop {
            if !buf.is_empty() {
                match reader.read(&mut buf, limits) {
                    Ok(Some(head)) => break head,
                    Ok(None) => {}
                    Err(_) => return (requests, Ending::Refused),
                }
            }
            if !more(&mut buf) {
                return (requests, if buf.is_empty() { Ending::Between } else { Ending::Cut });
            }
        };
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut decoder = body_decoder(head.framing, limits);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Step::Data(data)) => body.extend_from_slice(&data),
                Ok(Step::Trailers(map)) => trailers = map,
                Ok(Step::End) => break,
                Ok(Step::More) if more(&mut buf) => {}
                Ok(Step::More) => return (requests, Ending::Cut),
                Err(_) => return (requests, Ending::Refused),
            }
        }
        let (last, (parts, _)) = (head.last, head.request.into_request().into_parts());
        requests.push(WholeRequest {
            method: parts.method,
            target: parts.uri.to_string(),
            version: parts.version,
            headers: parts.headers,
            body,
            trailers,
            last,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_same_in_whatever_pieces_they_come() {
        let text = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n\
            PUT /b HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi\r\nGET /c HTTP/1.0\r\n\r\n";
        let (whole, ending) = read_requests(text, []);
        assert_eq!((whole.len(), ending), (3, Ending::Between));
        assert_eq!((&whole[0].body[..], &whole[1].body[..]), (&b"abc"[..], &b"hi"[..]));
        assert!(whole[0].trailers.contains_key("x-sum") && whole[2].last);
        for step in 1..text.len() {
            let cut = read_requests(text, (1..).map(|i| i * step));
            assert_eq!(cut, (whole.clone(), Ending::Between), "{step}");
        }
        assert_eq!(read_requests(&text[..text.len() - 1], []).1, Ending::Cut);
        assert_eq!(read_requests(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", []).1, Ending::Refused);
        let chunk = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n0\r\n\r\n";
        assert_eq!(
            read_requests(chunk, []),
            (vec![], Ending::Refused),
            "nobody uses extensions but to confuse"
        );
    }
}
