//! `[gateway]`, `[log]`, `[admin]` and `[limits]`.

use std::time::Duration;

use super::names::Known;
use super::network::parse_listen;
use super::plan::{AccessLog, AdminPlan, FleetPlan, GatewayPlan, Limits, LogLevel, LogPlan};
use super::reader::{Node, Table};
use super::schema::{self, Section};
use super::services;
use crate::model::RegistryName;

/// Longer waits are slips.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest time that is one.
pub(super) const INSTANT: Duration = Duration::from_millis(1);

fn section<'a>(file: &Table<'a>, key: &'static str, section: &'static Section) -> Option<Table<'a>> {
    file.get(key)?.table(section)
}

/// After the registries: a gateway may register itself in one of them.
pub(super) fn gateway(file: &Table<'_>, known: &Known) -> GatewayPlan {
    let default = GatewayPlan::default();
    let Some(table) = section(file, "gateway", &schema::GATEWAY) else { return default };
    GatewayPlan {
        workers: table.or("workers", default.workers, |n| n.integer(1..=1024).map(|n| n as usize)),
        drain_timeout: table.or("drain_timeout", default.drain_timeout, |n| n.duration(Duration::ZERO..=DAY)),
        drain_delay: table.or("drain_delay", default.drain_delay, |n| n.duration(Duration::ZERO..=DAY)),
        access_log: table.or("access_log", default.access_log, access_log),
        event_log: table.get("event_log").and_then(|n| place(&n, "a file")),
        handover: table.get("handover").and_then(|n| place(&n, "the path of a Unix socket")),
        event_log_size: table.or("event_log_size", default.event_log_size, |n| n.size(1 << 16..=1 << 40)),
        // Read when the registries are known.
        drain_lock: None,
        drain_lock_timeout: table
            .or("drain_lock_timeout", default.drain_lock_timeout, |n| n.duration(Duration::ZERO..=DAY)),
        id: table.or("id", default.id, |n| id(n).map(Some)),
        register: table.or("register", default.register, |n| register(n, known).map(Some)),
        zone: table.get("zone").and_then(|n| n.label()).map(Into::into),
    }
}

/// A node's name.
fn id(node: &Node<'_>) -> Option<String> {
    node.parse("a name", |text| match RegistryName::new(text) {
        Ok(_) if !text.starts_with('.') => Ok(text.to_owned()),
        _ => Err("is no name for a node; accepted: 1 to 256 bytes without slash, control characters or a dot in front".to_owned()),
    })
}

fn register(node: &Node<'_>, known: &Known) -> Option<FleetPlan> {
    let table = node.table(&schema::GATEWAY_REGISTER)?;
    let registry = services::registry(&table, known);
    let path = table.or("path", FleetPlan::DEFAULT_PATH.to_owned(), services::directory);
    Some(FleetPlan { registry: registry?, path })
}

fn access_log(node: &Node<'_>) -> Option<AccessLog> {
    node.parse("\"stdout\", \"off\" or a file", |text| match text {
        "stdout" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        "" | "-" | "none" | "stderr" | "on" => {
            Err("is no place for the access log; accepted: \"stdout\", \"off\" or a file".to_owned())
        }
        path => Ok(AccessLog::File(node.reader.folder.join(path))),
    })
}

fn place(node: &Node<'_>, what: &str) -> Option<std::path::PathBuf> {
    node.parse(what, |text| match text {
        "" => Err("names no file; accepted: a path, absolute or from the file's folder".to_owned()),
        path => Ok(node.reader.folder.join(path)),
    })
}

pub(super) fn log(file: &Table<'_>) -> LogPlan {
    let default = LogPlan::default();
    let Some(table) = section(file, "log", &schema::LOG) else { return default };
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    LogPlan {
        level: table.or("level", default.level, |n| n.choice(&levels)),
        json: table.or("format", default.json, |n| n.choice(&[("text", false), ("json", true)])),
    }
}

pub(super) fn admin(file: &Table<'_>) -> AdminPlan {
    let default = AdminPlan::default();
    let Some(table) = section(file, "admin", &schema::ADMIN) else { return default };
    AdminPlan { listen: table.or("listen", default.listen, |n| n.parse("IP:PORT", parse_listen)) }
}

pub(super) fn limits(file: &Table<'_>) -> Limits {
    let default = Limits::default();
    let Some(table) = section(file, "limits", &schema::LIMITS) else { return default };
    let count = |key, default, most| table.or(key, default, |n| n.integer(1..=most).map(|n| n as usize));
    let wait = |key, default| table.or(key, default, |n| n.duration(INSTANT..=DAY));
    Limits {
        max_connections: count("max_connections", default.max_connections, 1_000_000),
        max_headers: count("max_headers", default.max_headers, 10_000),
        max_header_size: table.or("max_header_size", default.max_header_size, |n| {
            n.size(1 << 10..=16 << 20).map(|bytes| bytes as usize)
        }),
        max_body: table.or("max_body", default.max_body, |n| {
            n.size(0..=1 << 50).map(|bytes| (bytes > 0).then_some(bytes))
        }),
        max_memory: table.or("max_memory", default.max_memory, |n| {
            n.size(0..=1 << 50).map(|bytes| (bytes > 0).then_some(bytes))
        }),
        idle_timeout: wait("idle_timeout", default.idle_timeout),
        header_timeout: wait("header_timeout", default.header_timeout),
    }
}
