//! HPACK (RFC 7541), with a table for what comes in and none for what goes out.
//!
//! The other side repeats most of its fields on a connection, so the dynamic table keeps each field as the message will
//! have it: parsed once, and from then on a count of references. What goes out is encoded without a table and without
//! Huffman's code: both save bytes that are cheap, and cost work that is not.

mod decode;
mod encode;
mod field;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::decode::Decoder;
pub(crate) use self::encode::{field, no_table, request, status, trailers};
pub(crate) use self::field::Field;

/// Why a header block cannot be read: the table of the connection is lost with it, so the connection ends with
/// `COMPRESSION_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Index 0, or one behind the end of the dynamic table.
    #[error("no such index in the header table")]
    Index,
    /// More than 32 bits, or more than five bytes behind the prefix.
    #[error("an integer in a header block is too large")]
    Integer,
    /// The block ends inside a field.
    #[error("a header block ends inside a field")]
    Truncated,
    /// The end-of-string symbol, or padding that is too long or not all ones.
    #[error("a string in a header block is no Huffman code")]
    Huffman,
    /// Larger than what was announced, not at the beginning of a block, or one of more than two.
    #[error("a table size update is too large or misplaced")]
    SizeUpdate,
}
