//! `[[routes]]`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::gateway::{DAY, INSTANT};
use super::load::rate_limit;
use super::names::{Captures, Known};
use super::nodes;
use super::plan::{BarrierPlan, HostMatch, PathMatch, Rewrite, RoutePlan, WeightedService};
use super::reader::{Node, Table};
use super::retry::retry;
use super::schema;
use super::shard::shard;
use super::units::show_duration;
use crate::model::{InstanceChoice, RetrySpec};

const MAX_WEIGHT: u32 = 1_000_000;

/// Reads every route, in file order. Names given twice are errors; names made here are made unique.
pub(super) fn routes(file: &Table<'_>, known: &Known) -> Vec<RoutePlan> {
    let Some(all) = file.get("routes") else { return Vec::new() };
    let tables: Vec<_> = all
        .list("a list of tables, [[routes]]")
        .iter()
        .filter_map(|node| node.table(&schema::ROUTE))
        .collect();
    let mut names = HashSet::new();
    let mut plans = Vec::new();
    for table in &tables {
        let name = table.get("name").and_then(|node| {
            let name = node.label()?;
            if !names.insert(name.clone()) {
                node.fail(format!(
                    "another route is called {}; accepted: a name of its own for each",
                    node.quoted()
                ));
            }
            Some(name)
        });
        plans.push((name, route(table, known)));
    }
    let mut out = Vec::new();
    for (name, plan) in plans {
        let Some(mut plan) = plan else { continue };
        plan.name = name.unwrap_or_else(|| unused(&match_as_text(&plan), &mut names)).into();
        out.push(plan);
    }
    out
}

/// A route but for its name.
fn route(table: &Table<'_>, known: &Known) -> Option<RoutePlan> {
    const PATH: &str = "a path pattern such as \"/orders/*\"";
    let host = table.get("host").map(|n| n.parse::<HostMatch>("a host pattern", parsed));
    let path: Option<PathMatch> = match table.get("path") {
        Some(node) => node.parse(PATH, parsed),
        None => Some(PathMatch { segments: Vec::new(), prefix: true }),
    };
    let methods = table.or("methods", Vec::new(), |n| Some(methods(n)));
    let headers = table.or("headers", Vec::new(), |n| Some(headers(n)));
    let query = table.or("query", Vec::new(), |n| Some(strings(n)));
    let timeout = table.or("timeout", RoutePlan::DEFAULT_TIMEOUT, |n| n.duration(Duration::ZERO..=DAY));
    let rewrite = table.get("rewrite").map(|node| {
        let rewrite: Rewrite = node.parse("a path such as \"/v2/*\"", parsed)?;
        if matches!(rewrite, Rewrite::Prefix(_)) && path.as_ref().is_some_and(|path| !path.prefix) {
            node.fail(format!("{} has a star, but the route's path has none; accepted: a path without star, or a star in both", node.quoted()));
        }
        Some(rewrite)
    });
    let captures = match (&path, &host) {
        (Some(path), None) => Captures::Of(path, None),
        (Some(path), Some(Some(host))) => Captures::Of(path, Some(host)),
        _ => Captures::Unknown,
    };
    if let (Some(path), Some(Some(HostMatch::Capture { name, .. }))) = (&path, &host)
        && path.captures().any(|capture| capture == &**name)
        && let Some(node) = table.get("host")
    {
        node.fail(format!(
            "{} captures {name}, as the path does; accepted: a name of its own for each capture",
            node.quoted()
        ));
    }
    let shards = table.get("shard").map(|n| shard(&n, known, captures));
    let services = match (&shards, table.get("service").or_else(|| table.get("services"))) {
        (Some(_), None) => Some(Vec::new()),
        (Some(_), Some(node)) => {
            node.fail("stands beside shard, which picks the service; accepted: one of the two");
            None
        }
        (None, _) => services(table, known, captures),
    };
    let choices = InstanceChoice::ALL.iter().map(|choice| (choice.as_str(), *choice)).collect::<Vec<_>>();
    let instances = table.or("instances", InstanceChoice::Any, |n| n.choice(&choices));
    let primary_wait = primary_wait(table, instances, timeout);
    let barrier = barrier(table, known, services.as_deref());
    let retry = table.or("retry", RetrySpec::default(), retry);
    let hedge = table.get("hedge").and_then(|n| n.duration(INSTANT..=DAY));
    let rate = table.get("rate_limit").map(|n| rate_limit(&n, captures));
    Some(RoutePlan {
        name: "".into(),
        host: match host {
            Some(host) => Some(host?),
            None => None,
        },
        path: path?,
        methods,
        headers,
        query,
        services: services?,
        shard: match shards {
            Some(shard) => Some(shard?),
            None => None,
        },
        instances,
        primary_wait,
        retry,
        hedge,
        timeout: (!timeout.is_zero()).then_some(timeout),
        rewrite: match rewrite {
            Some(rewrite) => Some(rewrite?),
            None => None,
        },
        barrier,
        rate: match rate {
            Some(rate) => Some(rate?),
            None => None,
        },
    })
}

fn barrier(table: &Table<'_>, known: &Known, services: Option<&[WeightedService]>) -> Option<BarrierPlan> {
    let wait = table.get("barrier_wait").map(|node| {
        if table.get("barrier").is_none() {
            node.fail(
                "there is no barrier here to wait at; accepted: barrier = \"/maintenance/orders\" beside it",
            );
        }
        node.duration(Duration::ZERO..=DAY)
    });
    let node = table.get("barrier")?;
    // A fault of the services has been told; then it is not known where the node is.
    let likely = nodes::homes(services?, known);
    if likely.is_empty() && !node.is_table() {
        return None;
    }
    let node = nodes::named(&node, &schema::BARRIER, known, &likely)?;
    Some(BarrierPlan { node, wait: wait.flatten() })
}

/// A wait for a primary is one of a route to the primary, and ends before the route's time does.
fn primary_wait(table: &Table<'_>, instances: InstanceChoice, timeout: Duration) -> Duration {
    let Some(node) = table.get("primary_wait") else { return Duration::ZERO };
    let wait = node.duration(Duration::ZERO..=DAY).unwrap_or_default();
    if wait.is_zero() {
        return wait;
    }
    if instances != InstanceChoice::Primary {
        node.fail("waits for a primary, which this route does not ask for; accepted: beside instances = \"primary\"");
    } else if !timeout.is_zero() && wait >= timeout {
        node.fail(format!(
            "is no shorter than the route's timeout; accepted: less than \"{}\"",
            show_duration(timeout)
        ));
    }
    wait
}

fn parsed<T: std::str::FromStr<Err = super::pattern::InvalidPattern>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: super::pattern::InvalidPattern| error.to_string())
}

fn methods(node: &Node<'_>) -> Vec<Method> {
    let method = |node: Node<'_>| {
        node.parse("a method such as \"GET\"", |text| {
            let method = Method::from_bytes(text.as_bytes()).ok();
            let method = method.filter(|_| !text.contains(|c: char| c.is_ascii_lowercase()));
            method.ok_or_else(|| {
                "is no method; accepted: upper-case names such as \"GET\" or \"POST\"".to_owned()
            })
        })
    };
    node.list("a list of methods, such as [\"GET\", \"HEAD\"]").into_iter().filter_map(method).collect()
}

fn headers(node: &Node<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut out: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, name_node, value) in node.entries("a table of header names and values") {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            name_node.fail("is no header name; accepted: letters, digits and -");
            continue;
        };
        if name == http::header::HOST {
            name_node.fail("the host is no header here; accepted: the route's key host");
        }
        if out.iter().any(|(other, _)| *other == name) {
            name_node.fail("stands twice, as case does not count; accepted: each header once");
        }
        let parsed = value.parse("the header's value, as a string", |text| {
            let value = HeaderValue::from_bytes(text.as_bytes()).ok().filter(|_| text.trim() == text);
            let why = "is no header value; accepted: text without control characters or outer spaces";
            value.ok_or_else(|| why.to_owned())
        });
        out.extend(parsed.map(|value| (name, value)));
    }
    out
}

fn strings(node: &Node<'_>) -> Vec<(String, String)> {
    let entries = node.entries("a table of parameter names and values").into_iter();
    entries
        .filter_map(|(name, _, value)| {
            Some((name.to_owned(), value.text("the parameter's value, as a string")?))
        })
        .collect()
}

fn services(table: &Table<'_>, known: &Known, captures: Captures<'_>) -> Option<Vec<WeightedService>> {
    match (table.get("service"), table.get("services")) {
        (Some(node), None) => {
            Some(vec![WeightedService { service: known.resolve(&node, captures)?, weight: 1 }])
        }
        (None, Some(node)) => Some(weighted(&node, known, captures)),
        (Some(_), Some(node)) => {
            node.fail("stands beside service; accepted: one of the two");
            None
        }
        (None, None) => {
            table.missing(
                "service",
                "is missing; accepted: service = \"NAME\", or services = [{ name = \"NAME\", weight = 1 }]",
            );
            None
        }
    }
}

fn weighted(node: &Node<'_>, known: &Known, captures: Captures<'_>) -> Vec<WeightedService> {
    const EXPECTED: &str = "a list of tables, services = [{ name = \"NAME\", weight = 1 }]";
    let nodes = node.list(EXPECTED);
    let before = node.reader.errors.borrow().len();
    let mut out: Vec<WeightedService> = Vec::new();
    for table in nodes.iter().filter_map(|node| node.table(&schema::WEIGHTED)) {
        let weight = table.or("weight", 1, |n| n.integer(0..=MAX_WEIGHT));
        let Some(name) = table.require("name", "the name of a service") else { continue };
        let Some(service) = known.resolve(&name, captures) else { continue };
        if out.iter().any(|other| other.service == service) {
            name.fail("stands twice in this list; accepted: each service once, with its whole weight");
        }
        out.push(WeightedService { service, weight });
    }
    let sound = node.reader.errors.borrow().len() == before;
    if sound && node.is_list() && out.iter().all(|service| service.weight == 0) {
        node.fail(format!("no service here has a weight above 0; accepted: {EXPECTED}"));
    }
    out
}

/// A route's match in one line: `GET,HEAD shop.example.com/orders/*?beta=1 x-canary=true`.
fn match_as_text(plan: &RoutePlan) -> String {
    let mut text = plan.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(",");
    if !text.is_empty() {
        text.push(' ');
    }
    if let Some(host) = &plan.host {
        let _ = write!(text, "{host}");
    }
    let _ = write!(text, "{}", plan.path);
    for (index, (name, value)) in plan.query.iter().enumerate() {
        let _ = write!(text, "{}{name}={value}", if index == 0 { '?' } else { '&' });
    }
    for (name, value) in &plan.headers {
        let _ = write!(text, " {name}={}", String::from_utf8_lossy(value.as_bytes()));
    }
    super::error::one_line(&text)
}

/// The text, with a number behind it where it is taken.
fn unused(text: &str, names: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|n| format!("{text} #{n}"));
    let name = std::iter::once(text.to_owned()).chain(numbered).find(|name| !names.contains(name));
    let name = name.unwrap_or_default();
    names.insert(name.clone());
    name
}
