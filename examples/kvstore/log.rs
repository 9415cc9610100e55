//! The file: a header, then one record after the other, each with its length and a checksum as its commit mark.
//!
//! ```text
//! header   "zgkvlog1"  id u64  checksum u32
//! record   length u32  checksum u32  payload
//! payload  sequence u64  epoch i64  kind u8 (0 put, 1 delete, 2 mark)  key length u16  key  value
//! ```
//!
//! Numbers are little-endian. The checksum (CRC-32) covers the file's id and the record's offset as well, so that bytes
//! of another log, or of another place, are never taken for a record. A crash leaves at most an incomplete last
//! record, which the next start cuts off. Damage with whole records behind it is no crash: such a file is refused.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::wire::Record;

const MAGIC: &[u8; 8] = b"zgkvlog1";
pub const HEADER: u64 = 20;
/// Length and checksum, before the payload.
const FRAME: usize = 8;
/// Of a payload, before the key.
const FIXED: usize = 19;
const LONGEST: usize = FIXED + crate::server::MAX_KEY + crate::server::MAX_VALUE;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}: it is no log of this store")]
    NotALog(PathBuf),
    #[error("{path}: damaged at byte {at}, and whole records follow from byte {resumes}: remove it to start from the \
             primary's data", path = .path.display())]
    Damaged { path: PathBuf, at: u64, resumes: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a value stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub length: u32,
}

/// An open file that is written at its end.
#[derive(Debug)]
pub struct Log {
    file: Arc<File>,
    path: PathBuf,
    id: u64,
    end: u64,
    fsync: bool,
}

impl Log {
    /// A new, empty one. What was there is lost.
    pub fn create(path: &Path, id: u64, fsync: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&header(id), 0)?;
        let log = Self { file: Arc::new(file), path: path.to_owned(), id, end: HEADER, fsync };
        log.commit()?;
        Ok(log)
    }

    /// Opens one, cuts off a torn tail, and tells every record in it with its value's place.
    pub fn open(path: &Path, fsync: bool, each: impl FnMut(Record, Span)) -> Result<Self, OpenError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // At once, for simplicity: a log that does not fit into memory is not for this store.
        let bytes = fs::read(path)?;
        let (id, end) = scan(&bytes, each).map_err(|flaw| match flaw {
            Flaw::NotALog => OpenError::NotALog(path.to_owned()),
            Flaw::Damaged { at, resumes } => OpenError::Damaged { path: path.to_owned(), at, resumes },
        })?;
        let log = Self { file: Arc::new(file), path: path.to_owned(), id, end, fsync };
        if end < bytes.len() as u64 {
            log.file.set_len(end)?;
            log.commit()?;
        }
        Ok(log)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes in use.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// For readers of values. It stays readable when another file takes this one's name.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Writes records, and returns the places of their values. Nothing is promised before [`Log::commit`].
    ///
    /// An error leaves the file as it was before, as far as its owner can tell: the end has not moved.
    pub fn write(&mut self, records: &[Record]) -> io::Result<Vec<Span>> {
        let mut bytes = Vec::new();
        let spans = records.iter().map(|record| frame(&mut bytes, self.end, self.id, record)).collect();
        self.file.write_all_at(&bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(spans)
    }

    /// Returns when everything written is on the disk: with fsync off, in the kernel's hands.
    pub fn commit(&self) -> io::Result<()> {
        if self.fsync { self.file.sync_data() } else { Ok(()) }
    }

    pub fn set_fsync(&mut self, fsync: bool) {
        self.fsync = fsync;
    }

    /// Takes the name of another log, whose file stays beside it as `NAME.old`.
    pub fn replace(&mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        let old = path.with_extension("old");
        let _ = fs::remove_file(&old);
        if path.exists() {
            fs::hard_link(path, &old)?;
        }
        fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        // The name is on the disk, too.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    NotALog,
    Damaged { at: u64, resumes: u64 },
}

/// Tells every record in a file's bytes; returns its id and where the last whole record ends.
fn scan(bytes: &[u8], mut each: impl FnMut(Record, Span)) -> Result<(u64, u64), Flaw> {
    let mut at = HEADER as usize;
    let id = bytes.get(8..16).map_or(0, number);
    if bytes.get(..at) != Some(&header(id)[..]) {
        return Err(Flaw::NotALog);
    }
    while let Some((record, span, next)) = read(bytes, at, id) {
        each(record, span);
        at = next;
    }
    match (at + 1..bytes.len()).find(|later| read(bytes, *later, id).is_some()) {
        Some(resumes) => Err(Flaw::Damaged { at: at as u64, resumes: resumes as u64 }),
        None => Ok((id, at as u64)),
    }
}

fn header(id: u64) -> Vec<u8> {
    let sum = crc32fast::hash(&id.to_le_bytes());
    [&MAGIC[..], &id.to_le_bytes(), &sum.to_le_bytes()].concat()
}

/// Appends a record's bytes; `start` is the offset in the file of what `bytes` holds.
fn frame(bytes: &mut Vec<u8>, start: u64, id: u64, record: &Record) -> Span {
    let at = bytes.len();
    bytes.extend([0; FRAME]);
    bytes.extend(record.sequence.to_le_bytes());
    bytes.extend(record.epoch.to_le_bytes());
    bytes.push(match &record.value {
        _ if record.key.is_empty() => 2,
        Some(_) => 0,
        None => 1,
    });
    bytes.extend((record.key.len() as u16).to_le_bytes());
    bytes.extend(record.key.as_bytes());
    let value = bytes.len();
    bytes.extend(record.value.iter().flatten());
    let length = (bytes.len() - at - FRAME) as u32;
    let sum = checksum(id, start + at as u64, &bytes[at + FRAME..]);
    bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    bytes[at + 4..at + FRAME].copy_from_slice(&sum.to_le_bytes());
    Span { offset: start + value as u64, length: (bytes.len() - value) as u32 }
}

/// The record at `at` if a whole one is there, and where the next begins.
fn read(bytes: &[u8], at: usize, id: u64) -> Option<(Record, Span, usize)> {
    let frame = bytes.get(at..at + FRAME)?;
    let length = number(&frame[..4]) as usize;
    if !(FIXED..=LONGEST).contains(&length) {
        return None;
    }
    let start = at + FRAME;
    let payload = bytes.get(start..start + length)?;
    if checksum(id, at as u64, payload) != number(&frame[4..]) as u32 {
        return None;
    }
    let key_end = FIXED + number(&payload[17..19]) as usize;
    let key = std::str::from_utf8(payload.get(FIXED..key_end)?).ok()?.to_owned();
    let value = &payload[key_end..];
    let record = Record {
        sequence: number(&payload[..8]),
        epoch: number(&payload[8..16]).cast_signed(),
        key,
        value: (payload[16] == 0).then(|| Bytes::copy_from_slice(value)),
    };
    let span = Span { offset: (start + key_end) as u64, length: value.len() as u32 };
    Some((record, span, start + length))
}

fn checksum(id: u64, offset: u64, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&id.to_le_bytes());
    sum.update(&offset.to_le_bytes());
    sum.update(&(payload.len() as u32).to_le_bytes());
    sum.update(payload);
    sum.finalize()
}

/// Up to eight bytes, the least first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
