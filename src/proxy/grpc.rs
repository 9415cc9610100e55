//! What gRPC needs beside HTTP: its deadlines, and errors in its own words.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::error::ProxyError;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a request is a gRPC call (not gRPC-Web, which is HTTP).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The deadline that a call names: `grpc-timeout`, at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Whether a head or trailers end a call with `UNAVAILABLE`.
pub(super) fn is_unavailable(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| status == "14")
}

/// Writes an error as gRPC puts it, into an answer's head or its trailers.
pub(super) fn set_status(headers: &mut HeaderMap, error: &ProxyError) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.grpc_status())));
    // Percent-encoded by the protocol; our texts are ASCII but may quote an instance's.
    let text: String = error
        .to_string()
        .bytes()
        .flat_map(|b| match b {
            b'%' => "%25".chars().collect::<Vec<_>>(),
            b' '..=b'~' => vec![b as char],
            _ => format!("%{b:02X}").chars().collect(),
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(GRPC_MESSAGE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_what_looks_alike() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
    }

    #[test]
    fn timeouts_parse_with_their_units() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "m", "100", "123456789m", "-1S", "1x", "1é"] {
            assert_eq!(HeaderValue::from_str(bad).ok().and_then(|_| parse(bad)), None, "{bad}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let mut headers = HeaderMap::new();
        set_status(&mut headers, &ProxyError::ConnectFailed("100% é\n".into()));
        assert_eq!(headers["grpc-status"], "14");
        assert!(headers["grpc-message"].to_str().unwrap().ends_with("100%25 %C3%A9%0A"));
    }
}
