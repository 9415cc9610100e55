//! Times for people and scripts: RFC 3339 in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-22T23:59:00.123456Z`.
pub fn rfc3339_micros(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// The moment of an RFC 3339 time in UTC: with or without a fraction of a second.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mut numbers = [0u64; 6];
    for (number, (part, length)) in
        numbers.iter_mut().zip(date.split('-').zip([4, 2, 2]).chain(time.split(':').zip([2, 2, 2])))
    {
        *number = (part.len() == length && digits(part)).then(|| part.parse().ok()).flatten()?;
    }
    let [year, month, day, hour, minute, second] = numbers;
    let whole = date.split('-').count() == 3 && time.split(':').count() == 3;
    if !whole || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 || year < 1970 {
        return None;
    }
    let day_number = days(year, month, day)?;
    let nanos = match fraction {
        "" => 0,
        fraction if digits(fraction) && fraction.len() <= 9 => format!("{fraction:0<9}").parse().ok()?,
        _ => return None,
    };
    let seconds = day_number * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::new(seconds, nanos))
}

/// Year, month and day of so many days after 1 January 1970.
pub fn civil(days: u64) -> (u64, u64, u64) {
    // Days since 1 March 0000 of a calendar whose leap day is a year's last.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let shifted = (5 * doy + 2) / 153;
    let day = doy - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]; `None` for a day that its month does not have.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (y, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = (era * 146_097 + doe).checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_printed_is_read_again() {
        for seconds in (0..5_000_000_000).step_by(86_399 * 37) {
            let at = UNIX_EPOCH + Duration::new(seconds, 123_456_000);
            assert_eq!(parse_rfc3339(&rfc3339_micros(at)), Some(at));
        }
        let at = UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(rfc3339_micros(at), "2000-02-29T00:00:00.000000Z");
        assert_eq!(parse_rfc3339("2000-02-29T00:00:00Z"), Some(at));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2000-02-30T00:00:00Z",
            "2001-02-29T00:00:00Z",
            "2000-13-01T00:00:00Z",
            "2000-00-01T00:00:00Z",
            "2000-01-00T00:00:00Z",
            "2000-01-01T24:00:00Z",
            "2000-01-01 00:00:00Z",
            "2000-01-01T00:00:00",
            "2000-01-01T00:00:00.Z9",
            "2000-01-01T00:00Z",
            "+200-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2000-01-01T00:00:00.0000000001Z",
            "2000-01-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }
}
