//! Finding the route of a request: hosts in a hash map, paths in a trie, no scan over all routes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::{HostMatch, NodePlan, RoutePlan, Segment};

use super::gate::Gate;
use super::rate::Rate;
use super::request::{RouteInput, decode_segment};
use super::route::{Route, next_segment, remainder};

/// All routes, in order of precedence and as an index.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    routes: Vec<Arc<Route>>,
    exact: HashMap<Box<str>, Node>,
    /// By what follows a captured label.
    captured: HashMap<Box<str>, Node>,
    /// By the suffix after `*.`.
    wildcard: HashMap<Box<str>, Node>,
    any: Node,
}

/// A place in the paths: what its patterns share up to here.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    capture: Option<Box<Node>>,
    /// Routes whose path ends here, by rank.
    exact: Vec<u32>,
    /// Routes whose star stands here, by rank.
    prefix: Vec<u32>,
}

impl Matcher {
    #[cfg(test)]
    pub(super) fn new(plans: Vec<RoutePlan>) -> Self {
        Self::gated(plans, &HashMap::new(), &Self::default())
    }

    /// The routes of these plans, each with the gate of its barrier. What the routes before have counted for a
    /// rate limit goes on where the limit is the same.
    pub(super) fn gated(plans: Vec<RoutePlan>, gates: &HashMap<NodePlan, Arc<Gate>>, before: &Self) -> Self {
        let rates: HashMap<&str, &Arc<Rate>> =
            before.routes.iter().filter_map(|route| Some((&*route.name, route.rate.as_ref()?))).collect();
        let route = |plan: RoutePlan| {
            let barrier = plan.barrier.as_ref();
            let gate = barrier.and_then(|b| Some((Arc::clone(gates.get(&b.node)?), b.wait)));
            let kept = rates.get(&*plan.name).filter(|rate| plan.rate.as_ref() == Some(rate.plan()));
            let kept = kept.map(|rate| Arc::clone(rate));
            let route = Route::from(plan);
            Arc::new(Route { gate, rate: kept.or(route.rate.clone()), ..route })
        };
        let mut routes: Vec<Arc<Route>> = plans.into_iter().map(route).collect();
        // Stable: what ranks the same stays in file order.
        routes.sort_by_cached_key(|route| route.rank());
        let mut matcher = Self { routes, ..Self::default() };
        for (rank, route) in (0..).zip(&matcher.routes) {
            let root = match &route.host {
                None => &mut matcher.any,
                Some(HostMatch::Exact(host)) => matcher.exact.entry(host.clone()).or_default(),
                Some(HostMatch::Capture { suffix, .. }) => {
                    matcher.captured.entry(suffix.clone()).or_default()
                }
                Some(HostMatch::Wildcard(suffix)) => matcher.wildcard.entry(suffix.clone()).or_default(),
            };
            let node = route.path.segments.iter().fold(root, |node, segment| match segment {
                Segment::Literal(literal) => node.literals.entry(literal.clone()).or_default(),
                Segment::Capture(_) => node.capture.get_or_insert_default(),
            });
            if route.path.prefix { &mut node.prefix } else { &mut node.exact }.push(rank);
        }
        matcher
    }

    pub(super) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The best route that matches.
    pub(super) fn find(&self, input: &RouteInput<'_>) -> Option<&Arc<Route>> {
        let exact = self.exact.get(input.host).into_iter();
        let suffixes = input.host.match_indices('.').filter(|(dot, _)| *dot > 0);
        // From left to right: the longest suffix comes first.
        let wildcard = suffixes.filter_map(|(dot, _)| self.wildcard.get(&input.host[dot + 1..]));
        let wildcard = wildcard.take(if self.wildcard.is_empty() { 0 } else { usize::MAX });
        // No wildcard has a longer suffix than what follows the first label.
        let captured = if self.captured.is_empty() { None } else { input.host.split_once('.') };
        let captured = captured.filter(|(label, _)| !label.is_empty());
        let captured = captured.and_then(|(_, suffix)| self.captured.get(suffix));
        // A better host wins whatever the path says, so that the first find is the best.
        exact.chain(captured).chain(wildcard).chain([&self.any]).find_map(|root| self.search(root, input))
    }

    fn search(&self, root: &Node, input: &RouteInput<'_>) -> Option<&Arc<Route>> {
        let mut best = u32::MAX;
        self.descend(root, remainder(input.path), input, &mut best);
        self.routes.get(best as usize)
    }

    /// Looks for a rank below `best` at this node and below. As deep as the longest pattern at most.
    fn descend(&self, node: &Node, rest: &str, input: &RouteInput<'_>, best: &mut u32) {
        if rest.is_empty() && input.path.starts_with('/') {
            self.consider(&node.exact, input, best);
        }
        if let Some((segment, after)) = next_segment(rest) {
            if let Some(next) = node.literals.get(segment) {
                self.descend(next, after, input, best);
            }
            if let Some(next) = &node.capture
                && decode_segment(segment).is_some()
            {
                self.descend(next, after, input, best);
            }
        }
        self.consider(&node.prefix, input, best);
    }

    fn consider(&self, ranks: &[u32], input: &RouteInput<'_>, best: &mut u32) {
        let better = ranks.iter().take_while(|rank| **rank < *best);
        let matches = |rank: &&u32| self.routes[**rank as usize].condition_mismatch(input).is_none();
        if let Some(rank) = { better }.find(matches) {
            *best = *rank;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::super::testing::{input, route};
    use super::*;

    fn names(matcher: &Matcher) -> Vec<&str> {
        matcher.routes().iter().map(|r| &*r.name).collect()
    }

    fn found(matcher: &Matcher, method: &str, host: &str, path: &str) -> Option<String> {
        input(method, host, path, |input| matcher.find(input).map(|r| r.name.to_string()))
    }

    fn host(text: &str) -> HostMatch {
        if let Some(suffix) = text.strip_prefix("{h}.") {
            return HostMatch::Capture { name: "h".into(), suffix: suffix.into() };
        }
        match text.strip_prefix("*.") {
            Some(suffix) => HostMatch::Wildcard(suffix.into()),
            None => HostMatch::Exact(text.into()),
        }
    }

    fn named(name: &str, plan: RoutePlan) -> RoutePlan {
        RoutePlan { name: name.into(), ..plan }
    }

    #[test]
    fn precedence_is_the_gateway_apis() {
        let header = |n| (http::HeaderName::from_static(n), http::HeaderValue::from_static("1"));
        let param = |n: &str| (n.to_owned(), "1".to_owned());
        let with_host = |h, path| RoutePlan { host: Some(host(h)), ..route(path) };
        let order = vec![
            named("exact host", with_host("a.b.com", "/*")),
            named("captured label", with_host("{h}.b.com", "/*")),
            named("longer wildcard", with_host("*.b.com", "/*")),
            named("shorter wildcard", with_host("*.com", "/a/b/c")),
            named("exact path", route("/a/b/c")),
            named("exact path with a capture", route("/a/{x}/c")),
            named("exact path with a capture before", route("/{x}/b/c")),
            named("long prefix", route("/a/b/*")),
            named("long prefix with a capture", route("/a/{x}/*")),
            named("method", RoutePlan { methods: vec![Method::GET], ..route("/a/*") }),
            named("headers", RoutePlan { headers: vec![header("x"), header("y")], ..route("/a/*") }),
            named(
                "header and query",
                RoutePlan { headers: vec![header("x")], query: vec![param("q")], ..route("/a/*") },
            ),
            named("header", RoutePlan { headers: vec![header("y")], ..route("/a/*") }),
            named("query", RoutePlan { query: vec![param("q"), param("r")], ..route("/a/*") }),
            named("first in the file", route("/a/*")),
            named("second in the file", route("/a/*")),
            named("capture", route("/{x}/*")),
            named("everything", route("/*")),
        ];
        let expected: Vec<String> = order.iter().map(|r| r.name.to_string()).collect();
        for seed in 0..50 {
            let mut shuffled = order[..14].iter().chain(&order[16..]).cloned().collect::<Vec<_>>();
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            shuffled.extend_from_slice(&order[14..16]);
            assert_eq!(names(&Matcher::new(shuffled)), expected, "seed {seed}");
        }
    }

    #[test]
    fn a_better_host_wins_and_a_worse_one_serves_what_it_leaves() {
        let matcher = Matcher::new(vec![
            named("exact", RoutePlan { host: Some(host("shop.example.com")), ..route("/cart/*") }),
            named("sub", RoutePlan { host: Some(host("*.example.com")), ..route("/*") }),
            named("subsub", RoutePlan { host: Some(host("*.eu.example.com")), ..route("/x") }),
            named("any", route("/cart/special")),
        ]);
        let get = |host, path| found(&matcher, "GET", host, path);
        assert_eq!(get("shop.example.com", "/cart/special").as_deref(), Some("exact"));
        assert_eq!(get("shop.example.com", "/other").as_deref(), Some("sub"));
        assert_eq!(get("a.eu.example.com", "/x").as_deref(), Some("subsub"));
        assert_eq!(get("a.eu.example.com", "/y").as_deref(), Some("sub"));
        assert_eq!(get("example.com", "/cart/special").as_deref(), Some("any"));
        assert_eq!(get("example.com", "/"), None);
    }

    #[test]
    fn a_route_that_fails_on_a_condition_leaves_the_request_to_the_next() {
        let matcher = Matcher::new(vec![
            named("read", RoutePlan { methods: vec![Method::GET, Method::HEAD], ..route("/a/b/*") }),
            named("rest", route("/a/*")),
        ]);
        assert_eq!(found(&matcher, "HEAD", "h", "/a/b").as_deref(), Some("read"));
        assert_eq!(found(&matcher, "POST", "h", "/a/b").as_deref(), Some("rest"));
    }

    fn any_route() -> impl Strategy<Value = RoutePlan> {
        let segment = prop::sample::select(vec!["a", "b", "c", "{x}", "{y}"]);
        let hosts =
            prop::sample::select(vec!["", "a.com", "b.a.com", "*.a.com", "*.com", "{h}.a.com", "{h}.com"]);
        let methods = prop::sample::select(vec![vec![], vec![Method::GET], vec![Method::GET, Method::POST]]);
        (prop::collection::vec(segment, 0..4), any::<bool>(), hosts, methods, 0usize..3, 0usize..3).prop_map(
            |(segments, star, hosts, methods, headers, query)| {
                let pattern = format!("/{}{}", segments.join("/"), if star { "/*" } else { "" });
                let header = |n| (http::HeaderName::from_static(n), http::HeaderValue::from_static("1"));
                RoutePlan {
                    host: (!hosts.is_empty()).then(|| host(hosts)),
                    methods,
                    headers: ["x", "y"].into_iter().take(headers).map(header).collect(),
                    query: [("q", "1"), ("r", "a b")]
                        .iter()
                        .take(query)
                        .map(|(k, v)| ((*k).into(), (*v).into()))
                        .collect(),
                    ..route(&pattern.replace("//", "/"))
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn the_index_finds_what_a_scan_in_order_finds(
            mut plans in prop::collection::vec(any_route(), 1..25),
            requests in prop::collection::vec((
                prop::sample::select(vec!["a.com", "b.a.com", "c.b.a.com", "x.com", "com", ".a.com"]),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "", "%61", "%2F", "%"]), 0..5),
                prop::sample::select(vec!["GET", "POST", "PUT"]), 0usize..3, 0usize..3), 20)
        ) {
            for (i, plan) in plans.iter_mut().enumerate() {
                plan.name = i.to_string().into();
            }
            let matcher = Matcher::new(plans);
            for (host, segments, method, headers, query) in requests {
                let mut map = http::HeaderMap::new();
                for name in ["x", "y"].into_iter().take(headers) {
                    map.insert(name, http::HeaderValue::from_static("1"));
                }
                let path = format!("/{}", segments.join("/"));
                let query = [None, Some("q=1"), Some("z&r=a+b&q=1")][query];
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let input = RouteInput { method: &method, host, path: &path, query, headers: &map };
                let scanned = matcher.routes().iter().find(|r| r.mismatch(&input).is_none());
                prop_assert_eq!(matcher.find(&input).map(|r| &r.name), scanned.map(|r| &r.name), "{:?}", input);
            }
        }
    }
}
