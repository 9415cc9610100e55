//! Where a registration stands: the directory above it, the node, and what an answer that was lost may have left.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, CreateOptions, Error, MultiWriteResult, OneshotWatcher, Permission,
};

use super::{Access, Parents, RegisterOptions};

/// A request's deadline.
const DEADLINE: Duration = Duration::from_secs(4);
/// Siblings whose owner is asked for at once.
const BATCH: usize = 200;
/// Rounds against others who create and delete the same parents at the same moment.
const ROUNDS: usize = 16;

/// Why a claim failed.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// The world changed meanwhile: at once again.
    Again,
    /// The name is taken by a node of this session, which is not ours.
    Stranger(i64),
    /// A request failed.
    Failed(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A node to be held, with all that is known of its past.
#[derive(Debug)]
pub(super) struct Place {
    directory: String,
    /// Bytes of `directory` that are the chroot.
    chroot: usize,
    /// The node's name, or what its number is put behind.
    name: String,
    sequential: bool,
    parents: Parents,
    acls: Acls<'static>,
    /// The numbered node, while it is known.
    numbered: Option<String>,
    /// Every session that we had: nodes of theirs are ours.
    sessions: HashSet<i64>,
    /// Sessions that asked for a numbered node and got no answer: it may be there, and where nobody knows. Looked for
    /// until this time, by when the session's nodes are gone with it.
    unclear: HashMap<i64, Instant>,
}

/// Everything for the creator, reading for the rest.
static READABLE: [Acl; 2] =
    [Acl::new_const(Permission::ALL, "auth", ""), Acl::new_const(Permission::READ, "world", "anyone")];

impl Place {
    pub(super) fn new(options: &RegisterOptions) -> Self {
        let chroot = options.connect.chroot();
        Self {
            directory: format!("{chroot}{}", options.path.trim_end_matches('/')),
            chroot: chroot.len(),
            name: options.node.clone(),
            sequential: options.sequential,
            parents: options.parents,
            acls: match options.access {
                Access::Open => Acls::anyone_all(),
                Access::Readable => Acls::new(&READABLE),
                Access::Creator => Acls::creator_all(),
            },
            numbered: None,
            sessions: HashSet::new(),
            unclear: HashMap::new(),
        }
    }

    /// The node's path; before it has a number, what it begins with.
    pub(super) fn shown(&self) -> String {
        self.numbered.clone().unwrap_or_else(|| format!("{}/{}", self.directory, self.name))
    }

    /// Makes the node ours, with this payload, and watches it.
    pub(super) async fn claim(&mut self, client: &Client, data: &[u8]) -> Result<OneshotWatcher, Obstacle> {
        let own = client.session_id().0;
        self.sessions.insert(own);
        if self.sequential {
            self.claim_number(client, data).await?;
        } else {
            self.claim_name(client, data).await?;
        }
        let (stat, watcher) = within(client.check_and_watch_stat(&self.shown())).await?;
        match stat {
            Some(stat) if stat.ephemeral_owner == own => Ok(watcher),
            _ => Err(Obstacle::Again),
        }
    }

    async fn claim_name(&mut self, client: &Client, data: &[u8]) -> Result<(), Obstacle> {
        let (own, path) = (client.session_id().0, self.shown());
        match within(client.create(&path, data, &CreateMode::Ephemeral.with_acls(self.acls))).await {
            Ok(_) => return Ok(()),
            Err(Error::NoNode) => {
                self.make_parents(client).await?;
                return Err(Obstacle::Again);
            }
            Err(Error::NodeExists) => {}
            Err(error) => return Err(error.into()),
        }
        let (found, stat) = match within(client.get_data(&path)).await {
            Err(Error::NoNode) => return Err(Obstacle::Again),
            found => found?,
        };
        if stat.ephemeral_owner == own {
            return set(client, &path, &found, data).await;
        }
        if !self.sessions.contains(&stat.ephemeral_owner) {
            return Err(Obstacle::Stranger(stat.ephemeral_owner));
        }
        let mut both = client.new_multi_writer();
        both.add_delete(&path, Some(stat.version))?;
        both.add_create(&path, data, &CreateMode::Ephemeral.with_acls(self.acls))?;
        match within(async { both.commit().await.map_err(Error::from) }).await {
            // The old session ended in this moment.
            Err(Error::NoNode | Error::BadVersion) => Err(Obstacle::Again),
            done => Ok(done.map(drop)?),
        }
    }

    async fn claim_number(&mut self, client: &Client, data: &[u8]) -> Result<(), Obstacle> {
        let own = client.session_id().0;
        let mut mine = self.mine(client).await?;
        if let Some(at) = mine.iter().position(|(_, owner)| *owner == own) {
            let (kept, _) = mine.swap_remove(at);
            delete(client, &mine).await?;
            let (found, _) = match within(client.get_data(&kept)).await {
                Err(Error::NoNode) => return Err(Obstacle::Again),
                found => found?,
            };
            set(client, &kept, &found, data).await?;
            self.numbered = Some(kept);
            self.unclear.remove(&own);
            return Ok(());
        }
        // The old goes and the new comes in one: nobody ever sees both, or neither.
        let prefix = format!("{}/{}", self.directory, self.name);
        let mut both = client.new_multi_writer();
        for (path, _) in &mine {
            both.add_delete(path, None)?;
        }
        both.add_create(&prefix, data, &CreateMode::EphemeralSequential.with_acls(self.acls))?;
        self.unclear.insert(own, Instant::now() + client.session_timeout() * 2);
        let done = within(async { both.commit().await.map_err(Error::from) }).await;
        if done.as_ref().err().is_none_or(is_definite) {
            self.unclear.remove(&own);
        }
        match done {
            Ok(results) => {
                let made = results.into_iter().find_map(|result| match result {
                    MultiWriteResult::Create { path, .. } => Some(path),
                    _ => None,
                });
                self.numbered = made;
                Ok(())
            }
            Err(Error::NoNode) => {
                // A former session ended in this moment, or the directory is not there.
                if mine.is_empty() {
                    self.make_parents(client).await?;
                }
                Err(Obstacle::Again)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks through the leader whether the session lives and the node is ours; in passing looks for what an answer
    /// that was lost may have left.
    pub(super) async fn prove(&mut self, client: &Client) -> Result<bool, Error> {
        let path = self.shown();
        let (synced, found) = (client.sync(&path), client.check_stat(&path));
        within(synced).await?;
        let stat = within(found).await?;
        let ours = stat.is_some_and(|stat| stat.ephemeral_owner == client.session_id().0);
        if ours && !self.unclear.is_empty() {
            let now = Instant::now();
            self.unclear.retain(|_, until| *until > now);
            let mut others = self.scan(client).await?;
            others.retain(|(other, _)| *other != path);
            delete(client, &others).await?;
        }
        Ok(ours)
    }

    /// Deletes what is ours.
    pub(super) async fn vacate(&mut self, client: &Client) -> Result<(), Error> {
        let mine = self.mine(client).await?;
        delete(client, &mine).await
    }

    /// Every node of ours, with its owner.
    async fn mine(&self, client: &Client) -> Result<Vec<(String, i64)>, Error> {
        let known = if self.sequential { self.numbered.clone() } else { Some(self.shown()) };
        let mut mine = if self.unclear.is_empty() { Vec::new() } else { self.scan(client).await? };
        if let Some(known) = known
            && !mine.iter().any(|(path, _)| *path == known)
            && let Some(stat) = within(client.check_stat(&known)).await?
            && self.sessions.contains(&stat.ephemeral_owner)
        {
            mine.push((known, stat.ephemeral_owner));
        }
        Ok(mine)
    }

    /// Looks through the directory for numbered nodes of ours.
    async fn scan(&self, client: &Client) -> Result<Vec<(String, i64)>, Error> {
        // What the lost answer was about has happened by now, or never will in this session.
        within(client.sync(&self.directory)).await?;
        let children = match within(client.list_children(&self.directory)).await {
            Err(Error::NoNode) => return Ok(Vec::new()),
            children => children?,
        };
        let numbered = |child: &String| {
            let number = child.strip_prefix(&self.name);
            number.is_some_and(|n| n.len() >= 10 && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let paths = children.iter().filter(|child| numbered(child));
        let paths: Vec<String> = paths.map(|child| format!("{}/{child}", self.directory)).collect();
        let mut mine = Vec::new();
        for batch in paths.chunks(BATCH) {
            // All are sent when they are made: one round trip.
            let asked: Vec<_> = batch.iter().map(|path| client.check_stat(path)).collect();
            for (path, answer) in batch.iter().zip(asked) {
                if let Some(stat) = within(answer).await?
                    && self.sessions.contains(&stat.ephemeral_owner)
                {
                    mine.push((path.clone(), stat.ephemeral_owner));
                }
            }
        }
        Ok(mine)
    }

    /// Makes the directory and whatever is missing above it, from the deepest that is there.
    async fn make_parents(&mut self, client: &Client) -> Result<(), Error> {
        let ends: Vec<usize> = self
            .directory
            .match_indices('/')
            .skip(1)
            .map(|(at, _)| at)
            .chain([self.directory.len()])
            .filter(|end| *end > 0)
            .collect();
        let Some(mut at) = ends.len().checked_sub(1) else { return Ok(()) };
        for _ in 0..ROUNDS * ends.len() {
            let Some(&end) = ends.get(at) else { return Ok(()) };
            let options = self.parent_options(end);
            match within(client.create(&self.directory[..end], b"", &options)).await {
                Ok(_) | Err(Error::NodeExists) => at += 1,
                // Not there yet, or not any more.
                Err(Error::NoNode) if at > 0 => at -= 1,
                Err(Error::Unimplemented) if self.parents != Parents::Persistent => {
                    let wanted = if self.parents == Parents::Container { "container" } else { "TTL" };
                    tracing::warn!(
                        path = self.directory,
                        "the server has no {wanted} nodes; missing parents are made persistent"
                    );
                    self.parents = Parents::Persistent;
                }
                Err(error) => return Err(error),
            }
        }
        // Whoever deletes them all the time: the claim says what is missing.
        Ok(())
    }

    fn parent_options(&self, end: usize) -> CreateOptions<'static> {
        match self.parents {
            // Others live below the same chroot.
            _ if end <= self.chroot => CreateMode::Persistent.with_acls(Acls::anyone_all()),
            Parents::Persistent => CreateMode::Persistent.with_acls(self.acls),
            Parents::Container => CreateMode::Container.with_acls(self.acls),
            Parents::Ttl(ttl) => CreateMode::Persistent.with_acls(self.acls).with_ttl(ttl),
        }
    }
}

async fn set(client: &Client, path: &str, found: &[u8], wanted: &[u8]) -> Result<(), Obstacle> {
    if found == wanted {
        return Ok(());
    }
    match within(client.set_data(path, wanted, None)).await {
        Err(Error::NoNode) => Err(Obstacle::Again),
        done => Ok(done.map(drop)?),
    }
}

async fn delete(client: &Client, nodes: &[(String, i64)]) -> Result<(), Error> {
    for (path, _) in nodes {
        match within(client.delete(path, None)).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a request that failed like this has certainly done nothing.
fn is_definite(error: &Error) -> bool {
    matches!(
        error,
        Error::NoNode
            | Error::NodeExists
            | Error::NoAuth
            | Error::InvalidAcl
            | Error::NoChildrenForEphemerals
            | Error::QuotaExceeded
            | Error::Unimplemented
            | Error::BadArguments(_)
    )
}

async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(DEADLINE, request).await.unwrap_or(Err(Error::Timeout))
}
