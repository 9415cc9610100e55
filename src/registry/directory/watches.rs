//! The inotify watches: one a directory, none of them recursive.
//!
//! The watcher's own recursion adds a directory after it has told of it, and what is written in between is
//! never told. Here a directory is watched first and listed then.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::files;
use super::inbox::Inbox;
use crate::model::Incarnation;

/// Which directories are watched.
#[derive(Debug)]
pub(super) struct Watches {
    inbox: Arc<Inbox>,
    watcher: Option<RecommendedWatcher>,
    watched: HashMap<PathBuf, Incarnation>,
    /// Some directory could not be watched for want of watches: listing must do instead.
    blind: bool,
}

impl Watches {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, watcher: None, watched: HashMap::new(), blind: false }
    }

    /// Whether the system gave out of watches, so that directories must be listed often.
    pub(super) fn blind(&self) -> bool {
        self.blind
    }

    /// Watches a directory, unless it is watched already. `NotFound` where there is none.
    pub(super) fn ensure(&mut self, directory: &Path) -> io::Result<()> {
        let metadata = fs::metadata(directory)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let incarnation = files::incarnation(&metadata);
        match self.watched.get(directory) {
            Some(watched) if *watched == incarnation => return Ok(()),
            Some(_) => self.forget(directory),
            None => {}
        }
        let inbox = &self.inbox;
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let inbox = Arc::clone(inbox);
                match notify::recommended_watcher(move |report| inbox.report(report)) {
                    Ok(watcher) => none.insert(watcher),
                    Err(error) => {
                        self.go_blind(&error);
                        return Ok(());
                    }
                }
            }
        };
        match watcher.watch(directory, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(directory.to_owned(), incarnation);
                Ok(())
            }
            Err(error) => match error.kind {
                ErrorKind::PathNotFound => Err(io::ErrorKind::NotFound.into()),
                ErrorKind::Io(error) => Err(error),
                _ => {
                    self.go_blind(&error);
                    Ok(())
                }
            },
        }
    }

    /// Stops watching a directory; also where it is gone and its watch with it.
    pub(super) fn forget(&mut self, directory: &Path) {
        if self.watched.remove(directory).is_some()
            && let Some(watcher) = &mut self.watcher
        {
            // It fails where the directory went first, which is how it should be.
            let _ = watcher.unwatch(directory);
        }
    }

    /// Stops watching all directories but these.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Path) -> bool) {
        let gone: Vec<_> = self.watched.keys().filter(|directory| !keep(directory)).cloned().collect();
        for directory in gone {
            self.forget(&directory);
        }
    }

    fn go_blind(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.blind, true) {
            tracing::warn!(%error, "no more inotify watches (fs.inotify.*): listing every second instead");
        }
    }
}
