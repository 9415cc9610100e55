//! Durations and sizes as the file writes them: a whole number and a unit.

use std::time::Duration;

/// What a duration looks like.
pub(super) const DURATION: &str = "a duration such as \"250ms\", \"10s\", \"5m\" or \"1h\"";
/// What a size looks like.
pub(super) const SIZE: &str = "a size such as \"512B\", \"64KiB\" or \"10MiB\"";

/// Units of time in milliseconds, the largest first.
const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of size in bytes, the largest first.
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `"250ms"`, `"10s"`, `"5m"`, `"1h"`. No fractions, no sums, and never without a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, millis) = TIMES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*millis).map(Duration::from_millis)
}

/// `"64KiB"`; a bare number counts bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// The duration in its largest whole unit.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIMES, "s")
}

/// The size in its largest whole unit.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "")
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = |(_, size): &&(&str, u64)| amount > 0 && amount.is_multiple_of(*size);
    match units.iter().find(fits) {
        Some((unit, size)) => format!("{}{unit}", amount / size),
        None => format!("{amount}{zero}"),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(show_duration(duration), text);
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1S",
            "1m30s",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_a_whole_number_and_a_binary_unit() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("3GiB", 3 << 30), ("5B", 5), ("0", 0)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(parse_size("1000"), Some(1000));
        for bad in
            ["", "KiB", "64kb", "64 KiB", "1.5MiB", "-1", "99999999999999999999", "18446744073709551615KiB"]
        {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
