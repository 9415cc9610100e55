//! What the mirror is told and what it tells: places, answers, differences.

use std::sync::Arc;

use crate::model::{Incarnation, NodeFacts, RejectReason};
use crate::registry::layout;
use crate::registry::view::BaseView;

/// How far below the base instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The base's children are instances.
    Service,
    /// The base's children are services, theirs are instances.
    Catalog,
}

/// A node at instance depth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// In a catalog: the service's directory.
    pub child: Option<Arc<str>>,
    /// The node's name.
    pub node: Arc<str>,
}

/// What an event says happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    Created,
    Changed,
    Deleted,
}

/// What a read of one node brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its data.
    Data {
        /// The zxid that created the node: its incarnation.
        czxid: i64,
        /// The zxid that last wrote it.
        mzxid: i64,
        /// When it was created, and by whom.
        facts: NodeFacts,
        /// The payload.
        data: Vec<u8>,
    },
    /// It is not there.
    Absent,
    /// It is there and can not be used.
    Refused(RejectReason, String),
    /// The read itself failed.
    Failed,
}

/// Whether the content of a catalog's child directory could be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Yes: its nodes follow, and the ones that do not are gone.
    Listed,
    /// No: what is known of it stays.
    Refused(RejectReason, String),
    /// It vanished between two steps of the listing without an event. What is known stays until the next.
    Vanished,
}

/// A difference to apply, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// A catalog's child directory is there.
    ServiceAppeared(Arc<str>),
    /// It is gone, with all its nodes.
    ServiceGone(Arc<str>),
    /// A node is there with this data.
    Put {
        /// Which.
        place: Place,
        /// Its incarnation.
        czxid: i64,
        /// When it was created, and by whom.
        facts: NodeFacts,
        /// Its payload.
        data: Vec<u8>,
    },
    /// A node is there and can not be used.
    Rejected {
        /// Which.
        place: Place,
        /// Why.
        reason: RejectReason,
        /// In words.
        detail: String,
    },
    /// A node is gone.
    Removed(Place),
}

impl Delta {
    /// Tells a view of it.
    pub fn apply(self, view: &mut BaseView) {
        match self {
            Self::ServiceAppeared(child) => view.put_service(&child),
            Self::ServiceGone(child) => view.remove_service(&child),
            Self::Put { place, czxid, facts, data } => {
                let incarnation = Incarnation(czxid.cast_unsigned(), 0);
                view.put(place.child.as_deref(), &place.node, incarnation, facts, &data);
            }
            Self::Rejected { place, reason, detail } => {
                view.reject(place.child.as_deref(), &place.node, reason, &detail);
            }
            Self::Removed(place) => view.remove(place.child.as_deref(), &place.node),
        }
    }
}

/// Nodes to read in one go. Answered by [`super::mirror::Mirror::answer`].
#[derive(Debug, Clone)]
pub struct Question {
    /// The event number when it was asked.
    pub at: u64,
    /// Which nodes.
    pub places: Vec<Place>,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Nodes taken out by their deletion's event.
    pub removed_by_event: u64,
    /// Nodes taken out because a listing no longer had them.
    pub removed_by_listing: u64,
    /// Answers dropped because an event was newer.
    pub stale_replies: u64,
    /// Differences that an audit found and no event had told.
    pub drift: u64,
    /// Whole listings.
    pub listings: u64,
}

/// Stands for a directory itself where a node's name is asked for; no node can be called so.
pub(super) const DIRECTORY: &str = ".";

/// The server's own directory below its root.
pub(super) const RESERVED: &str = "zookeeper";

impl Place {
    /// Whether it stands for a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.node.rsplit('/').next() == Some(DIRECTORY)
    }

    /// Whether it is beside its service's directory, and not in it.
    pub(super) fn is_beside(&self) -> bool {
        layout::is_beside(&self.node)
    }

    /// The directory's name in the tree: empty for a service's own.
    pub(super) fn folder(&self) -> &str {
        self.child.as_deref().unwrap_or_default()
    }
}
