//! The thread that owns the tree: takes events and commands, and lists in between.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Base;
use super::super::outbox::Outbox;
use super::base::{BaseState, Mode};
use super::inbox::{Command, Event, Inbox, Kind};
use super::tree::Tree;
use crate::model::{ServiceName, Source};

/// Between two audits, on average.
const AUDIT: Duration = Duration::from_secs(30);

/// Between two attempts at what cannot be listed.
const RETRY: Duration = Duration::from_secs(1);

/// A run of events is told at least this often.
const FLUSH: Duration = Duration::from_millis(2);

/// Starts the thread. It ends when the inbox says so.
pub(super) fn spawn(root: PathBuf, inbox: Arc<Inbox>, outbox: Outbox) -> io::Result<()> {
    let body = move || Worker::new(&root, inbox, outbox).run();
    std::thread::Builder::new().name("zoogate-directory".into()).spawn(body).map(drop)
}

/// Something to list when no event waits.
type Task = (ServiceName, Option<Box<str>>, Mode, Source);

struct Worker {
    inbox: Arc<Inbox>,
    outbox: Outbox,
    tree: Tree,
    bases: BTreeMap<ServiceName, BaseState>,
    /// The bases at a directory, and those somewhere below it.
    at: HashMap<PathBuf, Interest>,
    tasks: VecDeque<Task>,
    waiting: HashSet<Task>,
    /// Bases with something to tell, since when, and what told of it.
    dirty: BTreeMap<ServiceName, (Instant, Source)>,
    flushed: Instant,
    flush_cost: Duration,
    audit: Instant,
    retry: Instant,
}

#[derive(Debug, Default)]
struct Interest {
    here: Vec<ServiceName>,
    below: Vec<ServiceName>,
}

impl Worker {
    fn new(root: &Path, inbox: Arc<Inbox>, outbox: Outbox) -> Self {
        let now = Instant::now();
        Self {
            tree: Tree::new(root, Arc::clone(&inbox)),
            inbox,
            outbox,
            bases: BTreeMap::new(),
            at: HashMap::new(),
            tasks: VecDeque::new(),
            waiting: HashSet::new(),
            dirty: BTreeMap::new(),
            flushed: now,
            flush_cost: Duration::ZERO,
            audit: next_audit(now),
            retry: now + RETRY,
        }
    }

    fn run(mut self) {
        loop {
            let batch = self.inbox.wait(self.wake());
            if batch.stop {
                return;
            }
            for command in batch.commands {
                match command {
                    Command::Add(base) => self.add(base),
                    Command::Remove(base) => self.remove(&base),
                }
            }
            for event in batch.events {
                self.event(&event);
                if self.flushed.elapsed() > FLUSH.max(4 * self.flush_cost) {
                    self.flush();
                }
            }
            if let Some(received) = batch.lost {
                tracing::warn!("events of the file system were lost: everything is listed anew");
                self.list_all(Mode::Full, received);
            }
            self.flush();
            let now = Instant::now();
            if now >= self.audit {
                self.audit = next_audit(now);
                self.list_all(Mode::Audit, now);
            }
            if now >= self.retry {
                self.retry = now + RETRY;
                self.retry_troubled(now);
            }
            if let Some(task) = self.tasks.pop_front() {
                self.waiting.remove(&task);
                self.perform(task);
                self.flush();
            }
        }
    }

    /// When there is something to do even if nothing comes.
    fn wake(&self) -> Instant {
        if self.tasks.is_empty() { self.audit.min(self.retry) } else { Instant::now() }
    }

    fn add(&mut self, base: Base) {
        let name = base.name.clone();
        self.remove(&name);
        let state = BaseState::new(base, self.tree.root());
        self.at.entry(state.directory().to_owned()).or_default().here.push(name.clone());
        for above in state.directory().ancestors().skip(1) {
            self.at.entry(above.to_owned()).or_default().below.push(name.clone());
        }
        self.bases.insert(name.clone(), state);
        self.later((name, None, Mode::Full, Source::Listing));
    }

    fn remove(&mut self, name: &ServiceName) {
        if self.bases.remove(name).is_none() {
            return;
        }
        self.dirty.remove(name);
        self.at.retain(|_, interest| {
            interest.here.retain(|base| base != name);
            interest.below.retain(|base| base != name);
            !interest.here.is_empty() || !interest.below.is_empty()
        });
        let (at, bases) = (&self.at, &self.bases);
        self.tree.watches.retain(|directory| {
            at.contains_key(directory)
                || directory.ancestors().enumerate().skip(1).any(|(depth, above)| {
                    let reaches =
                        |base| bases.get(base).is_some_and(|base: &BaseState| base.depth() >= depth);
                    at.get(above).is_some_and(|interest| interest.here.iter().any(reaches))
                })
        });
    }

    fn event(&mut self, event: &Event) {
        let Event { path, kind, received } = event;
        if matches!(kind, Kind::Created | Kind::MovedIn | Kind::Removed) {
            // Whatever is there now, what was watched under this name may be something else. Once, and before
            // any listing: several bases may share the directory.
            self.tree.watches.forget(path);
        }
        // A directory on the way to a base came, went or changed hands.
        if let Some(interest) = self.at.get(path) {
            let here = interest.here.iter();
            let concerned: Vec<_> = match kind {
                Kind::Written => Vec::new(),
                Kind::Attributes => {
                    here.chain(interest.below.iter().filter(|base| self.is_troubled(base))).cloned().collect()
                }
                _ => here.chain(&interest.below).cloned().collect(),
            };
            for base in concerned {
                self.list(base, Mode::Full, *received, Source::Event);
            }
        }
        for (distance, above) in path.ancestors().enumerate().skip(1) {
            let Ok(below) = path.strip_prefix(above) else { return };
            for base in self.here(above) {
                // Nodes are one below the directories that are watched.
                if let Some(state) = self.bases.get_mut(&base).filter(|state| distance <= state.depth() + 1) {
                    state.event(below, *kind, &mut self.tree);
                    self.touch(base, *received, Source::Event);
                }
            }
        }
    }

    fn perform(&mut self, (base, child, mode, source): Task) {
        let now = Instant::now();
        match child {
            None => self.list(base, mode, now, source),
            Some(child) => {
                if let Some(state) = self.bases.get_mut(&base) {
                    state.list_child(&child, &mut self.tree, mode);
                    self.touch(base, now, source);
                }
            }
        }
    }

    /// Lists a base now and leaves a catalog's known children for later, one by one, so that events come
    /// in between.
    fn list(&mut self, base: ServiceName, mode: Mode, received: Instant, source: Source) {
        if let Some(state) = self.bases.get_mut(&base) {
            for child in state.list(&mut self.tree, mode) {
                self.later((base.clone(), Some(child), mode, source));
            }
            self.touch(base, received, source);
        }
    }

    fn list_all(&mut self, mode: Mode, received: Instant) {
        for base in self.bases.keys().cloned().collect::<Vec<_>>() {
            // The oldest event that was lost is the one to count from.
            if mode == Mode::Full {
                self.touch(base.clone(), received, Source::Listing);
            }
            self.later((base, None, mode, Source::Listing));
        }
    }

    fn retry_troubled(&mut self, now: Instant) {
        if self.tree.watches.blind() {
            self.list_all(Mode::Audit, now);
        }
        let troubled = self.bases.iter().filter(|(_, state)| state.in_trouble());
        for base in troubled.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.later((base, None, Mode::Retry, Source::Listing));
        }
    }

    fn later(&mut self, task: Task) {
        if self.waiting.insert(task.clone()) {
            self.tasks.push_back(task);
        }
    }

    fn touch(&mut self, base: ServiceName, received: Instant, source: Source) {
        let (_, told) = self.dirty.entry(base).or_insert((received, source));
        *told = source.min(*told);
    }

    fn flush(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let start = Instant::now();
        for (base, (received, source)) in std::mem::take(&mut self.dirty) {
            if let Some(state) = self.bases.get_mut(&base) {
                state.flush(&self.outbox, received, source);
            }
        }
        self.flushed = Instant::now();
        self.flush_cost = self.flushed - start;
    }

    fn here(&self, directory: &Path) -> Vec<ServiceName> {
        self.at.get(directory).map_or_else(Vec::new, |interest| interest.here.clone())
    }

    fn is_troubled(&self, base: &ServiceName) -> bool {
        self.bases.get(base).is_some_and(BaseState::in_trouble)
    }
}

/// Gateways that were started together do not list together.
fn next_audit(now: Instant) -> Instant {
    now + AUDIT.mul_f64(0.9 + 0.2 * fastrand::f64())
}
