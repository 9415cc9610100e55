//! `[[listeners]]`.

use std::net::SocketAddr;

use super::names::{Captures, Known};
use super::network::parse_listen;
use super::plan::{ListenerKind, ListenerPlan, ServiceRef};
use super::reader::{Node, Table};
use super::registries::ranges;
use super::schema;

/// Reads every listener. There must be one, and no two may want the same address.
pub(super) fn listeners(file: &Table<'_>, known: &Known, admin: SocketAddr) -> Vec<ListenerPlan> {
    const MISSING: &str =
        "a gateway without a listener serves nobody; accepted: at least one table, [[listeners]]";
    let Some(all) = file.get("listeners") else {
        file.missing_table("listeners", MISSING);
        return Vec::new();
    };
    let nodes = all.list("a list of tables, [[listeners]]");
    if nodes.is_empty() && all.is_list() {
        all.fail(MISSING);
    }
    let mut plans = Vec::new();
    let mut taken: Vec<(SocketAddr, String)> = vec![(admin, "[admin]".to_owned())];
    let mut names: Vec<String> = Vec::new();
    for table in nodes.iter().filter_map(|node| node.table(&schema::LISTENER)) {
        let address = table
            .require("listen", "an address, such as \"0.0.0.0:8080\"")
            .and_then(|n| address(&n, &mut taken));
        let name = match table.get("name") {
            Some(node) => node.label().inspect(|name| {
                if names.contains(name) {
                    node.fail(format!(
                        "another listener is called {}; accepted: a name of its own for each",
                        node.quoted()
                    ));
                }
            }),
            None => address.map(|address| address.to_string()),
        };
        names.extend(name.clone());
        let kind = kind(&table, known);
        let trusted = table.or("trusted", Vec::new(), |n| Some(ranges(n)));
        if let (Some(name), Some(listen), Some(kind)) = (name, address, kind) {
            plans.push(ListenerPlan { name: name.into(), listen, kind, trusted });
        }
    }
    plans
}

fn address(node: &Node<'_>, taken: &mut Vec<(SocketAddr, String)>) -> Option<SocketAddr> {
    let address = node.parse("an address, IP:PORT", parse_listen)?;
    if let Some((other, owner)) = taken.iter().find(|(other, _)| collide(*other, address)) {
        node.fail(format!(
            "{owner} listens on {other} already; accepted: an address of its own for each listener"
        ));
    }
    let owner = node.path.strip_suffix(".listen").unwrap_or(&node.path).to_owned();
    taken.push((address, owner));
    Some(address)
}

/// Whether two sockets cannot both have their address. Port 0 gives each a port of its own.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && overlap
}

fn kind(table: &Table<'_>, known: &Known) -> Option<ListenerKind> {
    let tcp = table.or("protocol", Some(false), |n| Some(n.choice(&[("http", false), ("tcp", true)])))?;
    match (tcp, table.get("service")) {
        (false, None) => Some(ListenerKind::Http),
        (false, Some(node)) => {
            node.fail("belongs to protocol = \"tcp\"; accepted: a [[routes]] entry, which names the service of HTTP requests");
            None
        }
        (true, None) => {
            table.missing("service", "is missing; accepted: the name of a service of protocol \"tcp\"");
            None
        }
        (true, Some(node)) => match known.resolve(&node, Captures::None)? {
            ServiceRef::Named(service) => Some(ListenerKind::Tcp { service }),
            ServiceRef::Captured { .. } => None,
        },
    }
}
