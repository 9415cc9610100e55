//! HTTP/2 for both sides, without I/O: frames, the fields of heads, and the rules of a connection and of its streams.
//!
//! What a side does with it is its own: `proxy/h2` serves clients, `transport/h2` asks instances.

pub(crate) mod connection;
pub(crate) mod fields;
mod flood;
pub(crate) mod frame;
pub(crate) mod hpack;
pub(crate) mod stream;
