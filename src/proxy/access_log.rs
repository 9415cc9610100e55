//! One JSON line a request, gathered on the worker and handed to the log's writer in batches.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::telemetry::{LineSink, civil};

/// A batch is handed over at this size, or at the next tick.
const BATCH: usize = 16 * 1024;
/// No field of a line is longer.
const MAX_FIELD: usize = 2048;
/// Bytes of a time up to its seconds.
const SECOND: usize = "2000-01-01T00:00:00".len();

/// The worker's end of the access log.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    sink: RefCell<Option<LineSink>>,
    batch: RefCell<Vec<u8>>,
    clock: Clock,
}

/// The second of the last line, and how it is written: most lines share it with the one before.
#[derive(Debug)]
struct Clock(Cell<(u64, [u8; SECOND])>);

/// A field's name as it stands in a line: after a comma, in quotes, before a colon.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use name;

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

    /// Appends a line. The names are made by [`name!`].
    pub(super) fn write(&self, fields: &[(&str, Value<'_>)]) {
        let full = {
            let mut batch = self.batch.borrow_mut();
            if batch.capacity() == 0 {
                batch.reserve(BATCH + 1024);
            }
            line(&mut batch, &self.clock, fields);
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

fn line(out: &mut Vec<u8>, clock: &Clock, fields: &[(&str, Value<'_>)]) {
    out.extend_from_slice(b"{\"time\":\"");
    clock.timestamp(out, SystemTime::now());
    out.push(b'"');
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        match value {
            Value::Text(text) | Value::Maybe(Some(text)) => string(out, text),
            Value::Maybe(None) | Value::Millis(None) => out.extend_from_slice(b"null"),
            Value::Number(number) => decimal(out, *number),
            Value::Millis(Some(duration)) => {
                let micros = duration.as_micros() as u64;
                decimal(out, micros / 1000);
                let [a, b, c] = three(micros % 1000);
                out.extend_from_slice(&[b'.', a, b, c]);
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
    // Mostly there is nothing to escape, and one look at all bytes, without a branch for each, is cheap.
    let escaped = |b: u8| u8::from(!(b' '..0x7f).contains(&b)) | u8::from(matches!(b, b'"' | b'\\'));
    if text.as_bytes()[..end].iter().fold(0, |any, b| any | escaped(*b)) == 0 {
        out.extend_from_slice(&text.as_bytes()[..end]);
        out.push(b'"');
        return;
    }
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
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

/// A number below 1000 in three digits.
fn three(number: u64) -> [u8; 3] {
    [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8)
}

impl Default for Clock {
    fn default() -> Self {
        Self(Cell::new((0, second(0))))
    }
}

impl Clock {
    /// RFC 3339 with milliseconds, in UTC.
    fn timestamp(&self, out: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut seconds, mut text) = self.0.get();
        if seconds != since.as_secs() {
            seconds = since.as_secs();
            text = second(seconds);
            self.0.set((seconds, text));
        }
        out.extend_from_slice(&text);
        let [a, b, c] = three(u64::from(since.subsec_millis()));
        out.extend_from_slice(&[b'.', a, b, c, b'Z']);
    }
}

/// A time up to its seconds, with four digits of the year.
fn second(since: u64) -> [u8; SECOND] {
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00";
    for (at, number) in [
        (0, year / 100 % 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, second / 3600),
        (14, second / 60 % 60),
        (17, second % 60),
    ] {
        out[at] += (number / 10) as u8;
        out[at + 1] += (number % 10) as u8;
    }
    out
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
            &Clock::default(),
            &[
                (name!("path"), Value::Text(hostile)),
                (name!("host"), Value::Text("plain")),
                (name!("route"), Value::Maybe(None)),
                (name!("status"), Value::Number(200)),
                (name!("duration_ms"), Value::Millis(Some(Duration::from_micros(12_034)))),
            ],
        );
        assert_eq!(out.iter().filter(|b| b.is_ascii_control()).count(), 1, "the newline at its end");
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["path"], hostile);
        assert_eq!((&json["host"], &json["status"]), (&"plain".into(), &200.into()));
        assert_eq!(json["duration_ms"], 12.034);
        assert!(json["route"].is_null());
    }

    #[test]
    fn times_are_rfc_3339() {
        let clock = Clock::default();
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.005Z"),
            (951_782_400, "2000-02-29T00:00:00.005Z"),
            (1_735_689_599, "2024-12-31T23:59:59.005Z"),
        ] {
            let mut out = Vec::new();
            clock.timestamp(&mut out, UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(5));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
