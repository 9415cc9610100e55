//! The nodes of one service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Base;
use super::super::format::{self, Control, Decoded, Node, Options};
use crate::model::{
    DenyList, FormatChoice, FormatName, Host, Incarnation, Instance, NodeFacts, Reading, RejectReason,
    Rejected, ServiceName, ServiceSnapshot,
};

/// Nodes of a service that are kept.
const MAX_NODES: usize = 100_000;

/// Nodes beyond those that are named as rejected; the rest is not even that.
const MAX_NAMED: usize = 1000;

/// The most data of an unreadable node that is kept, for the case that its folder changes its format.
const MAX_KEPT: usize = 16 << 10;

/// Formats that say little about who writes them, best first. Where as many nodes speak for one format as for another,
/// the folder gets the one that is not among these, or stands first.
const GENERIC: [FormatName; 4] = [FormatName::Json, FormatName::Url, FormatName::Plain, FormatName::NameAddr];

/// One service: its nodes, the format they are read in, and what they say.
#[derive(Debug)]
pub(super) struct Service {
    base: Arc<Base>,
    name: ServiceName,
    /// Where its nodes are.
    path: String,
    /// The configured format, or what detection decided.
    format: Option<FormatName>,
    nodes: BTreeMap<Arc<str>, Entry>,
    /// Put since they were last decoded.
    fresh: Vec<Arc<str>>,
    /// Names beyond the cap.
    excess: BTreeSet<Arc<str>>,
    cap: usize,
    /// What the control nodes made of the instances, the last time, by id: what is the same is shared.
    folded: BTreeMap<Arc<str>, Arc<Instance>>,
    /// Whether it was told that nothing here looks like a known format.
    unknown_told: bool,
    /// Whether something was put or removed since the last snapshot.
    pub(super) touched: bool,
}

/// What a node's data looks like.
#[derive(Debug, Clone, Copy, Default)]
enum Seen {
    #[default]
    Unasked,
    Like(FormatName),
    Unlike,
}

/// What is known of one node.
#[derive(Debug, Default)]
struct Entry {
    incarnation: Incarnation,
    /// Data that is yet to be decoded, or could not be and may have to be again in another format.
    data: Option<Box<[u8]>>,
    look: Seen,
    facts: NodeFacts,
    /// The last good value of this incarnation: nothing of a control node.
    good: Vec<Arc<Instance>>,
    /// What a control node says.
    control: Option<Control>,
    bad: Option<(RejectReason, String)>,
}

impl Service {
    pub(super) fn new(base: Arc<Base>, name: ServiceName, child: Option<&str>) -> Self {
        let root = base.root();
        let root = root.trim_end_matches('/');
        Self {
            path: child.map_or_else(|| root.to_owned(), |child| format!("{root}/{child}")),
            format: match base.format {
                FormatChoice::Fixed(format) => Some(format),
                FormatChoice::Auto => None,
            },
            base,
            name,
            nodes: BTreeMap::new(),
            fresh: Vec::new(),
            excess: BTreeSet::new(),
            cap: MAX_NODES,
            folded: BTreeMap::new(),
            unknown_told: false,
            touched: false,
        }
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    #[cfg(test)]
    pub(super) fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    pub(super) fn put(&mut self, node: &str, incarnation: Incarnation, facts: NodeFacts, data: &[u8]) {
        let oversized = data.len() > format::MAX_DATA;
        let Some((name, entry)) = self.entry(node, Some(incarnation)) else { return };
        entry.facts = facts;
        if name.chars().any(char::is_control) {
            entry.set_bad(RejectReason::BadName, "a control character in the name".to_owned());
        } else if oversized {
            let detail = format!("{} bytes, and at most {} are read", data.len(), format::MAX_DATA);
            entry.set_bad(RejectReason::TooLarge, detail);
        } else {
            entry.data = Some(data.into());
            entry.look = Seen::Unasked;
            self.fresh.push(name);
        }
    }

    pub(super) fn reject(&mut self, node: &str, reason: RejectReason, detail: &str) {
        if let Some((_, entry)) = self.entry(node, None) {
            entry.set_bad(reason, detail.escape_debug().to_string());
        }
    }

    pub(super) fn remove(&mut self, node: &str) {
        self.nodes.remove(node);
        self.excess.remove(node);
    }

    /// Whether a node was read, or refused, before.
    pub(super) fn knows(&self, node: &str) -> bool {
        self.nodes.contains_key(node)
    }

    /// Whether nodes that are yet to be read may decide who the primary is, where the others name none.
    pub(super) fn may_lead<'n>(&self, unread: impl Iterator<Item = &'n str>) -> bool {
        self.format.is_some_and(|format| format::may_lead(format, &self.controls(), unread))
    }

    /// Its members now. Decodes what was put since the last time.
    pub(super) fn snapshot(&mut self) -> ServiceSnapshot {
        self.resolve();
        let mut instances = Vec::with_capacity(self.nodes.len());
        let mut rejected = Vec::new();
        for (name, entry) in &self.nodes {
            if entry.counts(&self.base.reading) {
                instances.extend(entry.good.iter().cloned());
            }
            if let Some((reason, detail)) = &entry.bad {
                rejected.push(Rejected { node: printable(name), reason: *reason, detail: detail.clone() });
            }
        }
        for name in &self.excess {
            let detail = format!("the service has more than {} nodes", self.cap);
            rejected.push(Rejected { node: printable(name), reason: RejectReason::TooLarge, detail });
        }
        // The order of nodes is the order of instances but where a node has several, or its id is not its name. Of two
        // that call themselves the same, the one that wants traffic counts; then the younger.
        if !instances.is_sorted_by(|a, b| a.id.name < b.id.name) {
            let rank = |i: &Arc<Instance>| (!i.enabled, std::cmp::Reverse(i.id.incarnation));
            instances.sort_by(|a, b| a.id.name.cmp(&b.id.name).then_with(|| rank(a).cmp(&rank(b))));
            instances.dedup_by(|a, b| a.id.name == b.id.name);
        }
        let primary = self.fold(&mut instances);
        rejected.sort_by(|a, b| a.node.cmp(&b.node));
        ServiceSnapshot { instances, rejected, format: self.format, primary }
    }

    /// Lets the control nodes have their say, then the service's filter.
    fn fold(&mut self, instances: &mut Vec<Arc<Instance>>) -> Option<Arc<str>> {
        let format = self.format?;
        let controls = self.controls();
        let changes = !controls.is_empty() || format == FormatName::Numbered;
        let before = if changes { instances.clone() } else { Vec::new() };
        let primary = format::fold(format, instances, &controls);
        let last = std::mem::take(&mut self.folded);
        for (instance, before) in instances.iter_mut().zip(&before) {
            if Arc::ptr_eq(instance, before) {
                continue;
            }
            if let Some(last) = last.get(&instance.id.name).filter(|last| *last == instance) {
                *instance = Arc::clone(last);
            }
            self.folded.insert(Arc::clone(&instance.id.name), Arc::clone(instance));
        }
        let reading = &self.base.reading;
        if !reading.filter.is_empty() {
            instances.retain(|instance| reading.admits(&instance.metadata));
        }
        primary.filter(|id| instances.binary_search_by(|instance| instance.id.name.cmp(id)).is_ok())
    }

    fn controls(&self) -> Vec<&Control> {
        let counting = self.nodes.values().filter(|entry| entry.counts(&self.base.reading));
        counting.filter_map(|entry| entry.control.as_ref()).collect()
    }

    /// The entry of a node, made if there is room; another incarnation starts afresh.
    fn entry(&mut self, node: &str, incarnation: Option<Incarnation>) -> Option<(Arc<str>, &mut Entry)> {
        let name = match self.nodes.get_key_value(node) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(node),
        };
        if !self.nodes.contains_key(&name) && self.nodes.len() >= self.cap {
            if self.excess.is_empty() {
                tracing::warn!(service = %self.name, kept = self.cap, "too many nodes: the rest is ignored");
            }
            if self.excess.len() < MAX_NAMED {
                self.excess.insert(name);
            }
            return None;
        }
        self.excess.remove(&name);
        let entry = self.nodes.entry(Arc::clone(&name)).or_default();
        if let Some(incarnation) = incarnation.filter(|given| *given != entry.incarnation) {
            *entry = Entry { incarnation, ..Entry::default() };
        }
        Some((name, entry))
    }

    fn resolve(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        if self.base.format == FormatChoice::Auto && self.format.is_none() {
            self.format = self.vote();
        }
        if self.format.is_none() {
            self.give_up();
            return;
        }
        for name in fresh {
            self.decode(&name);
        }
        if self.base.format == FormatChoice::Auto
            && self.nodes.values().any(|entry| entry.bad.is_some())
            && self.nodes.values().all(|entry| entry.bad.is_some() || entry.control.is_some())
        {
            let vote = self.vote();
            if vote.is_some() && vote != self.format {
                tracing::info!(service = %self.name, format = vote.map(FormatName::as_str), "another format");
                self.format = vote;
                let again: Vec<_> = self.nodes.keys().cloned().collect();
                for name in again {
                    self.decode(&name);
                }
            }
        }
    }

    /// What most of the undecoded nodes look like.
    fn vote(&mut self) -> Option<FormatName> {
        let mut votes = BTreeMap::<FormatName, usize>::new();
        for (name, entry) in &mut self.nodes {
            if let Some(format) = entry.look(&self.path, name) {
                *votes.entry(format).or_default() += 1;
            }
        }
        // A Spring application without metadata cannot be told from any other of Curator's, and is read the same.
        if votes.contains_key(&FormatName::Spring) {
            let curator = votes.remove(&FormatName::Curator).unwrap_or(0);
            *votes.entry(FormatName::Spring).or_default() += curator;
        }
        let rank = |format| GENERIC.iter().position(|generic| *generic == format).map_or(0, |at| at + 1);
        votes
            .into_iter()
            .max_by_key(|(format, count)| (*count, std::cmp::Reverse((rank(*format), *format))))
            .map(|(f, _)| f)
    }

    /// Nothing that can be read was put so far.
    fn give_up(&mut self) {
        let any = self.nodes.values().any(|entry| entry.data.is_some());
        if any && !std::mem::replace(&mut self.unknown_told, true) {
            tracing::warn!(service = %self.name, path = self.path, "no node looks like a known format");
        }
        for entry in self.nodes.values_mut().filter(|entry| entry.data.is_some()) {
            let detail = "neither its name nor its data look like a known format".to_owned();
            entry.bad = Some((RejectReason::UnknownFormat, detail));
            entry.data.take_if(|data| data.len() > MAX_KEPT);
        }
    }

    fn decode(&mut self, name: &Arc<str>) {
        let (Some(format), Some(entry)) = (self.format, self.nodes.get_mut(name)) else { return };
        let Some(data) = entry.data.take() else { return };
        let path = format!("{}/{name}", self.path);
        let node = Node { path: &path, incarnation: entry.incarnation, data: &data };
        let reading = &*self.base.reading;
        let error = match format::decode(format, &node, Options::from(reading)) {
            Ok(Decoded::Control(control)) => {
                entry.good.clear();
                entry.bad = None;
                entry.control = Some(control);
                if self.base.format == FormatChoice::Auto && data.len() <= MAX_KEPT {
                    entry.data = Some(data);
                }
                return;
            }
            Ok(Decoded::Instances(mut list)) => {
                entry.control = None;
                list.retain(|instance| may_belong(reading, instance));
                match denied(&list, &self.base.deny) {
                    None => {
                        entry.set_good(list);
                        return;
                    }
                    Some(detail) => (RejectReason::DeniedAddress, detail),
                }
            }
            Err(error) => (error.reason, error.detail),
        };
        entry.bad = Some(error);
        if self.base.format == FormatChoice::Auto {
            entry.data = Some(data);
            entry.explain(format, &self.path, name);
            entry.data.take_if(|data| data.len() > MAX_KEPT);
        }
    }
}

impl Entry {
    /// Whether its last good value is in use.
    fn counts(&self, reading: &Reading) -> bool {
        self.bad.is_none() || !reading.drop_bad
    }

    fn set_bad(&mut self, reason: RejectReason, detail: String) {
        self.data = None;
        // Who the primary was may be wrong by now, and wrong is worse than none.
        self.control.take_if(|control| matches!(control, Control::Primary(_)));
        self.look = Seen::Unasked;
        self.bad = Some((reason, detail));
    }

    /// Takes new instances over, and keeps those that are as before.
    fn set_good(&mut self, list: Vec<Instance>) {
        let old = std::mem::take(&mut self.good);
        let facts = self.facts;
        let keep = |mut new: Instance| {
            new.facts = facts;
            old.iter().find(|old| ***old == new).cloned().unwrap_or_else(|| Arc::new(new))
        };
        self.good = list.into_iter().map(keep).collect();
        self.bad = None;
    }

    /// What its undecoded data looks like.
    fn look(&mut self, folder: &str, name: &str) -> Option<FormatName> {
        let data = self.data.as_deref()?;
        if let Seen::Unasked = self.look {
            let path = format!("{folder}/{name}");
            let look = format::detect(&Node { path: &path, incarnation: self.incarnation, data });
            self.look = look.map_or(Seen::Unlike, Seen::Like);
        }
        match self.look {
            Seen::Like(look) => Some(look),
            Seen::Unasked | Seen::Unlike => None,
        }
    }

    /// Says so where the node alone would have been read in another format than its folder is.
    fn explain(&mut self, format: FormatName, folder: &str, name: &str) {
        let look = self.look(folder, name).filter(|look| *look != format);
        if let (Some(look), Some((_, detail))) = (look, &mut self.bad) {
            *detail = format!("{detail} (it looks like {look}; its folder is read as {format})");
        }
    }
}

/// Whether an instance can be one of the service's. What a filter asks of roles shows only over the whole folder.
fn may_belong(reading: &Reading, instance: &Instance) -> bool {
    reading.filter.is_empty() || reading.filter.contains_key("role") || reading.admits(&instance.metadata)
}

/// Which of these addresses must not be dialled. Names are checked when they are.
fn denied(instances: &[Instance], deny: &DenyList) -> Option<String> {
    instances.iter().find_map(|instance| {
        let Host::Ip(ip) = instance.address.host else { return None };
        let denial = deny.denies(ip, instance.address.port)?;
        Some(format!("{} {denial}", instance.address))
    })
}

/// A node's name, fit to be shown.
fn printable(name: &Arc<str>) -> Arc<str> {
    if name.chars().any(char::is_control) { name.escape_debug().to_string().into() } else { Arc::clone(name) }
}

/// Whether two snapshots are equal; quick where they share their instances.
pub(super) fn same(a: &ServiceSnapshot, b: &ServiceSnapshot) -> bool {
    a.format == b.format
        && a.primary == b.primary
        && a.rejected == b.rejected
        && a.instances.len() == b.instances.len()
        && a.instances.iter().zip(&b.instances).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}
