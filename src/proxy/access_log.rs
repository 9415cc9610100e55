//! One JSON line a request, gathered on the worker and handed to the log's writer in batches.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::telemetry::LineSink;

/// A batch is handed over at this size, or at the next tick.
const BATCH: usize = 16 * 1024;
/// No field of a line is longer.
const MAX_FIELD: usize = 2048;

/// The worker's end of the access log.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    sink: RefCell<Option<LineSink>>,
    batch: RefCell<Vec<u8>>,
}

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Maybe(Option<&'a str>),
    Number(u64),
    Millis(Option<Duration>),
}

impl AccessLog {
    pub(super) fn set(&self, sink: Option<LineSink>) {
        self.flush();
        *self.sink.borrow_mut() = sink;
    }

    pub(super) fn is_on(&self) -> bool {
        self.sink.borrow().is_some()
    }

    /// Appends a line. Field names are ours and need no escapes.
    pub(super) fn write(&self, fields: &[(&str, Value<'_>)]) {
        let full = {
            let mut batch = self.batch.borrow_mut();
            if batch.capacity() == 0 {
                batch.reserve(BATCH + 1024);
            }
            line(&mut batch, fields);
            batch.len() >= BATCH
        };
        if full {
            self.flush();
        }
    }

    /// Hands the batch over; called at each tick. Never blocks.
    pub(super) fn flush(&self) {
        let batch = std::mem::take(&mut *self.batch.borrow_mut());
        if batch.is_empty() {
            return;
        }
        if let Some(sink) = self.sink.borrow().as_ref() {
            sink.line(batch);
        }
    }
}

fn line(out: &mut Vec<u8>, fields: &[(&str, Value<'_>)]) {
    out.extend_from_slice(b"{\"time\":\"");
    timestamp(out, SystemTime::now());
    out.push(b'"');
    for (name, value) in fields {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Text(text) | Value::Maybe(Some(text)) => string(out, text),
            Value::Maybe(None) | Value::Millis(None) => out.extend_from_slice(b"null"),
            Value::Number(number) => decimal(out, *number),
            Value::Millis(Some(duration)) => {
                let micros = duration.as_micros() as u64;
                decimal(out, micros / 1000);
                out.push(b'.');
                let rest = micros % 1000;
                out.extend([
                    b'0' + (rest / 100) as u8,
                    b'0' + (rest / 10 % 10) as u8,
                    b'0' + (rest % 10) as u8,
                ]);
            }
        }
    }
    out.extend_from_slice(b"}\n");
}

/// A JSON string. Control bytes are escaped, so that a value never begins a line.
fn string(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.push(b'"');
    for c in text[..end].chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let mut escape = String::with_capacity(6);
                let _ = write!(escape, "\\u{:04x}", c as u32);
                out.extend_from_slice(escape.as_bytes());
            }
            c if c.is_ascii() => out.push(c as u8),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// RFC 3339 with milliseconds, in UTC.
fn timestamp(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 1 March 0000 of a calendar whose leap day is a year's last.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let shifted = (5 * doy + 2) / 153;
    let day = doy - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let two = |out: &mut Vec<u8>, n: u64| out.extend([b'0' + (n / 10) as u8, b'0' + (n % 10) as u8]);
    decimal(out, year);
    for (mark, number) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        out.push(mark);
        two(out, number);
    }
    let millis = u64::from(since.subsec_millis());
    out.push(b'.');
    out.push(b'0' + (millis / 100) as u8);
    two(out, millis % 100);
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_a_client_sends() {
        let mut out = Vec::new();
        let hostile = "/a\"\\\n\r\t\u{0}\u{1b}[31m\u{7f}\u{85}\u{2028}é";
        line(
            &mut out,
            &[
                ("path", Value::Text(hostile)),
                ("route", Value::Maybe(None)),
                ("status", Value::Number(200)),
                ("duration_ms", Value::Millis(Some(Duration::from_micros(12_034)))),
            ],
        );
        assert_eq!(out.iter().filter(|b| b.is_ascii_control()).count(), 1, "the newline at its end");
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["path"], hostile);
        assert_eq!(json["duration_ms"], 12.034);
        assert!(json["route"].is_null());
    }

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.005Z"),
            (951_782_400, "2000-02-29T00:00:00.005Z"),
            (1_735_689_599, "2024-12-31T23:59:59.005Z"),
        ] {
            let mut out = Vec::new();
            timestamp(&mut out, UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(5));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
