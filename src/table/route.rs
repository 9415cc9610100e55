//! One route: what it matches, how it ranks among the others, what it makes of a path.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use crate::config::plan::{HostMatch, PathMatch, Rewrite, RoutePlan, Segment, ShardPlan, WeightedService};
use crate::model::{InstanceChoice, RetrySpec};

use super::gate::Gate;
use super::rate::Rate;
use super::request::{RouteInput, decode_segment};

/// A route, checked and ready.
#[derive(Debug)]
pub struct Route {
    /// Its name, or its match as text.
    pub name: Arc<str>,
    /// Host to match; `None`: any.
    pub host: Option<HostMatch>,
    /// Path to match.
    pub path: PathMatch,
    /// Methods to match; empty: any.
    pub methods: Vec<Method>,
    /// Headers that must have this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters that must have this value, decoded.
    pub query: Vec<(String, String)>,
    /// Who answers.
    pub services: Vec<WeightedService>,
    /// Until the answer's head.
    pub timeout: Option<Duration>,
    /// What becomes of the path.
    pub rewrite: Option<Rewrite>,
    /// What holds its requests back, and for how long at the most.
    pub gate: Option<(Arc<Gate>, Option<Duration>)>,
    /// A key picks the service.
    pub shard: Option<ShardPlan>,
    /// Which of the service's instances.
    pub instances: InstanceChoice,
    /// How long a request waits for a primary.
    pub primary_wait: Duration,
    /// When a request that was sent goes out again.
    pub retry: RetrySpec,
    /// After how long a second instance is asked as well.
    pub hedge: Option<Duration>,
    /// How many requests it takes.
    pub rate: Option<Arc<Rate>>,
    /// Sum of the services' weights.
    pub(super) total_weight: u64,
}

/// Why a route does not match a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The host is another.
    Host,
    /// The path is another.
    Path,
    /// The method is none of the route's.
    Method,
    /// A header is missing or has another value.
    Header(HeaderName),
    /// A query parameter is missing or has another value.
    Query(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host differs"),
            Self::Path => f.write_str("the path differs"),
            Self::Method => f.write_str("the method differs"),
            Self::Header(name) => write!(f, "header {name} is missing or differs"),
            Self::Query(name) => write!(f, "query parameter {name:?} is missing or differs"),
        }
    }
}

/// Captured path segments, decoded, in the order of the route's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captures(Vec<(Box<str>, String)>);

impl Captures {
    /// The segment captured under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| **key == *name).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, value.as_str()))
    }
}

impl From<RoutePlan> for Route {
    fn from(plan: RoutePlan) -> Self {
        let RoutePlan {
            name,
            host,
            mut path,
            methods,
            headers,
            query,
            services,
            timeout,
            rewrite,
            barrier: _,
            shard,
            instances,
            primary_wait,
            retry,
            hedge,
            rate,
        } = plan;
        // `/` has no segments, however it was split.
        if matches!(&path.segments[..], [Segment::Literal(only)] if only.is_empty()) {
            path.segments.clear();
        }
        let total_weight = services.iter().map(|s| u64::from(s.weight)).sum();
        Self {
            name,
            host,
            path,
            methods,
            headers,
            query,
            services,
            timeout,
            rewrite,
            gate: None,
            shard,
            instances,
            primary_wait,
            retry,
            hedge,
            rate: rate.map(|plan| Arc::new(Rate::new(plan))),
            total_weight,
        }
    }
}

impl Route {
    /// Where it stands among the others: the least of those that match wins; then file order decides.
    ///
    /// This is the Gateway API's order for an `HTTPRoute`.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Some(HostMatch::Exact(_)) => (0, Reverse(0), 0),
            // One label is less than one or more: before the star, and behind no longer suffix.
            Some(HostMatch::Capture { suffix, .. }) => (1, Reverse(suffix.len()), 0),
            Some(HostMatch::Wildcard(suffix)) => (1, Reverse(suffix.len()), 1),
            None => (2, Reverse(0), 0),
        };
        let is_capture = |s: &Segment| matches!(s, Segment::Capture(_));
        let captures: Vec<bool> = self.path.segments.iter().map(is_capture).collect();
        let path = (self.path.prefix, Reverse(captures.len()), captures);
        let counts = (self.methods.is_empty(), Reverse(self.headers.len()), Reverse(self.query.len()));
        (host, path, counts)
    }

    /// Why it does not match: `None` where it does.
    pub fn mismatch(&self, input: &RouteInput<'_>) -> Option<Mismatch> {
        if !self.host_matches(input.host) {
            return Some(Mismatch::Host);
        }
        if !self.path_matches(input.path) {
            return Some(Mismatch::Path);
        }
        self.condition_mismatch(input)
    }

    fn host_matches(&self, host: &str) -> bool {
        match &self.host {
            None => true,
            Some(HostMatch::Exact(exact)) => **exact == *host,
            Some(HostMatch::Capture { suffix, .. }) => label_before(host, suffix).is_some(),
            Some(HostMatch::Wildcard(suffix)) => {
                let labels = host.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.'));
                labels.is_some_and(|labels| !labels.is_empty())
            }
        }
    }

    fn path_matches(&self, path: &str) -> bool {
        let mut rest = remainder(path);
        for pattern in &self.path.segments {
            let Some((segment, after)) = next_segment(rest) else { return false };
            let matches = match pattern {
                Segment::Literal(literal) => **literal == *segment,
                Segment::Capture(_) => decode_segment(segment).is_some(),
            };
            if !matches {
                return false;
            }
            rest = after;
        }
        self.path.prefix || (rest.is_empty() && path.starts_with('/'))
    }

    /// Method, headers and query; the host and the path match.
    pub(super) fn condition_mismatch(&self, input: &RouteInput<'_>) -> Option<Mismatch> {
        if !self.methods.is_empty() && !self.methods.contains(input.method) {
            return Some(Mismatch::Method);
        }
        let has = |(name, value): &&(HeaderName, HeaderValue)| {
            input.headers.get_all(name).iter().any(|v| v == value)
        };
        if let Some((name, _)) = self.headers.iter().find(|header| !has(header)) {
            return Some(Mismatch::Header(name.clone()));
        }
        let has = |(name, value): &&(String, String)| {
            input.query_values(name).any(|found| *found == *value.as_bytes())
        };
        let (name, _) = self.query.iter().find(|param| !has(param))?;
        Some(Mismatch::Query(name.clone()))
    }

    /// The captures of a path that matches.
    pub(super) fn captures(&self, path: &str) -> Captures {
        if !self.path.segments.iter().any(|s| matches!(s, Segment::Capture(_))) {
            return Captures::default();
        }
        let segments = std::iter::successors(next_segment(remainder(path)), |(_, after)| next_segment(after));
        let pairs = self.path.segments.iter().zip(segments.map(|(segment, _)| segment));
        let captured = pairs.filter_map(|(pattern, segment)| match pattern {
            Segment::Capture(name) => Some((name.clone(), decode_segment(segment)?.into_owned())),
            Segment::Literal(_) => None,
        });
        Captures(captured.collect())
    }

    /// The captures of a host and a path that match.
    pub(super) fn captures_of(&self, host: &str, path: &str) -> Captures {
        let mut captures = self.captures(path);
        if let Some(HostMatch::Capture { name, suffix }) = &self.host
            && let Some(label) = label_before(host, suffix)
        {
            captures.0.push((name.clone(), label.to_owned()));
        }
        captures
    }

    /// The path as it goes to the instance; `path` is one that matches.
    pub fn forward_path<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match &self.rewrite {
            None => Cow::Borrowed(path),
            Some(Rewrite::Exact(exact)) => Cow::Owned(exact.to_string()),
            Some(Rewrite::Prefix(prefix)) => {
                let step = |rest, _: &Segment| next_segment(rest).map_or("", |(_, after)| after);
                let rest = self.path.segments.iter().fold(remainder(path), step);
                match (&**prefix, rest) {
                    ("", "") => Cow::Borrowed("/"),
                    ("", rest) => Cow::Borrowed(rest),
                    (prefix, rest) => Cow::Owned(format!("{prefix}{rest}")),
                }
            }
        }
    }
}

/// The one label that stands before a suffix.
fn label_before<'h>(host: &'h str, suffix: &str) -> Option<&'h str> {
    let label = host.strip_suffix(suffix)?.strip_suffix('.')?;
    (!label.is_empty() && !label.contains('.')).then_some(label)
}

/// A path without what says nothing: `/` has no segments, nor has `*`.
pub(super) fn remainder(path: &str) -> &str {
    if path == "/" || !path.starts_with('/') { "" } else { path }
}

/// The first segment of `/a/b`, and `/b`. None of nothing; `/` is one empty segment.
pub(super) fn next_segment(rest: &str) -> Option<(&str, &str)> {
    let rest = rest.strip_prefix('/')?;
    Some(rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{input, route};
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let route = Route::from(route(pattern));
        input("GET", "h", path, |input| route.mismatch(input).is_none())
    }

    #[test]
    fn a_star_matches_the_path_and_everything_below_but_no_longer_word() {
        for path in ["/orders", "/orders/", "/orders/1", "/orders/1/x", "/orders//"] {
            assert!(matches("/orders/*", path), "{path}");
        }
        for path in ["/ordersX", "/", "/order", "/Orders", "//orders", "*", "/%6frders"] {
            assert!(!matches("/orders/*", path), "{path}");
        }
        assert!(matches("/orders", "/orders") && !matches("/orders", "/orders/"));
        assert!(matches("/*", "/") && matches("/*", "/a/b") && matches("/*", "*"));
        assert!(matches("/", "/") && !matches("/", "/a") && !matches("/", "//") && !matches("/", "*"));
    }

    #[test]
    fn a_capture_takes_one_decodable_segment() {
        assert!(matches("/apps/{s}/*", "/apps/a%20b/c") && matches("/apps/{s}", "/apps/a"));
        for path in ["/apps", "/apps/", "/apps//x", "/apps/a%2fb", "/apps/%zz"] {
            assert!(!matches("/apps/{s}/*", path), "{path}");
        }
        let route = Route::from(route("/{a}/x/{b}/*"));
        let captures = route.captures("/1/x/%C3%A9/rest");
        assert_eq!(captures.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "é")]);
        assert_eq!(captures.get("c"), None);
    }

    #[test]
    fn hosts_match_exactly_or_by_whole_labels() {
        let with = |host| Route::from(RoutePlan { host: Some(host), ..route("/*") });
        let wild = with(HostMatch::Wildcard("example.com".into()));
        for (host, expected) in [
            ("a.example.com", true),
            ("b.a.example.com", true),
            ("example.com", false),
            ("aexample.com", false),
            (".example.com", false),
        ] {
            assert_eq!(wild.host_matches(host), expected, "{host}");
        }
        let one = with(HostMatch::Capture { name: "s".into(), suffix: "internal".into() });
        for (host, label) in [
            ("shop.internal", Some("shop")),
            ("a.shop.internal", None),
            (".internal", None),
            ("internal", None),
            ("shop.internal.", None),
        ] {
            assert_eq!(one.host_matches(host), label.is_some(), "{host}");
            assert_eq!(one.captures_of(host, "/").get("s"), label, "{host}");
        }
        let exact = with(HostMatch::Exact("example.com".into()));
        assert!(exact.host_matches("example.com") && !exact.host_matches("a.example.com"));
    }

    #[test]
    fn a_rewrite_replaces_what_stands_before_the_star() {
        let rewritten = |pattern: &str, rewrite: &Rewrite, path: &str| {
            let route = Route::from(RoutePlan { rewrite: Some(rewrite.clone()), ..route(pattern) });
            route.forward_path(path).into_owned()
        };
        let strip = Rewrite::Prefix("".into());
        for (path, expected) in
            [("/apps/o/x/y", "/x/y"), ("/apps/o", "/"), ("/apps/o/", "/"), ("/apps/o//x%2F", "//x%2F")]
        {
            assert_eq!(rewritten("/apps/{s}/*", &strip, path), expected, "{path}");
        }
        let v2 = Rewrite::Prefix("/v2".into());
        for (path, expected) in [("/api", "/v2"), ("/api/", "/v2/"), ("/api/x", "/v2/x")] {
            assert_eq!(rewritten("/api/*", &v2, path), expected, "{path}");
        }
        assert_eq!(rewritten("/*", &v2, "/"), "/v2");
        assert_eq!(rewritten("/*", &v2, "/x"), "/v2/x");
        assert_eq!(rewritten("/old", &Rewrite::Exact("/new".into()), "/old"), "/new");
        assert_eq!(Route::from(route("/*")).forward_path("/a"), "/a");
    }
}
