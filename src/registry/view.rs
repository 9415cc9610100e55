//! What is known of one base: its nodes decoded, and what changed since it was last asked.
//!
//! Both kinds of registry feed it node by node and fetch changes when they have fed it whole; nodes are
//! decoded then, so that detection sees a listing and not its first line.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::format;
use super::layout::is_beside;
use super::{Base, Change};
use crate::model::{
    CatalogPattern, FormatChoice, Incarnation, NodeFacts, PrimaryRule, RejectReason, Rejected,
    ServiceSnapshot, Source,
};

mod candidates;
mod service;
mod succession;

use candidates::Candidates;
use service::Service;
use succession::Unread;

/// Directories of a catalog that are told to be no services.
const MAX_REFUSED: usize = 1000;

/// The decoded state of one base: a service, or a catalog of them.
#[derive(Debug)]
pub struct BaseView {
    base: Arc<Base>,
    pattern: Option<CatalogPattern>,
    /// By child directory (its path below a pattern's root); a base that is one service has it under the
    /// empty name.
    services: HashMap<Box<str>, Service>,
    /// What an election has instead.
    candidates: Option<Candidates>,
    /// What `take_changes` looks at.
    touched: Vec<Box<str>>,
    /// What was told last, kept over a directory's absence until that is told too.
    told: HashMap<Box<str>, Arc<ServiceSnapshot>>,
    /// How many of those have a primary.
    led: usize,
    unread: Unread,
    /// Services whose last primary stays for the moment, and since when.
    staying: HashMap<Box<str>, Instant>,
    /// The nodes beside a catalog's services, by child directory, also of those that are not there (yet, or any more).
    beside: HashMap<Box<str>, BTreeMap<Box<str>, Stored>>,
    /// Directories of a catalog whose names are none.
    refused: BTreeMap<Box<str>, Rejected>,
    refused_news: bool,
}

/// What was told of a node.
#[derive(Debug)]
enum Stored {
    Node(Incarnation, NodeFacts, Box<[u8]>),
    Rejected(RejectReason, String),
}

impl Stored {
    fn tell(&self, service: &mut Service, node: &str) {
        match self {
            Self::Node(incarnation, facts, data) => service.put(node, *incarnation, *facts, data),
            Self::Rejected(reason, detail) => service.reject(node, *reason, detail),
        }
    }
}

impl BaseView {
    /// Nothing is known yet. The first changes of a service's base hold that service, even an empty one.
    pub fn new(base: &Base) -> Self {
        let base = Arc::new(base.clone());
        let mut view = Self {
            services: HashMap::new(),
            touched: Vec::new(),
            told: HashMap::new(),
            beside: HashMap::new(),
            led: 0,
            unread: Unread::default(),
            staying: HashMap::new(),
            refused: BTreeMap::new(),
            refused_news: false,
            pattern: base.pattern(),
            candidates: base.election.then(Candidates::default),
            base,
        };
        if !view.base.catalog && !view.base.election {
            let service = Service::new(Arc::clone(&view.base), view.base.name.clone(), None);
            view.services.insert("".into(), service);
            view.touch("");
        }
        view
    }

    /// A catalog's child directory exists. Its name must be a safe segment; else it is told once and ignored.
    pub fn put_service(&mut self, child: &str) {
        let Some(pattern) = self.pattern.as_ref().filter(|_| !self.services.contains_key(child)) else {
            return;
        };
        let last = child.rsplit('/').next().unwrap_or_default();
        if let FormatChoice::Fixed(format) = self.base.format
            && format::is_control_folder(format, last)
        {
            return;
        }
        match pattern.name(&self.base.name, child) {
            Ok(name) => {
                let mut service = Service::new(Arc::clone(&self.base), name, Some(child));
                for (node, stored) in self.beside.get(child).into_iter().flatten() {
                    stored.tell(&mut service, node);
                }
                self.services.insert(child.into(), service);
                self.touch(child);
            }
            Err(error) => {
                if self.refused.len() < MAX_REFUSED && !self.refused.contains_key(child) {
                    tracing::warn!(catalog = %self.base.name, %error, "a directory of the catalog is no service");
                    let node = child.escape_debug().to_string().into();
                    let rejected =
                        Rejected { node, reason: RejectReason::BadName, detail: error.to_string() };
                    self.refused.insert(child.into(), rejected);
                    self.refused_news = true;
                }
            }
        }
    }

    /// A catalog's child directory is gone.
    pub fn remove_service(&mut self, child: &str) {
        if self.base.catalog && self.services.remove(child).is_some() {
            self.touched.push(child.into());
        }
        self.refused_news |= self.refused.remove(child).is_some();
    }

    /// A node exists and holds this. With the incarnation it had before, its last good value outlives bad data.
    ///
    /// The node may be deeper than its service's folder: then its name is the path below that.
    pub fn put(
        &mut self,
        child: Option<&str>,
        node: &str,
        incarnation: Incarnation,
        facts: NodeFacts,
        data: &[u8],
    ) {
        if let Some(candidates) = &mut self.candidates {
            return candidates.put(node, data);
        }
        match child {
            Some(child) if is_beside(node) => {
                let stored = Stored::Node(incarnation, facts, data.into());
                self.beside.entry(child.into()).or_default().insert(node.into(), stored);
            }
            Some(child) => self.put_service(child),
            None => {}
        }
        self.with(child, |service| service.put(node, incarnation, facts, data));
    }

    /// A node exists and cannot be used, for a reason that is not in its data. Its last good value stays.
    pub fn reject(&mut self, child: Option<&str>, node: &str, reason: RejectReason, detail: &str) {
        if let Some(candidates) = &mut self.candidates {
            return candidates.reject(node);
        }
        match child {
            Some(child) if is_beside(node) => {
                let stored = Stored::Rejected(reason, detail.to_owned());
                self.beside.entry(child.into()).or_default().insert(node.into(), stored);
            }
            Some(child) => self.put_service(child),
            None => {}
        }
        self.with(child, |service| service.reject(node, reason, detail));
    }

    /// A node is gone.
    pub fn remove(&mut self, child: Option<&str>, node: &str) {
        if let Some(candidates) = &mut self.candidates {
            return candidates.remove(node);
        }
        if let Some(child) = child.filter(|_| is_beside(node))
            && let Some(nodes) = self.beside.get_mut(child)
        {
            nodes.remove(node);
            if nodes.is_empty() {
                self.beside.remove(child);
            }
        }
        self.with(child, |service| service.remove(node));
    }

    /// Whether it matters here which nodes are yet to be read: who leads may be one of them.
    pub fn minds_unread(&self) -> bool {
        self.led > 0 || self.base.election || self.base.primary == PrimaryRule::LowestSequence
    }

    /// The nodes that were created or changed and are yet to be read now, each with its service's directory.
    ///
    /// A primary that is gone stays until the nodes that may be its successor are read, so that one follows the other in
    /// one change.
    pub fn set_unread<'p>(&mut self, places: impl Iterator<Item = (Option<&'p str>, &'p str)>) {
        self.unread = Unread::of(places.map(|(child, node)| (child.unwrap_or_default(), node)));
        for child in self.staying.keys().cloned().collect::<Vec<_>>() {
            self.touch(&child);
        }
    }

    /// The services that differ from what was last told. Linear in the services touched since, not in all.
    pub fn take_changes(&mut self, received: Instant, source: Source) -> Vec<Change> {
        self.take_some_changes(usize::MAX, received, source)
    }

    /// The same of so many touched services at the most: nodes are decoded here, which takes its time.
    pub fn take_some_changes(&mut self, at_most: usize, received: Instant, source: Source) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(candidates) = &mut self.candidates
            && candidates.elect(&self.unread.below(""))
        {
            let leader = candidates.leader();
            changes.push(Change::Leader { base: self.base.name.clone(), leader, received });
        }
        if std::mem::take(&mut self.refused_news) {
            let rejected = self.refused.values().cloned().collect();
            changes.push(Change::Refused { catalog: self.base.name.clone(), rejected });
        }
        let rest = self.touched.len().saturating_sub(at_most);
        for child in self.touched.split_off(rest) {
            changes.extend(if self.services.contains_key(&child) {
                self.updated(child, received, source)
            } else {
                self.gone(&child, received, source)
            });
        }
        changes
    }

    /// What a service is now, where that differs from what was last told.
    fn updated(&mut self, child: Box<str>, received: Instant, source: Source) -> Option<Change> {
        // Removed and put back in between, it is listed twice; once is enough.
        let service = self.services.get_mut(&child).filter(|service| service.touched)?;
        service.touched = false;
        let mut snapshot = service.snapshot();
        let told = self.told.get(&child);
        let unread = self.unread.below(&child);
        let since = self.staying.remove(&child).unwrap_or(received);
        if succession::lead(service, &self.base.primary, &mut snapshot, &unread)
            && told.is_some_and(|told| succession::stay(told, &mut snapshot, since, received))
        {
            self.staying.insert(child.clone(), since);
        }
        if told.is_some_and(|told| service::same(told, &snapshot)) {
            return None;
        }
        let (service, snapshot) = (service.name().clone(), Arc::new(snapshot));
        self.led += usize::from(snapshot.primary.is_some());
        let told = self.told.insert(child, Arc::clone(&snapshot));
        self.led -= usize::from(told.is_some_and(|told| told.primary.is_some()));
        Some(Change::Updated { service, snapshot, received, source })
    }

    /// That a service is gone, where it was told.
    fn gone(&mut self, child: &str, received: Instant, source: Source) -> Option<Change> {
        self.staying.remove(child);
        let told = self.told.remove(child)?;
        self.led -= usize::from(told.primary.is_some());
        let service = self.pattern.as_ref()?.name(&self.base.name, child).ok()?;
        Some(Change::Gone { service, received, source })
    }

    /// Whether a service was touched since it was last asked for.
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    fn with(&mut self, child: Option<&str>, act: impl FnOnce(&mut Service)) {
        let child = child.unwrap_or_default();
        if let Some(service) = self.services.get_mut(child) {
            act(service);
            self.touch(child);
        }
    }

    fn touch(&mut self, child: &str) {
        if let Some(service) = self.services.get_mut(child)
            && !std::mem::replace(&mut service.touched, true)
        {
            self.touched.push(child.into());
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
