//! Membership changes as they happen: a bounded memory of them, and readers that follow it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::model::{Cause, Instance, Membership, Owner, RegistryName, ServiceName};
use crate::telemetry::rfc3339_micros;

/// Events that are kept for readers who come late or fall behind.
const KEPT: usize = 10_000;
/// Pieces of a stream that wait for a slow reader; behind them it reads from the memory.
const AHEAD: usize = 4;
/// Events a piece.
const PIECE: usize = 256;

/// One change of one member.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it was handled, by our clock.
    pub time: SystemTime,
    /// Where it was told.
    pub registry: RegistryName,
    /// Whose member.
    pub service: ServiceName,
    /// What happened to it.
    pub change: MemberChange,
    /// The member: as it is now, or as it was.
    pub instance: Arc<Instance>,
    /// What told of it.
    pub cause: Cause,
    /// From the registry's event received to the table published.
    pub published_after: Duration,
}

/// What happened to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum MemberChange {
    Added,
    Removed,
    Changed,
}

impl MemberChange {
    /// The word in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }

    /// Each member of a difference with what happened to it. Removals come first: a node that was created again is removed
    /// and added.
    pub fn of(membership: &Membership) -> impl Iterator<Item = (Self, &Arc<Instance>)> {
        let removed = membership.removed.iter().map(|instance| (Self::Removed, instance));
        let added = membership.added.iter().map(|instance| (Self::Added, instance));
        removed.chain(added).chain(membership.changed.iter().map(|(_, new)| (Self::Changed, new)))
    }
}

impl Event {
    /// As one JSON object.
    pub fn to_json(&self) -> Value {
        let instance = &*self.instance;
        let zookeeper = !matches!(instance.facts.owner, Owner::Unknown);
        let created =
            instance.facts.created_ms.map(|ms| rfc3339_micros(UNIX_EPOCH + Duration::from_millis(ms)));
        json!({
            "time": rfc3339_micros(self.time),
            "registry": self.registry.as_str(),
            "service": self.service.as_str(),
            "instance": &*instance.id.name,
            "change": self.change.as_str(),
            "cause": self.cause.as_str(),
            "address": instance.address.to_string(),
            "weight": instance.weight,
            "enabled": instance.enabled,
            "limbo": instance.facts.limbo,
            "zone": instance.zone,
            "role": instance.role.map(crate::model::Role::as_str),
            "created": created,
            "zxid": zookeeper.then(|| format!("0x{:x}", instance.id.incarnation.0)),
            "session": match instance.facts.owner {
                Owner::Session(id) => Some(format!("0x{id:x}")),
                Owner::Unknown | Owner::Nobody => None,
            },
            "published_us": self.published_after.as_micros() as u64,
        })
    }
}

/// The latest events. Cheap to clone; one writes, everybody reads.
#[derive(Debug, Clone)]
pub struct EventLog {
    kept: Arc<Mutex<Kept>>,
    /// The number of the latest event.
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// The number of the first one.
    first: u64,
    events: VecDeque<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        let kept = Kept { first: 1, events: VecDeque::new() };
        Self { kept: Arc::new(Mutex::new(kept)), latest: watch::Sender::new(0) }
    }
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds events. They are numbered from 1.
    pub fn push(&self, events: impl IntoIterator<Item = Event>) {
        let mut kept = self.lock();
        for event in events {
            if kept.events.len() == KEPT {
                kept.events.pop_front();
                kept.first += 1;
            }
            kept.events.push_back(event);
        }
        let latest = kept.first + kept.events.len() as u64 - 1;
        drop(kept);
        self.latest.send_replace(latest);
    }

    /// Events with their numbers, from after this number on: at most so many. Those that are no longer kept are left out.
    fn after(&self, number: u64, most: usize) -> Vec<(u64, Event)> {
        let kept = self.lock();
        let skip = (number + 1).saturating_sub(kept.first);
        let first = kept.first + skip;
        let events = kept.events.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        (first..).zip(events.take(most).cloned()).collect()
    }

    /// Server-sent events from after the event of this number (`None`: from now on), for as long as they are read.
    ///
    /// Must be called within a runtime. A reader that falls behind what is kept is told how many it missed.
    pub(super) fn stream(&self, after: Option<u64>) -> mpsc::Receiver<Bytes> {
        let (pieces, reader) = mpsc::channel(AHEAD);
        let (log, mut latest) = (self.clone(), self.latest.subscribe());
        let now = *latest.borrow_and_update();
        // A number of another process's life would be waited for in vain.
        let mut at = after.unwrap_or(now).min(now);
        tokio::spawn(async move {
            // Something goes out at once, so that the reader knows that it is heard.
            let mut piece = String::from(": zoogate membership events\n\n");
            loop {
                let batch = log.after(at, PIECE);
                if let Some((first, _)) = batch.first().filter(|(first, _)| *first > at + 1) {
                    let missed = first - at - 1;
                    let _ = write!(piece, "event: missed\ndata: {{\"missed\":{missed}}}\n\n");
                }
                for (number, event) in batch {
                    let event = event.to_json();
                    let _ = write!(piece, "id: {number}\nevent: membership\ndata: {event}\n\n");
                    at = number;
                }
                if !piece.is_empty() {
                    if pieces.send(std::mem::take(&mut piece).into()).await.is_err() {
                        return;
                    }
                    continue;
                }
                tokio::select! {
                    news = latest.changed() => if news.is_err() { return },
                    () = pieces.closed() => return,
                }
            }
        });
        reader
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstanceId;

    fn event(n: u16) -> Event {
        let instance = Instance::new(InstanceId::from("a"), format!("127.0.0.1:{n}").parse().unwrap());
        Event {
            time: UNIX_EPOCH,
            registry: RegistryName::new("main").unwrap(),
            service: ServiceName::new("orders").unwrap(),
            change: MemberChange::Added,
            instance: Arc::new(instance),
            cause: Cause::Added,
            published_after: Duration::from_micros(90),
        }
    }

    async fn read(reader: &mut mpsc::Receiver<Bytes>) -> String {
        String::from_utf8(reader.recv().await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn readers_get_what_happens_and_what_they_missed() {
        let log = EventLog::default();
        log.push([event(1), event(2)]);
        let mut from_now = log.stream(None);
        let mut from_one = log.stream(Some(1));
        let mut from_another_life = log.stream(Some(1_000_000));
        assert!(read(&mut from_now).await.starts_with(": "));
        let text = read(&mut from_one).await;
        assert!(text.contains("id: 2\nevent: membership\ndata: {") && !text.contains("id: 1\n"), "{text}");
        assert!(text.contains("127.0.0.1:2") && !text.contains("127.0.0.1:1\""), "{text}");
        read(&mut from_another_life).await;
        log.push([event(3)]);
        assert!(read(&mut from_now).await.starts_with("id: 3\nevent: membership\ndata: {"));
        assert!(read(&mut from_another_life).await.starts_with("id: 3\n"));
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_how_far() {
        let log = EventLog::default();
        log.push((1..=KEPT as u16 + 5).map(event));
        let mut late = log.stream(Some(2));
        let text = read(&mut late).await;
        assert!(text.contains("event: missed\ndata: {\"missed\":3}\n\nid: 6\n"), "{text}");
        assert_eq!(log.after(0, usize::MAX).len(), KEPT, "no more is kept");
    }
}
