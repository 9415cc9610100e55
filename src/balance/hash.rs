//! The one hash of the hash policies: CRC-32, then an avalanche.
//!
//! CRC is linear: texts that differ in a digit (`10.0.0.1:80#7` and `…#8`) give sums that differ in
//! the same few bits, and a ring of raw sums is lumpy. The finaliser of murmur3 spreads them.

/// murmur3's 32-bit finaliser: a bijection in which each input bit sways each output bit.
pub fn fmix32(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Where a request's key stands on the ring.
pub fn key(bytes: &[u8]) -> u32 {
    fmix32(crc32fast::hash(bytes))
}

/// The points of one address: `ADDRESS#0`, `ADDRESS#1`, …
#[derive(Debug)]
pub struct Points {
    prefix: crc32fast::Hasher,
}

impl Points {
    /// Hashes what all its points share once.
    pub fn of(address: &str) -> Self {
        let mut prefix = crc32fast::Hasher::new();
        prefix.update(address.as_bytes());
        prefix.update(b"#");
        Self { prefix }
    }

    /// Point number `n`.
    pub fn nth(&self, n: u32) -> u32 {
        let mut digits = [0; 10];
        let mut start = digits.len();
        let mut rest = n;
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let mut hasher = self.prefix.clone();
        hasher.update(&digits[start..]);
        fmix32(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finaliser_and_the_checksum_are_the_published_ones() {
        // The check value of CRC-32/ISO-HDLC, and murmur3's fixed point and a known pair.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
        assert_eq!(fmix32(0), 0);
        assert_eq!(fmix32(1), 0x514e_28b7);
    }

    #[test]
    fn a_point_is_the_hash_of_address_hash_sign_number() {
        let points = Points::of("[2001:db8::1]:80");
        for n in [0, 9, 10, 159, 1599, u32::MAX] {
            assert_eq!(points.nth(n), key(format!("[2001:db8::1]:80#{n}").as_bytes()), "{n}");
        }
    }
}
