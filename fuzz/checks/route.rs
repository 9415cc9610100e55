//! Routes and requests made of the data: the table finds what a look at every route finds.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::path::Path;

use http::{HeaderMap, HeaderValue, Method};
use zoogate::config::parse;
use zoogate::table::{RouteInput, TableConfig, TableWriter};

/// A capture has the name of its place: no two of a route are alike.
const SEGMENTS: [&str; 5] = ["a", "b", "ab", "{}", "{}"];
const HOSTS: [&str; 8] = ["", "", "a.com", "b.a.com", "*.a.com", "*.b.a.com", "*.com", "com"];
const ASKED_HOSTS: [&str; 7] = ["a.com", "b.a.com", "c.b.a.com", "x.com", "com", ".a.com", ""];
const ASKED_SEGMENTS: [&str; 8] = ["a", "b", "ab", "", "%61", "a%20b", "%2f", "%zz"];
const METHODS: [&[&str]; 4] = [&[], &[], &["GET"], &["GET", "POST"]];
const FIELDS: [&str; 2] = ["x-a", "x-b"];

/// Choices, as long as the data lasts.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) % n
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A route as the check understands it.
struct Rule {
    host: &'static str,
    segments: Vec<&'static str>,
    star: bool,
    methods: &'static [&'static str],
    headers: usize,
    query: bool,
}

struct Request {
    host: &'static str,
    path: String,
    method: &'static str,
    headers: usize,
    query: Option<&'static str>,
}

/// Routes first, then requests.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data.iter());
    let rules: Vec<Rule> = (0..=choices.below(12)).map(|_| rule(&mut choices)).collect();
    let text = text(&rules);
    let plan = parse(&text, Path::new("/nowhere"), |_| None, "routes").expect("nothing is wrong with it");
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(TableConfig::new(&plan, &[]));
    writer.publish();
    let table = reader.load();
    for _ in 0..=choices.below(16) {
        let request = request(&mut choices);
        let headers: HeaderMap = FIELDS
            .iter()
            .take(request.headers)
            .map(|name| (name.parse().expect("a name"), HeaderValue::from_static("1")))
            .collect();
        let method: Method = request.method.parse().expect("a method");
        let input = RouteInput {
            method: &method,
            host: request.host,
            path: &request.path,
            query: request.query,
            headers: &headers,
        };
        let matching = rules.iter().enumerate().filter(|(_, rule)| matches(rule, &request));
        let expected = matching.min_by_key(|(at, rule)| (rank(rule), *at)).map(|(at, _)| format!("r{at}"));
        let found = table.route(&input).map(|matched| matched.route.name.to_string());
        assert_eq!(found, expected, "{input:?}\n{text}");
    }
}

fn rule(choices: &mut Choices<'_>) -> Rule {
    Rule {
        host: choices.of(&HOSTS),
        segments: (0..choices.below(4)).map(|_| choices.of(&SEGMENTS)).collect(),
        star: choices.below(2) == 1,
        methods: choices.of(&METHODS),
        headers: choices.below(3),
        query: choices.below(3) == 1,
    }
}

fn request(choices: &mut Choices<'_>) -> Request {
    let segments: Vec<&str> = (0..choices.below(5)).map(|_| choices.of(&ASKED_SEGMENTS)).collect();
    Request {
        host: choices.of(&ASKED_HOSTS),
        path: format!("/{}", segments.join("/")),
        method: choices.of(&["GET", "POST", "PUT"]),
        headers: choices.below(3),
        query: choices.of(&[None, Some("q=1"), Some("z&r=a+b&q=1"), Some("q=2")]),
    }
}

/// The routes as an operator writes them.
fn text(rules: &[Rule]) -> String {
    let mut text = "[registries.r]\nkind = \"directory\"\npath = \"/r\"\n[services.s]\npath = \"/s\"\n\
        [[listeners]]\nlisten = \"127.0.0.1:1\"\n"
        .to_owned();
    for (at, rule) in rules.iter().enumerate() {
        let star = if rule.star {
            "/*"
        } else if rule.segments.is_empty() {
            "/"
        } else {
            ""
        };
        let path: String = (0..)
            .zip(&rule.segments)
            .map(|(at, s)| format!("/{}", s.replace("{}", &format!("{{c{at}}}"))))
            .collect();
        let _ = writeln!(text, "[[routes]]\nname = \"r{at}\"\nservice = \"s\"\npath = \"{path}{star}\"");
        if !rule.host.is_empty() {
            let _ = writeln!(text, "host = \"{}\"", rule.host);
        }
        if !rule.methods.is_empty() {
            let _ = writeln!(text, "methods = {:?}", rule.methods);
        }
        let fields: Vec<_> = FIELDS.iter().take(rule.headers).map(|name| format!("{name} = \"1\"")).collect();
        if !fields.is_empty() {
            let _ = writeln!(text, "headers = {{ {} }}", fields.join(", "));
        }
        if rule.query {
            text += "query = { q = \"1\" }\n";
        }
    }
    text
}

/// The Gateway API's order: the least is the best.
fn rank(rule: &Rule) -> impl Ord + use<> {
    let host = match rule.host.strip_prefix("*.") {
        None if rule.host.is_empty() => (2, Reverse(0)),
        None => (0, Reverse(0)),
        Some(suffix) => (1, Reverse(suffix.len())),
    };
    let captures: Vec<bool> = rule.segments.iter().map(|segment| segment.starts_with('{')).collect();
    let path = (rule.star, Reverse(rule.segments.len()), captures);
    (host, path, rule.methods.is_empty(), Reverse(rule.headers), !rule.query)
}

fn matches(rule: &Rule, request: &Request) -> bool {
    let host = match rule.host.strip_prefix("*.") {
        None => rule.host.is_empty() || rule.host == request.host,
        Some(suffix) => {
            request.host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
    };
    let method = rule.methods.is_empty() || rule.methods.contains(&request.method);
    let headers = rule.headers <= request.headers;
    let query = !rule.query || request.query.is_some_and(|query| query.contains("q=1"));
    host && method && headers && query && path_matches(rule, &request.path)
}

fn path_matches(rule: &Rule, path: &str) -> bool {
    let asked: Vec<&str> = if path == "/" { Vec::new() } else { path[1..].split('/').collect() };
    let long_enough =
        if rule.star { asked.len() >= rule.segments.len() } else { asked.len() == rule.segments.len() };
    let one = |(pattern, asked): (&&str, &&str)| {
        // Of what is asked here these are no segment's text: nothing, a slash, a broken escape.
        if pattern.starts_with('{') { !["", "%2f", "%zz"].contains(asked) } else { pattern == asked }
    };
    long_enough && rule.segments.iter().zip(&asked).all(one)
}
