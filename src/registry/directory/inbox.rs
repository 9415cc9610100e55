//! What wakes the directory thread: events of the file system, commands, the end.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};

use super::super::Base;
use crate::model::ServiceName;

/// Events that wait at most; beyond them everything is listed anew instead.
const MAX_EVENTS: usize = 65_536;

/// What happened to a path, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It appeared; a file's content is yet to come.
    Created,
    /// It was closed by a writer.
    Written,
    /// It was moved here, complete.
    MovedIn,
    /// It was deleted or moved away.
    Removed,
    /// Its owner, mode or links changed.
    Attributes,
}

/// One event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) received: Instant,
}

/// What the owner wants.
#[derive(Debug)]
pub(super) enum Command {
    Add(Base),
    Remove(ServiceName),
}

/// Everything that came since the last look.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) commands: Vec<Command>,
    pub(super) events: VecDeque<Event>,
    /// Events were lost, the first about then.
    pub(super) lost: Option<Instant>,
    pub(super) stop: bool,
}

/// The thread's mailbox.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    batch: Mutex<Batch>,
    filled: Condvar,
}

impl Inbox {
    pub(super) fn command(&self, command: Command) {
        self.lock().commands.push(command);
        self.filled.notify_one();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.filled.notify_one();
    }

    /// Takes over what the watcher reports. Called on the watcher's thread: never waits.
    pub(super) fn report(&self, report: notify::Result<notify::Event>) {
        let received = Instant::now();
        let event = match report {
            Ok(event) if event.need_rescan() => return self.lose(received),
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "the file system watcher reports an error: everything is listed anew");
                return self.lose(received);
            }
        };
        let Some(kind) = kind(event.kind) else { return };
        let mut batch = self.lock();
        for path in event.paths {
            if batch.events.len() < MAX_EVENTS {
                batch.events.push_back(Event { path, kind, received });
            } else {
                batch.lost.get_or_insert(received);
            }
        }
        drop(batch);
        self.filled.notify_one();
    }

    /// What came, or an empty batch at that time.
    pub(super) fn wait(&self, until: Instant) -> Batch {
        let mut batch = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                return std::mem::take(&mut *batch);
            }
            batch = self.filled.wait_timeout(batch, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lose(&self, received: Instant) {
        self.lock().lost.get_or_insert(received);
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.events.is_empty() && self.lost.is_none() && !self.stop
    }
}

/// Which events count. Data that grows does not: it is read when its writer is done.
fn kind(kind: notify::EventKind) -> Option<Kind> {
    use notify::EventKind::{Access, Create, Modify, Remove};
    Some(match kind {
        Create(_) => Kind::Created,
        Access(AccessKind::Close(AccessMode::Write)) => Kind::Written,
        Modify(ModifyKind::Name(RenameMode::To)) => Kind::MovedIn,
        Modify(ModifyKind::Name(RenameMode::From)) | Remove(_) => Kind::Removed,
        Modify(ModifyKind::Metadata(_)) => Kind::Attributes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use notify::event::{DataChange, Flag};

    use super::*;

    fn report(inbox: &Inbox, kind: notify::EventKind) {
        inbox.report(Ok(notify::Event::new(kind).add_path("/x".into())));
    }

    #[test]
    fn growing_files_wake_nobody_and_finished_ones_do() {
        let inbox = Inbox::default();
        report(&inbox, notify::EventKind::Modify(ModifyKind::Data(DataChange::Any)));
        assert!(inbox.wait(Instant::now()).is_empty());
        report(&inbox, notify::EventKind::Access(AccessKind::Close(AccessMode::Write)));
        assert_eq!(inbox.wait(Instant::now() + Duration::from_secs(10)).events[0].kind, Kind::Written);
    }

    #[test]
    fn lost_events_are_known_to_be_lost() {
        let inbox = Inbox::default();
        inbox.report(Ok(notify::Event::new(notify::EventKind::Other).set_flag(Flag::Rescan)));
        assert!(inbox.wait(Instant::now()).lost.is_some());
        for _ in 0..=MAX_EVENTS {
            report(&inbox, notify::EventKind::Create(notify::event::CreateKind::File));
        }
        let batch = inbox.wait(Instant::now());
        assert!(batch.lost.is_some() && batch.events.len() == MAX_EVENTS);
    }
}
