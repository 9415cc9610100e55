//! `retry` of a route.

use http::{Method, StatusCode};

use super::gateway::{DAY, INSTANT};
use super::reader::Node;
use super::schema;
use crate::model::{MethodSet, RetrySpec, StatusSet};

const MAX_ATTEMPTS: u32 = 10;
const MAX_BUFFER: u64 = 64 << 20;

/// `"off"`, or a table whose keys all have a default.
pub(super) fn retry(node: &Node<'_>) -> Option<RetrySpec> {
    if !node.is_table() {
        return node.parse("\"off\", or a table, retry = { … }", |text| match text {
            "off" => Ok(RetrySpec::OFF),
            _ => Err("is not known; accepted: \"off\", or a table, retry = { attempts = 2 }".to_owned()),
        });
    }
    let table = node.table(&schema::RETRY)?;
    let default = RetrySpec::default();
    let buffer = |n: &Node<'_>| n.size(0..=MAX_BUFFER).and_then(|size| usize::try_from(size).ok());
    let per_try = table.get("per_try_timeout").map(|n| n.duration(INSTANT..=DAY));
    Some(RetrySpec {
        attempts: table.or("attempts", default.attempts, |n| n.integer(0..=MAX_ATTEMPTS)),
        statuses: table.or("statuses", default.statuses, |n| Some(statuses(n))),
        methods: table.or("methods", default.methods, |n| Some(methods(n))),
        per_try_timeout: per_try.flatten(),
        buffer: table.or("buffer", default.buffer, buffer),
    })
}

fn statuses(node: &Node<'_>) -> StatusSet {
    let mut set = StatusSet::NONE;
    for node in node.list("a list of statuses, such as [502, 503, 504]") {
        let code = node.integer(400..=599).and_then(|code| u16::try_from(code).ok());
        if let Some(status) = code.and_then(|code| StatusCode::from_u16(code).ok()) {
            set.insert(status);
        }
    }
    set
}

fn methods(node: &Node<'_>) -> MethodSet {
    let mut set = MethodSet::NONE;
    for node in node.list("a list of methods, such as [\"GET\", \"HEAD\"]") {
        let choices: Vec<(&str, &str)> = MethodSet::all_names().map(|name| (name, name)).collect();
        if let Some(method) = node.choice(&choices).and_then(|name| Method::from_bytes(name.as_bytes()).ok())
        {
            set.insert(&method);
        }
    }
    set
}
