//! A directory tree as a registry: `ROOT/services/orders/node1` is an instance of `/services/orders`, its
//! content the payload.
//!
//! One thread of its own does all that may block: it holds the inotify watches, lists, reads, and puts what
//! it finds into the outbox. A watch is set before its directory is listed, so that nothing falls between.
//! A file is read when it is closed after writing or moved into place, never while it grows.

mod base;
mod files;
mod inbox;
mod register;
#[cfg(test)]
mod tests;
mod thread;
mod tree;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;

pub use register::{DirectoryRegistration, register_in_directory};

use self::inbox::{Command, Inbox};
use super::outbox::Outbox;
use super::{Base, Change, Discovery};
use crate::model::{ServiceName, Trust};

/// The directory kind of registry.
#[derive(Debug)]
pub struct Directory;

impl Directory {
    /// Watches these bases below `root`, which need not exist yet.
    pub fn start(root: PathBuf, bases: Vec<Base>) -> DirectoryDiscovery {
        let inbox = Arc::new(Inbox::default());
        let outbox = Outbox::default();
        outbox.send(Change::Link { connected: true, session_losses: 0 });
        let names: Vec<_> = bases.iter().map(|base| base.name.clone()).collect();
        for base in bases {
            inbox.command(Command::Add(base));
        }
        if let Err(error) = thread::spawn(root, Arc::clone(&inbox), outbox.clone()) {
            tracing::error!(%error, "no thread for the directory registry");
            for base in names {
                let reason = Some(format!("no thread: {error}").into());
                outbox.send(Change::Trust { base, trust: Trust::Stale, reason });
            }
        }
        DirectoryDiscovery { inbox, outbox }
    }
}

/// What a directory tree holds, as it changes. Dropping it ends its thread.
#[derive(Debug)]
pub struct DirectoryDiscovery {
    inbox: Arc<Inbox>,
    outbox: Outbox,
}

impl DirectoryDiscovery {
    /// Watches one more base; one of the same name is replaced.
    pub fn add(&mut self, base: Base) {
        self.inbox.command(Command::Add(base));
    }

    /// Stops watching a base. Changes of it that already wait may still come.
    pub fn remove(&mut self, base: &ServiceName) {
        self.inbox.command(Command::Remove(base.clone()));
    }
}

impl Discovery for DirectoryDiscovery {
    async fn changed(&mut self) -> Change {
        self.outbox.changed().await
    }
}

impl Drop for DirectoryDiscovery {
    fn drop(&mut self) {
        self.inbox.stop();
    }
}
