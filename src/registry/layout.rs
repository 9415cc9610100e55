//! Where the nodes of a base are: in the folders of its services, and in those that some layouts have inside or beside
//! them.
//!
//! | layout | folder of a service | other folders |
//! | --- | --- | --- |
//! | Dubbo's | `…/INTERFACE/providers` | `configurators` beside it, with rules for its instances |
//! | the same | `…/INTERFACE` | `providers` and `configurators` in it |
//! | BookKeeper's | `…/available` | `readonly` in it |
//! | ClickHouse's | `…/replicas` | each replica's own in it, with its `host` and `is_active` |
//!
//! A node in such a folder has its path from its service's folder for a name: `readonly/ID`, `../configurators/RULE`.

use std::borrow::Cow;

use super::Base;
use crate::model::{CatalogPattern, CatalogPlace, FormatChoice, FormatName};

const AVAILABLE: &str = "available";
const CONFIGURATORS: &str = "configurators";
const PROVIDERS: &str = "providers";
const READONLY: &str = "readonly";
const REPLICAS: &str = "replicas";

/// What leads from a service's folder to those beside it.
const BESIDE: &str = "../";

/// Whether a node of this name is beside its service's folder, and not in it.
pub(super) fn is_beside(node: &str) -> bool {
    node.starts_with(BESIDE)
}

/// The nodes of a replica that count: it has dozens of others, which change all the time.
const OF_REPLICA: [&str; 2] = ["host", "is_active"];

/// Where everything of a base is.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What is watched: everything is below it.
    root: Box<str>,
    /// Where the services of a catalog are below it.
    pattern: Option<CatalogPattern>,
    /// Where the folder of a single service is below it; empty where that is the root itself.
    folder: Box<str>,
    nest: Nest,
}

/// Which other folders a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nest {
    None,
    Interface,
    Providers,
    Bookies,
    Replicas,
}

/// What a folder in a service's folder is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner {
    /// Whatever is in it is a node.
    All,
    /// So is what has one of these names. It is looked for unlisted.
    Only(&'static [&'static str]),
}

/// What is at a path below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot<'p> {
    /// The root of a catalog, or the folder of a single service.
    Base,
    /// On the way to a catalog's services, or beside it.
    Above,
    /// The folder of a catalog's service.
    Folder(&'p str),
    /// A node: the folder of its service in a catalog, and its name.
    Node(Option<Cow<'p, str>>, Cow<'p, str>),
    /// A folder beside that of a service, whose folder in a catalog this is.
    Beside(Option<Cow<'p, str>>),
    /// Nothing that matters.
    Elsewhere,
}

impl Layout {
    /// The layout of a base, by what its path and its format say.
    pub fn of(base: &Base) -> Self {
        let (root, pattern) = (base.root(), base.pattern());
        let path = if root.len() > 1 { root.trim_end_matches('/') } else { &root };
        let last = match &pattern {
            Some(pattern) => pattern.segments().last().flatten(),
            None => path.rsplit('/').next(),
        };
        let mut nest = nest(base.format, last);
        // To look beside a folder is to watch the one above. So near the root anything else may be there.
        let deep = if base.format == FormatChoice::Auto { 3 } else { 2 };
        if nest == Nest::Providers && pattern.is_none() && path.matches('/').count() < deep {
            nest = Nest::Interface;
        }
        match path.rsplit_once('/') {
            Some((root, folder)) if nest == Nest::Providers && pattern.is_none() => {
                Self { root: root.into(), pattern, folder: folder.into(), nest }
            }
            _ => Self { root: path.into(), pattern, folder: "".into(), nest },
        }
    }

    /// The children of one directory, or theirs, and nothing else.
    pub fn plain(root: &str, catalog: bool) -> Self {
        let pattern = catalog.then(|| CatalogPattern::children_of(root));
        Self { root: root.into(), pattern, folder: "".into(), nest: Nest::None }
    }

    /// What is watched, without a slash at its end unless it is the registry's root.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Where the services of a catalog are below the root.
    pub fn pattern(&self) -> Option<&CatalogPattern> {
        self.pattern.as_ref()
    }

    /// The folder of a single service below the root; empty where that is the root itself.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// How far below the root nodes are at the most.
    pub fn depth(&self) -> usize {
        let folders =
            self.pattern.as_ref().map_or(usize::from(!self.folder.is_empty()), CatalogPattern::depth);
        let inner = !matches!(self.nest, Nest::None | Nest::Providers);
        folders + 1 + usize::from(inner)
    }

    /// What a folder of this name in a service's folder is to the service.
    pub fn inner(&self, name: &str) -> Option<Inner> {
        match self.nest {
            Nest::Interface if matches!(name, PROVIDERS | CONFIGURATORS) => Some(Inner::All),
            Nest::Bookies if name == READONLY => Some(Inner::All),
            Nest::Replicas => Some(Inner::Only(&OF_REPLICA)),
            _ => None,
        }
    }

    /// The way from a service's folder to one beside it that is part of it.
    pub fn beside(&self) -> Option<String> {
        (self.nest == Nest::Providers).then(|| format!("{BESIDE}{CONFIGURATORS}"))
    }

    /// What a path below the root is; without slashes at its ends.
    pub fn place<'p>(&self, below: &'p str) -> Spot<'p> {
        match &self.pattern {
            Some(pattern) => self.place_in_catalog(pattern, below),
            None if *below == *self.folder => Spot::Base,
            None => {
                let rest = match &*self.folder {
                    "" => Some(below),
                    folder => below.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
                };
                let own = rest.and_then(|rest| self.node(rest)).map(Cow::Borrowed);
                match own {
                    Some(node) => Spot::Node(None, node),
                    None => self.place_beside(None, below),
                }
            }
        }
    }

    /// The path below the root of a node.
    pub fn below(&self, child: Option<&str>, node: &str) -> String {
        let mut folder = child.unwrap_or(&self.folder);
        let mut node = node;
        if let Some(beside) = node.strip_prefix(BESIDE) {
            (folder, node) = (folder.rsplit_once('/').map_or("", |(above, _)| above), beside);
        }
        if folder.is_empty() { node.to_owned() } else { format!("{folder}/{node}") }
    }

    fn place_in_catalog<'p>(&self, pattern: &CatalogPattern, below: &'p str) -> Spot<'p> {
        if below.is_empty() {
            return Spot::Base;
        }
        let slash = below.match_indices('/').nth(pattern.depth() - 1).map(|(at, _)| at);
        let folder = &below[..slash.unwrap_or(below.len())];
        match (pattern.place(folder), slash) {
            (CatalogPlace::Service(folder), None) => Spot::Folder(folder),
            (CatalogPlace::Above, None) => Spot::Above,
            (CatalogPlace::Service(folder), Some(slash)) => match self.node(&below[slash + 1..]) {
                Some(node) => Spot::Node(Some(Cow::Borrowed(folder)), Cow::Borrowed(node)),
                None => Spot::Elsewhere,
            },
            // Where no service is there may be a folder beside one.
            _ => match folder.rsplit_once('/').map(|(above, _)| (above, format!("{above}/{PROVIDERS}"))) {
                Some((above, service)) if matches!(pattern.place(&service), CatalogPlace::Service(_)) => {
                    self.place_beside(Some(service), &below[above.len() + 1..])
                }
                _ => Spot::Elsewhere,
            },
        }
    }

    /// What is at a path below the folder that a service's folder is in, other than that.
    fn place_beside<'p>(&self, service: Option<String>, rest: &'p str) -> Spot<'p> {
        let service = service.map(Cow::Owned);
        match rest.strip_prefix(CONFIGURATORS).filter(|_| self.nest == Nest::Providers) {
            Some("") => Spot::Beside(service),
            Some(node) => match node.strip_prefix('/').filter(|node| !node.contains('/')) {
                Some(node) => Spot::Node(service, Cow::Owned(format!("{BESIDE}{CONFIGURATORS}/{node}"))),
                None => Spot::Elsewhere,
            },
            None => Spot::Elsewhere,
        }
    }

    /// The name of a node, by its path below its service's folder.
    fn node<'p>(&self, rest: &'p str) -> Option<&'p str> {
        let is_node = match rest.split_once('/') {
            None => !rest.is_empty(),
            Some((folder, name)) => {
                !name.contains('/')
                    && match self.inner(folder) {
                        Some(Inner::All) => true,
                        Some(Inner::Only(names)) => names.contains(&name),
                        None => false,
                    }
            }
        };
        is_node.then_some(rest)
    }
}

/// By a service's format and the last segment of its path.
fn nest(format: FormatChoice, last: Option<&str>) -> Nest {
    use FormatName::{BookKeeper, ClickHouse, Dubbo, Sofa};
    let may_be = |names: &[FormatName]| match format {
        FormatChoice::Auto => true,
        FormatChoice::Fixed(name) => names.contains(&name),
    };
    match last {
        Some(PROVIDERS) if may_be(&[Dubbo, Sofa]) => Nest::Providers,
        Some(AVAILABLE) if may_be(&[BookKeeper]) => Nest::Bookies,
        Some(REPLICAS) if may_be(&[ClickHouse]) => Nest::Replicas,
        _ if may_be(&[Dubbo, Sofa]) => Nest::Interface,
        _ => Nest::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::view::tests::base;

    fn layout(path: &str, catalog: bool, format: FormatChoice) -> Layout {
        Layout::of(&Base { path: path.to_owned(), ..base(format, catalog) })
    }

    /// A place in short, and back.
    fn place(layout: &Layout, below: &str) -> String {
        match layout.place(below) {
            Spot::Base => "base".to_owned(),
            Spot::Above => "above".to_owned(),
            Spot::Folder(child) => format!("folder {child}"),
            Spot::Node(child, node) => {
                assert_eq!(layout.below(child.as_deref(), &node), below);
                format!("{} {node}", child.as_deref().unwrap_or("-"))
            }
            Spot::Beside(child) => format!("beside {}", child.as_deref().unwrap_or("-")),
            Spot::Elsewhere => "elsewhere".to_owned(),
        }
    }

    #[test]
    fn every_path_has_its_place_in_its_layout() {
        let auto = FormatChoice::Auto;
        let fixed = FormatChoice::Fixed;
        for (path, catalog, format, root, places) in [
            (
                "/services/orders",
                false,
                auto,
                "/services/orders",
                &[("", "base"), ("n", "- n"), ("n/x", "elsewhere"), ("providers/x", "- providers/x")][..],
            ),
            (
                "/services/orders",
                false,
                fixed(FormatName::Json),
                "/services/orders",
                &[("providers/x", "elsewhere")],
            ),
            (
                "/dubbo/I/providers",
                false,
                auto,
                "/dubbo/I",
                &[
                    ("", "elsewhere"),
                    ("providers", "base"),
                    ("providers/u", "- u"),
                    ("providers/u/x", "elsewhere"),
                    ("configurators", "beside -"),
                    ("configurators/o", "- ../configurators/o"),
                    ("configurators/o/x", "elsewhere"),
                    ("consumers/c", "elsewhere"),
                    ("providersX/u", "elsewhere"),
                ],
            ),
            ("/dubbo/I/providers", false, fixed(FormatName::Plain), "/dubbo/I/providers", &[("o", "- o")]),
            ("/services/providers", false, auto, "/services/providers", &[("", "base"), ("u", "- u")]),
            (
                "/I/providers",
                false,
                fixed(FormatName::Dubbo),
                "/I",
                &[("configurators/o", "- ../configurators/o")],
            ),
            (
                "/dubbo/*/providers",
                true,
                auto,
                "/dubbo",
                &[
                    ("", "base"),
                    ("I", "above"),
                    ("I/providers", "folder I/providers"),
                    ("I/providers/u", "I/providers u"),
                    ("I/providers/u/x", "elsewhere"),
                    ("I/configurators", "beside I/providers"),
                    ("I/configurators/o", "I/providers ../configurators/o"),
                    ("I/configurators/o/x", "elsewhere"),
                    ("I/routers/r", "elsewhere"),
                ],
            ),
            (
                "/dubbo",
                true,
                fixed(FormatName::Dubbo),
                "/dubbo",
                &[
                    ("I", "folder I"),
                    ("I/routers", "I routers"),
                    ("I/providers/u", "I providers/u"),
                    ("I/configurators/o", "I configurators/o"),
                    ("I/routers/r", "elsewhere"),
                ],
            ),
            (
                "/ledgers/available",
                false,
                auto,
                "/ledgers/available",
                &[
                    ("b", "- b"),
                    ("readonly", "- readonly"),
                    ("readonly/b", "- readonly/b"),
                    ("b/c", "elsewhere"),
                ],
            ),
            (
                "/t/*/replicas",
                true,
                fixed(FormatName::ClickHouse),
                "/t",
                &[
                    ("hits/replicas/r1", "hits/replicas r1"),
                    ("hits/replicas/r1/host", "hits/replicas r1/host"),
                    ("hits/replicas/r1/is_active", "hits/replicas r1/is_active"),
                    ("hits/replicas/r1/queue", "elsewhere"),
                    ("hits/replicas/r1/queue/host", "elsewhere"),
                    ("hits/log", "elsewhere"),
                ],
            ),
        ] {
            let layout = layout(path, catalog, format);
            assert_eq!(layout.root(), root, "{path}");
            for (below, expected) in places {
                assert_eq!(place(&layout, below), *expected, "{path} {below}");
            }
        }
    }

    #[test]
    fn the_root_of_a_registry_is_one_like_any_other() {
        let root = Layout::plain("/", true);
        assert_eq!((root.root(), place(&root, "orders").as_str()), ("/", "folder orders"));
        assert_eq!(place(&root, "orders/n"), "orders n");
    }
}
