//! Lines to a file or a standard stream from a thread of their own: a stalled disk or pipe drops lines, and
//! counts them, but never stops who logs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait for the writer.
const QUEUE: usize = 16 * 1024;

/// And so many bytes of them.
const QUEUED_BYTES: usize = 16 << 20;

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

/// A handle to a writer thread. Cheap to clone; the thread ends with the last handle.
#[derive(Clone)]
pub struct LineSink {
    queue: SyncSender<Message>,
    /// Bytes that wait for the writer.
    queued: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for LineSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineSink").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl LineSink {
    /// Opens the target and starts its thread.
    ///
    /// A file that cannot be opened is an error here; one that cannot be reopened later keeps the old one.
    pub fn open(target: LineTarget) -> io::Result<Self> {
        let out = Output::open(target)?;
        let (queue, messages) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let queued = Arc::new(AtomicUsize::new(0));
        let (lost, waiting) = (Arc::clone(&dropped), Arc::clone(&queued));
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || out.run(&messages, &waiting, &lost))?;
        Ok(Self { queue, queued, dropped })
    }

    /// Hands over one line or several, their newlines included. Never blocks: a full queue drops and counts them.
    pub fn line(&self, line: Vec<u8>) {
        let size = line.len();
        if self.queued.fetch_add(size, Ordering::Relaxed) > QUEUED_BYTES {
            self.queued.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(count(&line), Ordering::Relaxed);
        } else if let Err(
            TrySendError::Full(Message::Line(lost)) | TrySendError::Disconnected(Message::Line(lost)),
        ) = self.queue.try_send(Message::Line(line))
        {
            self.queued.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(count(&lost), Ordering::Relaxed);
        }
    }

    /// Lines that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file anew, for log rotation. Standard streams are left as they are.
    pub fn reopen(&self) {
        // A full queue means a stalled writer: the next SIGHUP asks again.
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Waits until what was handed over before is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

enum Output {
    Stream(Box<dyn Write + Send>),
    File { path: PathBuf, file: File },
}

impl Output {
    fn open(target: LineTarget) -> io::Result<Self> {
        Ok(match target {
            LineTarget::Stdout => Self::Stream(Box::new(io::stdout())),
            LineTarget::Stderr => Self::Stream(Box::new(io::stderr())),
            LineTarget::File(path) => Self::File { file: append(&path)?, path },
        })
    }

    fn run(mut self, messages: &Receiver<Message>, queued: &AtomicUsize, lost: &AtomicU64) {
        let mut batch = Vec::with_capacity(64 * 1024);
        while let Ok(first) = messages.recv() {
            let mut lines = 0;
            let mut next = Some(first);
            let mut flushed = None;
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        queued.fetch_sub(line.len(), Ordering::Relaxed);
                        lines += count(&line);
                        batch.extend_from_slice(&line);
                    }
                    Message::Reopen => {
                        self.write(&mut batch, &mut lines, lost);
                        self.reopen();
                    }
                    Message::Flush(done) => flushed = Some(done),
                }
                next = if batch.len() < 64 * 1024 && flushed.is_none() {
                    messages.try_recv().ok()
                } else {
                    None
                };
            }
            self.write(&mut batch, &mut lines, lost);
            if let Some(done) = flushed {
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>, lines: &mut u64, lost: &AtomicU64) {
        let out: &mut dyn Write = match self {
            Self::Stream(stream) => stream,
            Self::File { file, .. } => file,
        };
        if out.write_all(batch).and_then(|()| out.flush()).is_err() {
            lost.fetch_add(*lines, Ordering::Relaxed);
        }
        batch.clear();
        *lines = 0;
    }

    fn reopen(&mut self) {
        if let Self::File { path, file } = self
            && let Ok(fresh) = append(path)
        {
            *file = fresh;
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_a_rotated_file_is_reopened() {
        let dir = std::env::temp_dir().join(format!("zoogate-lines-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("access.log");
        let sink = LineSink::open(LineTarget::File(path.clone())).unwrap();
        for i in 0..100 {
            sink.line(format!("{i}\n").into_bytes());
        }
        sink.flush(Duration::from_secs(10));
        std::fs::rename(&path, dir.join("access.log.1")).unwrap();
        sink.reopen();
        sink.line(b"after\n".to_vec());
        sink.flush(Duration::from_secs(10));
        let old = (0..100).fold(String::new(), |old, i| old + &format!("{i}\n"));
        assert_eq!(std::fs::read_to_string(dir.join("access.log.1")).unwrap(), old);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(sink.dropped(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(LineSink::open(LineTarget::File("/nonexistent/dir/log".into())).is_err());
    }
}
