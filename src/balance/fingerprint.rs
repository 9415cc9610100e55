//! A number that is the same on every gateway that balances a service alike.

use std::fmt;

/// 48 bits over a policy and its members.
///
/// Defined, so that other programs can work it out: FNV-1a (64 bits: offset basis `cbf29ce484222325`,
/// prime `100000001b3`) over the UTF-8 text below, the upper 16 bits folded onto the lower 48 by
/// exclusive or.
///
/// ```text
/// ring virtual_nodes=160 key=header:x-user-id load_bound=1.25
/// 10.0.0.1:80 1
/// 10.0.0.2:80 0.5
/// ```
///
/// The first line is the policy and its parameters, as far as it has any, in the order `virtual_nodes`
/// or `table_size`, `key`, `load_bound`. Then a line for each address of an enabled instance, in byte
/// order, with its weight as registered (the largest of the enabled ones that share the address);
/// numbers in the shortest decimal form that reads back the same. Each line ends in a line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Over a policy with its parameters, and (address, weight) pairs in any order.
    pub fn new<'a>(policy: &str, members: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let mut lines: Vec<String> =
            members.into_iter().map(|(address, weight)| format!("{address} {weight}")).collect();
        lines.sort_unstable();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut line = |text: &str| {
            for byte in text.bytes().chain([b'\n']) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        line(policy);
        for text in &lines {
            line(text);
        }
        Self((hash >> 48) ^ (hash & 0xffff_ffff_ffff))
    }

    /// As a number: below 2⁴⁸, so that a metric (an f64) holds it exactly.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    /// 12 lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let a = [("10.0.0.1:80", 1.0), ("10.0.0.2:80", 0.5)];
        let print = Fingerprint::new("ring virtual_nodes=160", a);
        assert_eq!(print, Fingerprint::new("ring virtual_nodes=160", [a[1], a[0]]));
        // Worked out in Python from the definition above.
        assert_eq!(print.to_string(), "9e7d1eb8bf96");
        for (policy, members) in [
            ("ring virtual_nodes=161", vec![a[0], a[1]]),
            ("ring virtual_nodes=160", vec![a[0]]),
            ("ring virtual_nodes=160", vec![a[0], ("10.0.0.2:80", 0.6)]),
            ("ring virtual_nodes=160", vec![a[0], ("10.0.0.2:81", 0.5)]),
        ] {
            assert_ne!(print, Fingerprint::new(policy, members));
        }
    }
}
