//! `[services.NAME]` and `[catalogs.NAME]`, which have the same keys.

use std::collections::BTreeMap;
use std::time::Duration;

use super::balance::balance;
use super::gateway::{DAY, INSTANT};
use super::health::{ejection, health_check};
use super::load::load;
use super::names::Known;
use super::network::check_registry_path;
use super::plan::{CatalogPlan, ServiceDefaults, ServicePlan, VanishGuard, ZonePreference};
use super::reader::{Node, Table};
use super::schema::{self, Section};
use crate::model::{
    BalanceSpec, CatalogPattern, FormatChoice, FormatName, HashKey, PrimaryRule, Protocol, Reading,
    RegistryName, ServiceName, TlsChoice,
};

/// Reads every service; all their names become known, also those of faulty ones.
pub(super) fn services(file: &Table<'_>, known: &mut Known) -> Vec<ServicePlan> {
    let mut plans = Vec::new();
    for entry in entries(file, "services", &schema::SERVICE, known) {
        known.add_service(entry.written, entry.protocol);
        if let (Some(name), Some(registry), Some(path), Some(defaults)) =
            (entry.name, entry.registry, entry.path, entry.defaults)
        {
            plans.push(ServicePlan { name, registry, path, defaults });
        }
    }
    plans
}

/// Reads every catalog, as [`services`] does.
pub(super) fn catalogs(file: &Table<'_>, known: &mut Known) -> Vec<CatalogPlan> {
    let mut plans = Vec::new();
    for entry in entries(file, "catalogs", &schema::CATALOG, known) {
        if known.has_service(entry.written) {
            entry.name_node.fail(format!(
                "[services.{}] has this name; accepted: a name of its own for each service and catalog",
                entry.written
            ));
        }
        known.add_catalog(entry.written, entry.protocol);
        if let (Some(name), Some(registry), Some(path), Some(defaults)) =
            (entry.name, entry.registry, entry.path, entry.defaults)
        {
            // Its stars are sound by now.
            let Ok(path) = path.parse::<CatalogPattern>() else { continue };
            plans.push(CatalogPlan { name, registry, path, defaults });
        }
    }
    plans
}

/// One service or catalog, as far as it is sound.
struct Entry<'a> {
    written: &'a str,
    name_node: Node<'a>,
    name: Option<ServiceName>,
    registry: Option<RegistryName>,
    path: Option<String>,
    protocol: Option<Protocol>,
    defaults: Option<ServiceDefaults>,
}

fn entries<'a>(
    file: &Table<'a>,
    key: &'static str,
    section: &'static Section,
    known: &Known,
) -> Vec<Entry<'a>> {
    let Some(all) = file.get(key) else { return Vec::new() };
    let mut out = Vec::new();
    for (written, name_node, node) in all.entries(&format!("tables, {}", section.heading)) {
        let name = ServiceName::new(written)
            .map_err(|error| name_node.fail(format!("{error}; accepted: a short word")));
        let table = node.table(section);
        let catalog = key == "catalogs";
        let protocol = match &table {
            Some(table) => table.get("protocol").map_or(Some(Protocol::Http1), |n| protocol(&n)),
            None => None,
        };
        out.push(Entry {
            written,
            name_node,
            name: name.ok(),
            registry: table.as_ref().and_then(|table| registry(table, known)),
            path: table.as_ref().and_then(|table| path(table, catalog)),
            protocol,
            defaults: table.as_ref().and_then(|table| defaults(table, protocol, catalog, known)),
        });
    }
    out
}

fn protocol(node: &Node<'_>) -> Option<Protocol> {
    let choices: Vec<(&str, Protocol)> = Protocol::ALL.iter().map(|p| (p.as_str(), *p)).collect();
    node.choice(&choices)
}

/// The registry that a table names, or the only one there is.
pub(super) fn registry(table: &Table<'_>, known: &Known) -> Option<RegistryName> {
    let names: Vec<&str> = known.registries.iter().map(String::as_str).collect();
    let torn = table.node().reader.holes.among_tables();
    let Some(node) = table.get("registry") else {
        if let [only] = names[..] {
            return RegistryName::new(only).ok();
        }
        if names.is_empty() && !torn {
            table.missing("registry", "no registry is configured; accepted: at least one, [registries.NAME]");
        } else if !torn {
            let all = names.join(", ");
            table.missing(
                "registry",
                &format!("is missing, and there is more than one registry; accepted: {all}"),
            );
        }
        return None;
    };
    let text = node.text("the name of a registry")?;
    if names.contains(&text.as_str()) {
        return RegistryName::new(&text).ok();
    }
    if !torn {
        node.fail(format!("{} is no configured registry; {}", node.quoted(), node.offer(&names)));
    }
    None
}

const PATH: &str = "a whole path in the registry, such as \"/services/orders\"";

/// A directory below the registry's root.
pub(super) fn directory(node: &Node<'_>) -> Option<String> {
    node.parse(PATH, |text| {
        check_registry_path(text)?;
        if text == "/" {
            return Err("is the registry's root; accepted: a path below it".to_owned());
        }
        Ok(text.to_owned())
    })
}

fn path(table: &Table<'_>, catalog: bool) -> Option<String> {
    table.require("path", PATH)?.parse(PATH, |text| {
        if catalog && text.contains('*') {
            // A star stands for one node's name.
            check_registry_path(&text.replace("/*", "/x"))?;
            return match text.parse::<CatalogPattern>() {
                Ok(_) => Ok(text.to_owned()),
                Err(error) => Err(format!("{error}; accepted: a path such as \"/services\", or a pattern such as \"/dubbo/*/providers\" in which a star is one whole segment")),
            };
        }
        check_registry_path(text)?;
        if text == "/" && !catalog {
            return Err("is the registry's root, which is no service; accepted: a path below it, such as \"/services/orders\"".to_owned());
        }
        Ok(text.to_owned())
    })
}

fn defaults(
    table: &Table<'_>,
    protocol: Option<Protocol>,
    catalog: bool,
    known: &Known,
) -> Option<ServiceDefaults> {
    let default = ServiceDefaults::default();
    let limit = Duration::from_secs(300);
    let spec = match table.get("balance") {
        Some(node) => {
            let spec = balance(&node);
            if protocol == Some(Protocol::Tcp)
                && spec.as_ref().and_then(|s| s.key.as_ref()).is_some_and(|key| *key != HashKey::ClientIp)
            {
                node.fail("protocol \"tcp\" has no requests to take this key from; accepted: \"client_ip\"");
            }
            spec
        }
        None => Some(default.balance),
    };
    let format = table.or("format", default.format, format);
    let reading = std::sync::Arc::new(reading(table));
    let connect_timeout =
        table.or("connect_timeout", default.connect_timeout, |n| n.duration(INSTANT..=limit));
    let dns_ttl = table.or("dns_ttl", default.dns_ttl, |n| n.duration(Duration::ZERO..=DAY));
    let primary = table.or("primary", default.primary, |n| primary(n, catalog));
    let zone = table.get("zone").map(|n| zone(&n, known));
    let ejection = table.or("ejection", default.ejection, ejection);
    let health_check = table.or("health_check", default.health_check, health_check);
    let slow_start = table.get("slow_start").map(|n| n.duration(Duration::ZERO..=DAY));
    let retry_budget = table.or("retry_budget", default.retry_budget, |n| n.number(0.0..=1.0));
    let vanish_guard = table.get("vanish_guard").map(|n| vanish_guard(&n));
    let drain_timeout = table.get("drain_timeout").map(|n| n.duration(Duration::ZERO..=DAY));
    let rehome = rehome(table, spec.as_ref());
    Some(ServiceDefaults {
        format,
        reading,
        protocol: protocol?,
        balance: spec?,
        connect_timeout,
        dns_ttl,
        primary,
        zone: zone.flatten(),
        slow_start: slow_start.flatten(),
        retry_budget,
        load: load(table, protocol).map(std::sync::Arc::new),
        ejection,
        health_check,
        vanish_guard: vanish_guard.flatten(),
        drain_timeout: drain_timeout.flatten(),
        rehome,
    })
}

fn vanish_guard(node: &Node<'_>) -> Option<VanishGuard> {
    let table = node.table(&schema::VANISH_GUARD)?;
    let default = VanishGuard::default();
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3600);
    Some(VanishGuard {
        share: table.or("share", default.share, |n| n.number(0.0..=1.0)),
        window: table.or("window", default.window, |n| n.duration(second..=hour)),
        hold: table.or("hold", default.hold, |n| n.duration(second..=DAY)),
    })
}

/// The window over which streams follow their keys, where they are to.
fn rehome(table: &Table<'_>, balance: Option<&BalanceSpec>) -> Option<Duration> {
    let window =
        table.or("rehome_window", ServiceDefaults::REHOME_WINDOW, |n| n.duration(Duration::ZERO..=DAY));
    let node = table.get("rehome")?;
    if !node.flag()? {
        return None;
    }
    // A faulty policy has its own line.
    if balance.is_some_and(|balance| balance.key.is_none()) {
        node.fail("the policy places by no key that could move; accepted: true with a `balance` of policy \"ring\" or \"maglev\"");
        return None;
    }
    Some(window)
}

fn primary(node: &Node<'_>, catalog: bool) -> Option<PrimaryRule> {
    const PATH: &str = "the path of a directory of candidates, such as \"/election/orders\"";
    if !node.is_table() {
        return node.choice(&[("lowest_sequence", ())]).map(|()| PrimaryRule::LowestSequence);
    }
    if catalog {
        node.fail(
            "names one election for every service of the catalog; accepted in a catalog: \"lowest_sequence\"",
        );
        return None;
    }
    let table = node.table(&schema::PRIMARY)?;
    let path = table.require("election", PATH)?.parse(PATH, |text| {
        check_registry_path(text)?;
        if text == "/" { Err(format!("is the registry's root; accepted: {PATH}")) } else { Ok(text.into()) }
    })?;
    Some(PrimaryRule::Election(path))
}

fn zone(node: &Node<'_>, known: &Known) -> Option<ZonePreference> {
    if !node.is_table() {
        let prefer = node.label()?.into();
        return Some(ZonePreference { prefer, spill_below: ZonePreference::DEFAULT_SPILL });
    }
    let table = node.table(&schema::ZONE)?;
    let prefer = match table.get("prefer") {
        Some(node) => Some(node.label()?.into()),
        None => known.zone.clone(),
    };
    if prefer.is_none() {
        table.missing(
            "prefer",
            "is missing, and [gateway] names no zone; accepted: the zone to prefer, such as \"eu-1\"",
        );
    }
    let spill_below = table.or("spill_below", ZonePreference::DEFAULT_SPILL, |n| n.number(0.0..=1.0));
    Some(ZonePreference { prefer: prefer?, spill_below })
}

/// The keys about how nodes are read.
fn reading(table: &Table<'_>) -> Reading {
    let default = Reading::default();
    let port = |n: &Node<'_>| n.integer(1..=65535).and_then(|port| u16::try_from(port).ok()).map(Some);
    let word = |n: &Node<'_>| n.label().map(|word| Some(word.into()));
    Reading {
        default_port: table.or("default_port", default.default_port, port),
        endpoint: table.or("endpoint", default.endpoint, word),
        scheme: table.or("scheme", default.scheme, |n| n.parse(SCHEME, scheme).map(Some)),
        tls: table.or("tls", default.tls, |n| {
            let choices: Vec<(&str, TlsChoice)> = TlsChoice::ALL.iter().map(|c| (c.as_str(), *c)).collect();
            n.choice(&choices)
        }),
        filter: table.or("filter", default.filter, |n| Some(filter(n))),
        drop_bad: table.or("keep_last_good", default.drop_bad, |n| n.flag().map(|keep| !keep)),
    }
}

const SCHEME: &str = "a scheme in lower case, such as \"tri\" or \"grpc\"";

fn scheme(text: &str) -> Result<Box<str>, String> {
    let letter =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'_');
    let sound = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(letter);
    if sound { Ok(text.into()) } else { Err(format!("is no scheme; accepted: {SCHEME}")) }
}

fn filter(node: &Node<'_>) -> BTreeMap<Box<str>, Box<str>> {
    let mut filter = BTreeMap::new();
    for (key, name, value) in node.entries("a table of strings, { version = \"2.1\" }") {
        if key.trim().is_empty() {
            name.fail("is no key of metadata; accepted: a name such as version");
        }
        if let Some(value) = value.text("a string") {
            filter.insert(key.into(), value.into());
        }
    }
    filter
}

fn format(node: &Node<'_>) -> Option<FormatChoice> {
    let fixed = FormatName::ALL.iter().map(|name| (name.as_str(), FormatChoice::Fixed(*name)));
    let choices: Vec<(&str, FormatChoice)> =
        std::iter::once(("auto", FormatChoice::Auto)).chain(fixed).collect();
    node.choice(&choices)
}
