//! The controller of a replicated store, in small: which member of a group is the primary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout_at};
use zookeeper_client::{AddWatchMode, Error, EventType, MultiReadResult};

use super::session::{EPHEMERAL, Session, Told, check, refused};
use super::{Doubt, Election, Leadership, RecipeError};
use crate::registry::zookeeper::Task;
use crate::registry::zookeeper::session::ConnectOptions;

/// The node of a group that names its primary.
const PRIMARY: &str = "primary";
/// The election's node that says who leads.
const MASTER: &str = "0";
/// Groups read in one request: two reads each.
const BATCH: usize = 100;
/// All groups are looked at again this often: nothing should be found then.
const AUDIT: Duration = Duration::from_secs(30);
/// A pause after a failure.
const AGAIN: Duration = Duration::from_millis(200);

/// Keeps, for every group `ROOT/NAME` of the numbered layout, `ROOT/NAME/primary` naming a live member.
///
/// Of all controllers the elected one decides. Candidates stand in line at the election's path as `NNNNNNNNNN`, numbers of
/// the layout's `/server/NUM`; the one that leads also holds `/server/0`. Every write is one transaction with a check that
/// the controller's place in the line still exists, and is made for the version that was read: a controller that was
/// deposed while its write was on its way changes nothing.
#[derive(Debug, Clone)]
pub struct Primaries {
    connect: ConnectOptions,
    root: String,
    election: String,
    id: Vec<u8>,
}

/// What a controller did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// It leads now, with this fencing number.
    Elected(u64),
    /// A group has another primary.
    Primary {
        /// The group.
        group: String,
        /// Which number was named before; none where there was no node, or no number in it.
        before: Option<u64>,
        /// Which is now.
        now: u64,
    },
    /// A group has no live member: what its `primary` names stays, and counts as none.
    NoPrimary {
        /// The group.
        group: String,
    },
    /// It leads no longer.
    Deposed(Doubt),
}

/// A group as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Group {
    /// Numbers of the live members.
    live: BTreeSet<u64>,
    /// What `primary` names, and the node's version; none where there is no node.
    primary: Option<(Option<u64>, i32)>,
}

/// What is to be done about a group.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Keep,
    Name(u64),
    Nobody,
}

impl Group {
    /// The primary stays while it lives; else the lowest number.
    fn decide(&self) -> Decision {
        let named = self.primary.and_then(|(named, _)| named);
        match (named, self.live.first()) {
            (Some(named), _) if self.live.contains(&named) => Decision::Keep,
            (_, Some(lowest)) => Decision::Name(*lowest),
            (_, None) => Decision::Nobody,
        }
    }
}

/// A member's number. Other children are no members.
fn number(name: &str) -> Option<u64> {
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    if digits { name.parse().ok() } else { None }
}

/// Groups to look at: all, or some.
#[derive(Debug, Default)]
struct Dirty {
    groups: Mutex<(bool, BTreeSet<String>)>,
    more: Notify,
}

impl Dirty {
    fn mark(&self, group: Option<&str>) {
        let mut dirty = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        match group {
            Some(group) if !dirty.0 => {
                dirty.1.insert(group.to_owned());
            }
            Some(_) => {}
            None => *dirty = (true, BTreeSet::new()),
        }
        drop(dirty);
        self.more.notify_one();
    }

    fn take(&self) -> (bool, BTreeSet<String>) {
        std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Primaries {
    /// A controller of the groups below `root`.
    pub fn new(connect: ConnectOptions, root: impl Into<String>) -> Self {
        Self { connect, root: root.into(), election: "/server".to_owned(), id: Vec::new() }
    }

    /// Where the controller is elected: `/server`, if it is not said otherwise.
    #[must_use]
    pub fn election(mut self, path: impl Into<String>) -> Self {
        self.election = path.into();
        self
    }

    /// What its nodes in the election hold: who it is.
    #[must_use]
    pub fn id(mut self, id: impl Into<Vec<u8>>) -> Self {
        self.id = id.into();
        self
    }

    /// Stands for election, decides while it leads, and stands again, until told to stop; then it resigns.
    ///
    /// Whatever it does is told. Fails only where trying again cannot help.
    pub async fn run(
        &self,
        stop: impl Future<Output = ()>,
        mut told: impl FnMut(Step),
    ) -> Result<(), RecipeError> {
        check(&self.root)?;
        let election = Election::new(self.connect.clone(), &self.election).id(self.id.clone()).numbered();
        let mut stop = std::pin::pin!(stop);
        loop {
            let Some(leadership) = election.campaign_until(stop.as_mut()).await? else { return Ok(()) };
            told(Step::Elected(leadership.fence()));
            let doubt = tokio::select! {
                biased;
                () = stop.as_mut() => {
                    let session = leadership.session().clone();
                    let master = session.path(&format!("{}/{MASTER}", self.election.trim_end_matches('/')));
                    // Ours, or missing; if this fails it goes with the session.
                    if owner(&session, &master, session.soon()).await? == Some(session.id()) {
                        let deleted = || session.client().delete(&master, None);
                        let _ = session.ask(&master, session.soon(), deleted).await;
                    }
                    return leadership.resign().await;
                }
                doubt = leadership.doubted() => doubt,
                failed = self.lead(&leadership, &mut told) => {
                    tracing::warn!(error = %failed, "cannot keep the primaries, standing again");
                    sleep(AGAIN).await;
                    Doubt::Gone
                }
            };
            told(Step::Deposed(doubt));
        }
    }

    /// Decides for as long as it is polled; returns why it cannot.
    async fn lead(&self, leadership: &Leadership, told: &mut impl FnMut(Step)) -> RecipeError {
        match self.try_lead(leadership, told).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_lead(
        &self,
        leadership: &Leadership,
        told: &mut impl FnMut(Step),
    ) -> Result<std::convert::Infallible, RecipeError> {
        let session = leadership.session();
        let client = session.client();
        self.become_master(session).await?;
        let root = session.path(&self.root);
        session.mkdir(&root, session.soon()).await?;
        // One watch over all groups. It need not survive a reconnect: leadership does not either.
        let watch = || client.watch(&root, AddWatchMode::PersistentRecursive);
        let mut watcher =
            session.ask(&root, session.soon(), watch).await?.map_err(|error| refused(&root, &error))?;
        let dirty = Arc::new(Dirty::default());
        dirty.mark(None);
        let (marks, below) = (Arc::clone(&dirty), format!("{root}/"));
        // Only drains: the crate's queue of events has no bound.
        let _drain = Task::spawn(async move {
            loop {
                let event = watcher.changed().await;
                if event.event_type == EventType::Session {
                    if event.session_state.is_terminated() {
                        return;
                    }
                    continue;
                }
                match event.path.strip_prefix(&*below).and_then(|rest| rest.split('/').next()) {
                    Some(group) if !group.is_empty() => marks.mark(Some(group)),
                    _ => marks.mark(None),
                }
            }
        });
        let mut audit = Instant::now() + AUDIT;
        let mut without: BTreeSet<String> = BTreeSet::new();
        loop {
            let (all, some) = dirty.take();
            if all {
                let listed = session.ask(&root, session.soon(), || client.list_children(&root)).await?;
                let groups = match listed {
                    Ok(groups) => groups,
                    Err(Error::NoNode) => Vec::new(),
                    Err(error) => return Err(refused(&root, &error)),
                };
                without.retain(|group| groups.contains(group));
                self.settle(leadership, &root, &groups, &mut without, &dirty, told).await?;
            } else if !some.is_empty() {
                let groups: Vec<String> = some.into_iter().collect();
                self.settle(leadership, &root, &groups, &mut without, &dirty, told).await?;
            } else if timeout_at(audit.into(), dirty.more.notified()).await.is_err() {
                audit = Instant::now() + AUDIT;
                dirty.mark(None);
            }
        }
    }

    /// Holds `/server/0` with the session that leads. Another's is waited for: it stands for a controller that may still
    /// write.
    async fn become_master(&self, session: &Session) -> Result<(), RecipeError> {
        let master = session.path(&format!("{}/{MASTER}", self.election.trim_end_matches('/')));
        let client = session.client();
        let mut waiting = false;
        loop {
            let until = session.soon();
            match session.ask_once(&master, until, || client.create(&master, &self.id, &EPHEMERAL)).await? {
                Told::Answer(Ok(_)) => return Ok(()),
                Told::Answer(Err(Error::NodeExists)) => {
                    if owner(session, &master, until).await? == Some(session.id()) {
                        return Ok(());
                    }
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::info!(
                            node = master,
                            "another controller holds it still: waiting for its end"
                        );
                    }
                    sleep(AGAIN).await;
                }
                Told::Answer(Err(error)) => return Err(refused(&master, &error)),
                Told::InDoubt(_) => {}
            }
        }
    }

    async fn settle(
        &self,
        leadership: &Leadership,
        root: &str,
        names: &[String],
        without: &mut BTreeSet<String>,
        dirty: &Dirty,
        told: &mut impl FnMut(Step),
    ) -> Result<(), RecipeError> {
        for batch in names.chunks(BATCH) {
            for (name, group) in read(leadership.session(), root, batch).await? {
                match group.decide() {
                    Decision::Keep => {
                        without.remove(&name);
                    }
                    Decision::Nobody => {
                        if group.primary.is_some() && without.insert(name.clone()) {
                            told(Step::NoPrimary { group: name });
                        }
                    }
                    Decision::Name(now) => {
                        without.remove(&name);
                        let path = format!("{}/{name}/{PRIMARY}", self.root.trim_end_matches('/'));
                        let version = group.primary.map(|(_, version)| version);
                        if leadership.write(&path, now.to_string().as_bytes(), version).await? {
                            let before = group.primary.and_then(|(named, _)| named);
                            told(Step::Primary { group: name, before, now });
                        } else {
                            // Somebody else wrote, or the group went: to be read again.
                            dirty.mark(Some(&name));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

async fn owner(session: &Session, path: &str, until: Instant) -> Result<Option<i64>, RecipeError> {
    let stat = session.ask(path, until, || session.client().check_stat(path)).await?;
    Ok(stat.map_err(|error| refused(path, &error))?.map(|stat| stat.ephemeral_owner))
}

/// Reads groups; those that are gone are left out.
async fn read(
    session: &Session,
    root: &str,
    names: &[String],
) -> Result<BTreeMap<String, Group>, RecipeError> {
    let request = || async {
        let mut reader = session.client().new_multi_reader();
        for name in names {
            reader.add_get_children(&format!("{root}/{name}"))?;
            reader.add_get_data(&format!("{root}/{name}/{PRIMARY}"))?;
        }
        reader.commit().await
    };
    let answers = session.ask(root, session.soon(), request).await?.map_err(|error| refused(root, &error))?;
    let mut groups = BTreeMap::new();
    let mut answers = answers.into_iter();
    for name in names {
        let (Some(children), Some(primary)) = (answers.next(), answers.next()) else { break };
        let MultiReadResult::Children { children } = children else { continue };
        let primary = match primary {
            MultiReadResult::Data { data, stat } => {
                let text = std::str::from_utf8(&data).ok();
                Some((text.and_then(|text| number(text.trim())), stat.version))
            }
            _ => None,
        };
        let live = children.iter().filter_map(|child| number(child)).collect();
        groups.insert(name.clone(), Group { live, primary });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_primary_stays_and_a_missing_one_is_replaced_by_the_lowest_number() {
        for (live, primary, decision) in [
            (&[1, 2][..], Some((Some(2), 0)), Decision::Keep),
            (&[2, 10], Some((Some(1), 0)), Decision::Name(2)),
            (&[2, 10], None, Decision::Name(2)),
            (&[3], Some((None, 0)), Decision::Name(3)),
            (&[], Some((Some(1), 0)), Decision::Nobody),
            (&[], None, Decision::Nobody),
        ] {
            let group = Group { live: live.iter().copied().collect(), primary };
            assert_eq!(group.decide(), decision, "{group:?}");
        }
    }

    #[test]
    fn members_are_numbers_and_nothing_else() {
        assert_eq!(number("2"), Some(2));
        assert_eq!(number("0000000002"), Some(2));
        for name in ["", "top", "primary", "-1", "+1", "1a", "99999999999999999999"] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
