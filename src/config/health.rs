//! `ejection`: what takes an instance out of rotation, and how many. `health_check`: who is asked how he is.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::{Authority, PathAndQuery};

use super::gateway::DAY;
use super::plan::{CheckKind, CheckPlan, EjectionPlan, HealthCheck};
use super::reader::{Node, Table};
use super::schema;

const STATUSES: &str = "a list of statuses from 400 to 599, such as [502, 503, 504]";

/// Reads `ejection`: `Some(None)` where it is off.
#[expect(clippy::option_option, reason = "off and not sound are two things")]
pub(super) fn ejection(node: &Node<'_>) -> Option<Option<Arc<EjectionPlan>>> {
    if !node.is_table() {
        return node.choice(&[("off", ())]).map(|()| None);
    }
    let table = node.table(&schema::EJECTION)?;
    let default = EjectionPlan::default();
    let share = |n: &Node<'_>| n.number(0.0..=1.0);
    Some(Some(Arc::new(EjectionPlan {
        failures: table.or("failures", default.failures, |n| n.integer(1..=1000)),
        statuses: table.or("statuses", default.statuses, |n| statuses(n, 400..=599, STATUSES)),
        max_ejected: table.or("max_ejected", default.max_ejected, share),
        panic_threshold: table.or("panic_threshold", default.panic_threshold, share),
    })))
}

/// Reads `health_check`.
pub(super) fn health_check(node: &Node<'_>) -> Option<HealthCheck> {
    if !node.is_table() {
        return node.choice(&[("off", ())]).map(|()| HealthCheck::Off);
    }
    let table = node.table(&schema::HEALTH_CHECK)?;
    let kind = table.require("kind", "one of http, tcp, grpc")?;
    let kind = kind.choice(&[("http", "http"), ("tcp", "tcp"), ("grpc", "grpc")])?;
    for (key, of) in [("path", "http"), ("host", "http"), ("statuses", "http"), ("service", "grpc")] {
        if let Some(node) = table.get(key).filter(|_| kind != of) {
            node.fail(format!("a {kind} check does not ask for this; accepted: with kind = \"{of}\""));
        }
    }
    let default = CheckPlan::default();
    let times = |n: &Node<'_>| n.integer(1..=100);
    let port = |n: &Node<'_>| n.integer(1..=65535).and_then(|port| u16::try_from(port).ok()).map(Some);
    Some(HealthCheck::All(Arc::new(CheckPlan {
        kind: match kind {
            "http" => http_check(&table),
            "grpc" => {
                CheckKind::Grpc { service: table.or("service", "".into(), |n| n.text(GRPC).map(Into::into)) }
            }
            _ => CheckKind::Tcp,
        },
        port: table.or("port", default.port, port),
        interval: table.or("interval", default.interval, |n| n.duration(Duration::from_millis(100)..=DAY)),
        timeout: table.or("timeout", default.timeout, |n| {
            n.duration(Duration::from_millis(10)..=Duration::from_secs(300))
        }),
        unhealthy: table.or("unhealthy", default.unhealthy, times),
        healthy: table.or("healthy", default.healthy, times),
    })))
}

const GRPC: &str = "the name of a gRPC service, such as \"shop.Orders\"";
const TARGET: &str = "a path, with a query where there is one, such as \"/healthz\"";
const HOST: &str = "a host, such as \"orders.internal\"";
const WELL: &str = "a list of statuses from 200 to 599, such as [200, 204]";

fn http_check(table: &Table<'_>) -> CheckKind {
    let path = |n: &Node<'_>| {
        n.parse(TARGET, |text| match text.parse::<PathAndQuery>() {
            Ok(_) if text.starts_with('/') => Ok(text.into()),
            _ => Err(format!("is no path; accepted: {TARGET}")),
        })
    };
    let host = |n: &Node<'_>| {
        n.parse(HOST, |text| match text.parse::<Authority>() {
            Ok(_) if !text.contains('@') => Ok(Some(text.into())),
            _ => Err(format!("is no host; accepted: {HOST}")),
        })
    };
    CheckKind::Http {
        path: table.or("path", "/".into(), path),
        host: table.or("host", None, host),
        statuses: table.or("statuses", Box::default(), |n| statuses(n, 200..=599, WELL)),
    }
}

fn statuses(
    node: &Node<'_>,
    range: std::ops::RangeInclusive<u32>,
    expected: &str,
) -> Option<Box<[StatusCode]>> {
    if !node.is_list() {
        node.list(expected);
        return None;
    }
    let status = |n: &Node<'_>| StatusCode::from_u16(u16::try_from(n.integer(range.clone())?).ok()?).ok();
    node.list(expected).iter().map(status).collect()
}
