//! The nodes that the mirror knows, by directory, and the differences that have not been taken yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::facts::{Delta, Depth, Place};
use crate::model::{NodeFacts, RejectReason, Source};

/// Directories with their nodes. Every change of them leaves a [`Delta`].
#[derive(Debug)]
pub(super) struct Tree {
    depth: Depth,
    cap: usize,
    /// By child directory; a service's own nodes are under "".
    folders: HashMap<Arc<str>, Folder>,
    /// The same for nodes beside such a directory: they stay where it goes.
    beside: HashMap<Arc<str>, Folder>,
    deltas: Vec<(Source, Delta)>,
    /// What tells of the deltas to come.
    source: Source,
}

/// What became of a node that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It differs from what was known.
    News,
    /// It was known so.
    Same,
    /// Its directory takes no more.
    Full,
}

#[derive(Debug, Default)]
struct Folder {
    nodes: HashMap<Arc<str>, Entry>,
    /// The last listing that had it.
    seen: u64,
}

impl Folder {
    /// Notes that a listing had all of its nodes, whatever that has.
    fn mark(&mut self, listing: u64) {
        self.nodes.values_mut().for_each(|entry| entry.seen = listing);
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good { czxid: i64, mzxid: i64 },
    Bad(RejectReason),
}

impl Tree {
    pub(super) fn new(depth: Depth, cap: usize) -> Self {
        let mut folders = HashMap::new();
        if depth == Depth::Service {
            folders.insert(Arc::from(""), Folder::default());
        }
        Self { depth, cap, folders, beside: HashMap::new(), deltas: Vec::new(), source: Source::Event }
    }

    pub(super) fn has_folder(&self, child: &str) -> bool {
        self.folders.contains_key(child)
    }

    /// The name as it is stored, so that all places of a directory share it.
    pub(super) fn folder_name(&self, child: &str) -> Arc<str> {
        self.folders.get_key_value(child).map_or_else(|| child.into(), |(name, _)| Arc::clone(name))
    }

    pub(super) fn ensure_folder(&mut self, child: &Arc<str>) {
        if !self.folders.contains_key(child) {
            self.folders.insert(Arc::clone(child), Folder::default());
            self.note(Delta::ServiceAppeared(Arc::clone(child)));
        }
    }

    /// `zxids`: its creation's and its last change's. `seen`: the listing that runs, if one does.
    pub(super) fn put(
        &mut self,
        place: Place,
        zxids: (i64, i64),
        facts: NodeFacts,
        data: Vec<u8>,
        seen: Option<u64>,
    ) -> Put {
        let (czxid, mzxid) = zxids;
        let put = self.set(&place, State::Good { czxid, mzxid }, seen);
        if put == Put::News {
            self.note(Delta::Put { place, czxid, facts, data });
        }
        put
    }

    /// `seen` as above.
    pub(super) fn reject(
        &mut self,
        place: Place,
        reason: RejectReason,
        detail: String,
        seen: Option<u64>,
    ) -> Put {
        let put = self.set(&place, State::Bad(reason), seen);
        if put == Put::News {
            self.note(Delta::Rejected { place, reason, detail });
        }
        put
    }

    /// Takes a node out. False where it was not known.
    pub(super) fn forget(&mut self, place: &Place) -> bool {
        let folder = self.folder_mut(place);
        let known = folder.and_then(|folder| folder.nodes.remove(&place.node)).is_some();
        if known {
            self.note(Delta::Removed(place.clone()));
        }
        known
    }

    /// Takes a directory out; says how many nodes were in it.
    pub(super) fn drop_folder(&mut self, child: &Arc<str>) -> u64 {
        let Some(folder) = self.folders.remove(child) else { return 0 };
        self.note(Delta::ServiceGone(Arc::clone(child)));
        folder.nodes.len() as u64
    }

    /// Takes everything out; says how many nodes there were.
    pub(super) fn drop_everything(&mut self) -> u64 {
        if self.depth == Depth::Catalog {
            let children: Vec<Arc<str>> = self.folders.keys().cloned().collect();
            return children.iter().map(|child| self.drop_folder(child)).sum();
        }
        let nodes: Vec<Arc<str>> =
            self.folders.values_mut().flat_map(|folder| folder.nodes.drain()).map(|(node, _)| node).collect();
        let count = nodes.len() as u64;
        let source = self.source;
        let removed = |node| (source, Delta::Removed(Place { child: None, node }));
        self.deltas.extend(nodes.into_iter().map(removed));
        count
    }

    /// Notes that a listing had this directory; with `all`, that its nodes stay whatever the listing has.
    pub(super) fn mark_folder(&mut self, child: &str, listing: u64, all: bool) {
        if let Some(folder) = self.folders.get_mut(child) {
            folder.seen = listing;
        }
        if all {
            let both = self.folders.get_mut(child).into_iter().chain(self.beside.get_mut(child));
            both.for_each(|folder| folder.mark(listing));
        }
    }

    /// Notes that a listing could not look below a directory: everything there stays.
    pub(super) fn mark_below(&mut self, above: &str, listing: u64) {
        let below = |child: &str| child.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
        let both = self.folders.iter_mut().chain(&mut self.beside);
        for (_, folder) in both.filter(|(child, _)| below(child)) {
            folder.seen = listing;
            folder.mark(listing);
        }
    }

    /// Notes that a listing could not look into a folder in its service's: its nodes stay.
    pub(super) fn mark_inside(&mut self, inner: &Place, listing: u64) {
        let inside = |node: &str| node.strip_prefix(&*inner.node).is_some_and(|rest| rest.starts_with('/'));
        let nodes = self.folder_mut(inner).into_iter().flat_map(|folder| &mut folder.nodes);
        nodes.filter(|(node, _)| inside(node)).for_each(|(_, entry)| entry.seen = listing);
    }

    /// Notes that a listing had this node.
    pub(super) fn mark(&mut self, place: &Place, listing: u64) {
        let folder = self.folder_mut(place);
        if let Some(entry) = folder.and_then(|folder| folder.nodes.get_mut(&place.node)) {
            entry.seen = listing;
        }
    }

    /// Directories that a listing did not have, and nodes that it did not have. The nodes of a directory
    /// that is listed here are listed too: whether they go is for each to be decided.
    pub(super) fn unseen(&self, listing: u64) -> (Vec<Arc<str>>, Vec<Place>) {
        let catalog = self.depth == Depth::Catalog;
        let (mut folders, mut places) = (Vec::new(), Vec::new());
        folders.extend(
            self.folders
                .iter()
                .filter(|(_, folder)| catalog && folder.seen != listing)
                .map(|(c, _)| Arc::clone(c)),
        );
        for (child, folder) in self.folders.iter().chain(&self.beside) {
            for (node, entry) in &folder.nodes {
                if entry.seen != listing {
                    let child = catalog.then(|| Arc::clone(child));
                    places.push(Place { child, node: Arc::clone(node) });
                }
            }
        }
        (folders, places)
    }

    /// Whether it is a node, or a directory, that we were not allowed to read.
    pub(super) fn is_forbidden(&self, place: &Place) -> bool {
        let folder = if place.is_beside() { &self.beside } else { &self.folders }.get(place.folder());
        let entry = folder.and_then(|folder| folder.nodes.get(&place.node));
        place.is_directory() || entry.is_some_and(|entry| entry.state == State::Bad(RejectReason::Forbidden))
    }

    /// What is told from now on comes from there.
    pub(super) fn told_by(&mut self, source: Source) {
        self.source = source;
    }

    pub(super) fn take_deltas(&mut self) -> Vec<(Source, Delta)> {
        std::mem::take(&mut self.deltas)
    }

    fn note(&mut self, delta: Delta) {
        self.deltas.push((self.source, delta));
    }

    /// Usable nodes and their incarnations.
    pub(super) fn nodes(&self) -> BTreeMap<Place, i64> {
        let mut out = BTreeMap::new();
        for (child, folder) in self.folders.iter().chain(&self.beside) {
            for (node, entry) in &folder.nodes {
                if let State::Good { czxid, .. } = entry.state {
                    let child = (self.depth == Depth::Catalog).then(|| Arc::clone(child));
                    out.insert(Place { child, node: Arc::clone(node) }, czxid);
                }
            }
        }
        out
    }

    fn folder_mut(&mut self, place: &Place) -> Option<&mut Folder> {
        let folders = if place.is_beside() { &mut self.beside } else { &mut self.folders };
        folders.get_mut(place.folder())
    }

    fn set(&mut self, place: &Place, state: State, seen: Option<u64>) -> Put {
        if place.is_beside() {
            let child = place.child.clone().unwrap_or_else(|| "".into());
            self.beside.entry(child).or_default();
        } else if let Some(child) = &place.child {
            self.ensure_folder(child);
        }
        let cap = self.cap;
        let Some(folder) = self.folder_mut(place) else { return Put::Same };
        if let Some(entry) = folder.nodes.get_mut(&place.node) {
            let old = std::mem::replace(&mut entry.state, state);
            return if old == state { Put::Same } else { Put::News };
        }
        // While a listing runs, nodes that it will find gone still stand beside the new ones.
        let room = if seen.is_some() { cap.saturating_mul(2) } else { cap };
        if folder.nodes.len() >= room {
            return Put::Full;
        }
        folder.nodes.insert(Arc::clone(&place.node), Entry { state, seen: seen.unwrap_or(0) });
        Put::News
    }
}
