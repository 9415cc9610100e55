//! What routing sees of a request, and how its parts are read.

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode;

/// A request as the matcher sees it.
#[derive(Debug, Clone, Copy)]
pub struct RouteInput<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its host: lower-case, without port.
    pub host: &'a str,
    /// Its path as it stands, without the query.
    pub path: &'a str,
    /// Its query without the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RouteInput<'a> {
    /// The decoded values of a query parameter, in order.
    pub(super) fn query_values(&self, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_query(key).as_ref() == name.as_bytes()).then(|| decode_query(value))
        })
    }

    /// The value of a cookie: the first of that name, as it stands.
    pub(super) fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        let lines = self.headers.get_all(COOKIE).into_iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// Percent escapes, and plus for space. What is no escape stands for itself.
fn decode_query(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode(spaced.as_bytes()).collect())
    } else {
        percent_decode(text.as_bytes()).into()
    }
}

/// A path segment decoded: `None` where it is empty, has a broken escape, is not UTF-8, or holds a slash.
pub(super) fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    if segment.is_empty() || segment.contains('/') {
        return None;
    }
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let is_escape =
        |part: &str| part.as_bytes().get(..2).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit));
    if !segment.split('%').skip(1).all(is_escape) {
        return None;
    }
    let decoded = percent_decode(segment.as_bytes()).decode_utf8().ok()?;
    (!decoded.contains('/')).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_one_decodable_segment_without_a_slash() {
        for (raw, decoded) in [("orders", "orders"), ("a%20b", "a b"), ("%C3%A9", "é"), ("a+b", "a+b")] {
            assert_eq!(decode_segment(raw).as_deref(), Some(decoded));
        }
        for bad in ["", "a%2Fb", "%2f", "a%", "a%2", "a%zz", "%ff", "a/b"] {
            assert_eq!(decode_segment(bad), None, "{bad}");
        }
    }

    #[test]
    fn query_and_cookies_are_found_and_decoded() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; session=x=y ;b".parse().unwrap());
        headers.append(COOKIE, "late=2".parse().unwrap());
        let query = Some("a=1&&b%20c=x+y%2B&flag&a=2&bad=%zz");
        let input = RouteInput { method: &Method::GET, host: "h", path: "/", query, headers: &headers };
        let values = |name| input.query_values(name).map(Cow::into_owned).collect::<Vec<_>>();
        assert_eq!(values("a"), [b"1", b"2"]);
        assert_eq!(values("b c"), [b"x y+"]);
        assert_eq!((values("flag"), values("bad")), (vec![vec![]], vec![b"%zz".to_vec()]));
        assert!(values("c").is_empty());
        assert_eq!(input.cookie("session"), Some(&b"x=y"[..]));
        assert_eq!((input.cookie("late"), input.cookie("b")), (Some(&b"2"[..]), None));
    }
}
