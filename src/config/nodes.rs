//! References to single nodes: a path in the only registry that can be meant, or `{ registry, path }`.

use super::names::Known;
use super::network::check_registry_path;
use super::plan::{NodePlan, RegistryKind, RegistryPlan, ServiceRef, WeightedService};
use super::reader::{Node, Table};
use super::schema::{self, Section};
use crate::model::RegistryName;

/// A node of one of the registries that `likely` names, if there is one only and the file names none.
pub(super) fn named(
    node: &Node<'_>,
    section: &'static Section,
    known: &Known,
    likely: &[RegistryName],
) -> Option<NodePlan> {
    const EXPECTED: &str =
        "a path such as \"/zoogate/node\", or { registry = \"NAME\", path = \"/zoogate/node\" }";
    let table = if node.is_table() { Some(node.table(section)?) } else { None };
    let path = match &table {
        Some(table) => table.require("path", "a path such as \"/zoogate/node\""),
        None => Some(node.clone()),
    };
    let path = path.and_then(|node| {
        node.parse(EXPECTED, |text| {
            check_registry_path(text)?;
            if text == "/" {
                return Err("is the root, which always exists; accepted: the path of a node below".to_owned());
            }
            Ok(text.to_owned())
        })
    });
    let registry = match (table.as_ref().and_then(|table| table.get("registry")), likely) {
        (Some(node), _) => {
            let names: Vec<&str> = known.registries.iter().map(String::as_str).collect();
            let name = node.text("the name of a registry")?;
            if !names.contains(&&*name) {
                node.fail(format!("{} is no configured registry; {}", node.quoted(), node.offer(&names)));
            }
            RegistryName::new(&name).ok()
        }
        (None, [only]) => Some(only.clone()),
        (None, many) => {
            let names = many.iter().map(RegistryName::as_str).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none is configured".to_owned() } else { names };
            node.fail(format!("more than one registry, or none, can be meant ({names}); accepted: {{ registry = \"NAME\", path = \"/zoogate/node\" }}"));
            None
        }
    };
    Some(NodePlan { registry: registry?, path: path? })
}

/// The lock under which one gateway of a fleet drains at a time.
pub(super) fn drain_lock(file: &Table<'_>, registries: &[RegistryPlan], known: &Known) -> Option<NodePlan> {
    let node = file.get("gateway").filter(Node::is_table)?;
    // Its unknown keys were told when the section was read.
    let before = node.reader.errors.borrow().len();
    let table = node.table(&schema::GATEWAY);
    node.reader.errors.borrow_mut().truncate(before);
    let node = table?.get("drain_lock")?;
    let ensembles: Vec<&RegistryPlan> =
        registries.iter().filter(|r| matches!(r.kind, RegistryKind::ZooKeeper { .. })).collect();
    let likely: Vec<RegistryName> = ensembles.iter().map(|r| r.name.clone()).collect();
    let lock = named(&node, &schema::DRAIN_LOCK, known, &likely)?;
    if registries.iter().any(|r| r.name == lock.registry) && !likely.contains(&lock.registry) {
        node.fail("this registry is a directory; accepted: a registry of kind \"zookeeper\"");
    }
    Some(lock)
}

/// The registries of a route's services, each once.
pub(super) fn homes(services: &[WeightedService], known: &Known) -> Vec<RegistryName> {
    let base = |service: &ServiceRef| match service {
        ServiceRef::Named(name) => name.as_str().split('/').next().and_then(|base| known.homes.get(base)),
        ServiceRef::Captured { catalog, .. } => known.homes.get(catalog.as_str()),
    };
    let mut homes: Vec<RegistryName> =
        services.iter().filter_map(|service| base(&service.service)).cloned().collect();
    homes.sort_unstable();
    homes.dedup();
    homes
}
