//! The Huffman code of RFC 7541, Appendix B.
//!
//! It is canonical: of two codes the shorter is the smaller one when both are read as fractions, and codes of one
//! length go by symbol. So the lengths say all, and the tables are made of them when this is compiled.

use super::DecodeError;

/// Bits of each symbol's code; the last one is the end of a string, which no string may contain.
#[rustfmt::skip]
pub(super) const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const EOS: u16 = 256;
const LONGEST: usize = 30;

/// Bits that one look into [`PAIRS`] takes. Two symbols of five or six bits, of which text mostly consists, fit in.
const LOOK: u32 = 12;

/// The code by length; codes stand at the upper end of 32 bits.
struct Canon {
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
    /// Where the symbols of a length begin among them.
    index: [u16; LONGEST + 1],
    /// The first code of a length.
    first: [u32; LONGEST + 1],
    /// What all codes of this length and of shorter ones are below.
    end: [u64; LONGEST + 1],
}

static CANON: Canon = CODE;
const CODE: Canon = canon();

const fn canon() -> Canon {
    let mut canon =
        Canon { symbols: [0; 257], index: [0; LONGEST + 1], first: [0; LONGEST + 1], end: [0; LONGEST + 1] };
    let (mut length, mut at, mut next) = (1, 0, 0_u64);
    while length <= LONGEST {
        canon.index[length] = at as u16;
        canon.first[length] = next as u32;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                canon.symbols[at] = symbol as u16;
                at += 1;
                next += 1 << (32 - length);
            }
            symbol += 1;
        }
        canon.end[length] = next;
        length += 1;
    }
    // A complete code uses up all of them.
    assert!(at == LENGTHS.len() && canon.first[LONGEST] as u64 + (4 << 2) == 1 << 32);
    canon
}

/// The symbol that `bits` begin with and its length, from `length` upwards and up to `most`; 0 if it is longer.
const fn search(canon: &Canon, bits: u32, mut length: usize, most: usize) -> (u16, u32) {
    while length <= most {
        if (bits as u64) < canon.end[length] {
            let nth = (bits - canon.first[length]) >> (32 - length);
            return (canon.symbols[canon.index[length] as usize + nth as usize], length as u32);
        }
        length += 1;
    }
    (0, 0)
}

/// What [`LOOK`] bits begin with: up to two symbols in the two lower bytes, the bits of both in the third, and those
/// of the first in the fourth. Without a second symbol the last two are the same; all is 0 if the first is longer.
static PAIRS: [u32; 1 << LOOK] = pairs();

const fn pairs() -> [u32; 1 << LOOK] {
    let mut pairs = [0; 1 << LOOK];
    let mut at = 0;
    while at < pairs.len() {
        let bits = (at as u32) << (32 - LOOK);
        let (first, taken) = search(&CODE, bits, 5, LOOK as usize);
        if taken != 0 {
            let (second, more) = search(&CODE, bits << taken, 5, (LOOK - taken) as usize);
            pairs[at] = first as u32 | (second as u32) << 8 | (taken + more) << 16 | taken << 24;
        }
        at += 1;
    }
    pairs
}

/// Decodes a string into the front of `out`, which grows as needed; says how long it is.
pub(super) fn decode(string: &[u8], out: &mut Vec<u8>) -> Result<usize, DecodeError> {
    // No symbol is shorter than five bits; the last one may be written together with a byte of nothing.
    let most = string.len() * 8 / 5 + 2;
    if out.len() < most {
        out.resize(most, 0);
    }
    let out = &mut out[..most];
    let mut at = 0;
    let mut put = |pair: u32, count: usize| {
        out[at..at + 2].copy_from_slice(&[pair as u8, (pair >> 8) as u8]);
        at += count;
        at
    };
    // The bits to come stand at the upper end, and zeros behind the ones that are held.
    let (mut bits, mut held, mut rest) = (0_u64, 0_u32, string);
    loop {
        if held < 32 {
            let Some((next, tail)) = rest.split_first_chunk::<4>() else { break };
            bits |= u64::from(u32::from_be_bytes(*next)) << (32 - held);
            held += 32;
            rest = tail;
        }
        let pair = PAIRS[(bits >> (64 - LOOK)) as usize];
        let (both, first) = (pair >> 16 & 0xff, pair >> 24);
        if both == 0 {
            let (symbol, taken) = search(&CANON, (bits >> 32) as u32, LOOK as usize + 1, LONGEST);
            if symbol == EOS {
                return Err(DecodeError::Huffman);
            }
            put(u32::from(symbol), 1);
            (bits, held) = (bits << taken, held - taken);
        } else {
            put(pair, 1 + usize::from(both != first));
            (bits, held) = (bits << both, held - both);
        }
    }
    for &byte in rest {
        bits |= u64::from(byte) << (56 - held);
        held += 8;
    }
    // The last symbols: what is held may end inside of a code.
    loop {
        let pair = PAIRS[(bits >> (64 - LOOK)) as usize];
        let (both, first) = (pair >> 16 & 0xff, pair >> 24);
        let taken = if both == 0 {
            let (symbol, taken) = search(&CANON, (bits >> 32) as u32, LOOK as usize + 1, LONGEST);
            if taken > held {
                break;
            }
            if symbol == EOS {
                return Err(DecodeError::Huffman);
            }
            put(u32::from(symbol), 1);
            taken
        } else if both <= held {
            put(pair, 1 + usize::from(both != first));
            both
        } else if first <= held {
            put(pair, 1);
            first
        } else {
            break;
        };
        (bits, held) = (bits << taken, held - taken);
    }
    // What is left begins the end of a string, and is less than a byte.
    let ones = !(u64::MAX >> held);
    if held < 8 && bits == ones { Ok(put(0, 0)) } else { Err(DecodeError::Huffman) }
}
