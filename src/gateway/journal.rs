//! The journal of memberships: to whoever follows the admin's events, and to a file that can be replayed.
//!
//! The file is JSON lines. It begins with the whole table and goes on with one line a change; when it is full it becomes
//! `FILE.1`, and the new one begins with the whole table again. A thread of its own writes it: a stalled disk loses lines,
//! and the table is written anew once it goes on, so that a replay is never wrong for longer than the stall.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::admin::{Event, EventLog, MemberChange};
use crate::model::{Cause, Membership, RegistryName, ServiceName, Source};
use crate::table::TableReader;
use crate::telemetry::rfc3339_micros;

/// Publications that may wait for the disk.
const QUEUE: usize = 1024;
/// Changes handed over at once at the most.
const BATCH: usize = 4096;

/// What is known of a change's cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// An event: what happened is what it said.
    Event,
    /// A listing.
    Listing,
    /// None of the registry's own.
    Because(Cause),
}

impl From<Source> for Told {
    fn from(source: Source) -> Self {
        match source {
            Source::Event => Self::Event,
            Source::Listing => Self::Listing,
        }
    }
}

impl From<Cause> for Told {
    fn from(cause: Cause) -> Self {
        Self::Because(cause)
    }
}

impl Told {
    fn cause(self, change: MemberChange) -> Cause {
        match (self, change) {
            (Self::Event, MemberChange::Added) => Cause::Added,
            (Self::Event, MemberChange::Removed) => Cause::Deleted,
            (Self::Event, MemberChange::Changed) => Cause::Changed,
            (Self::Listing, _) => Cause::Relisted,
            (Self::Because(cause), _) => cause,
        }
    }
}

/// The pump's side: gathers changes until they are published.
#[derive(Debug)]
pub(super) struct Journal {
    events: EventLog,
    file: JournalFile,
    pending: Vec<(Event, Instant)>,
}

impl Journal {
    pub(super) fn new(events: EventLog, file: JournalFile) -> Self {
        Self { events, file, pending: Vec::new() }
    }

    /// A difference was applied. `received` is when the registry's event reached us.
    pub(super) fn note(
        &mut self,
        registry: &RegistryName,
        service: &ServiceName,
        membership: &Membership,
        told: Told,
        received: Instant,
    ) {
        let time = SystemTime::now();
        for (change, instance) in MemberChange::of(membership) {
            let event = Event {
                time,
                registry: registry.clone(),
                service: service.clone(),
                change,
                instance: Arc::clone(instance),
                // Whoever goes into limbo or out of it, but for those that the registry has back.
                cause: if instance.facts.limbo { Cause::Guard } else { told.cause(change) },
                published_after: Duration::ZERO,
            };
            self.pending.push((event, received));
        }
    }

    /// What was noted is in the table now.
    pub(super) fn published(&mut self, now: Instant) {
        if self.pending.is_empty() {
            return;
        }
        let events: Vec<Event> = self
            .pending
            .drain(..)
            .map(|(event, received)| Event {
                published_after: now.saturating_duration_since(received),
                ..event
            })
            .collect();
        self.file.write(&events);
        self.events.push(events);
    }
}

/// A handle to the file's writer, if there is a file. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct JournalFile(Arc<RwLock<Option<Writer>>>);

#[derive(Debug)]
struct Writer {
    plan: Place,
    queue: SyncSender<Message>,
    behind: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where the file is, and how big it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Bytes.
    pub(super) size: u64,
}

#[derive(Debug)]
enum Message {
    Events(Vec<Event>),
    Reopen,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends with the last sender, after it has written what it was given.
        let (closed, _) = sync_channel(0);
        self.queue = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl JournalFile {
    /// Writes to this place from now on, or nowhere. An error leaves everything as it was.
    pub(super) fn set(&self, place: Option<Place>, table: &TableReader) -> io::Result<()> {
        let mut writer = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if writer.as_ref().map(|writer| &writer.plan) == place.as_ref() {
            return Ok(());
        }
        *writer = place.map(|place| Writer::start(place, table.clone())).transpose()?;
        Ok(())
    }

    /// Opens the file anew, after it was moved away.
    pub(super) fn reopen(&self) {
        if let Some(writer) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            let _ = writer.queue.try_send(Message::Reopen);
        }
    }

    fn write(&self, events: &[Event]) {
        let writer = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = &*writer else { return };
        for batch in events.chunks(BATCH) {
            if let Err(TrySendError::Full(_)) = writer.queue.try_send(Message::Events(batch.to_vec()))
                && !writer.behind.swap(true, Ordering::AcqRel)
            {
                tracing::warn!(path = %writer.plan.path.display(), "the event log's disk stalls; it will be written anew");
            }
        }
    }
}

impl Writer {
    fn start(place: Place, table: TableReader) -> io::Result<Self> {
        let file = Open::append(&place.path)?;
        let (queue, messages) = sync_channel(QUEUE);
        let behind = Arc::new(AtomicBool::new(false));
        let (plan, lost) = (place.clone(), Arc::clone(&behind));
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || {
            if let Err(error) = file.run(&place, &table, &messages, &lost) {
                let path = place.path.display();
                tracing::error!(%path, %error, "the event log cannot be written any more; repair and reload");
            }
        })?;
        Ok(Self { plan, queue, behind, thread: Some(thread) })
    }
}

/// The file, with the bytes that it has.
struct Open {
    out: BufWriter<File>,
    size: u64,
}

impl Open {
    fn append(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { out: BufWriter::new(file), size })
    }

    fn run(
        mut self,
        place: &Place,
        table: &TableReader,
        messages: &Receiver<Message>,
        behind: &AtomicBool,
    ) -> io::Result<()> {
        self.table(table)?;
        while let Ok(message) = messages.recv() {
            match message {
                Message::Events(events) => {
                    for event in events {
                        let mut line = event.to_json();
                        line["type"] = "event".into();
                        self.line(&line)?;
                    }
                }
                Message::Reopen => {
                    self.out.flush()?;
                    self = Self::append(&place.path)?;
                    self.table(table)?;
                }
            }
            if behind.swap(false, Ordering::AcqRel) {
                self.table(table)?;
            }
            if self.size > place.size {
                self.out.flush()?;
                let mut full = place.path.as_os_str().to_owned();
                full.push(".1");
                std::fs::rename(&place.path, full)?;
                self = Self::append(&place.path)?;
                self.table(table)?;
            }
            self.out.flush()?;
        }
        self.out.flush()
    }

    /// The whole table: what a replay starts from.
    fn table(&mut self, table: &TableReader) -> io::Result<()> {
        let table = table.load();
        let time = rfc3339_micros(SystemTime::now());
        self.line(&json!({ "type": "table", "time": time, "generation": table.generation() }))?;
        for upstream in table.sorted_upstreams() {
            let members: Vec<_> = upstream
                .snapshot()
                .instances
                .iter()
                .map(|instance| {
                    json!({
                        "instance": &*instance.id.name,
                        "address": instance.address.to_string(),
                        "weight": instance.weight,
                        "enabled": instance.enabled,
                        "zone": instance.zone,
                        "role": instance.role.map(crate::model::Role::as_str),
                    })
                })
                .collect();
            self.line(&json!({
                "type": "members", "time": time, "registry": upstream.spec().registry.as_str(),
                "service": upstream.name().as_str(), "members": members,
            }))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &serde_json::Value) -> io::Result<()> {
        let mut text = line.to_string();
        text.push('\n');
        self.size += text.len() as u64;
        self.out.write_all(text.as_bytes())
    }
}
