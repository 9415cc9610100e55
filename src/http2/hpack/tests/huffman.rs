//! The Huffman code, against one that goes from bit to bit.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::DecodeError;
use super::super::huffman::{LENGTHS, decode};
use super::hex;

/// The code of each symbol: they count up, and where the length grows, zeros follow.
static CODES: LazyLock<Vec<(u32, u8)>> = LazyLock::new(|| {
    let mut order: Vec<usize> = (0..LENGTHS.len()).collect();
    order.sort_by_key(|symbol| LENGTHS[*symbol]);
    let mut codes = vec![(0, 0); LENGTHS.len()];
    let (mut next, mut length) = (0_u32, 5);
    for symbol in order {
        next <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        codes[symbol] = (next, length);
        next += 1;
    }
    codes
});
static SYMBOLS: LazyLock<HashMap<(u32, u8), usize>> =
    LazyLock::new(|| CODES.iter().enumerate().map(|(symbol, code)| (*code, symbol)).collect());

pub(super) fn encode(string: &[u8]) -> Vec<u8> {
    let bits = string.iter().flat_map(|&byte| {
        let (code, length) = CODES[usize::from(byte)];
        (0..length).rev().map(move |bit| (code >> bit & 1) as u8)
    });
    let mut bits: Vec<u8> = bits.collect();
    bits.resize(bits.len().next_multiple_of(8), 1);
    bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
}

fn bit_by_bit(string: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (mut out, mut code) = (Vec::new(), (0, 0));
    for bit in string.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1))) {
        code = (code.0 << 1 | bit, code.1 + 1);
        if let Some(symbol) = SYMBOLS.get(&code) {
            out.push(u8::try_from(*symbol).map_err(|_| DecodeError::Huffman)?);
            code = (0, 0);
        }
    }
    let padding = code.1 < 8 && code.0 + 1 == 1 << code.1;
    if padding { Ok(out) } else { Err(DecodeError::Huffman) }
}

fn decoded(string: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    let length = decode(string, &mut out)?;
    out.truncate(length);
    Ok(out)
}

/// Some of Appendix B: the shortest and the longest codes, and where lengths change.
#[test]
fn codes_are_those_of_the_rfc() {
    let known = [
        (b'0', 0x0, 5),
        (b't', 0x9, 5),
        (b' ', 0x14, 6),
        (b'u', 0x2d, 6),
        (b':', 0x5c, 7),
        (b'&', 0xf8, 8),
        (b'!', 0x3f8, 10),
        (b'\'', 0x7fa, 11),
        (b'#', 0xffa, 12),
        (0, 0x1ff8, 13),
        (b'^', 0x3ffc, 14),
        (b'<', 0x7ffc, 15),
        (b'\\', 0x7fff0, 19),
        (128, 0xf_ffe6, 20),
        (255, 0x3ff_ffee, 26),
        (254, 0x7ff_fff0, 27),
        (2, 0xfff_ffe2, 28),
        (249, 0xfff_fffe, 28),
        (b'\n', 0x3fff_fffc, 30),
        (22, 0x3fff_fffe, 30),
    ];
    for (symbol, code, length) in known {
        assert_eq!(CODES[usize::from(symbol)], (code, length), "{symbol}");
    }
    assert_eq!(CODES[256], (0x3fff_ffff, 30));
}

#[test]
fn every_symbol_comes_back() {
    for symbol in 0..=255 {
        for length in 1..20 {
            let text = vec![symbol; length];
            assert_eq!(decoded(&encode(&text)), Ok(text));
        }
    }
    assert_eq!(decoded(b""), Ok(vec![]));
}

#[test]
fn wrong_ends_are_errors() {
    assert_eq!(decoded(&hex("07")), Ok(b"0".to_vec()));
    // Padding of zeros, of a whole byte, and of more.
    for wrong in ["00", "06", "ff", "07ff", "ffff", "07ffff", "ffffff"] {
        assert_eq!(decoded(&hex(wrong)), Err(DecodeError::Huffman), "{wrong}");
    }
    // The end of a string, alone, at the end, and with something behind it.
    for wrong in ["ffffffff", "07ffffffff", "fffffffc00000000", "07fffffffe0000"] {
        assert_eq!(decoded(&hex(wrong)), Err(DecodeError::Huffman), "{wrong}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(text in prop::collection::vec(any::<u8>(), 0..200), more in "[ -~]{0,200}") {
        prop_assert_eq!(decoded(&encode(&text)), Ok(text));
        prop_assert_eq!(decoded(&encode(more.as_bytes())), Ok(more.into_bytes()));
    }

    #[test]
    fn any_bytes_are_what_they_are_bit_by_bit(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(decoded(&bytes), bit_by_bit(&bytes));
    }

    /// Text with anything behind it, as random bytes seldom are a string.
    #[test]
    fn any_end_is_what_it_is_bit_by_bit(text in "[ -~]{0,20}", end in prop::collection::vec(any::<u8>(), 0..3)) {
        let mut bytes = encode(text.as_bytes());
        bytes.extend(end);
        prop_assert_eq!(decoded(&bytes), bit_by_bit(&bytes));
        bytes.pop();
        prop_assert_eq!(decoded(&bytes), bit_by_bit(&bytes));
    }
}
