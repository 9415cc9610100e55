//! How much is let through: the limits of a service, and the rate limit of a route.

use std::time::Duration;

use super::gateway::{DAY, INSTANT};
use super::names::Captures;
use super::plan::{LoadLimits, QueuePlan, RatePlan};
use super::reader::{Node, Table};
use super::schema;
use super::shard::route_key;
use crate::model::Protocol;

const MOST_REQUESTS: u32 = 1_000_000;
const MOST_WAITING: u32 = 100_000;

/// The keys of a service or catalog; `None` where no limit is set.
pub(super) fn load(table: &Table<'_>, protocol: Option<Protocol>) -> Option<LoadLimits> {
    let count = |key| table.get(key).map(|n| n.integer(1..=MOST_REQUESTS));
    let (max, each) = (count("max_requests"), count("max_requests_per_instance"));
    let adaptive = table.or("adaptive", false, Node::flag);
    if let Some(node) = table.get("adaptive").filter(|_| adaptive && protocol == Some(Protocol::Tcp)) {
        node.fail(
            "follows the latency of answers, of which protocol \"tcp\" has none; accepted: max_requests",
        );
    }
    let limited = max.is_some() || each.is_some() || adaptive;
    let queue = table.or("queue", QueuePlan::default(), queue);
    if let Some(node) = table.get("queue") {
        if protocol == Some(Protocol::Tcp) {
            node.fail("holds requests, of which protocol \"tcp\" has none; accepted: nothing here");
        } else if !limited {
            node.fail("has no limit to wait for; accepted: beside max_requests, max_requests_per_instance or adaptive");
        }
    }
    limited.then(|| LoadLimits {
        max_requests: max.flatten(),
        max_requests_per_instance: each.flatten(),
        adaptive,
        queue,
    })
}

fn queue(node: &Node<'_>) -> Option<QueuePlan> {
    let default = QueuePlan::default();
    let table = node.table(&schema::QUEUE)?;
    Some(QueuePlan {
        length: table.or("length", default.length, |n| n.integer(0..=MOST_WAITING)),
        timeout: table.or("timeout", default.timeout, |n| n.duration(INSTANT..=Duration::from_secs(60))),
    })
}

/// `rate_limit` of a route.
pub(super) fn rate_limit(node: &Node<'_>, captures: Captures<'_>) -> Option<RatePlan> {
    let table = node.table(&schema::RATE_LIMIT)?;
    let rate = table
        .require("rate", "requests in each `per`, a whole number from 1")
        .map(|n| n.integer(1..=MOST_REQUESTS));
    let per = table.or("per", RatePlan::DEFAULT_PER, |n| n.duration(INSTANT..=DAY));
    let burst = table.get("burst").map(|n| n.integer(1..=MOST_REQUESTS));
    let key = table.get("key").map(|n| route_key(&n, captures));
    let rate = rate??;
    if per.as_nanos() < u128::from(rate) {
        table.node().fail("is more than one request a nanosecond; accepted: a lower rate or a longer per");
        return None;
    }
    Some(RatePlan {
        rate,
        per,
        burst: match burst {
            Some(burst) => burst?,
            None => rate,
        },
        key: match key {
            Some(key) => Some(key?),
            None => None,
        },
    })
}
