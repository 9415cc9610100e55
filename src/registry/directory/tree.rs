//! The registry's root: where it is, whether it is there, and which of its directories are watched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use super::inbox::Inbox;
use super::watches::Watches;

/// The tree as a whole.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// The root with every link followed, as of its last opening.
    canonical: PathBuf,
    pub(super) watches: Watches,
    /// A directory above the root that is watched while there is none.
    above: Option<PathBuf>,
}

impl Tree {
    /// `root` may be relative; it counts from the working directory of now.
    pub(super) fn new(root: &Path, inbox: Arc<Inbox>) -> Self {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        Self { canonical: root.clone(), root, watches: Watches::new(inbox), above: None }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Watches the way from the root down to a directory. Whether that exists.
    pub(super) fn open(&mut self, directory: &Path) -> io::Result<bool> {
        if !self.open_root()? {
            return Ok(false);
        }
        let below = directory.strip_prefix(&self.root).unwrap_or(Path::new("")).to_owned();
        let mut path = self.root.clone();
        for segment in below.components() {
            path.push(segment);
            match self.watches.ensure(&path) {
                Ok(()) => {}
                Err(error) if files::is_missing(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.admit(directory)?;
        Ok(true)
    }

    /// An error for a directory that links lead to from outside of the tree.
    pub(super) fn admit(&self, directory: &Path) -> io::Result<()> {
        if files::is_below(directory, &self.canonical)? {
            Ok(())
        } else {
            Err(io::Error::other("a link leads out of the registry"))
        }
    }

    /// What stands at a node's path.
    pub(super) fn inspect(&self, path: &Path) -> io::Result<files::Found> {
        files::inspect(path, &self.canonical)
    }

    fn open_root(&mut self) -> io::Result<bool> {
        // Where the root is a link, it is replaced in the directory above and not within itself.
        let link = self.root.is_symlink().then(|| self.root.parent().map(Path::to_owned)).flatten();
        match link.iter().try_for_each(|parent| self.watches.ensure(parent)) {
            Ok(()) => {}
            Err(error) if files::is_missing(&error) => {}
            Err(error) => return Err(error),
        }
        let mut exists = self.find_root()?;
        let mut above = link;
        if !exists {
            above = self.watch_above()?;
            // It may have appeared before its parent was watched.
            exists = self.find_root()?;
        }
        if let Some(old) = self.above.take().filter(|old| above.as_ref() != Some(old)) {
            self.watches.forget(&old);
        }
        self.above = above;
        Ok(exists)
    }

    fn find_root(&mut self) -> io::Result<bool> {
        match self.watches.ensure(&self.root) {
            Ok(()) => {
                self.canonical = std::fs::canonicalize(&self.root)?;
                Ok(true)
            }
            Err(error) if files::is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Watches the nearest directory above the root, in which the way to it will appear.
    fn watch_above(&mut self) -> io::Result<Option<PathBuf>> {
        let mut watched = None;
        loop {
            // Again after watching: it may have grown before the watch was there.
            let nearest = self.root.ancestors().skip(1).find(|path| path.is_dir()).map(Path::to_owned);
            match nearest {
                Some(nearest) if watched.as_ref() != Some(&nearest) => {
                    match self.watches.ensure(&nearest) {
                        Ok(()) => {}
                        Err(error) if files::is_missing(&error) => continue,
                        Err(error) => return Err(error),
                    }
                    watched = Some(nearest);
                }
                _ => return Ok(watched),
            }
        }
    }
}
