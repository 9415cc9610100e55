//! A request's head and the framing of its body, to bytes.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::decode::is_forbidden_trailer;

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbound {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks: the length is not known beforehand.
    Chunked,
}

/// Writes the head. Framing fields are ours; every other header goes out as it is.
pub(super) fn request_head(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    added: &[(HeaderName, HeaderValue)],
    framing: Outbound,
    out: &mut BytesMut,
) {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    put(out, &[method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    if let Some(authority) = uri.authority()
        && !headers.contains_key(HOST)
    {
        put(out, &[b"host: ", authority.as_str().as_bytes(), b"\r\n"]);
    }
    for (name, value) in headers {
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    for (name, value) in added {
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    match framing {
        Outbound::None if expects_body(method) => put(out, &[b"content-length: 0\r\n"]),
        Outbound::None => {}
        Outbound::Length(len) => {
            put(out, &[b"content-length: "]);
            number(len, 10, out);
            put(out, &[b"\r\n"]);
        }
        Outbound::Chunked => put(out, &[b"transfer-encoding: chunked\r\n"]),
    }
    put(out, &[b"\r\n"]);
}

/// Writes the head of a request that has no body.
pub(crate) fn write_head(parts: &Parts, out: &mut BytesMut) {
    request_head(&parts.method, &parts.uri, &parts.headers, &[], Outbound::None, out);
}

/// Writes the line before `len` bytes of data.
pub(crate) fn chunk_size(len: usize, out: &mut BytesMut) {
    number(len as u64, 16, out);
    put(out, &[b"\r\n"]);
}

/// Writes the end of a chunked body, with its trailers.
pub(crate) fn last_chunk(trailers: Option<&HeaderMap>, out: &mut BytesMut) {
    put(out, &[b"0\r\n"]);
    for (name, value) in trailers.into_iter().flatten() {
        if !is_forbidden_trailer(name) {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    put(out, &[b"\r\n"]);
}

/// Methods whose request without a body says so (RFC 9110, section 8.6).
pub(crate) fn expects_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// Writes one piece behind the other.
pub(crate) fn put(out: &mut BytesMut, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// Writes a number in this base.
pub(crate) fn number(mut value: u64, base: u64, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(value % base) as usize];
        value /= base;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: http::request::Builder, framing: Outbound) -> String {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = BytesMut::new();
        request_head(&parts.method, &parts.uri, &parts.headers, &[], framing, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn framing_fields_of_the_request_are_replaced() {
        let request = Request::post("/a?b=c")
            .header("host", "h")
            .header("content-length", "7")
            .header("transfer-encoding", "chunked")
            .header("x-a", "1");
        let expected = "POST /a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\ncontent-length: 1234567890\r\n\r\n";
        assert_eq!(head(request, Outbound::Length(1_234_567_890)), expected);
    }

    #[test]
    fn a_request_without_a_body_says_so_only_where_one_is_expected() {
        let get = Request::get("http://h:80");
        assert_eq!(head(get, Outbound::None), "GET / HTTP/1.1\r\nhost: h:80\r\n\r\n");
        let put = Request::put("/").header("host", "h");
        assert_eq!(head(put, Outbound::None), "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
        let options = Request::options("*").header("host", "h");
        assert_eq!(
            head(options, Outbound::Chunked),
            "OPTIONS * HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn sizes_are_hexadecimal_and_trailers_keep_to_themselves() {
        let mut out = BytesMut::new();
        chunk_size(0xbeef, &mut out);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        trailers.insert("content-length", "9".parse().unwrap());
        last_chunk(Some(&trailers), &mut out);
        assert_eq!(&out[..], b"beef\r\n0\r\nx-sum: 1\r\n\r\n");
    }
}
