//! A directory, a network and a mirror, all simulated from one seed.
//!
//! The directory changes at random; events and answers travel in random order (or, where the seed says so,
//! in the order a session delivers them); the link is lost, answers come late, reads fail. [`Sim::settle`]
//! then lets everything arrive, after which the mirror must equal the directory.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use zoogate::registry::zookeeper::mirror::{Contents, Delta, Depth, EventKind, Found, Mirror, Place, Ticket};

pub const BASE: &str = "/services";

/// A node of the simulated directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub czxid: i64,
    pub mzxid: i64,
    pub data: Vec<u8>,
}

/// What is on its way to the mirror.
#[derive(Debug)]
enum Letter {
    Event(EventKind, String, i64),
    Answer(u64, Vec<(Place, Found)>),
    Folder(Ticket, Arc<str>, Contents),
    Nodes(Ticket, Vec<(Place, Found)>),
    End(Ticket, bool),
}

/// A step of a listing that the server has not answered yet.
enum Todo {
    Read(u64, Vec<Place>),
    ListRoot(Ticket),
    ListFolder(Ticket, Arc<str>),
    ListNodes(Ticket, Vec<Place>),
    End(Ticket),
}

/// The world. `state` is what applying every delta gave: what a table would hold.
pub struct Sim {
    pub rng: Rng,
    pub mirror: Mirror,
    pub state: BTreeMap<Place, Node>,
    pub folders: HashSet<Arc<str>>,
    /// Every delta applied, for whoever wants to apply them too: to be taken.
    pub deltas: Vec<Delta>,
    pub depth: Depth,
    in_order: bool,
    /// A listing came to nothing: another is due.
    relist: bool,
    connected: bool,
    zxid: i64,
    truth: BTreeMap<Place, Node>,
    truth_folders: HashSet<Arc<str>>,
    events: VecDeque<Letter>,
    answers: Vec<Letter>,
    late: Vec<Letter>,
    todo: VecDeque<Todo>,
    /// Incarnations whose deletion the mirror was told.
    dead: HashSet<(Place, i64)>,
    /// The same in the order of being told.
    pub buried: Vec<i64>,
    pub steps: u64,
    pub losses: u64,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let depth = if rng.bool() { Depth::Catalog } else { Depth::Service };
        let in_order = rng.bool();
        let mut sim = Self {
            rng,
            mirror: Mirror::new(BASE, depth, 1000),
            state: BTreeMap::new(),
            folders: HashSet::new(),
            deltas: Vec::new(),
            depth,
            in_order,
            relist: false,
            connected: false,
            zxid: 1,
            truth: BTreeMap::new(),
            truth_folders: HashSet::new(),
            events: VecDeque::new(),
            answers: Vec::new(),
            late: Vec::new(),
            todo: VecDeque::new(),
            dead: HashSet::new(),
            buried: Vec::new(),
            steps: 0,
            losses: 0,
        };
        sim.connect();
        sim
    }

    /// One random thing happens. Checks that nothing dead is alive.
    pub fn step(&mut self) {
        self.steps += 1;
        match self.rng.u32(..100) {
            0..30 => self.change_directory(),
            30..60 => self.deliver(),
            60..85 => self.serve(),
            85..95 => self.ask(),
            95..97 if self.connected => self.audit(),
            97 if self.connected => self.lose(),
            98.. if !self.connected => self.connect(),
            _ => {}
        }
        self.apply();
    }

    /// Lets everything arrive, and listings follow, until nothing is open.
    pub fn settle(&mut self) {
        if !self.connected {
            self.connect();
        }
        loop {
            self.ask();
            if !self.todo.is_empty() {
                self.serve();
            } else if !(self.events.is_empty() && self.answers.is_empty()) {
                self.deliver();
            } else if self.relist || self.mirror.needs_listing() {
                self.list();
            } else {
                break;
            }
            self.apply();
        }
        self.apply();
    }

    /// What the mirror must equal after [`Sim::settle`].
    pub fn truth(&self) -> (&BTreeMap<Place, Node>, &HashSet<Arc<str>>) {
        (&self.truth, &self.truth_folders)
    }

    /// Whether events and answers come in a session's order: then an audit can find no drift.
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    fn change_directory(&mut self) {
        let place = self.place();
        self.zxid += 1;
        let path = path_of(&place);
        match self.rng.u32(..10) {
            0..4 => {
                if let Some(child) = &place.child
                    && self.truth_folders.insert(Arc::clone(child))
                {
                    let child = Arc::clone(child);
                    self.emit(EventKind::Created, format!("{BASE}/{child}"), 0);
                }
                let exists = self.truth.contains_key(&place);
                let czxid = self.truth.get(&place).map_or(self.zxid, |node| node.czxid);
                let data = address(czxid, self.zxid);
                self.truth.insert(place, Node { czxid, mzxid: self.zxid, data });
                self.emit(if exists { EventKind::Changed } else { EventKind::Created }, path, czxid);
            }
            4..9 => {
                if let Some(node) = self.truth.remove(&place) {
                    self.emit(EventKind::Deleted, path, node.czxid);
                    if self.rng.u32(..3) == 0 {
                        // The same name again, at once.
                        self.zxid += 1;
                        let data = address(self.zxid, self.zxid);
                        let path = path_of(&place);
                        self.truth.insert(place, Node { czxid: self.zxid, mzxid: self.zxid, data });
                        self.emit(EventKind::Created, path, self.zxid);
                    }
                }
            }
            _ => self.delete_folder(place.child),
        }
    }

    fn delete_folder(&mut self, child: Option<Arc<str>>) {
        let inside: Vec<Place> = self.truth.keys().filter(|place| place.child == child).cloned().collect();
        for place in inside {
            let czxid = self.truth.remove(&place).expect("it was just listed").czxid;
            self.emit(EventKind::Deleted, path_of(&place), czxid);
        }
        match child {
            Some(child) => {
                if self.truth_folders.remove(&child) {
                    self.emit(EventKind::Deleted, format!("{BASE}/{child}"), 0);
                }
            }
            // A service's own directory goes, and comes back with the next node.
            None => {
                self.emit(EventKind::Deleted, BASE.to_owned(), 0);
                self.emit(EventKind::Created, BASE.to_owned(), 0);
            }
        }
    }

    fn place(&mut self) -> Place {
        let node: Arc<str> = format!("n{}", self.rng.u32(..6)).into();
        let child = (self.depth == Depth::Catalog).then(|| format!("s{}", self.rng.u32(..4)).into());
        Place { child, node }
    }

    fn emit(&mut self, kind: EventKind, path: String, czxid: i64) {
        if self.connected {
            self.events.push_back(Letter::Event(kind, path, czxid));
        }
    }

    fn connect(&mut self) {
        self.connected = true;
        self.list();
    }

    /// The link goes: events on their way are lost, answers may still arrive, much later.
    fn lose(&mut self) {
        self.losses += 1;
        self.connected = false;
        self.events.clear();
        self.todo.clear();
        self.late.append(&mut self.answers);
        self.late.truncate(20);
        self.mirror.lost();
    }

    fn audit(&mut self) {
        if self.mirror.is_listed() && self.todo.is_empty() && self.answers.is_empty() {
            self.list();
        }
    }

    fn list(&mut self) {
        self.relist = false;
        let ticket = self.mirror.start_listing();
        self.todo.push_back(Todo::ListRoot(ticket));
    }

    fn ask(&mut self) {
        if self.connected
            && let Some(question) = self.mirror.ask(3)
        {
            self.todo.push_back(Todo::Read(question.at, question.places));
        }
    }

    /// The server answers a request: what is true now travels back.
    fn serve(&mut self) {
        let Some(todo) = self.todo.pop_front() else { return };
        if self.rng.u32(..40) == 0 {
            match todo {
                Todo::Read(at, _) => self.reply(Letter::Answer(at, Vec::new())),
                Todo::ListRoot(ticket)
                | Todo::ListFolder(ticket, _)
                | Todo::ListNodes(ticket, _)
                | Todo::End(ticket) => self.reply(Letter::End(ticket, false)),
            }
            return;
        }
        match todo {
            Todo::Read(at, places) => {
                let answers = self.read(places);
                self.reply(Letter::Answer(at, answers));
            }
            Todo::ListRoot(ticket) if self.depth == Depth::Service => {
                let places: Vec<Place> = self.truth.keys().cloned().collect();
                for chunk in places.chunks(2) {
                    self.todo.push_back(Todo::ListNodes(ticket, chunk.to_vec()));
                }
                self.todo.push_back(Todo::End(ticket));
            }
            Todo::ListRoot(ticket) => {
                let children: Vec<Arc<str>> = self.truth_folders.iter().cloned().collect();
                for child in children {
                    self.todo.push_back(Todo::ListFolder(ticket, child));
                }
                self.todo.push_back(Todo::End(ticket));
            }
            Todo::ListFolder(ticket, child) => {
                if self.truth_folders.contains(&child) {
                    let inside: Vec<Place> =
                        self.truth.keys().filter(|p| p.child.as_ref() == Some(&child)).cloned().collect();
                    // Before the end of the listing, which is in line already.
                    self.todo.push_front(Todo::ListNodes(ticket, inside));
                    self.reply(Letter::Folder(ticket, child, Contents::Listed));
                } else {
                    self.reply(Letter::Folder(ticket, child, Contents::Vanished));
                }
            }
            Todo::ListNodes(ticket, places) => {
                let nodes = self.read(places);
                self.reply(Letter::Nodes(ticket, nodes));
            }
            Todo::End(ticket) => self.reply(Letter::End(ticket, true)),
        }
    }

    fn read(&mut self, places: Vec<Place>) -> Vec<(Place, Found)> {
        let found = |sim: &Self, place: &Place| match sim.truth.get(place) {
            Some(node) => Found::Data {
                czxid: node.czxid,
                mzxid: node.mzxid,
                facts: zoogate::model::NodeFacts::default(),
                data: node.data.clone(),
            },
            None => Found::Absent,
        };
        places.into_iter().map(|place| (place.clone(), found(self, &place))).collect()
    }

    /// An answer sets out. In order means: behind every event that happened before it.
    fn reply(&mut self, letter: Letter) {
        if self.in_order {
            self.events.push_back(letter);
        } else {
            self.answers.push(letter);
        }
    }

    /// The next event, or any answer, arrives. A listing's parts keep their own order.
    fn deliver(&mut self) {
        let pick_answer = !self.answers.is_empty() && (self.events.is_empty() || self.rng.bool());
        let letter = if !self.late.is_empty() && self.rng.u32(..4) == 0 {
            Some(self.late.swap_remove(self.rng.usize(..self.late.len())))
        } else if pick_answer {
            let listing = |l: &Letter| !matches!(l, Letter::Answer(..));
            let mut at = self.rng.usize(..self.answers.len());
            if listing(&self.answers[at]) {
                at = self.answers.iter().position(listing).unwrap_or(at);
            }
            Some(self.answers.remove(at))
        } else {
            self.events.pop_front()
        };
        match letter {
            None => {}
            Some(Letter::Event(kind, path, czxid)) => {
                self.mirror.event(kind, &path);
                if kind == EventKind::Deleted
                    && let Some(place) = self.place_of(&path)
                {
                    self.dead.insert((place, czxid));
                    self.buried.push(czxid);
                }
            }
            Some(Letter::Answer(at, answers)) => self.mirror.answer(at, answers),
            Some(Letter::Folder(ticket, child, contents)) => {
                self.mirror.listed_folder(ticket, &child, contents);
            }
            Some(Letter::Nodes(ticket, nodes)) => self.mirror.listed_nodes(ticket, nodes),
            Some(Letter::End(ticket, complete)) => {
                self.relist |= !self.mirror.end_listing(ticket, complete);
            }
        }
    }

    fn place_of(&self, path: &str) -> Option<Place> {
        let below = path.strip_prefix(BASE)?.strip_prefix('/')?;
        match (self.depth, below.split_once('/')) {
            (Depth::Service, None) => Some(Place { child: None, node: below.into() }),
            (Depth::Catalog, Some((child, node))) => {
                Some(Place { child: Some(child.into()), node: node.into() })
            }
            _ => None,
        }
    }

    /// Applies the mirror's deltas as a table would.
    fn apply(&mut self) {
        for (_, delta) in self.mirror.take_deltas() {
            self.deltas.push(delta.clone());
            match delta {
                Delta::ServiceAppeared(child) => assert!(self.folders.insert(child), "appeared twice"),
                Delta::ServiceGone(child) => {
                    assert!(self.folders.remove(&child), "gone, and was not there");
                    self.state.retain(|place, _| place.child.as_ref() != Some(&child));
                }
                Delta::Put { place, czxid, data, .. } => {
                    let known = place.child.as_ref().is_none_or(|child| self.folders.contains(child));
                    assert!(known, "a node without its directory");
                    assert!(!self.dead.contains(&(place.clone(), czxid)), "{place:?} rises from the dead");
                    self.state.insert(place, Node { czxid, mzxid: 0, data });
                }
                Delta::Rejected { .. } => panic!("nothing here is rejected"),
                Delta::Removed(place) => assert!(self.state.remove(&place).is_some(), "removed twice"),
            }
        }
    }
}

/// A payload whose host tells the node's incarnation and whose port the write.
fn address(czxid: i64, mzxid: i64) -> Vec<u8> {
    let [.., high, middle, low] = czxid.to_be_bytes();
    format!("10.{high}.{middle}.{low}:{}", 1000 + mzxid % 60_000).into_bytes()
}

fn path_of(place: &Place) -> String {
    match &place.child {
        Some(child) => format!("{BASE}/{child}/{}", place.node),
        None => format!("{BASE}/{}", place.node),
    }
}
