//! What a data server holds: the log, and an index of it in memory.
//!
//! One task at a time writes (the server's role sees to that); anyone may read meanwhile. Sequence numbers and epochs
//! are checked here, last: whatever else goes wrong, a write of a deposed primary does not enter the log of a server
//! that has heard of a newer one.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;

use crate::log::{HEADER, Log, OpenError, Span};
use crate::wire::Record;

/// Logs below this are not worth compacting.
const SMALL: u64 = 1 << 20;
/// Bytes of values that a snapshot's reader takes at once.
const CHUNK: u64 = 1 << 20;

/// Why records were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("a write of epoch {epoch} comes too late: the log is in epoch {ours}")]
    Stale { epoch: i64, ours: i64 },
    #[error("a gap: {found} follows {last}")]
    Gap { found: u64, last: u64 },
    /// The end of this process: nobody knows what is on the disk now.
    #[error("the log can not be written: {0}")]
    Disk(#[from] io::Error),
}

/// How far a log goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub epoch: i64,
    pub sequence: u64,
}

#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    id: u64,
    fsync: bool,
    /// Held across writes and fsync, by threads that may block.
    log: Mutex<Log>,
    /// Held for moments.
    index: RwLock<Index>,
    /// Says that the folder is ours.
    _lock: File,
}

#[derive(Debug)]
struct Index {
    file: Arc<File>,
    spans: BTreeMap<String, Span>,
    position: Position,
}

impl Index {
    fn apply(&mut self, record: Record, span: Span) {
        self.position = Position { epoch: record.epoch, sequence: record.sequence };
        match record.value {
            _ if record.key.is_empty() => {}
            Some(_) => _ = self.spans.insert(record.key, span),
            None => _ = self.spans.remove(&record.key),
        }
    }
}

impl Store {
    /// Opens a folder's log, or makes one with a new identity. A log that is mostly garbage is compacted: only here,
    /// and when a standby takes a snapshot.
    pub fn open(folder: &Path, fsync: bool) -> Result<Self, OpenError> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other(format!("{}: in use", folder.display())),
            TryLockError::Error(error) => error,
        })?;
        let path = folder.join("log");
        if !path.exists() {
            // Under another name until it is whole.
            Log::create(&folder.join("log.new"), fastrand::u64(..), fsync)?.replace(&path)?;
        }
        let mut records = Vec::new();
        let log = Log::open(&path, fsync, |record, span| records.push((record, span)))?;
        let mut index = Index { file: log.file(), spans: BTreeMap::new(), position: Position::default() };
        for (record, span) in records {
            index.apply(record, span);
        }
        let live: u64 =
            index.spans.iter().map(|(key, span)| 27 + key.len() as u64 + u64::from(span.length)).sum();
        let garbage = log.end() - HEADER > SMALL.max(2 * live);
        let store = Self {
            folder: folder.to_owned(),
            id: log.id(),
            fsync,
            log: log.into(),
            index: index.into(),
            _lock: lock,
        };
        if garbage {
            let mut snapshot = store.snapshot();
            let mut fresh = store.rewrite()?;
            while let Some(records) = snapshot.next()? {
                fresh.add(records)?;
            }
            store.adopt(fresh, snapshot.position).map_err(io::Error::other)?;
        }
        Ok(store)
    }

    /// Identity of this log: a folder that was emptied comes back as another.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn position(&self) -> Position {
        self.index.read().expect("no reader panics").position
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> io::Result<Option<Bytes>> {
        let index = self.index.read().expect("no reader panics");
        let Some(span) = index.spans.get(key).copied() else { return Ok(None) };
        let file = Arc::clone(&index.file);
        drop(index);
        value(&file, span).map(Some)
    }

    /// Takes the records that follow, all or none. They are in the log when this returns.
    pub async fn append(self: &Arc<Self>, records: Vec<Record>) -> Result<(), AppendError> {
        let store = Arc::clone(self);
        blocking(move || {
            let mut log = store.log.lock().expect("a writer that panicked ended the process");
            let mut at = store.position();
            for record in &records {
                if record.epoch < at.epoch {
                    return Err(AppendError::Stale { epoch: record.epoch, ours: at.epoch });
                }
                if record.sequence != at.sequence + 1 {
                    return Err(AppendError::Gap { found: record.sequence, last: at.sequence });
                }
                at = Position { epoch: record.epoch, sequence: record.sequence };
            }
            let spans = log.write(&records)?;
            log.commit()?;
            let mut index = store.index.write().expect("no reader panics");
            for (record, span) in records.into_iter().zip(spans) {
                index.apply(record, span);
            }
            Ok(())
        })
        .await
    }

    /// All there is now, to be read while others write.
    pub fn snapshot(&self) -> Snapshot {
        let index = self.index.read().expect("no reader panics");
        let spans: Vec<_> = index.spans.iter().map(|(key, span)| (key.clone(), *span)).collect();
        Snapshot { position: index.position, file: Arc::clone(&index.file), spans: spans.into_iter() }
    }

    /// Begins a log that will replace this one.
    pub fn rewrite(&self) -> io::Result<Rewrite> {
        let log = Log::create(&self.folder.join("log.new"), self.id, false)?;
        let index = Index { file: log.file(), spans: BTreeMap::new(), position: Position::default() };
        Ok(Rewrite { log, index })
    }

    /// Replaces the log. Readers see the old contents or the new ones, nothing between.
    pub fn adopt(&self, rewrite: Rewrite, position: Position) -> Result<(), AppendError> {
        let Rewrite { log: mut fresh, mut index } = rewrite;
        let mut log = self.log.lock().expect("a writer that panicked ended the process");
        let ours = self.position().epoch;
        if position.epoch < ours {
            return Err(AppendError::Stale { epoch: position.epoch, ours });
        }
        let mark =
            Record { sequence: position.sequence, epoch: position.epoch, key: String::new(), value: None };
        fresh.write(std::slice::from_ref(&mark))?;
        fresh.replace(&self.folder.join("log"))?;
        fresh.set_fsync(self.fsync);
        index.position = position;
        *log = fresh;
        *self.index.write().expect("no reader panics") = index;
        Ok(())
    }
}

/// A log in the making.
#[derive(Debug)]
pub struct Rewrite {
    log: Log,
    index: Index,
}

impl Rewrite {
    pub fn add(&mut self, records: Vec<Record>) -> io::Result<()> {
        let spans = self.log.write(&records)?;
        for (record, span) in records.into_iter().zip(spans) {
            self.index.apply(record, span);
        }
        Ok(())
    }
}

/// The contents at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub position: Position,
    file: Arc<File>,
    spans: std::vec::IntoIter<(String, Span)>,
}

impl Snapshot {
    /// Some more records, all with the snapshot's position; `None` at its end.
    pub fn next(&mut self) -> io::Result<Option<Vec<Record>>> {
        let (mut records, mut size) = (Vec::new(), 0);
        let Position { epoch, sequence } = self.position;
        while size < CHUNK
            && let Some((key, span)) = self.spans.next()
        {
            size += u64::from(span.length) + key.len() as u64;
            records.push(Record { sequence, epoch, key, value: Some(value(&self.file, span)?) });
        }
        Ok((!records.is_empty()).then_some(records))
    }
}

fn value(file: &File, span: Span) -> io::Result<Bytes> {
    let mut bytes = vec![0; span.length as usize];
    file.read_exact_at(&mut bytes, span.offset)?;
    Ok(bytes.into())
}

/// Runs what may wait for the disk on a thread of its own. It runs to its end even where nobody waits for it.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
