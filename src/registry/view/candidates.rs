//! The directory of an election: who leads is who has the lowest sequence number.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::succession::Names;
use crate::model::sequence_of;

/// More of a candidate's data names nobody.
const MAX_DATA: usize = 1024;

/// The candidates of an election, and what each has to say.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    nodes: BTreeMap<Box<str>, Arc<str>>,
    leader: Option<Arc<str>>,
    /// Whether anybody has asked.
    told: bool,
}

impl Candidates {
    /// A candidate with its data; what is no text names nobody.
    pub(super) fn put(&mut self, node: &str, data: &[u8]) {
        let data = if data.len() > MAX_DATA { "" } else { std::str::from_utf8(data).unwrap_or_default() };
        self.nodes.insert(node.into(), data.trim().into());
    }

    /// A candidate whose data cannot be had keeps what it said before.
    pub(super) fn reject(&mut self, node: &str) {
        self.nodes.entry(node.into()).or_default();
    }

    pub(super) fn remove(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Works out who leads. Whether that is news: not while it may be one of those that are yet to be read, who were
    /// told of before. Until then the last who did goes on.
    pub(super) fn elect(&mut self, unread: &Names) -> bool {
        let numbered = self.nodes.iter().filter_map(|(node, data)| Some((sequence_of(node)?, data)));
        let lowest = numbered.min_by_key(|(number, _)| *number);
        let unread = unread.iter().filter(|node| !self.nodes.contains_key(*node));
        let mut unread = unread.filter_map(|node| sequence_of(node));
        if self.told && unread.any(|number| lowest.is_none_or(|(lowest, _)| number < lowest)) {
            return false;
        }
        let leader = lowest.map(|(_, data)| Arc::clone(data));
        let news = !std::mem::replace(&mut self.told, true) || self.leader != leader;
        self.leader = leader;
        news
    }

    /// What the node of who led at the last look says.
    pub(super) fn leader(&self) -> Option<Arc<str>> {
        self.leader.clone()
    }
}
