//! `[registries.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::names::Known;
use super::network::{parse_connect, parse_range};
use super::plan::{Credential, RegistryKind, RegistryPlan};
use super::reader::{Node, Table};
use super::schema;
use crate::model::RegistryName;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    ZooKeeper,
    Directory,
}

/// Reads every registry; all their names become known, also those of faulty ones.
pub(super) fn registries(file: &Table<'_>, known: &mut Known) -> Vec<RegistryPlan> {
    let Some(all) = file.get("registries") else { return Vec::new() };
    let mut plans = Vec::new();
    let mut snapshots: Vec<(PathBuf, &str)> = Vec::new();
    for (name, name_node, node) in all.entries("tables, [registries.NAME]") {
        known.registries.push(name.to_owned());
        let checked = RegistryName::new(name)
            .map_err(|error| name_node.fail(format!("{error}; accepted: a short word")));
        let Some(table) = node.table(&schema::REGISTRY) else { continue };
        let deny = table.or("deny", RegistryPlan::default_deny(), |n| Some(ranges(n)));
        let snapshot = table.get("snapshot").map(|n| (snapshot(&n), n));
        if let Some((Some(path), node)) = &snapshot {
            match snapshots.iter().find(|(other, _)| other == path) {
                Some((_, owner)) => node.fail(format!(
                    "[registries.{owner}] keeps its snapshot there; accepted: a file of its own for each registry"
                )),
                None => snapshots.push((path.clone(), name)),
            }
        }
        if let (Ok(name), Some(kind)) = (checked, kind(&table)) {
            plans.push(RegistryPlan { name, kind, deny, snapshot: snapshot.and_then(|(path, _)| path) });
        }
    }
    plans
}

/// A list of address ranges.
pub(super) fn ranges(node: &Node<'_>) -> Vec<IpNet> {
    const EXPECTED: &str = "a list of address ranges, such as [\"10.0.0.0/8\"]";
    node.list(EXPECTED).iter().filter_map(|n| n.parse("an address range", parse_range)).collect()
}

/// What it is. Every key that is there is checked, whether it fits the kind or not.
fn kind(table: &Table<'_>) -> Option<RegistryKind> {
    let kinds = [("zookeeper", Kind::ZooKeeper), ("directory", Kind::Directory)];
    let kind = table.require("kind", "\"zookeeper\" or \"directory\"").and_then(|n| n.choice(&kinds));
    let range = Duration::from_secs(1)..=Duration::from_secs(300);
    let session_timeout =
        table.or("session_timeout", RegistryPlan::DEFAULT_SESSION_TIMEOUT, |n| n.duration(range));
    let auth = table.or("auth", Vec::new(), |n| Some(credentials(n)));
    let connect = table.get("connect").map(|n| connect(&n));
    let path = table.get("path").map(|n| folder(&n));
    let (needed, foreign): (_, &[&'static str]) = match kind? {
        Kind::ZooKeeper => ("connect", &["path"]),
        Kind::Directory => ("path", &["connect", "session_timeout", "auth"]),
    };
    for node in foreign.iter().filter_map(|key| table.get(key)) {
        node.fail(match kind? {
            Kind::ZooKeeper => {
                "belongs to kind = \"directory\"; accepted here: connect, which may end in a chroot"
            }
            Kind::Directory => "belongs to kind = \"zookeeper\"; accepted here: path",
        });
    }
    if table.get(needed).is_none() {
        table.missing(
            needed,
            match kind? {
                Kind::ZooKeeper => {
                    "is missing; accepted: a connect string such as \"zk1:2181,zk2:2181/prod\""
                }
                Kind::Directory => "is missing; accepted: a folder, absolute or from the file's folder",
            },
        );
    }
    Some(match kind? {
        Kind::ZooKeeper => RegistryKind::ZooKeeper { connect: connect??, session_timeout, auth },
        Kind::Directory => RegistryKind::Directory { path: path?? },
    })
}

fn connect(node: &Node<'_>) -> Option<String> {
    // Never quoted: somebody may have put a password into it.
    let text = node.text("a connect string such as \"zk1:2181,zk2:2181/prod\"")?;
    parse_connect(&text).map_err(|why| node.fail(why)).ok()
}

fn folder(node: &Node<'_>) -> Option<PathBuf> {
    node.parse("a folder", |text| match text {
        "" => Err("names no folder; accepted: a path, absolute or from the file's folder".to_owned()),
        path => Ok(node.reader.folder.join(path)),
    })
}

fn snapshot(node: &Node<'_>) -> Option<PathBuf> {
    node.parse("a file", |text| match text {
        "" => Err("names no file; accepted: a path, absolute or from the file's folder".to_owned()),
        path => Ok(node.reader.folder.join(path)),
    })
}

/// The credentials of a registry. No message here quotes a value.
fn credentials(node: &Node<'_>) -> Vec<Credential> {
    const EXPECTED: &str = "a list of tables, auth = [{ scheme = \"digest\", credentials = \"${NAME}\" }]";
    let one = |node: Node<'_>| {
        let table = node.table(&schema::AUTH)?;
        let scheme = table.require("scheme", "\"digest\"").and_then(|n| {
            let text = n.text("\"digest\"")?;
            if text != "digest" {
                n.fail("is no scheme that the gateway knows; accepted: \"digest\"");
            }
            Some(text)
        });
        let secret = table
            .require("credentials", "USER:PASSWORD, best from the environment: \"${NAME}\"")
            .and_then(|n| {
                let text = n.text("USER:PASSWORD as a string, best from the environment: \"${NAME}\"")?;
                if text.split_once(':').is_none_or(|(user, _)| user.is_empty()) {
                    n.fail("is not of the form USER:PASSWORD; accepted: both, with a colon between them");
                }
                Some(text)
            });
        Some(Credential { scheme: scheme?, secret: secret? })
    };
    node.list(EXPECTED).into_iter().filter_map(one).collect()
}
