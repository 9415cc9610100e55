//! One base of a directory registry: listed whole, then kept current by events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::super::format::MAX_DATA;
use super::super::layout::{Inner, Layout, Spot, is_beside};
use super::super::outbox::Outbox;
use super::super::view::BaseView;
use super::super::{Base, Change};
use super::files::{self, Content, Found, Stamp};
use super::inbox::Kind;
use super::tree::Tree;
use crate::model::{CatalogPattern, Incarnation, NodeFacts, RejectReason, Source, Trust};

/// Why something is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// It is new, or events were lost.
    Full,
    /// To find what events missed. A file that is being written is left to its event.
    Audit,
    /// It could not be listed before.
    Retry,
}

/// A base and what is known of its files.
#[derive(Debug)]
pub(super) struct BaseState {
    base: Base,
    layout: Layout,
    /// Where its layout's root is.
    directory: PathBuf,
    view: BaseView,
    /// Nodes of the services whose directories were listed, by child; a single service's under the empty name.
    folders: HashMap<Box<str>, HashMap<Box<str>, Known>>,
    /// What cannot be listed now, by child likewise, and why.
    troubles: BTreeMap<Box<str>, String>,
    listed: bool,
    /// What audits found since the last flush.
    drift: u64,
    told: Option<(Trust, Option<Arc<str>>)>,
}

/// What a walk through a catalog's directories came upon.
#[derive(Debug, Default)]
struct Walk {
    /// Services' directories, as paths below the base's.
    found: HashSet<Box<str>>,
    /// Directories on the way that could not be listed, and why.
    failed: Vec<(Box<str>, String)>,
}

/// What a look at a service's nodes came upon.
#[derive(Debug, Default)]
struct Look {
    /// The names of all of them.
    seen: HashSet<Box<str>>,
    /// Directories of nodes in the service's own.
    folders: Vec<String>,
    watched: Vec<PathBuf>,
    /// What no event had told.
    drift: usize,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: Option<Stamp>,
    /// Its content could not be had: it is tried again on any occasion.
    unread: bool,
}

impl BaseState {
    pub(super) fn new(base: Base, root: &Path) -> Self {
        let layout = Layout::of(&base);
        let segments = layout.root().split('/').filter(|segment| !segment.is_empty());
        Self {
            directory: segments.fold(root.to_owned(), |path, segment| path.join(segment)),
            layout,
            view: BaseView::new(&base),
            base,
            folders: HashMap::new(),
            troubles: BTreeMap::new(),
            listed: false,
            drift: 0,
            told: None,
        }
    }

    /// How far below its directory others are watched.
    pub(super) fn depth(&self) -> usize {
        self.layout.depth() - 1
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn in_trouble(&self) -> bool {
        !self.troubles.is_empty()
    }

    /// Lists the base. Returns the children whose turn is to come: those of a catalog that are known already.
    pub(super) fn list(&mut self, tree: &mut Tree, mode: Mode) -> Vec<Box<str>> {
        let result = match tree.open(&self.directory) {
            Ok(true) if self.base.catalog => self.list_children(tree, mode),
            Ok(true) => self.list_nodes("", tree, mode).map(|()| Vec::new()),
            Ok(false) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        match result {
            Ok(later) => {
                self.listed = true;
                self.troubles.remove("");
                later
            }
            Err(error) if files::is_missing(&error) => {
                self.clear(tree);
                Vec::new()
            }
            Err(error) => {
                self.troubles.insert("".into(), describe(&self.directory, &error));
                Vec::new()
            }
        }
    }

    /// Lists one directory of nodes: a catalog's child, which may be gone by now.
    pub(super) fn list_child(&mut self, child: &str, tree: &mut Tree, mode: Mode) {
        match self.list_nodes(child, tree, mode) {
            Ok(()) => {
                self.troubles.remove(child);
            }
            Err(error) if files::is_missing(&error) || error.kind() == io::ErrorKind::NotADirectory => {
                self.drop_child(child, tree);
            }
            Err(error) => {
                self.troubles.insert(child.into(), describe(&self.folder(child), &error));
            }
        }
    }

    /// Something happened at this path below its directory, no further down than its nodes are.
    pub(super) fn event(&mut self, below: &Path, kind: Kind, tree: &mut Tree) {
        // Only the last name may be no text: directories of such names are nobody's.
        let (Some(name), Some(_)) = (below.file_name(), below.parent().and_then(Path::to_str)) else {
            return;
        };
        let text = below.to_string_lossy();
        match self.layout.place(&text) {
            Spot::Base => self.other_event("", kind, tree),
            Spot::Folder(child) if files::is_node_name(name) => self.child_event(child, kind, tree),
            Spot::Above if files::is_node_name(name) => self.branch_event(&text, kind, tree),
            Spot::Node(child, node) => {
                let child = child.as_deref().unwrap_or_default();
                if self.layout.inner(&node).is_some() {
                    self.other_event(child, kind, tree);
                }
                self.node_event(child, &node, name, kind, tree);
            }
            Spot::Beside(child) => self.other_event(child.as_deref().unwrap_or_default(), kind, tree),
            Spot::Folder(_) | Spot::Above | Spot::Elsewhere => {}
        }
    }

    /// Something happened to the directory of a catalog's service.
    fn child_event(&mut self, child: &str, kind: Kind, tree: &mut Tree) {
        let path = self.folder(child);
        let troubled = self.troubles.contains_key(child);
        if kind == Kind::Written || kind == Kind::Attributes && !troubled {
            return;
        }
        if path.is_dir() || troubled || self.folders.contains_key(child) {
            self.list_child(child, tree, Mode::Full);
        }
    }

    /// Something happened to a directory on the way to services.
    fn branch_event(&mut self, above: &str, kind: Kind, tree: &mut Tree) {
        let troubled = self.troubles.contains_key(above);
        if kind == Kind::Written || kind == Kind::Attributes && !troubled {
            return;
        }
        self.list_branch(above, tree, Mode::Full);
    }

    /// Something happened to a single service's directory, or to a folder of nodes in a service's or beside it.
    fn other_event(&mut self, child: &str, kind: Kind, tree: &mut Tree) {
        let moved = matches!(kind, Kind::Created | Kind::MovedIn | Kind::Removed);
        if moved || self.troubles.contains_key(child) {
            self.list_service(child, tree);
        }
    }

    /// Lists a service that is known, because something happened.
    fn list_service(&mut self, child: &str, tree: &mut Tree) {
        if !self.base.catalog {
            self.list(tree, Mode::Full);
        } else if self.folders.contains_key(child) {
            self.list_child(child, tree, Mode::Full);
        }
    }

    /// Something happened to a node: `name` is the last part of its own.
    fn node_event(&mut self, child: &str, node: &str, name: &OsStr, kind: Kind, tree: &mut Tree) {
        let Some(folder) = self.folders.get(child) else { return };
        if !files::is_node_name(name) {
            // A mounted volume swaps the link `..data`, through which its files lead, in one move.
            if name.as_encoded_bytes().starts_with(b"..") && matches!(kind, Kind::MovedIn | Kind::Created) {
                self.list_service(child, tree);
            }
            return;
        }
        if name.to_str().is_none() {
            self.misnamed(child, node, kind != Kind::Removed);
            return;
        }
        let path = self.path(child, node);
        let known = folder.get(node).copied();
        match kind {
            Kind::Written | Kind::MovedIn => self.load(child, node, &path, tree),
            Kind::Created => match tree.inspect(&path) {
                Ok(Found::Node(stamp)) if !stamp.linked => {}
                _ => self.load(child, node, &path, tree),
            },
            Kind::Attributes if known.is_some_and(|known| known.unread) => {
                self.load(child, node, &path, tree);
            }
            Kind::Attributes => {}
            Kind::Removed => match (tree.inspect(&path), known.and_then(|known| known.stamp)) {
                // A listing was faster than this event and has seen what came after.
                (Ok(Found::Node(now)), Some(known)) if now.incarnation == known.incarnation => {}
                _ => self.forget(child, node),
            },
        }
    }

    /// Tells what changed. Nothing before the first listing: what is unknown must not look empty.
    pub(super) fn flush(&mut self, outbox: &Outbox, received: Instant, source: Source) {
        if self.listed {
            for change in self.view.take_changes(received, source) {
                outbox.send(change);
            }
        }
        let nodes = std::mem::take(&mut self.drift);
        if nodes > 0 {
            outbox.send(Change::Drift { base: self.base.name.clone(), nodes });
        }
        let state = match self.troubles.values().next() {
            Some(trouble) => (Trust::Stale, Some(trouble.as_str())),
            None if self.listed => (Trust::Live, None),
            None => return,
        };
        if self.told.as_ref().is_some_and(|(trust, reason)| (*trust, reason.as_deref()) == state) {
            return;
        }
        let (trust, reason) = (state.0, state.1.map(Arc::from));
        if let Some(reason) = &reason {
            tracing::warn!(base = %self.base.name, %reason, "what is known of it stays in use");
        }
        self.told = Some((trust, reason.clone()));
        outbox.send(Change::Trust { base: self.base.name.clone(), trust, reason });
    }

    fn list_children(&mut self, tree: &mut Tree, mode: Mode) -> io::Result<Vec<Box<str>>> {
        let mut walk = Walk::default();
        self.walk("", 0, tree, &mut walk)?;
        Ok(self.list_found("", walk, tree, mode))
    }

    /// Lists what is below a directory on the way to services; it may be gone.
    fn list_branch(&mut self, above: &str, tree: &mut Tree, mode: Mode) {
        let mut walk = Walk::default();
        if let Err(error) = self.walk(above, above.split('/').count(), tree, &mut walk)
            && !files::is_missing(&error)
            && error.kind() != io::ErrorKind::NotADirectory
        {
            walk.failed.push((above.into(), describe(&self.folder(above), &error)));
        }
        for child in self.list_found(above, walk, tree, mode) {
            self.list_child(&child, tree, mode);
        }
    }

    /// Finds the services' directories below one that is `depth` below the base's. Each is watched before it is
    /// read.
    fn walk(&self, above: &str, depth: usize, tree: &mut Tree, walk: &mut Walk) -> io::Result<()> {
        let directory = self.folder(above);
        if depth > 0 {
            tree.watches.ensure(&directory)?;
            tree.admit(&directory)?;
        }
        let pattern = self.layout.pattern();
        let wanted = pattern.and_then(|pattern| pattern.segments().nth(depth)).flatten();
        let last = pattern.map_or(0, CatalogPattern::depth);
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|_| files::is_node_name(&name)) else { continue };
            let kind = entry.file_type()?;
            let is_dir = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
            if !is_dir || wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let below = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
            if depth + 1 >= last {
                walk.found.insert(below.into());
                continue;
            }
            match self.walk(&below, depth + 1, tree, walk) {
                Ok(()) => {}
                Err(error) if files::is_missing(&error) => {}
                Err(error) => {
                    walk.failed.push((below.clone().into(), describe(&self.folder(&below), &error)));
                }
            }
        }
        Ok(())
    }

    /// Takes over what a walk below `above` found. Returns the children that were known already.
    fn list_found(&mut self, above: &str, walk: Walk, tree: &mut Tree, mode: Mode) -> Vec<Box<str>> {
        let Walk { found: children, failed } = walk;
        let below = |child: &str, above: &str| {
            above.is_empty()
                || child.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let known = self.folders.keys().chain(self.troubles.keys()).filter(|child| !child.is_empty());
        let kept =
            |child: &str| children.contains(child) || failed.iter().any(|(failed, _)| below(child, failed));
        let gone: Vec<_> = known.filter(|child| below(child, above) && !kept(child)).cloned().collect();
        for child in gone {
            self.drop_child(&child, tree);
        }
        self.troubles.extend(failed);
        let mut later = Vec::new();
        for child in children {
            if !self.folders.contains_key(&child) || self.troubles.contains_key(&child) {
                self.list_child(&child, tree, Mode::Full);
            } else if mode != Mode::Retry {
                later.push(child);
            }
        }
        later
    }

    /// Lists the nodes of a service and takes the difference over. Removes only what a whole listing lacks.
    fn list_nodes(&mut self, child: &str, tree: &mut Tree, mode: Mode) -> io::Result<()> {
        let mut look = Look::default();
        self.look(child, "", tree, mode, &mut look)?;
        let inner = std::mem::take(&mut look.folders);
        for folder in inner.into_iter().chain(self.layout.beside()) {
            match self.look(child, &folder, tree, mode, &mut look) {
                Ok(()) => {}
                Err(error) if files::is_missing(&error) || error.kind() == io::ErrorKind::NotADirectory => {}
                Err(error) => return Err(error),
            }
        }
        let known = self.folders.get(child).into_iter().flat_map(HashMap::keys);
        let gone: Vec<Box<str>> = known.filter(|name| !look.seen.contains(*name)).cloned().collect();
        for name in &gone {
            self.forget(child, name);
        }
        if mode == Mode::Audit && look.drift + gone.len() > 0 {
            let nodes = look.drift + gone.len();
            self.drift += nodes as u64;
            let directory = self.folder(child);
            tracing::info!(directory = %directory.display(), nodes, "a listing found what no event told");
            // Its watches may be dead: new ones, and what happened in between.
            for directory in &look.watched {
                tree.watches.forget(directory);
            }
            return self.list_nodes(child, tree, Mode::Full);
        }
        Ok(())
    }

    /// Looks at every node in a service's directory, or in one in it or beside it: the way there is `folder`.
    fn look(
        &mut self,
        child: &str,
        folder: &str,
        tree: &mut Tree,
        mode: Mode,
        look: &mut Look,
    ) -> io::Result<()> {
        let directory = if folder.is_empty() { self.folder(child) } else { self.path(child, folder) };
        tree.watches.ensure(&directory)?;
        tree.admit(&directory)?;
        look.watched.push(directory.clone());
        let entries = fs::read_dir(&directory)?.collect::<io::Result<Vec<_>>>()?;
        if folder.is_empty() {
            self.folders.entry(child.into()).or_default();
            if self.base.catalog {
                self.view.put_service(child);
            }
        }
        let only = match self.layout.inner(folder) {
            Some(Inner::Only(names)) if !folder.is_empty() => Some(names),
            _ => None,
        };
        for entry in entries {
            let name = entry.file_name();
            if !files::is_node_name(&name) {
                continue;
            }
            let shown = name.to_string_lossy();
            if only.is_some_and(|names| !names.contains(&&*shown)) {
                continue;
            }
            let node = if folder.is_empty() { shown.into_owned() } else { format!("{folder}/{shown}") };
            look.seen.insert(node.as_str().into());
            if name.to_str().is_none() {
                self.misnamed(child, &node, true);
                continue;
            }
            let path = directory.join(&name);
            let known = self.folders.get(child).and_then(|nodes| nodes.get(&*node)).copied();
            let found = tree.inspect(&path);
            if folder.is_empty() && matches!(found, Ok(Found::Other)) && self.layout.inner(&node).is_some() {
                look.folders.push(node.clone());
            }
            if let (Ok(Found::Node(stamp)), Some(known)) = (&found, known)
                && known.stamp == Some(*stamp)
                && !known.unread
            {
                continue;
            }
            if let (Ok(Found::Node(stamp)), Mode::Audit) = (&found, mode) {
                if stamp.is_hot() {
                    continue;
                }
                // The target of a link may change without an event.
                look.drift += usize::from(!stamp.symbolic && known.is_none_or(|known| !known.unread));
            }
            self.load(child, &node, &path, tree);
        }
        Ok(())
    }

    /// Reads a node, whatever stands there now.
    fn load(&mut self, child: &str, name: &str, path: &Path, tree: &Tree) {
        let stamp = match tree.inspect(path) {
            // Such a folder is a node itself, which says that there is one.
            Ok(Found::Other) if matches!(self.layout.inner(name), Some(Inner::Only(_))) => {
                self.know(child, name, Known { stamp: None, unread: false });
                let (incarnation, facts) = (Incarnation::default(), NodeFacts::default());
                return self.view.put(self.key(child), name, incarnation, facts, b"");
            }
            Ok(Found::Absent | Found::Other) => return self.forget(child, name),
            Ok(Found::Node(stamp)) => stamp,
            Ok(Found::Bad(stamp, why)) => {
                return self.refuse(child, name, Some(stamp), RejectReason::Forbidden, &why);
            }
            Err(error) => {
                let why = format!("cannot look at it: {error}");
                return self.refuse(child, name, None, RejectReason::Forbidden, &why);
            }
        };
        match files::read(path) {
            Ok(Content::Data(data)) => {
                self.know(child, name, Known { stamp: Some(stamp), unread: false });
                self.view.put(self.key(child), name, stamp.incarnation, stamp.facts, &data);
            }
            Ok(Content::TooLarge(size)) => {
                let why = format!("{size} bytes, and at most {MAX_DATA} are read");
                self.refuse(child, name, Some(stamp), RejectReason::TooLarge, &why);
            }
            Err(error) if files::is_missing(&error) => self.forget(child, name),
            Err(error) => {
                let why = format!("cannot read it: {error}");
                self.refuse(child, name, Some(stamp), RejectReason::Forbidden, &why);
            }
        }
    }

    /// A node that cannot be read. What it said before stays, unless that was another node of this name.
    fn refuse(&mut self, child: &str, name: &str, stamp: Option<Stamp>, reason: RejectReason, why: &str) {
        let before = self.folders.get(child).and_then(|folder| folder.get(name)?.stamp);
        if let (Some(before), Some(now)) = (before, stamp)
            && before.incarnation != now.incarnation
        {
            self.view.remove(self.key(child), name);
        }
        self.know(child, name, Known { stamp: stamp.or(before), unread: true });
        self.view.reject(self.key(child), name, reason, why);
    }

    /// A file whose name is no text, by what can be shown of it.
    fn misnamed(&mut self, child: &str, shown: &str, exists: bool) {
        if exists {
            self.know(child, shown, Known { stamp: None, unread: true });
            self.view.reject(self.key(child), shown, RejectReason::BadName, "not UTF-8");
        } else {
            self.forget(child, shown);
        }
    }

    fn know(&mut self, child: &str, name: &str, known: Known) {
        self.folders.entry(child.into()).or_default().insert(name.into(), known);
    }

    fn forget(&mut self, child: &str, name: &str) {
        if let Some(folder) = self.folders.get_mut(child) {
            folder.remove(name);
        }
        self.view.remove(self.key(child), name);
    }

    fn drop_child(&mut self, child: &str, tree: &mut Tree) {
        tree.watches.forget(&self.folder(child));
        for node in self.folders.remove(child).iter().flat_map(HashMap::keys).filter(|node| is_beside(node)) {
            self.view.remove(Some(child), node);
        }
        self.troubles.remove(child);
        self.view.remove_service(child);
    }

    /// The base's directory does not exist: it is listed, and empty.
    fn clear(&mut self, tree: &mut Tree) {
        self.listed = true;
        self.troubles.clear();
        tree.watches.forget(&self.folder(""));
        for (child, nodes) in std::mem::take(&mut self.folders) {
            if self.base.catalog {
                self.drop_child(&child, tree);
            } else {
                for name in nodes.keys() {
                    self.view.remove(None, name);
                }
            }
        }
    }

    /// The view's name for a directory of nodes.
    fn key<'a>(&self, child: &'a str) -> Option<&'a str> {
        self.base.catalog.then_some(child)
    }

    /// A service's directory, or one on the way to it.
    fn folder(&self, child: &str) -> PathBuf {
        match if child.is_empty() { self.layout.folder() } else { child } {
            "" => self.directory.clone(),
            below => self.directory.join(below),
        }
    }

    fn path(&self, child: &str, node: &str) -> PathBuf {
        self.directory.join(self.layout.below(self.key(child), node))
    }
}

/// What went wrong with a directory, for people.
fn describe(directory: &Path, error: &io::Error) -> String {
    let code = if error.kind() == io::ErrorKind::PermissionDenied { "forbidden: " } else { "" };
    format!("{code}cannot list {}: {error}", directory.display())
}
