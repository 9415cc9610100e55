//! A request that somebody asks about, as a method, a URL and headers.

use std::time::Instant;

use http::uri::Uri;
use http::{HeaderMap, Method, header};

use super::explain::Explanation;
use super::path::normalise;
use super::request::RouteInput;
use super::routing_table::RoutingTable;

/// A request to be explained. Read like one that comes in: host without port and in lower case, dot segments resolved.
#[derive(Debug, Clone)]
pub struct ExplainedRequest {
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl ExplainedRequest {
    /// From a URL with or without scheme and host; a `host` header names the host where the URL does not.
    pub fn new(method: Method, url: &str, headers: HeaderMap) -> Result<Self, String> {
        // A fragment is the client's own affair and is never sent.
        let url = url.split('#').next().unwrap_or_default();
        let accepted = "accepted: http://HOST/PATH?QUERY, or /PATH with a host header";
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}; {accepted}"))?;
        let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = match (uri.host(), named) {
            (Some(host), _) => host,
            (None, Some(authority)) => host_of(authority),
            (None, None) => "",
        };
        let path = match uri.path() {
            "" => "/",
            path => path,
        };
        let path = normalise(path).map_err(|why| format!("{url:?} is refused: {why}"))?.into_owned();
        let query = uri.query().map(str::to_owned);
        Ok(Self { method, host: host.to_ascii_lowercase(), path, query, headers })
    }

    /// What would become of it.
    pub fn explain(&self, table: &RoutingTable, now: Instant) -> Explanation {
        let Self { method, host, path, query, headers } = self;
        table.explain(&RouteInput { method, host, path, query: query.as_deref(), headers }, None, now)
    }
}

/// The host of `host:port`; an IPv6 literal keeps its brackets.
fn host_of(authority: &str) -> &str {
    let after = authority.find(']').map_or(0, |end| end + 1);
    match authority[after..].find(':') {
        Some(colon) => &authority[..after + colon],
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, host: Option<&str>) -> Result<(String, String, Option<String>), String> {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        ExplainedRequest::new(Method::GET, url, headers).map(|r| (r.host, r.path, r.query))
    }

    #[test]
    fn a_url_is_read_like_a_request() {
        let read = |url, host| read(url, host).unwrap();
        let expect = |host: &str, path: &str, query: Option<&str>| {
            (host.to_owned(), path.to_owned(), query.map(str::to_owned))
        };
        assert_eq!(
            read("http://Shop.Example:8080/a/../b?x=1#f", None),
            expect("shop.example", "/b", Some("x=1"))
        );
        assert_eq!(read("http://shop.example", Some("other")), expect("shop.example", "/", None));
        assert_eq!(read("/orders", Some("Shop:80")), expect("shop", "/orders", None));
        assert_eq!(read("/orders", Some("[::1]:80")), expect("[::1]", "/orders", None));
        assert_eq!(read("http://[::1]:80/", None), expect("[::1]", "/", None));
    }

    #[test]
    fn what_would_be_refused_is_refused_here_too() {
        assert!(read("http://h/%2e%2e/x", None).unwrap_err().contains("is refused"));
        assert!(read("ht tp://h", None).unwrap_err().contains("accepted: http://"));
    }
}
