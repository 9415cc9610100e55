//! The rules that a parsed request must keep before anything is done with it.
//!
//! Grammar and framing are held before; what they say nothing of, and a gateway must not pass on, is refused here.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::error::ProxyError;
use super::h1::MAX_URI;
use crate::config::plan::Limits;
use crate::table::normalise;

/// What the rules found out on their way.
#[derive(Debug)]
pub(super) struct Checked {
    /// Host and port as the client named them: goes to the instance. Empty for HTTP/1.0 without Host.
    pub(super) authority: HeaderValue,
    /// It is what the one Host says.
    pub(super) given: bool,
    /// Lower-case, without port: what routes compare.
    pub(super) host: String,
    /// The path to route on and to forward, where that is not the one in the request's target.
    pub(super) path: Option<String>,
    /// HTTP/2: the length that the head gives the body.
    pub(super) length: Option<u64>,
}

/// Holds a request against the rules.
pub(super) fn check<B>(request: &Request<B>, limits: &Limits) -> Result<Checked, ProxyError> {
    let bad = |why| Err(ProxyError::BadRequest(why));
    let http2 = request.version() == Version::HTTP_2;
    if *request.method() == Method::CONNECT {
        return Err(ProxyError::ConnectRefused);
    }
    let target = request.uri().path_and_query().map_or(0, |pq| pq.as_str().len())
        + request.uri().authority().map_or(0, |a| a.as_str().len());
    if target > MAX_URI {
        return Err(ProxyError::UriTooLong);
    }
    // Over HTTP/1 the reader of heads did this.
    let length = if http2 {
        check_h2(request.headers(), target, limits)?
    } else if limits.max_body.is_some() {
        request.headers().get(CONTENT_LENGTH).map(content_length).transpose()?
    } else {
        None
    };
    let (authority, host, given) = authority(request, http2)?;
    let expect = request.headers().get(EXPECT);
    if expect.is_some_and(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return bad("an expectation other than 100-continue");
    }
    if let (Some(max), Some(length)) = (limits.max_body, length)
        && length > max
    {
        return Err(ProxyError::BodyTooLarge);
    }
    let path = match request.uri().path() {
        "*" if *request.method() == Method::OPTIONS => None,
        path => match normalise(path).map_err(ProxyError::BadRequest)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(resolved) => Some(resolved),
        },
    };
    Ok(Checked { authority, given, host, path, length })
}

fn content_length(value: &HeaderValue) -> Result<u64, ProxyError> {
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.ok_or(ProxyError::BadRequest("a Content-Length that is no number"))
}

/// The limits of a head, and what HTTP/2 forbids and h2 lets through. One look at each field; what it says of
/// the body's length is returned.
fn check_h2(headers: &HeaderMap, target: usize, limits: &Limits) -> Result<Option<u64>, ProxyError> {
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let (mut size, mut wrong, mut length) = (target, None, None);
    for (name, value) in headers {
        size += name.as_str().len() + value.len() + 4;
        let bytes = value.as_bytes();
        if is_space(bytes.first()) || is_space(bytes.last()) {
            wrong = Some("a field value begins or ends with white space");
        } else if *name == CONTENT_LENGTH {
            if length.replace(value).is_some() {
                wrong = Some("more than one Content-Length");
            }
        } else if *name == CONNECTION || *name == TRANSFER_ENCODING {
            wrong = Some("a connection-specific field in HTTP/2");
        }
    }
    if headers.len() > limits.max_headers || size > limits.max_header_size {
        return Err(ProxyError::HeadersTooLarge);
    }
    match wrong {
        Some(why) => Err(ProxyError::BadRequest(why)),
        None => length.map(content_length).transpose(),
    }
}

/// Finds who the request is for: the absolute form's or `:authority`, else Host; and in what spelling
/// routes compare it; and whether it is what Host says.
fn authority<B>(request: &Request<B>, http2: bool) -> Result<(HeaderValue, String, bool), ProxyError> {
    let bad = |why| Err(ProxyError::BadRequest(why));
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return bad("more than one Host");
    }
    let named = request.uri().authority();
    let text = match (named, header) {
        (Some(named), header) => {
            let same =
                |header: &HeaderValue| header.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes());
            if http2 && header.is_some_and(|header| !same(header)) {
                return bad("Host differs from :authority");
            }
            if request.uri().scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
                return bad("a target of a scheme that is not HTTP");
            }
            named.as_str()
        }
        (None, Some(header)) => match header.to_str() {
            Ok(text) => text,
            Err(_) => return bad("a malformed Host"),
        },
        (None, None) if request.version() == Version::HTTP_10 => {
            return Ok((HeaderValue::from_static(""), String::new(), false));
        }
        (None, None) => return bad("no Host"),
    };
    let Some(host) = host_of(text) else { return bad("a malformed Host") };
    let value = match (named, header) {
        (None, Some(header)) => header.clone(),
        _ => HeaderValue::from_str(text).map_err(|_| ProxyError::BadRequest("a malformed Host"))?,
    };
    Ok((value, host.to_ascii_lowercase(), named.is_none()))
}

/// The host within `host:port`, `[v6]:port`; `None` where it is neither. No user info.
fn host_of(text: &str) -> Option<&str> {
    // The parser of URIs takes more than a Host may be, so that it is only the last word on IPv6.
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        text.parse::<Authority>().ok()?;
        text[1..end - 1].parse::<std::net::Ipv6Addr>().ok()?;
        (&text[..end], &text[end..])
    } else {
        let end = text.find(':').unwrap_or(text.len());
        (&text[..end], &text[end..])
    };
    let port_ok = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    let host_ok = host.starts_with('[')
        || !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
    (port_ok && host_ok).then_some(host)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        Limits {
            max_connections: 1,
            max_headers: 100,
            max_header_size: 65536,
            max_body: Some(10),
            max_memory: None,
            idle_timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(1),
        }
    }

    fn run(
        version: Version,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<Checked, &'static str> {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), &limits()).map_err(|error| error.code())
    }

    #[test]
    fn the_host_is_one_and_well_formed() {
        let ok = |uri, headers: &[_], authority: &str, host: &str| {
            let checked = run(Version::HTTP_11, "GET", uri, headers).unwrap();
            assert_eq!((checked.authority.to_str().unwrap(), checked.host.as_str()), (authority, host));
        };
        ok("/", &[("host", "Shop.example:8080")], "Shop.example:8080", "shop.example");
        ok("/", &[("host", "[2001:db8::1]:80")], "[2001:db8::1]:80", "[2001:db8::1]");
        ok("http://abs.example/x", &[("host", "other")], "abs.example", "abs.example");
        for headers in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "")],
            &[("host", "user@a")],
            &[("host", "a b")],
            &[("host", "a:port")],
            &[("host", "a:99999")],
            &[("host", "a/b")],
            &[("host", "[::1")],
            &[("host", "a,b")],
        ] {
            assert_eq!(run(Version::HTTP_11, "GET", "/", headers).unwrap_err(), "bad_request", "{headers:?}");
        }
        assert_eq!(
            run(Version::HTTP_11, "GET", "http://u:p@a/", &[("host", "a")]).unwrap_err(),
            "bad_request"
        );
        assert_eq!(run(Version::HTTP_10, "GET", "/", &[]).unwrap().host, "");
    }

    #[test]
    fn http2_rules_hold() {
        let run = |uri, headers: &[_]| run(Version::HTTP_2, "GET", uri, headers).map(|c| c.host);
        assert_eq!(run("http://a.example/", &[]).unwrap(), "a.example");
        assert_eq!(run("http://a.example/", &[("host", "A.example")]).unwrap(), "a.example");
        assert!(run("http://a.example/", &[("host", "b.example")]).is_err());
        assert!(run("http://a.example/", &[("x", " lead")]).is_err());
        assert!(run("http://a.example/", &[("x", "trail\t")]).is_err());
        assert!(run("http://a.example/", &[("connection", "close")]).is_err());
        assert!(run("http://a.example/", &[("content-length", "1"), ("content-length", "1")]).is_err());
    }

    #[test]
    fn limits_refuse_with_their_codes() {
        let host = ("host", "a");
        let run = |method, uri: &str, headers: &[_]| run(Version::HTTP_11, method, uri, headers).unwrap_err();
        assert_eq!(run("CONNECT", "a:80", &[host]), "bad_request");
        assert_eq!(run("POST", "/", &[host, ("content-length", "11")]), "body_too_large");
        assert_eq!(run("GET", &format!("/{}", "x".repeat(MAX_URI)), &[host]), "uri_too_long");
        assert_eq!(run("GET", "/", &[host, ("expect", "miracles")]), "bad_request");
        assert_eq!(run("GET", "*", &[host]), "bad_request");
    }
}
