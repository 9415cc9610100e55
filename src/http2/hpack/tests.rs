//! The vectors of RFC 7541, an encoder that indexes against the decoder, and what a hostile one may send.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use self::indexer::{Indexer, fields};
use super::{DecodeError, Decoder, Field};

mod hostile;
mod huffman;
mod indexer;
mod peer;

/// Bytes of hexadecimal digits, with white space for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// What a pair of name and value is, told by rules and not by tables; nothing if it is malformed.
fn meaning(name: &[u8], value: &[u8]) -> Option<Field> {
    match name {
        b":method" => Method::from_bytes(value).ok().map(Field::Method),
        b":scheme" => Scheme::try_from(value).ok().map(Field::Scheme),
        b":authority" => Authority::try_from(value).ok().map(Field::Authority),
        b":path" if value == b"*" || value.starts_with(b"/") => {
            PathAndQuery::try_from(value).ok().map(Field::Path)
        }
        b":status" => StatusCode::from_bytes(value).ok().map(Field::Status),
        _ => {
            let token = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(b);
            let control = |b: &u8| (*b < 0x20 && *b != b'\t') || *b == 0x7f;
            let sound = !name.is_empty() && name.iter().all(token) && !value.iter().any(control);
            sound.then(|| {
                let name = HeaderName::from_bytes(name).unwrap();
                Field::Header(name, HeaderValue::from_bytes(value).unwrap())
            })
        }
    }
}

fn all(pairs: &[(&str, &str)]) -> Vec<Field> {
    pairs.iter().map(|(name, value)| meaning(name.as_bytes(), value.as_bytes()).unwrap()).collect()
}

/// The fields that are sound; the reason of a malformed one is nobody's promise.
fn sound(fields: impl IntoIterator<Item = Field>) -> Vec<Option<Field>> {
    let sound = |field: Field| (!matches!(field, Field::Malformed(_))).then_some(field);
    fields.into_iter().map(sound).collect()
}

/// All fields of a block, and whether they came to more than the limit.
fn decode_within(
    decoder: &mut Decoder,
    block: &[u8],
    limit: usize,
) -> Result<(Vec<(Field, usize)>, bool), DecodeError> {
    let mut fields = Vec::new();
    let over = decoder.decode(block, limit, &mut |field, size| fields.push((field, size)))?;
    assert!(fields.iter().map(|(_, size)| size).sum::<usize>() <= limit);
    Ok((fields, over))
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, DecodeError> {
    let (fields, over) = decode_within(decoder, block, usize::MAX)?;
    assert!(!over);
    Ok(fields.into_iter().map(|(field, _)| field).collect())
}

fn held(decoder: &Decoder) -> Vec<Field> {
    decoder.table().fields().cloned().collect()
}

/// The three requests of C.3 and C.4, each with what the table has after it and its size.
fn requests_of_the_rfc(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    let common = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    assert_eq!(decode(&mut decoder, &hex(blocks[0])), Ok(all(&common)));
    assert_eq!(held(&decoder), all(&common[3..]));
    assert_eq!(decoder.table().size(), 57);

    let mut second = common.to_vec();
    second.push(("cache-control", "no-cache"));
    assert_eq!(decode(&mut decoder, &hex(blocks[1])), Ok(all(&second)));
    assert_eq!(held(&decoder), all(&[("cache-control", "no-cache"), (":authority", "www.example.com")]));
    assert_eq!(decoder.table().size(), 110);

    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    assert_eq!(decode(&mut decoder, &hex(blocks[2])), Ok(all(&third)));
    let kept =
        [("custom-key", "custom-value"), ("cache-control", "no-cache"), (":authority", "www.example.com")];
    assert_eq!(held(&decoder), all(&kept));
    assert_eq!(decoder.table().size(), 164);
}

#[test]
fn requests_without_huffman_are_those_of_the_rfc() {
    requests_of_the_rfc([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn requests_with_huffman_are_those_of_the_rfc() {
    requests_of_the_rfc([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// C.5, with names of ours for `:status`, which would be malformed: a table of 256 bytes drops its oldest entries.
#[test]
fn the_oldest_entries_leave_a_full_table() {
    let mut decoder = Decoder::new(256);
    let mut out = Indexer::new(256);
    let first = [
        ("x-state", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ];
    assert_eq!(decode(&mut decoder, &out.block(&first)), Ok(all(&first)));
    assert_eq!(decoder.table().size(), 222);
    let mut newest = first;
    newest.reverse();
    assert_eq!(held(&decoder), all(&newest));

    let second = [("x-state", "307"), first[1], first[2], first[3]];
    assert_eq!(decode(&mut decoder, &out.block(&second)), Ok(all(&second)));
    assert_eq!(held(&decoder), all(&[second[0], first[3], first[2], first[1]]));

    // As large as the table: alone in it. Larger: nothing is.
    let alone = [("x-a", &*"a".repeat(256 - 32 - 3))];
    assert_eq!(decode(&mut decoder, &out.block(&alone)), Ok(all(&alone)));
    assert_eq!(held(&decoder), all(&alone));
    let large = [("x-a", &*"a".repeat(256 - 32 - 2))];
    assert_eq!(decode(&mut decoder, &out.block(&large)), Ok(all(&large)));
    assert_eq!((held(&decoder), decoder.table().size()), (vec![], 0));
}

/// A new entry may take its name from one that has to leave for it.
#[test]
fn a_name_outlives_its_entry() {
    let mut decoder = Decoder::new(64);
    decode(&mut decoder, &hex("40 03 782d61 01 31")).unwrap();
    let value = "b".repeat(29);
    let mut block = hex("7e 1d");
    block.extend_from_slice(value.as_bytes());
    assert_eq!(decode(&mut decoder, &block), Ok(all(&[("x-a", &value)])));
    assert_eq!((held(&decoder), decoder.table().size()), (all(&[("x-a", &value)]), 64));
}

#[test]
fn the_static_table_is_that_of_the_rfc() {
    for (at, (name, value)) in indexer::static_table().iter().enumerate() {
        let mut decoder = Decoder::new(4096);
        let size = name.len() + value.len() + 32;
        let (fields, over) = decode_within(&mut decoder, &[0x81 + at as u8], size).unwrap();
        assert_eq!((fields[0].1, over), (size, false), "{name}");
        let expected = meaning(name.as_bytes(), value.as_bytes());
        assert_eq!(sound(fields.into_iter().map(|f| f.0)), [expected], "{name}");
        // The same name with a value of its own, where it is a header.
        if !name.starts_with(':') {
            let block = [0x0f, (at + 1 - 15) as u8, 1, b'v'];
            assert_eq!(decode(&mut decoder, &block), Ok(all(&[(name, "v")])));
        }
    }
}

#[test]
fn what_is_never_indexed_is_sensitive() {
    let mut decoder = Decoder::new(4096);
    let fields = decode(&mut decoder, &hex("1f08 01 61 0f08 01 61 6f08 01 61")).unwrap_or_default();
    assert!(fields.is_empty(), "0x6f is an entry that is not there");
    let fields = decode(&mut decoder, &hex("1f08 01 61 0f08 01 61 57 01 61")).unwrap();
    let sensitive = |field: &Field| matches!(field, Field::Header(_, value) if value.is_sensitive());
    assert_eq!(fields.iter().map(sensitive).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(held(&decoder).len(), 1);
}

proptest! {
    /// Whatever an encoder chooses, the fields are the same, and both tables.
    #[test]
    fn an_encoder_that_indexes_is_understood(blocks in prop::collection::vec(fields(), 1..8)) {
        let mut decoder = Decoder::new(4096);
        let mut out = Indexer::new(4096);
        for (resize, fields) in blocks {
            let block = out.encode(resize, &fields);
            let (decoded, over) = decode_within(&mut decoder, &block, usize::MAX).unwrap();
            prop_assert!(!over);
            let sizes: Vec<_> = decoded.iter().map(|(_, size)| *size).collect();
            let expected: Vec<_> = fields.iter().map(|(n, v, _)| n.len() + v.len() + 32).collect();
            prop_assert_eq!(sizes, expected);
            let expected: Vec<_> = fields.iter().map(|(name, value, _)| meaning(name, value)).collect();
            prop_assert_eq!(sound(decoded.into_iter().map(|(field, _)| field)), expected);
            prop_assert_eq!(sound(held(&decoder)), out.meanings());
            prop_assert_eq!(decoder.table().size(), out.size());
        }
    }

    /// Behind the limit nothing is made, but the next block is understood as ever.
    #[test]
    fn the_table_keeps_step_beyond_the_limit(
        blocks in prop::collection::vec(fields(), 1..8),
        limit in 0_usize..1000,
    ) {
        let (mut decoder, mut other) = (Decoder::new(4096), Decoder::new(4096));
        let mut out = Indexer::new(4096);
        for (resize, fields) in blocks {
            let block = out.encode(resize, &fields);
            let (whole, _) = decode_within(&mut other, &block, usize::MAX).unwrap();
            let (part, over) = decode_within(&mut decoder, &block, limit).unwrap();
            prop_assert_eq!(over, whole.iter().map(|(_, size)| size).sum::<usize>() > limit);
            let mut sum = 0;
            let fitting = whole.iter().take_while(|(_, size)| { sum += size; sum <= limit }).count();
            prop_assert_eq!(&part[..], &whole[..fitting]);
            prop_assert_eq!(held(&decoder), held(&other));
            prop_assert_eq!(decoder.table().size(), out.size());
        }
    }

    /// A block that ends early has no other fields than the whole one.
    #[test]
    fn a_truncated_block_is_a_prefix_or_an_error((_, fields) in fields()) {
        let block = Indexer::new(4096).encode(None, &fields);
        let (whole, _) = decode_within(&mut Decoder::new(4096), &block, usize::MAX).unwrap();
        // Each place of a short block, and some of a long one.
        for end in (0..block.len()).step_by(1 + block.len() / 100) {
            let mut some = Vec::new();
            let read = Decoder::new(4096).decode(&block[..end], usize::MAX, &mut |f, n| some.push((f, n)));
            prop_assert_eq!(&some[..], &whole[..some.len()]);
            prop_assert!(some.len() < whole.len());
            prop_assert!(matches!(read, Ok(false) | Err(DecodeError::Truncated)), "{:?}", read);
        }
    }
}
