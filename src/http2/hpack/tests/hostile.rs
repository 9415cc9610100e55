//! What no honest client sends.

use proptest::prelude::*;

use super::super::{DecodeError, Decoder, Field};
use super::indexer::integer;
use super::{all, decode, decode_within, held, hex};

fn error(block: &str) -> Option<DecodeError> {
    decode(&mut Decoder::new(4096), &hex(block)).err()
}

#[test]
fn an_index_that_is_not_there_is_an_error() {
    for block in
        ["80", "be", "ff 00", "ff 8001", "ff ffffff7f", "7e 00", "0f 2f 00", "1f 2f 00", "40 0161 00 bf"]
    {
        assert_eq!(error(block), Some(DecodeError::Index), "{block}");
    }
    assert_eq!(error("40 0161 00 be"), None);
    // It is one even beyond the limit.
    for block in ["82 80", "82 be", "82 0f 2f 00", "82 7e 00"] {
        let read = decode_within(&mut Decoder::new(4096), &hex(block), 0);
        assert_eq!(read, Err(DecodeError::Index), "{block}");
    }
}

#[test]
fn an_integer_of_more_than_32_bits_is_an_error() {
    // 2^32 - 1 is an index that is not there; one more, and a sixth byte, are none at all.
    assert_eq!(error("ff 80feffff0f"), Some(DecodeError::Index));
    assert_eq!(error("ff 81ffffff0f"), Some(DecodeError::Integer));
    assert_eq!(error("ff ffffffff7f"), Some(DecodeError::Integer));
    assert_eq!(error("ff 808080808000"), Some(DecodeError::Integer));
    assert_eq!(error("00 7f ffffffffff"), Some(DecodeError::Integer));
    assert_eq!(error("ff 8080"), Some(DecodeError::Truncated));
}

#[test]
fn a_string_longer_than_its_block_is_an_error() {
    for block in ["00", "00 01", "00 01 61", "00 0161 02 61", "00 0161 82 07", "40 7f", "41 7f 8080808008 61"]
    {
        assert_eq!(error(block), Some(DecodeError::Truncated), "{block}");
        let beyond = decode_within(&mut Decoder::new(4096), &[hex("82"), hex(block)].concat(), 0);
        assert_eq!(beyond, Err(DecodeError::Truncated), "{block}");
    }
}

#[test]
fn a_string_that_is_no_code_is_an_error() {
    for block in ["00 81 ff 00", "00 0161 81 ff", "40 0161 84 ffffffff", "44 81 00"] {
        assert_eq!(error(block), Some(DecodeError::Huffman), "{block}");
    }
    // Beyond the limit as well, where the table needs it.
    let beyond = decode_within(&mut Decoder::new(4096), &hex("82 44 81 00"), 0);
    assert_eq!(beyond, Err(DecodeError::Huffman));
}

#[test]
fn the_table_is_resized_at_the_beginning_only_and_never_above_what_was_announced() {
    for block in ["82 20", "20 82 20", "20 20 20", "3f e2 1f", "20 3f e2 1f"] {
        assert_eq!(error(block), Some(DecodeError::SizeUpdate), "{block}");
    }
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &hex("40 0161 0162 40 0162 0163")).unwrap();
    assert_eq!(held(&decoder).len(), 2);
    // 34 bytes are what the newer one takes.
    decode(&mut decoder, &hex("3f 03")).unwrap();
    assert_eq!(held(&decoder), all(&[("b", "c")]));
    // To nothing and back to all of it: the entries are gone.
    decode(&mut decoder, &hex("20 3f e1 1f 82")).unwrap();
    assert_eq!((held(&decoder).len(), decoder.table().size()), (0, 0));
    // A table of nothing keeps nothing, and the field is there all the same.
    assert_eq!(decode(&mut decoder, &hex("20 40 0161 0162")), Ok(all(&[("a", "b")])));
    assert_eq!(held(&decoder), []);
    assert_eq!(decode(&mut decoder, &hex("be")), Err(DecodeError::Index));
}

/// It has its place and its size, is malformed at each reference, and lends its name.
#[test]
fn a_malformed_field_is_an_entry_as_any_other() {
    let mut decoder = Decoder::new(4096);
    // x-a with a line feed, X-A, and a path without its slash.
    let fields = decode(&mut decoder, &hex("40 03782d61 03610a62 40 03582d41 0162 44 0161")).unwrap();
    assert!(fields.iter().all(|field| matches!(field, Field::Malformed(_))) && fields.len() == 3);
    assert_eq!(decoder.table().size(), (3 + 3 + 32) + (3 + 1 + 32) + (5 + 1 + 32));
    let again = decode(&mut decoder, &hex("c0 bf be")).unwrap();
    assert_eq!(again, fields);
    // Their names with sound values: only X-A stays what it is.
    let others = decode(&mut decoder, &hex("0f31 0162 0f30 0162 0f2f 022f62")).unwrap();
    assert_eq!((&others[0], &others[2]), (&all(&[("x-a", "b")])[0], &all(&[(":path", "/b")])[0]));
    assert!(matches!(others[1], Field::Malformed(_)));
}

/// RFC 9113 8.2.1.
#[test]
fn names_are_lower_case_tokens() {
    for byte in 0..=255_u8 {
        // Of one byte, and of more than the parser has in its quick way.
        for (before, after) in [(0, 0), (70, 3), (3, 70), (1, 1)] {
            let name = [vec![b'a'; before], vec![byte], vec![b'a'; after]].concat();
            let mut block = vec![0];
            integer(&mut block, 0, 7, name.len());
            block.extend(&name);
            block.extend([1, b'v']);
            let fields = decode(&mut Decoder::new(4096), &block).unwrap();
            let token =
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(matches!(fields[0], Field::Header(..)), token, "{byte}");
            let mut block = vec![0, 1, b'n'];
            integer(&mut block, 0, 7, name.len());
            block.extend(&name);
            let fields = decode(&mut Decoder::new(4096), &block).unwrap();
            let sound = byte == b'\t' || byte >= 0x20 && byte != 0x7f;
            assert_eq!(matches!(fields[0], Field::Header(..)), sound, "{byte}");
        }
    }
}

/// Each reference would cost as much as a whole field, but only up to the limit.
#[test]
fn references_to_a_large_entry_end_at_the_limit() {
    let mut decoder = Decoder::new(4096);
    let mut block = hex("40 0161");
    integer(&mut block, 0, 7, 4000);
    block.extend([b'v'; 4000]);
    block.extend([0xbe; 10_000]);
    let (fields, over) = decode_within(&mut decoder, &block, 16 << 10).unwrap();
    assert_eq!((fields.len(), over), (4, true));
}

#[test]
fn room_for_a_long_string_is_given_back() {
    let mut decoder = Decoder::new(4096);
    let mut block = hex("00 0161");
    integer(&mut block, 0x80, 7, 5000);
    // Zeros eight at a time, in five bytes.
    block.extend([0; 5000]);
    decode(&mut decoder, &block).unwrap();
    assert!(decoder.held_scratch() <= 4096);
}

proptest! {
    /// Any bytes after any others: no panic, and no more held than a table may have.
    #[test]
    fn nothing_makes_it_hold_more_than_a_table(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        limit in prop::option::of(0_usize..500),
    ) {
        let mut decoder = Decoder::new(300);
        for block in blocks {
            let _ = decode_within(&mut decoder, &block, limit.unwrap_or(usize::MAX));
            prop_assert!(decoder.table().size() <= 300);
            prop_assert!(held(&decoder).len() <= 300 / 32);
        }
    }

    /// The same of what mostly are entries.
    #[test]
    fn no_entries_make_it_hold_more_than_a_table(
        parts in prop::collection::vec(prop_oneof![
            (0_u8..70, 0_u8..70).prop_map(|(name, value)| {
                [vec![0x40, name], vec![b'n'; name.into()], vec![value], vec![b'v'; value.into()]].concat()
            }),
            (0x80_u8..=0xff).prop_map(|index| vec![index]),
            (0x41_u8..=0x7e).prop_map(|name| vec![name, 2, b'/', b'/']),
            (0x20_u8..=0x3e).prop_map(|size| vec![size]),
        ], 0..60),
    ) {
        let mut decoder = Decoder::new(300);
        for part in parts {
            let _ = decode_within(&mut decoder, &part, usize::MAX);
            prop_assert!(decoder.table().size() <= 300);
            prop_assert!(held(&decoder).len() <= 300 / 32);
        }
    }
}
