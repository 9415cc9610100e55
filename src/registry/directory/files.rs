//! Looking at single files: which are nodes, who they are, what they hold.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::format::MAX_DATA;
use crate::model::{Incarnation, NodeFacts, Owner};

/// What stands at a node's path.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    /// Something that is no file: a directory, a socket.
    Other,
    Node(Stamp),
    /// A link that must not or cannot be followed.
    Bad(Stamp, String),
}

/// Tells whether a file is still what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Of the node itself, also where it is a link.
    pub(super) incarnation: Incarnation,
    pub(super) facts: NodeFacts,
    content: (u64, u64, u128),
    /// It is complete as soon as it exists: a link of either kind.
    pub(super) linked: bool,
    /// A link whose target changes without an event here.
    pub(super) symbolic: bool,
}

/// A file's content.
#[derive(Debug)]
pub(super) enum Content {
    Data(Vec<u8>),
    TooLarge(u64),
}

/// Whether a file of this name can be a node: not hidden, not an editor's or a writer's leftover.
pub(super) fn is_node_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let ignored = |suffix: &&[u8]| name.ends_with(suffix);
    !name.starts_with(b".") && ![&b"~"[..], b".tmp", b".swp"].iter().any(ignored)
}

/// What stands there. `root` is canonical: what a symbolic link leads to must lie below it.
pub(super) fn inspect(path: &Path, root: &Path) -> io::Result<Found> {
    let own = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_missing(&error) => return Ok(Found::Absent),
        Err(error) => return Err(error),
    };
    if own.is_file() {
        return Ok(Found::Node(Stamp::of(&own, &own)));
    }
    if !own.is_symlink() {
        return Ok(Found::Other);
    }
    let bad = |why: String| Ok(Found::Bad(Stamp::of(&own, &own), why));
    match fs::metadata(path) {
        Err(error) => bad(format!("a link that leads nowhere: {error}")),
        Ok(target) if !target.is_file() => Ok(Found::Other),
        Ok(target) => match is_below(path, root) {
            Ok(true) => Ok(Found::Node(Stamp::of(&own, &target))),
            Ok(false) => bad("a link that leads out of the registry".to_owned()),
            Err(error) => bad(format!("a link that leads nowhere: {error}")),
        },
    }
}

/// Whether a path, every link followed, lies below a canonical root.
pub(super) fn is_below(path: &Path, root: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(path)?.starts_with(root))
}

/// Reads a file, but not more than is taken anyway.
pub(super) fn read(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_DATA as u64 {
        return Ok(Content::TooLarge(size));
    }
    let mut data = Vec::with_capacity(size as usize);
    file.take(MAX_DATA as u64 + 1).read_to_end(&mut data)?;
    Ok(if data.len() > MAX_DATA { Content::TooLarge(data.len() as u64) } else { Content::Data(data) })
}

/// Inode and birth time. Inodes are used again; where the file system keeps no birth time that must do.
pub(super) fn incarnation(metadata: &Metadata) -> Incarnation {
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Incarnation(metadata.ino(), born.map_or(0, |since| since.as_nanos() as u64))
}

/// Whether an error says that there is nothing.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

impl Stamp {
    fn of(own: &Metadata, target: &Metadata) -> Self {
        let modified = target.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        // Where the file system keeps no birth time, its last change must do.
        let created = own.created().or_else(|_| own.modified()).ok();
        let created = created.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let created_ms = created.and_then(|since| u64::try_from(since.as_millis()).ok());
        Self {
            incarnation: incarnation(own),
            facts: NodeFacts { created_ms, owner: Owner::Unknown, limbo: false },
            content: (target.ino(), target.len(), modified.map_or(0, |since| since.as_nanos())),
            linked: own.is_symlink() || own.nlink() > 1,
            symbolic: own.is_symlink(),
        }
    }

    /// Whether it was written to so lately that its writer may not be done.
    pub(super) fn is_hot(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.as_nanos().checked_sub(self.content.2);
        age.is_some_and(|age| age < Duration::from_secs(1).as_nanos())
    }
}
