//! What one base path holds, as events and answers tell it: a state machine without I/O and without a clock.
//!
//! Events and answers reach us by separate ways, so an answer may be older than an event that was handled
//! before it. Every node event therefore gets a sequence number; every question remembers the number that
//! was current when it was asked; an answer about a path that an event touched since then is dropped (the
//! event asked a newer question where one was needed). A deletion takes the node out at once, unasked.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub use super::facts::{Contents, Counters, Delta, Depth, EventKind, Found, Place, Question};
use super::facts::{DIRECTORY, RESERVED};
use super::tree::{Put, Tree};
use crate::model::{NodeFacts, RejectReason, Source};
use crate::registry::layout::{Layout, Spot};

/// Names one listing. Answers of a listing that was given up are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    at: u64,
    id: u64,
}

/// More unread nodes than this are listed instead of read one by one.
const MAX_WANTED: usize = 20_000;

/// The mirror of one base path.
#[derive(Debug)]
pub struct Mirror {
    layout: Arc<Layout>,
    tree: Tree,
    /// Number of the newest event.
    seq: u64,
    /// Answers to questions older than this are void.
    floor: u64,
    /// Newest event by path below the base, as long as a question about it may be open or to come.
    touched: HashMap<Box<str>, Touch>,
    prune_at: usize,
    /// Open questions by `at`.
    open: BTreeMap<u64, usize>,
    queue: VecDeque<Place>,
    wanted: HashSet<Place>,
    listing: Option<Listing>,
    next_id: u64,
    listed: bool,
    /// Something was missed: list soon.
    again: bool,
    /// Something may have been missed since the last whole listing.
    doubt: bool,
    counters: Counters,
}

/// An event of a path.
#[derive(Debug, Clone, Copy)]
struct Touch {
    seq: u64,
    /// Whether what it told of is yet to be read.
    unread: bool,
}

#[derive(Debug)]
struct Listing {
    ticket: Ticket,
    purpose: Purpose,
    broken: bool,
}

/// Why a listing is made; decides what a difference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The watch is new, or an answer was lost: differences are expected.
    Resync,
    /// Nothing is known to be missing: a difference is one that the events should have told.
    Audit,
}

/// Where a path lies.
enum At {
    Base,
    Folder(Arc<str>),
    Node(Place),
    Elsewhere,
}

impl Mirror {
    /// An empty mirror of `base` (absolute, without a slash at its end unless it is the root). A directory
    /// takes at most `cap` nodes.
    pub fn new(base: &str, depth: Depth, cap: usize) -> Self {
        Self::of(Arc::new(Layout::plain(base, depth == Depth::Catalog)), cap)
    }

    /// The same of any layout.
    pub fn of(layout: Arc<Layout>, cap: usize) -> Self {
        let depth = if layout.pattern().is_some() { Depth::Catalog } else { Depth::Service };
        Self {
            layout,
            tree: Tree::new(depth, cap),
            seq: 0,
            floor: 0,
            touched: HashMap::new(),
            prune_at: 1024,
            open: BTreeMap::new(),
            queue: VecDeque::new(),
            wanted: HashSet::new(),
            listing: None,
            next_id: 0,
            listed: false,
            again: false,
            doubt: true,
            counters: Counters::default(),
        }
    }

    /// A watch event. Paths that are not at the depths we mirror are ignored.
    pub fn event(&mut self, kind: EventKind, path: &str) {
        self.tree.told_by(Source::Event);
        match (self.place(path), kind) {
            (At::Elsewhere, _) | (At::Base | At::Folder(_), EventKind::Changed) => {}
            (At::Base, kind) => {
                self.void_answers();
                if kind == EventKind::Deleted {
                    self.counters.removed_by_event += self.tree.drop_everything();
                }
                self.again = true;
            }
            (At::Folder(child), EventKind::Created) => {
                self.touch(&child, false);
                self.tree.ensure_folder(&child);
            }
            (At::Folder(child), EventKind::Deleted) => {
                self.touch(&child, false);
                self.counters.removed_by_event += self.tree.drop_folder(&child);
            }
            (At::Node(place), EventKind::Deleted) => {
                self.touch(&self.below(&place), false);
                self.wanted.remove(&place);
                if self.tree.forget(&place) {
                    self.counters.removed_by_event += 1;
                }
            }
            (At::Node(place), _) => {
                self.touch(&self.below(&place), true);
                self.want(place);
            }
        }
    }

    /// The watch is lost, and with it every open question. What is known stays.
    pub fn lost(&mut self) {
        self.void_answers();
        self.touched.clear();
        self.queue.clear();
        self.wanted.clear();
        self.again = false;
        self.doubt = true;
    }

    /// The next nodes to read, at most `max`.
    pub fn ask(&mut self, max: usize) -> Option<Question> {
        let mut places = Vec::new();
        while places.len() < max
            && let Some(place) = self.queue.pop_front()
        {
            // A deletion in between took it out of `wanted`, a later creation may have queued it twice.
            if self.wanted.remove(&place) {
                places.push(place);
            }
        }
        (!places.is_empty()).then(|| {
            *self.open.entry(self.seq).or_default() += 1;
            Question { at: self.seq, places }
        })
    }

    /// The answer to the [`Question`] asked at `at`; empty where the whole of it failed.
    pub fn answer(&mut self, at: u64, answers: Vec<(Place, Found)>) {
        if at < self.floor {
            self.counters.stale_replies += answers.len() as u64;
            return;
        }
        self.tree.told_by(Source::Event);
        if answers.is_empty() {
            self.again = true;
            self.give_up_reading();
        }
        for (place, found) in answers {
            let below = self.below(&place);
            if self.touched_since(&below, at) {
                self.counters.stale_replies += 1;
                continue;
            }
            self.have_read(&below);
            match found {
                Found::Data { czxid, mzxid, facts, data } => {
                    self.put(place, czxid, mzxid, facts, data);
                }
                Found::Refused(reason, detail) => {
                    self.reject(place, reason, detail);
                }
                // Its deletion's event follows.
                Found::Absent => {}
                Found::Failed => self.again = true,
            }
        }
        self.close(at);
    }

    /// Begins a listing; one that still ran is void.
    pub fn start_listing(&mut self) -> Ticket {
        if let Some(old) = self.listing.take() {
            self.close(old.ticket.at);
        }
        self.doubt |= self.again;
        self.again = false;
        let purpose = if self.doubt { Purpose::Resync } else { Purpose::Audit };
        self.next_id += 1;
        let ticket = Ticket { at: self.seq, id: self.next_id };
        *self.open.entry(self.seq).or_default() += 1;
        self.listing = Some(Listing { ticket, purpose, broken: false });
        ticket
    }

    /// A catalog's child directory, as the listing found it.
    pub fn listed_folder(&mut self, ticket: Ticket, child: &Arc<str>, contents: Contents) {
        let Some(purpose) = self.purpose(ticket) else { return };
        self.tree.told_by(Source::Listing);
        if self.touched_since(child, ticket.at) {
            self.counters.stale_replies += 1;
        } else if contents != Contents::Vanished && !self.tree.has_folder(child) {
            self.note_drift(purpose, child);
            self.tree.ensure_folder(child);
        }
        self.tree.mark_folder(child, ticket.id, contents != Contents::Listed);
        match contents {
            Contents::Listed => {}
            Contents::Vanished => self.again = true,
            Contents::Refused(reason, detail) => {
                let place = Place { child: Some(Arc::clone(child)), node: DIRECTORY.into() };
                self.reject(place, reason, detail);
            }
        }
    }

    /// A directory on the way to services whose content could not be listed: what is known below it stays.
    pub fn listed_hidden(&mut self, ticket: Ticket, above: &str) {
        if self.purpose(ticket).is_some() {
            self.tree.mark_below(above, ticket.id);
        }
    }

    /// A folder of nodes that is not its service's own, and whose content could not be listed: what is known of it
    /// stays. `place`: the folder itself, in its service's.
    pub fn listed_shut(&mut self, ticket: Ticket, place: Place, reason: RejectReason, detail: String) {
        if self.purpose(ticket).is_some() {
            self.tree.told_by(Source::Listing);
            self.tree.mark_inside(&place, ticket.id);
            let shut = Place { node: format!("{}/{DIRECTORY}", place.node).into(), ..place };
            self.reject(shut.clone(), reason, detail);
            self.tree.mark(&shut, ticket.id);
        }
    }

    /// Nodes, as the listing found them.
    pub fn listed_nodes(&mut self, ticket: Ticket, nodes: Vec<(Place, Found)>) {
        let Some(purpose) = self.purpose(ticket) else { return };
        self.tree.told_by(Source::Listing);
        for (place, found) in nodes {
            let below = if self.touched.is_empty() { String::new() } else { self.below(&place) };
            if self.touched_since(&below, ticket.at) {
                self.counters.stale_replies += 1;
                continue;
            }
            self.have_read(&below);
            let known_before = self.touched.contains_key(below.as_str()) || self.wanted.contains(&place);
            // Servers tell nothing of nodes that we may not read, nor of permissions that change.
            let told = !matches!(found, Found::Refused(RejectReason::Forbidden, _))
                && !self.tree.is_forbidden(&place);
            let changed = match found {
                Found::Data { czxid, mzxid, facts, data } => {
                    self.put(place.clone(), czxid, mzxid, facts, data)
                }
                Found::Refused(reason, detail) => self.reject(place.clone(), reason, detail),
                Found::Absent => {
                    // Listed a moment ago, gone without an event: not sure enough to remove it now.
                    self.again = true;
                    false
                }
                Found::Failed => {
                    self.listing.iter_mut().for_each(|listing| listing.broken = true);
                    false
                }
            };
            if changed && told && !known_before && purpose == Purpose::Audit {
                self.counters.drift += 1;
            }
            self.tree.mark(&place, ticket.id);
        }
    }

    /// Ends a listing. True: it was whole, what it did not have is gone, and the mirror is the truth up to
    /// the events handled.
    pub fn end_listing(&mut self, ticket: Ticket, complete: bool) -> bool {
        let Some(listing) = self.listing.take_if(|listing| listing.ticket == ticket) else { return false };
        let whole = complete && !listing.broken;
        if whole {
            self.tree.told_by(Source::Listing);
            self.sweep(&listing);
            self.listed = true;
            self.doubt = false;
            self.counters.listings += 1;
        } else {
            self.doubt = true;
        }
        self.close(ticket.at);
        whole
    }

    /// Nodes that were created or changed and are yet to be read, as far as that may still come.
    pub fn unread(&self) -> impl Iterator<Item = Place> {
        let unread = self.touched.iter().filter(|(_, touch)| touch.unread);
        unread.filter_map(|(below, _)| match self.place_below(below) {
            At::Node(place) => Some(place),
            At::Base | At::Folder(_) | At::Elsewhere => None,
        })
    }

    /// Whether a listing was whole at some time.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether something was missed, so that a new listing is needed soon.
    pub fn needs_listing(&self) -> bool {
        self.again
    }

    /// The differences since the last call, each with what told of it.
    pub fn take_deltas(&mut self) -> Vec<(Source, Delta)> {
        self.tree.take_deltas()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Usable nodes and their incarnations, sorted; for tests and checks.
    pub fn nodes(&self) -> BTreeMap<Place, i64> {
        self.tree.nodes()
    }

    fn place(&self, path: &str) -> At {
        let below = match self.layout.root() {
            "/" => path.strip_prefix('/'),
            root if root == path => Some(""),
            root => path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')),
        };
        below.map_or(At::Elsewhere, |below| self.place_below(below))
    }

    fn place_below(&self, below: &str) -> At {
        if self.layout.root() == "/" && below.split('/').next() == Some(RESERVED) {
            return At::Elsewhere;
        }
        match self.layout.place(below) {
            Spot::Base => At::Base,
            Spot::Folder(child) => At::Folder(child.into()),
            Spot::Node(child, node) => {
                let child = child.map(|child| self.tree.folder_name(&child));
                At::Node(Place { child, node: (&*node).into() })
            }
            Spot::Above | Spot::Beside(_) | Spot::Elsewhere => At::Elsewhere,
        }
    }

    fn below(&self, place: &Place) -> String {
        self.layout.below(place.child.as_deref(), &place.node)
    }

    fn touch(&mut self, below: &str, unread: bool) {
        self.seq += 1;
        if self.touched.len() >= self.prune_at && self.wanted.is_empty() {
            let oldest = self.open.first_key_value().map_or(u64::MAX, |(at, _)| *at);
            self.touched.retain(|_, touch| touch.seq >= oldest || touch.unread);
            self.prune_at = (self.touched.len() * 2).max(1024);
        }
        self.touched.insert(below.into(), Touch { seq: self.seq, unread });
    }

    fn touched_since(&self, below: &str, at: u64) -> bool {
        self.touched.get(below).is_some_and(|touch| touch.seq > at)
    }

    fn have_read(&mut self, below: &str) {
        if let Some(touch) = self.touched.get_mut(below) {
            touch.unread = false;
        }
    }

    /// A listing must bring what no answer did.
    fn give_up_reading(&mut self) {
        self.touched.values_mut().for_each(|touch| touch.unread = false);
    }

    fn void_answers(&mut self) {
        self.seq += 1;
        self.floor = self.seq;
        self.open.clear();
        self.listing = None;
        self.give_up_reading();
    }

    fn close(&mut self, at: u64) {
        if let Some(count) = self.open.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&at);
            }
        }
        if self.open.is_empty() && self.wanted.is_empty() {
            self.touched.clear();
        }
    }

    fn want(&mut self, place: Place) {
        if self.queue.len() >= MAX_WANTED {
            self.queue.clear();
            self.wanted.clear();
            self.again = true;
            self.give_up_reading();
        } else if self.wanted.insert(place.clone()) {
            self.queue.push_back(place);
        }
    }

    fn purpose(&self, ticket: Ticket) -> Option<Purpose> {
        self.listing.as_ref().filter(|listing| listing.ticket == ticket).map(|listing| listing.purpose)
    }

    fn note_drift(&mut self, purpose: Purpose, below: &str) {
        if purpose == Purpose::Audit && !self.touched.contains_key(below) {
            self.counters.drift += 1;
        }
    }

    fn put(&mut self, place: Place, czxid: i64, mzxid: i64, facts: NodeFacts, data: Vec<u8>) -> bool {
        let seen = self.listing.as_ref().map(|listing| listing.ticket.id);
        let put = self.tree.put(place, (czxid, mzxid), facts, data, seen);
        self.is_news(put)
    }

    fn reject(&mut self, place: Place, reason: RejectReason, detail: String) -> bool {
        let seen = self.listing.as_ref().map(|listing| listing.ticket.id);
        let put = self.tree.reject(place, reason, detail, seen);
        self.is_news(put)
    }

    fn is_news(&mut self, put: Put) -> bool {
        // A listing finds a directory over its cap and says so.
        self.again |= put == Put::Full;
        put == Put::News
    }

    /// Takes out what the listing did not have and no event touched since it began.
    fn sweep(&mut self, listing: &Listing) {
        let Ticket { at, id } = listing.ticket;
        let (gone_folders, gone) = self.tree.unseen(id);
        for child in gone_folders {
            if self.touched_since(&child, at) {
                continue;
            }
            self.note_drift(listing.purpose, &child);
            self.counters.removed_by_listing += self.tree.drop_folder(&child);
        }
        for place in gone {
            let below = self.below(&place);
            let told = !self.tree.is_forbidden(&place);
            // False for the nodes of a directory that went as a whole.
            if self.touched_since(&below, at) || !self.tree.forget(&place) {
                continue;
            }
            if told {
                self.note_drift(listing.purpose, &below);
            }
            self.counters.removed_by_listing += u64::from(!place.is_directory());
        }
    }
}
