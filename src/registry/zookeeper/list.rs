//! Reading nodes, and whole listings, in multi-reads under deadlines.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zookeeper_client::{Client, Error, MultiReadResult, Stat};

use super::facts::{Contents, Found, Place, RESERVED};
use crate::model::{NodeFacts, Owner, RejectReason};
use crate::registry::layout::{Inner, Layout};

/// Nodes a service may have, and services a catalog.
pub(super) const MAX_CHILDREN: usize = 100_000;
/// Nodes that all services of a catalog may have together.
const MAX_NODES: usize = 1_000_000;
/// Payloads above this are refused.
const MAX_DATA: usize = 1 << 20;
/// Reads in one request.
pub(super) const BATCH: usize = 200;
/// A request's answer should stay below this; big payloads make batches smaller.
const ANSWER_BYTES: usize = 4 << 20;
/// Requests of a listing on their way at a time.
const PIPELINE: usize = 4;
/// The crate holds requests back for ever while it is disconnected.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// What is listed.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) layout: Arc<Layout>,
    /// Its root.
    pub(super) path: Arc<str>,
    /// Whether the paths are below a chroot, which may be missing.
    pub(super) chroot: bool,
}

/// A part of a listing.
#[derive(Debug)]
pub(super) enum Part {
    Folder(Arc<str>, Contents),
    /// A directory on the way to services that may not be listed.
    Hidden(Arc<str>),
    /// A folder of nodes in or beside its service's that may not be listed, or not be taken.
    Shut(Place, RejectReason, String),
    Nodes(Vec<(Place, Found)>),
    End(Result<(), ListError>),
}

/// Why a listing came to nothing. Displayed for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    #[error("forbidden: {0} may not be read with our credentials")]
    Forbidden(Arc<str>),
    #[error("too_large: {0} has {1} children, more than the {MAX_CHILDREN} that are taken")]
    TooLarge(Arc<str>, usize),
    #[error("too_large: {0} has more than {MAX_NODES} nodes")]
    TooMany(Arc<str>),
    #[error("no_chroot: the chroot of the connect string does not exist")]
    NoChroot,
    #[error("listing {0} failed: {1}")]
    Failed(Arc<str>, Error),
}

/// Lists a target: `sync` first, so that no lagging server shows us the past. Ends with [`Part::End`].
pub(super) async fn list(client: Client, target: Target, parts: mpsc::Sender<Part>) {
    let end = Lister { client, target, parts: parts.clone() }.run().await;
    // The receiver is gone only where nobody wants the listing any more.
    let _ = parts.send(Part::End(end)).await;
}

/// Reads nodes. The answer is an error where the request failed as a whole.
pub(super) async fn read_nodes(
    client: Client,
    layout: Arc<Layout>,
    places: Vec<Place>,
) -> Result<Vec<(Place, Found)>, Error> {
    let mut reader = client.new_multi_reader();
    let mut asked = Vec::with_capacity(places.len());
    let mut out = Vec::with_capacity(places.len());
    for place in places {
        let path = join(layout.root(), &layout.below(place.child.as_deref(), &place.node));
        match reader.add_get_data(&path) {
            Ok(()) => asked.push(place),
            Err(why) => out.push((place, Found::Refused(RejectReason::BadName, why.to_string()))),
        }
    }
    let answers = within_deadline(reader.commit()).await?;
    check_count(asked.len(), answers.len())?;
    for (place, answer) in asked.into_iter().zip(answers) {
        let found = match answer {
            MultiReadResult::Data { data, stat } if data.len() <= MAX_DATA => {
                Found::Data { czxid: stat.czxid, mzxid: stat.mzxid, facts: facts(&stat), data }
            }
            MultiReadResult::Data { data, .. } => Found::Refused(
                RejectReason::TooLarge,
                format!("{} bytes, more than the {MAX_DATA} that are taken", data.len()),
            ),
            MultiReadResult::Error { err: Error::NoNode } => Found::Absent,
            MultiReadResult::Error { err: Error::NoAuth } => Found::Refused(
                RejectReason::Forbidden,
                "the node may not be read with our credentials".to_owned(),
            ),
            _ => Found::Failed,
        };
        out.push((place, found));
    }
    Ok(out)
}

/// When a node was created, and who keeps it.
fn facts(stat: &Stat) -> NodeFacts {
    // Owners with the highest bit set are no sessions: containers, and nodes with a time to live.
    let owner = match stat.ephemeral_owner {
        0 => Owner::Nobody,
        owner if is_special(owner) => Owner::Nobody,
        owner => Owner::Session(owner),
    };
    NodeFacts { created_ms: u64::try_from(stat.ctime).ok().filter(|ms| *ms > 0), owner, limbo: false }
}

/// Whether an owner marks a container, or a node with a time to live.
fn is_special(owner: i64) -> bool {
    const CONTAINER: u64 = 1 << 63;
    const TTL: u64 = 0xff << 56;
    let bits = owner.cast_unsigned();
    bits == CONTAINER || bits & TTL == TTL
}

/// What a request brings, or [`Error::Timeout`].
pub(super) async fn within_deadline<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(DEADLINE, request).await.unwrap_or(Err(Error::Timeout))
}

struct Lister {
    client: Client,
    target: Target,
    parts: mpsc::Sender<Part>,
}

/// Directories being listed, a few requests at a time.
struct FolderReads<'l> {
    lister: &'l Lister,
    names: std::vec::IntoIter<String>,
    jobs: JoinSet<Result<Folders, Error>>,
    batch: BatchSize,
}

impl<'l> FolderReads<'l> {
    fn new(lister: &'l Lister, names: Vec<String>) -> Self {
        Self { lister, names: names.into_iter(), jobs: JoinSet::new(), batch: BatchSize::default() }
    }

    /// Some more of them, in no order; `None` when there are no more.
    async fn next(&mut self) -> Result<Option<Folders>, ListError> {
        let Lister { client, target, .. } = self.lister;
        while self.jobs.len() < PIPELINE {
            let chunk: Vec<_> = self.names.by_ref().take(self.batch.0).map(Arc::<str>::from).collect();
            if chunk.is_empty() {
                break;
            }
            self.jobs.spawn(read_folders(client.clone(), Arc::clone(&target.path), chunk));
        }
        let Some(done) = self.jobs.join_next().await else { return Ok(None) };
        let folders = self.lister.joined(done)?;
        self.batch.adapt(folders.len(), folders.iter().map(|(_, names)| size_of_names(names)).sum());
        Ok(Some(folders))
    }
}

/// What is to be read, and to be listed first.
#[derive(Debug, Default)]
struct Places {
    nodes: Vec<Place>,
    /// Folders of nodes that are not their services' own, each as a place in its service's.
    folders: Vec<Place>,
}

impl Places {
    /// Adds what a service's folder holds.
    fn add(&mut self, layout: &Layout, child: Option<&Arc<str>>, names: Vec<String>) {
        let place = |node: &str| Place { child: child.cloned(), node: node.into() };
        self.add_beside(layout, child);
        for name in names {
            match layout.inner(&name) {
                Some(Inner::All) => self.folders.push(place(&name)),
                Some(Inner::Only(inside)) => {
                    self.nodes.extend(inside.iter().map(|inside| place(&format!("{name}/{inside}"))));
                }
                None => {}
            }
            self.nodes.push(place(&name));
        }
    }

    /// Adds the folder beside a service's.
    fn add_beside(&mut self, layout: &Layout, child: Option<&Arc<str>>) {
        let beside = layout.beside();
        self.folders.extend(beside.map(|beside| Place { child: child.cloned(), node: beside.into() }));
    }
}

type Folders = Vec<(Arc<str>, Result<Vec<String>, Contents>)>;

impl Lister {
    async fn run(&self) -> Result<(), ListError> {
        let Target { layout, path: root, .. } = &self.target;
        within_deadline(self.client.sync(root)).await.map_err(|e| self.failed(e))?;
        // A catalog's root, or a single service's folder, which need not be the root of its layout.
        let path: Arc<str> =
            if layout.folder().is_empty() { Arc::clone(root) } else { join(root, layout.folder()).into() };
        let mut names = match within_deadline(self.client.list_children(&path)).await {
            Ok(names) => names,
            Err(Error::NoNode) => return self.absent().await,
            Err(Error::NoAuth) => return Err(ListError::Forbidden(path)),
            Err(error) => return Err(self.failed(error)),
        };
        if names.len() > MAX_CHILDREN {
            return Err(ListError::TooLarge(path, names.len()));
        }
        if &*path == "/" {
            names.retain(|name| name != RESERVED);
        }
        let mut places = Places::default();
        match layout.pattern() {
            None => places.add(layout, None, names),
            Some(pattern) => {
                let mut last_is_literal = false;
                // The first segment is a star, whose directories these are.
                for segment in pattern.segments().skip(1) {
                    last_is_literal = segment.is_some();
                    names = match segment {
                        Some(literal) => names.into_iter().map(|name| format!("{name}/{literal}")).collect(),
                        None => self.below(names).await?,
                    };
                    if names.len() > MAX_CHILDREN {
                        return Err(ListError::TooLarge(path, names.len()));
                    }
                }
                self.folders(names, last_is_literal, &mut places).await?;
            }
        }
        self.other_folders(&mut places).await?;
        self.nodes(places.nodes).await
    }

    /// A base that is not there is empty, unless the chroot above it is missing too: then the connect
    /// string is wrong, which must not read as "no instances".
    async fn absent(&self) -> Result<(), ListError> {
        if self.target.chroot
            && within_deadline(self.client.check_stat("/")).await.map_err(|e| self.failed(e))?.is_none()
        {
            return Err(ListError::NoChroot);
        }
        Ok(())
    }

    /// What stands in these directories, as paths below the base.
    async fn below(&self, names: Vec<String>) -> Result<Vec<String>, ListError> {
        let mut out = Vec::new();
        let mut folders = FolderReads::new(self, names);
        while let Some(folders) = folders.next().await? {
            for (above, names) in folders {
                match names {
                    Ok(names) => out.extend(names.into_iter().map(|name| format!("{above}/{name}"))),
                    Err(Contents::Refused(..)) => self.say(Part::Hidden(above)).await,
                    // Gone, and its services before it.
                    Err(Contents::Vanished | Contents::Listed) => {}
                }
            }
            // Each directory has a bound; all of them together must have one before they are held.
            if out.len() > MAX_CHILDREN {
                return Err(ListError::TooLarge(Arc::clone(&self.target.path), out.len()));
            }
        }
        Ok(out)
    }

    /// Lists the services' directories. With `sparse` they may not be there: their names were guessed.
    async fn folders(&self, names: Vec<String>, sparse: bool, places: &mut Places) -> Result<(), ListError> {
        let mut folders = FolderReads::new(self, names);
        while let Some(folders) = folders.next().await? {
            for (child, names) in folders {
                let contents = match names {
                    Err(Contents::Vanished) if sparse => {
                        // It may come yet.
                        places.add_beside(&self.target.layout, Some(&child));
                        continue;
                    }
                    Err(contents) => contents,
                    Ok(names) if names.len() > MAX_CHILDREN => Contents::Refused(
                        RejectReason::TooLarge,
                        format!("{} nodes, more than the {MAX_CHILDREN} that are taken", names.len()),
                    ),
                    Ok(names) => {
                        places.add(&self.target.layout, Some(&child), names);
                        Contents::Listed
                    }
                };
                self.check(places)?;
                self.say(Part::Folder(child, contents)).await;
            }
        }
        Ok(())
    }

    /// Lists the folders of nodes that are in services' folders, or beside them. They need not be there.
    async fn other_folders(&self, places: &mut Places) -> Result<(), ListError> {
        let layout = &self.target.layout;
        let mut wanted: HashMap<String, Place> = std::mem::take(&mut places.folders)
            .into_iter()
            .map(|place| (layout.below(place.child.as_deref(), &place.node), place))
            .collect();
        let mut folders = FolderReads::new(self, wanted.keys().cloned().collect());
        while let Some(folders) = folders.next().await? {
            for (below, names) in folders {
                let Some(folder) = wanted.remove(&*below) else { continue };
                match names {
                    Ok(names) if names.len() > MAX_CHILDREN => {
                        let detail =
                            format!("{} nodes, more than the {MAX_CHILDREN} that are taken", names.len());
                        self.say(Part::Shut(folder, RejectReason::TooLarge, detail)).await;
                    }
                    Ok(names) => places.nodes.extend(names.into_iter().map(|name| Place {
                        child: folder.child.clone(),
                        node: format!("{}/{name}", folder.node).into(),
                    })),
                    Err(Contents::Refused(reason, detail)) => {
                        self.say(Part::Shut(folder, reason, detail)).await;
                    }
                    Err(Contents::Vanished | Contents::Listed) => {}
                }
                self.check(places)?;
            }
        }
        Ok(())
    }

    fn check(&self, places: &Places) -> Result<(), ListError> {
        if places.nodes.len() > MAX_NODES {
            return Err(ListError::TooMany(Arc::clone(&self.target.path)));
        }
        Ok(())
    }

    async fn nodes(&self, places: Vec<Place>) -> Result<(), ListError> {
        let mut places = places.into_iter();
        let mut jobs = JoinSet::new();
        let mut batch = BatchSize::default();
        loop {
            while jobs.len() < PIPELINE {
                let chunk: Vec<_> = places.by_ref().take(batch.0).collect();
                if chunk.is_empty() {
                    break;
                }
                jobs.spawn(read_nodes(self.client.clone(), Arc::clone(&self.target.layout), chunk));
            }
            let Some(done) = jobs.join_next().await else { return Ok(()) };
            let nodes = self.joined(done)?;
            batch.adapt(nodes.len(), nodes.iter().map(|(_, found)| size_of_found(found)).sum());
            self.say(Part::Nodes(self.without_guesses(nodes))).await;
        }
    }

    /// Not there is what was looked for unlisted: that is no news of it.
    fn without_guesses(&self, mut nodes: Vec<(Place, Found)>) -> Vec<(Place, Found)> {
        let guessed = |place: &Place| {
            let folder = place.node.split_once('/').and_then(|(folder, _)| self.target.layout.inner(folder));
            matches!(folder, Some(Inner::Only(_)))
        };
        nodes.retain(|(place, found)| *found != Found::Absent || !guessed(place));
        nodes
    }

    async fn say(&self, part: Part) {
        // As in `list`: nobody listens only where the listing was given up, and then this task ends soon.
        let _ = self.parts.send(part).await;
    }

    fn joined<T>(&self, done: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, ListError> {
        done.unwrap_or_else(|died| Err(Error::UnexpectedError(died.to_string()))).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: Error) -> ListError {
        ListError::Failed(Arc::clone(&self.target.path), error)
    }
}

/// How many reads go into the next request: starts small and follows the size of the answers.
struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(BATCH / 8)
    }
}

impl BatchSize {
    fn adapt(&mut self, items: usize, bytes: usize) {
        let fitting = (items * ANSWER_BYTES).checked_div(bytes).unwrap_or(BATCH);
        self.0 = fitting.min(self.0 * 2).clamp(1, BATCH);
    }
}

async fn read_folders(client: Client, base: Arc<str>, children: Vec<Arc<str>>) -> Result<Folders, Error> {
    let mut reader = client.new_multi_reader();
    let mut asked = Vec::with_capacity(children.len());
    let mut out = Vec::with_capacity(children.len());
    for child in children {
        match reader.add_get_children(&join(&base, &child)) {
            Ok(()) => asked.push(child),
            Err(why) => out.push((child, Err(Contents::Refused(RejectReason::BadName, why.to_string())))),
        }
    }
    let answers = within_deadline(reader.commit()).await?;
    check_count(asked.len(), answers.len())?;
    for (child, answer) in asked.into_iter().zip(answers) {
        let names = match answer {
            MultiReadResult::Children { children } => Ok(children),
            MultiReadResult::Error { err: Error::NoNode } => Err(Contents::Vanished),
            MultiReadResult::Error { err: Error::NoAuth } => Err(Contents::Refused(
                RejectReason::Forbidden,
                "the directory may not be read with our credentials".to_owned(),
            )),
            MultiReadResult::Error { err } => return Err(err),
            other => return Err(Error::UnexpectedError(format!("{other:?} instead of children"))),
        };
        out.push((child, names));
    }
    Ok(out)
}

fn join(parent: &str, child: &str) -> String {
    if parent == "/" { format!("/{child}") } else { format!("{parent}/{child}") }
}

fn check_count(asked: usize, answered: usize) -> Result<(), Error> {
    if asked == answered {
        Ok(())
    } else {
        Err(Error::UnexpectedError(format!("{answered} answers to {asked} reads")))
    }
}

fn size_of_names(names: &Result<Vec<String>, Contents>) -> usize {
    names.as_ref().map_or(0, |names| names.iter().map(|name| name.len() + 24).sum())
}

fn size_of_found(found: &Found) -> usize {
    match found {
        Found::Data { data, .. } => data.len() + 88,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_nodes_with_a_time_to_live_are_nobodys() {
        assert!(is_special(i64::MIN), "a container");
        assert!(is_special(0xff00_0000_0000_1388_u64.cast_signed()), "5 s to live");
        for session in [1, 0x1000_0a1b_2c30_0004, 0xfe00_0000_0000_0001_u64.cast_signed()] {
            assert!(!is_special(session), "{session:#x}");
        }
    }

    #[test]
    fn batches_grow_on_small_answers_and_shrink_on_big_ones() {
        let mut batch = BatchSize::default();
        for _ in 0..4 {
            batch.adapt(batch.0, batch.0 * 300);
        }
        assert_eq!(batch.0, BATCH);
        batch.adapt(BATCH, BATCH << 20);
        assert_eq!(batch.0, 4);
        batch.adapt(1, 64 << 20);
        assert_eq!(batch.0, 1);
    }
}
