//! HTTP/2 as bytes, for both sides: frames, and the fields of heads. No I/O, and nothing of what a side makes of them.

pub(crate) mod frame;
pub(crate) mod hpack;
