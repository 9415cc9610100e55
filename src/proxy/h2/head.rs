//! From an answer to the fields of a block. No I/O.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use http::response::Parts;

use crate::http2::hpack;
use crate::transport::h1::number;

/// Writes an answer's fields, with those `added`: a date where it has none, and the body's length where that is known.
pub(super) fn answer(
    parts: &Parts,
    added: &[(HeaderName, HeaderValue)],
    length: Option<u64>,
    date: impl FnOnce() -> HeaderValue,
    out: &mut BytesMut,
) {
    hpack::status(out, parts.status);
    let (mut dated, mut sized) = (false, false);
    for (name, value) in &parts.headers {
        dated |= *name == DATE;
        sized |= *name == CONTENT_LENGTH;
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
    for (name, value) in added {
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
    if !dated {
        hpack::field(out, &DATE, date().as_bytes(), false);
    }
    if let Some(length) = length.filter(|_| !sized) {
        let mut digits = BytesMut::with_capacity(20);
        number(length, 10, &mut digits);
        hpack::field(out, &CONTENT_LENGTH, &digits, false);
    }
}
