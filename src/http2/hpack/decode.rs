//! Header blocks of requests.

use super::field::{Field, Name};
use super::table::{Entry, OVERHEAD, STATIC, Table, static_field, static_name, static_size};
use super::{DecodeError, huffman};

/// What a table may have before the other side knows our settings, by RFC 9113 6.5.2.
const DEFAULT_TABLE: usize = 4096;
/// More room for decoded strings is not kept from one block to the next.
const KEPT_SCRATCH: usize = 4096;
/// RFC 7541 4.2: the smallest size in between, and the last one.
const SIZE_UPDATES: u32 = 2;

/// Reads the header blocks of one connection, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    max_table: usize,
    /// A string behind Huffman's code; only its length changes from one to the next.
    scratch: Vec<u8>,
}

impl Decoder {
    /// With a dynamic table of at most `max_table` bytes, which is what our `SETTINGS_HEADER_TABLE_SIZE` says. One
    /// below the default of 4096 asks for clients that wait for our settings before they index anything.
    pub(crate) fn new(max_table: usize) -> Self {
        Self { table: Table::new(max_table.min(DEFAULT_TABLE)), max_table, scratch: Vec::new() }
    }

    /// Decodes a whole header block. `field` gets each field in its order, with its size (name, value and 32), until
    /// all sizes together are more than `limit`: from then on nothing is made, only the table kept in step. Says
    /// whether it came to that.
    ///
    /// A field that is passed over for the limit and would enter no table is not looked into: its string may be any.
    #[inline]
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        field: &mut impl FnMut(Field, usize),
    ) -> Result<bool, DecodeError> {
        let mut rest = self.updates(block)?;
        // All sizes are above 0, so nothing fits any more once nothing is left.
        let (mut left, mut over) = (limit, false);
        while let [first, tail @ ..] = rest {
            rest = tail;
            if first & 0x80 != 0 {
                let index = integer(first & 0x7f, 0x7f, &mut rest)?;
                if index.wrapping_sub(1) < STATIC {
                    let size = static_size(index);
                    if size <= left {
                        left -= size;
                        field(static_field(index), size);
                        continue;
                    }
                } else {
                    let entry = self.table.get(index).ok_or(DecodeError::Index)?;
                    if entry.size() <= left {
                        left -= entry.size();
                        field(entry.field().clone(), entry.size());
                        continue;
                    }
                }
            } else if first & 0xc0 == 0x40 {
                let (made, size) = self.indexed_literal(*first, &mut rest, left)?;
                if let Some(made) = made {
                    left -= size;
                    field(made, size);
                    continue;
                }
            } else if first & 0xe0 == 0x20 {
                return Err(DecodeError::SizeUpdate);
            } else if over {
                self.skip_literal(*first, &mut rest)?;
            } else {
                let (made, size) = self.literal(*first, &mut rest)?;
                if size <= left {
                    left -= size;
                    field(made, size);
                    continue;
                }
            }
            (left, over) = (0, true);
        }
        if self.scratch.capacity() > KEPT_SCRATCH {
            self.scratch = Vec::new();
        }
        Ok(over)
    }

    /// Takes the size updates from the beginning of a block.
    fn updates<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        let mut rest = block;
        let mut count = 0;
        while let [first @ 0x20..=0x3f, tail @ ..] = rest {
            rest = tail;
            count += 1;
            let size = integer(first & 0x1f, 0x1f, &mut rest)?;
            if count > SIZE_UPDATES || size > self.max_table {
                return Err(DecodeError::SizeUpdate);
            }
            self.table.resize(size);
        }
        Ok(rest)
    }

    /// A literal that enters the table, and its size; the field itself only if that is at most `left`.
    fn indexed_literal(
        &mut self,
        first: u8,
        rest: &mut &[u8],
        left: usize,
    ) -> Result<(Option<Field>, usize), DecodeError> {
        let name = self.name(first & 0x3f, 0x3f, rest)?;
        let value = text(&mut self.scratch, rest)?;
        let size = name.len() + value.len() + OVERHEAD;
        if !self.table.fits(size) {
            self.table.make_room(size);
            return Ok(((size <= left).then(|| made(name.with(value, false))), size));
        }
        let entry = Entry::new(name.with(value, false), size);
        let field = (size <= left).then(|| entry.field().clone());
        self.table.insert(entry);
        Ok((field, size))
    }

    /// A literal that enters no table, and its size.
    #[inline]
    fn literal(&mut self, first: u8, rest: &mut &[u8]) -> Result<(Field, usize), DecodeError> {
        let name = self.name(first & 0x0f, 0x0f, rest)?;
        let value = text(&mut self.scratch, rest)?;
        let size = name.len() + value.len() + OVERHEAD;
        Ok((made(name.with(value, first & 0x10 != 0)), size))
    }

    /// Passes over a literal that enters no table.
    fn skip_literal(&mut self, first: u8, rest: &mut &[u8]) -> Result<(), DecodeError> {
        let index = integer(first & 0x0f, 0x0f, rest)?;
        if index == 0 {
            string(rest)?;
        } else if index > STATIC && self.table.get(index).is_none() {
            return Err(DecodeError::Index);
        }
        string(rest).map(drop)
    }

    /// The name of a literal: of an entry, or a string.
    #[inline]
    fn name(&mut self, prefix: u8, mask: u8, rest: &mut &[u8]) -> Result<Name, DecodeError> {
        match integer(prefix, mask, rest)? {
            0 => Ok(Name::parse(text(&mut self.scratch, rest)?)),
            index @ 1..=STATIC => Ok(static_name(index)),
            index => self.table.get(index).map(Entry::name).ok_or(DecodeError::Index),
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    #[cfg(test)]
    pub(super) fn held_scratch(&self) -> usize {
        self.scratch.capacity()
    }
}

fn made(made: Result<Field, (Name, &'static str)>) -> Field {
    made.unwrap_or_else(|(_, why)| Field::Malformed(why))
}

/// An integer whose first bits are `prefix`, of which `mask` has all.
#[inline]
fn integer(prefix: u8, mask: u8, rest: &mut &[u8]) -> Result<usize, DecodeError> {
    if prefix == mask { longer(mask, rest) } else { Ok(usize::from(prefix)) }
}

/// The rest of an integer that is not below its prefix's largest.
fn longer(mask: u8, rest: &mut &[u8]) -> Result<usize, DecodeError> {
    let mut value = u64::from(mask);
    for shift in [0, 7, 14, 21, 28] {
        let [byte, tail @ ..] = *rest else { return Err(DecodeError::Truncated) };
        *rest = tail;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| DecodeError::Integer)?;
            return usize::try_from(value).map_err(|_| DecodeError::Integer);
        }
    }
    Err(DecodeError::Integer)
}

/// A string as it stands in a block, and whether it is in Huffman's code.
#[inline]
fn string<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], bool), DecodeError> {
    let [first, tail @ ..] = *rest else { return Err(DecodeError::Truncated) };
    *rest = tail;
    let length = integer(first & 0x7f, 0x7f, rest)?;
    let (string, tail) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok((string, first & 0x80 != 0))
}

/// A string, decoded.
#[inline]
fn text<'a, 'b: 'a>(scratch: &'a mut Vec<u8>, rest: &mut &'b [u8]) -> Result<&'a [u8], DecodeError> {
    let (string, huffman) = string(rest)?;
    if !huffman {
        return Ok(string);
    }
    let length = huffman::decode(string, scratch)?;
    Ok(&scratch[..length])
}
