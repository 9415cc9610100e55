//! Header blocks. They depend on nothing that was sent before.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::table::static_index;

/// The most bytes that a length of a string or an index takes here, which are 32 bits at most.
const LONGEST: usize = 6;

/// Says that the dynamic table is empty from here on; only the beginning of a block may have it. A client needs it
/// once where it lowers the size of the table, and no harm is done where it does not.
pub(crate) fn no_table(out: &mut BytesMut) {
    out.extend_from_slice(&[0x20]);
}

/// Adds `:status`.
#[inline]
pub(crate) fn status(out: &mut BytesMut, status: StatusCode) {
    let index = match status.as_u16() {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            // The name of entry 8, and three digits.
            out.extend_from_slice(&[0x08, 0x03]);
            out.extend_from_slice(status.as_str().as_bytes());
            return;
        }
    };
    out.extend_from_slice(&[0x80 | index]);
}

/// Adds what a request begins with, over plain text.
pub(crate) fn request(out: &mut BytesMut, method: &Method, authority: &[u8], path: &[u8]) {
    match *method {
        Method::GET => out.extend_from_slice(&[0x82]),
        Method::POST => out.extend_from_slice(&[0x83]),
        _ => {
            out.extend_from_slice(&[0x02]);
            string(out, method.as_str().as_bytes());
        }
    }
    // The scheme, and then literals with the names of entries 1 and 4.
    out.extend_from_slice(&[0x86, 0x01]);
    string(out, authority);
    if path == b"/" {
        out.extend_from_slice(&[0x84]);
    } else {
        out.extend_from_slice(&[0x04]);
        string(out, path);
    }
}

/// Adds a field that no table keeps; one that is sensitive is kept by no table on its further way, either.
#[inline]
pub(crate) fn field(out: &mut BytesMut, name: &HeaderName, value: &[u8], sensitive: bool) {
    let first = if sensitive { 0x10 } else { 0 };
    if let Some(index) = static_index(name) {
        out.reserve(2 + LONGEST + value.len());
        // No name of a header is among the first fifteen, and none is behind one byte more.
        out.extend_from_slice(&[first | 0x0f, (index - 0x0f) as u8]);
    } else {
        let name = name.as_str().as_bytes();
        out.reserve(1 + LONGEST + name.len() + LONGEST + value.len());
        out.extend_from_slice(&[first]);
        string(out, name);
    }
    string(out, value);
}

/// Adds the fields of trailers.
pub(crate) fn trailers(out: &mut BytesMut, trailers: &HeaderMap) {
    for (name, value) in trailers {
        field(out, name, value.as_bytes(), value.is_sensitive());
    }
}

#[inline]
fn string(out: &mut BytesMut, string: &[u8]) {
    if string.len() < 0x7f {
        out.extend_from_slice(&[string.len() as u8]);
    } else {
        long_length(out, string.len());
    }
    out.extend_from_slice(string);
}

fn long_length(out: &mut BytesMut, length: usize) {
    out.extend_from_slice(&[0x7f]);
    let mut left = length - 0x7f;
    while left >= 0x80 {
        out.extend_from_slice(&[left as u8 | 0x80]);
        left >>= 7;
    }
    out.extend_from_slice(&[left as u8]);
}
