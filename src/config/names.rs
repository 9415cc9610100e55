//! What the file has named so far, and references to it.

use std::collections::BTreeMap;

use super::plan::{HostMatch, PathMatch, Segment, ServiceRef};
use super::reader::Node;
use crate::model::{Protocol, RegistryName, ServiceName};

/// Names with their protocols: `None` where the file says something that is no protocol.
type Names = BTreeMap<String, Option<Protocol>>;

/// Among more names than this, the rest is not looked through for the one that was meant.
const MAX_COMPARED: usize = 500;

/// Which captures a reference may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Captures<'p> {
    /// None: it stands in a listener of protocol `tcp`.
    None,
    /// Those of the route's path and host.
    Of(&'p PathMatch, Option<&'p HostMatch>),
    /// The route's path or host is faulty: any may be meant.
    Unknown,
}

impl<'p> Captures<'p> {
    /// Whether there is one of this name, or may be.
    pub(super) fn offer(self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Of(path, host) => all(path, host).any(|capture| capture == name),
            Self::Unknown => true,
        }
    }

    /// Their names, where they are known.
    pub(super) fn names(self) -> Vec<&'p str> {
        match self {
            Self::Of(path, host) => all(path, host).collect(),
            Self::None | Self::Unknown => Vec::new(),
        }
    }

    /// How a child of this catalog may be named.
    fn accepted(self, catalog: &str) -> String {
        let captured: String =
            self.names().iter().map(|name| [", ", catalog, "/{", name, "}"].concat()).collect();
        let none = if matches!(self, Self::Of(..)) && captured.is_empty() {
            " (this route's path has no {capture})"
        } else {
            ""
        };
        format!("{catalog}/CHILD with one segment as CHILD{captured}{none}")
    }
}

fn all<'p>(path: &'p PathMatch, host: Option<&'p HostMatch>) -> impl Iterator<Item = &'p str> {
    let host = host.and_then(|host| match host {
        HostMatch::Capture { name, .. } => Some(&**name),
        HostMatch::Exact(_) | HostMatch::Wildcard(_) => None,
    });
    path.captures().chain(host)
}

/// Every name that references may use. Faulty entries count: their names are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) registries: Vec<String>,
    /// Where sound services and catalogs are registered.
    pub(super) homes: BTreeMap<String, RegistryName>,
    /// The gateway's own.
    pub(super) zone: Option<Box<str>>,
    services: Names,
    catalogs: Names,
}

impl Known {
    pub(super) fn add_service(&mut self, name: &str, protocol: Option<Protocol>) {
        self.services.insert(name.to_owned(), protocol);
    }

    pub(super) fn add_catalog(&mut self, name: &str, protocol: Option<Protocol>) {
        self.catalogs.insert(name.to_owned(), protocol);
    }

    pub(super) fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }

    /// The catalog that a node names, for a route.
    pub(super) fn catalog(&self, node: &Node<'_>) -> Option<ServiceName> {
        let text = node.text("the name of a catalog")?;
        match self.catalogs.get(&text) {
            Some(Some(Protocol::Tcp)) => {
                node.fail("this catalog has protocol \"tcp\"; accepted in a route: catalogs of protocol \"http1\" or \"h2\"");
                None
            }
            Some(_) => ServiceName::new(&text).ok(),
            None => {
                no_such("catalog", node, &self.catalogs);
                None
            }
        }
    }

    /// The service that a node names. In a route it must speak HTTP, in a listener it must not.
    pub(super) fn resolve(&self, node: &Node<'_>, captures: Captures<'_>) -> Option<ServiceRef> {
        let text = node.text("the name of a service")?;
        let (service, protocol) = match text.split_once('/') {
            None => self.configured(node, &text)?,
            Some((catalog, child)) => self.child(node, catalog, child, captures)?,
        };
        let tcp = matches!(captures, Captures::None);
        match protocol {
            Some(Protocol::Tcp) if !tcp => {
                node.fail("this service has protocol \"tcp\"; accepted in a route: services of protocol \"http1\" or \"h2\" (a tcp service has its own listener, with protocol = \"tcp\")");
                None
            }
            Some(Protocol::Http1 | Protocol::H2) if tcp => {
                node.fail("this service speaks HTTP; accepted in a listener of protocol \"tcp\": services of protocol \"tcp\"");
                None
            }
            _ => Some(service),
        }
    }

    fn configured(&self, node: &Node<'_>, name: &str) -> Option<(ServiceRef, Option<Protocol>)> {
        if let Some(protocol) = self.services.get(name) {
            return ServiceName::new(name).ok().map(|name| (ServiceRef::Named(name), *protocol));
        }
        if self.catalogs.contains_key(name) {
            node.fail(format!("{name} is a catalog; accepted: {name}/CHILD for one of its services, or {name}/{{capture}} with a capture of the route's path"));
        } else if name.starts_with('{') {
            node.fail("a capture alone names no service; accepted: CATALOG/{capture}");
        } else {
            no_such("service", node, &self.services);
        }
        None
    }

    fn child(
        &self,
        node: &Node<'_>,
        catalog: &str,
        child: &str,
        captures: Captures<'_>,
    ) -> Option<(ServiceRef, Option<Protocol>)> {
        let Some(protocol) = self.catalogs.get(catalog) else {
            no_such("catalog", node, &self.catalogs);
            return None;
        };
        let capture = child.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let service = match capture {
            Some(name) if captures.offer(name) => {
                Some(ServiceRef::Captured { catalog: ServiceName::new(catalog).ok()?, capture: name.into() })
            }
            _ if child.contains(['{', '}']) => None,
            _ => ServiceName::in_catalog(catalog, child).ok().map(ServiceRef::Named),
        };
        let Some(service) = service else {
            let accepted = captures.accepted(catalog);
            node.fail(format!(
                "{} names no child of the catalog {catalog}; accepted: {accepted}",
                node.quoted()
            ));
            return None;
        };
        Some((service, *protocol))
    }
}

fn no_such(what: &str, node: &Node<'_>, known: &Names) {
    if !node.reader.holes.among_tables() {
        let names: Vec<&str> = known.keys().map(String::as_str).take(MAX_COMPARED).collect();
        node.fail(format!("{} is no configured {what}; {}", node.quoted(), node.offer(&names)));
    }
}

impl PathMatch {
    /// The names of its captures, in order.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }
}
