//! HTTP/1.1 toward instances: a codec without I/O, and one exchange over one connection.
//!
//! `head`, `decode` and `encode` know bytes and nothing else. `io` joins them to a socket and to
//! the worker's buffers, `upload` moves the request's body, `exchange` waits for the answer's head,
//! `body` delivers the rest. What RFC 9112 calls ambiguous is refused, never guessed: two readings
//! of one stream of bytes are how an instance's answer gets to the wrong client.

mod body;
mod decode;
mod encode;
mod exchange;
mod head;
mod io;
mod upload;

pub(crate) use body::H1Body;
pub(crate) use decode::{Decoder, Step};
pub(crate) use encode::{chunk_size, expects_body, last_chunk, number, put, write_head};
pub(crate) use exchange::{MAX_INTERIM, send};
pub(crate) use head::{Asked, Framing, HeadParser};
pub(crate) use io::Conn;

/// Chunk extensions of an answer.
const MAX_EXTENSIONS: u64 = 16 * 1024;

/// Bounds on what a message may make us hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Header lines, also of trailers.
    pub(crate) max_headers: usize,
    /// Bytes of the head, also of trailers.
    pub(crate) max_header_size: usize,
    /// Bytes of chunk extensions beyond those of the data that came with them; none at all with 0.
    pub(crate) extensions: u64,
}

impl HeadLimits {
    /// For answers, whose chunks may have extensions.
    pub(crate) const fn of_answers(max_headers: usize, max_header_size: usize) -> Self {
        Self { max_headers, max_header_size, extensions: MAX_EXTENSIONS }
    }

    /// For a body that has none.
    pub(crate) const NONE: Self = Self { max_headers: 0, max_header_size: 0, extensions: 0 };
}
