//! From one primary to the next without a moment between: a primary whose successor may be a node that is yet to be
//! read stays until that is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::service::Service;
use crate::model::{PrimaryRule, ServiceSnapshot, sequence_of};

/// No primary stays longer than this for want of a successor, however often the nodes that may be it change.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names of nodes.
pub(super) type Names = BTreeSet<Box<str>>;

/// Nodes that were created or changed and are yet to be read, by their service's directory.
#[derive(Debug, Default)]
pub(super) struct Unread(HashMap<Box<str>, Names>);

impl Unread {
    /// From pairs of a service's directory, empty where the base has but one, and a node's name.
    pub(super) fn of<'p>(places: impl Iterator<Item = (&'p str, &'p str)>) -> Self {
        let mut unread = Self::default();
        for (child, node) in places {
            unread.0.entry(child.into()).or_default().insert(node.into());
        }
        unread
    }

    /// Those of one service.
    pub(super) fn below(&self, child: &str) -> Names {
        self.0.get(child).cloned().unwrap_or_default()
    }
}

/// Puts the primary into a snapshot by the service's rule. True where who leads depends on a node that is yet to be read;
/// then nobody does, or for as long as [`stay`] says the one that was told last.
pub(super) fn lead(
    service: &Service,
    rule: &PrimaryRule,
    snapshot: &mut ServiceSnapshot,
    unread: &Names,
) -> bool {
    match rule {
        PrimaryRule::LowestSequence => {
            let (lowest, usable) = snapshot.lowest_sequence();
            // One that is read again says what it said, until then.
            let unread = unread.iter().filter(|node| !service.knows(node));
            let open = unread
                .filter_map(|node| sequence_of(node))
                .any(|number| lowest.is_none_or(|lowest| number < lowest));
            snapshot.primary = usable.filter(|_| !open);
            open
        }
        PrimaryRule::Registered => {
            snapshot.primary.is_none() && service.may_lead(unread.iter().map(|node| &**node))
        }
        PrimaryRule::Election(_) => false,
    }
}

/// Lets the primary that was told last stay in a snapshot. False where there was none, or where it has stayed since then
/// for long enough.
pub(super) fn stay(
    told: &ServiceSnapshot,
    snapshot: &mut ServiceSnapshot,
    since: Instant,
    now: Instant,
) -> bool {
    if now.saturating_duration_since(since) > PATIENCE {
        return false;
    }
    let Some(primary) = told.primary_index().map(|at| &told.instances[at]) else { return false };
    match snapshot.instances.binary_search_by(|instance| instance.id.name.cmp(&primary.id.name)) {
        Ok(at) => snapshot.instances[at] = Arc::clone(primary),
        Err(at) => snapshot.instances.insert(at, Arc::clone(primary)),
    }
    snapshot.primary = Some(Arc::clone(&primary.id.name));
    true
}
