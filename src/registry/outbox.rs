//! What a registry has to tell and nobody has fetched yet: the latest word on each service and base.
//!
//! Bounded by the number of services, whatever the rate of events: a newer word replaces an older one that
//! still waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Change;
use crate::model::{ServiceName, Source, Trust};

/// A mailbox of [`Change`]s: filled from any thread without waiting, emptied by one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// By place in the queue.
    changes: BTreeMap<u64, Change>,
    places: HashMap<Subject, u64>,
    next: u64,
}

/// What a change is about: of each, only the latest waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Service(ServiceName),
    Refused(ServiceName),
    Base(ServiceName),
    Drift(ServiceName),
    Link,
}

impl Outbox {
    /// Puts a change in. Never waits for the reader.
    ///
    /// A service's change takes the place of the one before it and keeps the older `received`. That a base is
    /// live goes to the end: it must not overtake the members that it vouches for.
    pub(super) fn send(&self, change: Change) {
        self.lock().put(change);
        self.shared.filled.notify_one();
    }

    /// The change that waits longest. Cancel-safe.
    pub(super) async fn changed(&self) -> Change {
        loop {
            if let Some(change) = self.lock().take() {
                return change;
            }
            self.shared.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn put(&mut self, mut change: Change) {
        let subject = Subject::of(&change);
        if matches!(change, Change::Trust { trust: Trust::Live, .. })
            && let Some(place) = self.places.remove(&subject)
        {
            self.changes.remove(&place);
        }
        let place = *self.places.entry(subject).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        let waiting = self.changes.get(&place).and_then(received);
        if let (
            Change::Updated { received, .. }
            | Change::Gone { received, .. }
            | Change::Leader { received, .. },
            Some(waiting),
        ) = (&mut change, waiting)
        {
            *received = waiting.min(*received);
        }
        let told = self.changes.get(&place).and_then(source);
        if let (Change::Updated { source, .. } | Change::Gone { source, .. }, Some(told)) =
            (&mut change, told)
        {
            *source = told.min(*source);
        }
        if let (Change::Drift { nodes, .. }, Some(Change::Drift { nodes: told, .. })) =
            (&mut change, self.changes.get(&place))
        {
            *nodes += told;
        }
        self.changes.insert(place, change);
    }

    fn take(&mut self) -> Option<Change> {
        let (_, change) = self.changes.pop_first()?;
        self.places.remove(&Subject::of(&change));
        Some(change)
    }
}

fn received(change: &Change) -> Option<std::time::Instant> {
    match change {
        Change::Updated { received, .. }
        | Change::Gone { received, .. }
        | Change::Leader { received, .. } => Some(*received),
        Change::Refused { .. } | Change::Trust { .. } | Change::Drift { .. } | Change::Link { .. } => None,
    }
}

fn source(change: &Change) -> Option<Source> {
    match change {
        Change::Updated { source, .. } | Change::Gone { source, .. } => Some(*source),
        _ => None,
    }
}

impl Subject {
    fn of(change: &Change) -> Self {
        match change {
            Change::Updated { service, .. } | Change::Gone { service, .. } => Self::Service(service.clone()),
            // An election's name is no service's.
            Change::Leader { base, .. } => Self::Service(base.clone()),
            Change::Refused { catalog, .. } => Self::Refused(catalog.clone()),
            Change::Trust { base, .. } => Self::Base(base.clone()),
            Change::Drift { base, .. } => Self::Drift(base.clone()),
            Change::Link { .. } => Self::Link,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::ServiceSnapshot;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn updated(service: &str, received: Instant) -> Change {
        let (snapshot, source) = (Arc::new(ServiceSnapshot::default()), Source::Listing);
        Change::Updated { service: name(service), snapshot, received, source }
    }

    fn trust(base: &str, trust: Trust) -> Change {
        Change::Trust { base: name(base), trust, reason: None }
    }

    /// What waits, in order, in short.
    fn drain(outbox: &Outbox) -> Vec<String> {
        let mut queue = outbox.lock();
        std::iter::from_fn(|| queue.take())
            .map(|change| match change {
                Change::Updated { service, .. } => format!("updated {service}"),
                Change::Gone { service, .. } => format!("gone {service}"),
                Change::Leader { base, .. } => format!("leader {base}"),
                Change::Refused { catalog, .. } => format!("refused {catalog}"),
                Change::Trust { base, trust, .. } => format!("{trust:?} {base}"),
                Change::Drift { base, nodes } => format!("drift {base} {nodes}"),
                Change::Link { connected, .. } => format!("link {connected}"),
            })
            .collect()
    }

    #[test]
    fn only_the_latest_of_each_service_waits_in_the_place_of_the_first() {
        let outbox = Outbox::default();
        let start = Instant::now();
        for round in 0..1000 {
            outbox.send(updated("a", start + Duration::from_millis(round)));
            outbox.send(updated("b", start));
            outbox.send(Change::Drift { base: name("a"), nodes: 2 });
            outbox.send(Change::Link { connected: round % 2 == 1, session_losses: round });
        }
        let late = start + Duration::from_secs(9);
        outbox.send(Change::Gone { service: name("b"), received: late, source: Source::Event });
        let sources = outbox.lock().changes.values().filter_map(source).collect::<Vec<_>>();
        assert_eq!(sources, [Source::Listing, Source::Event]);
        let oldest = outbox.lock().changes.values().filter_map(received).collect::<Vec<_>>();
        assert_eq!(oldest, [start, start]);
        assert_eq!(drain(&outbox), ["updated a", "gone b", "drift a 2000", "link true"]);
        assert!(outbox.lock().places.is_empty());
    }

    #[test]
    fn a_base_is_never_live_before_its_members_are_told() {
        let outbox = Outbox::default();
        let now = Instant::now();
        outbox.send(trust("base", Trust::Stale));
        outbox.send(updated("a", now));
        outbox.send(trust("base", Trust::Live));
        outbox.send(updated("b", now));
        outbox.send(trust("base", Trust::Live));
        assert_eq!(drain(&outbox), ["updated a", "updated b", "Live base"]);
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let outbox = Outbox::default();
        let mut wait = Box::pin(outbox.changed());
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(wait.as_mut().poll(cx).is_pending())).await);
        outbox.send(trust("base", Trust::Live));
        drop(wait);
        let found = tokio::time::timeout(Duration::from_secs(10), outbox.changed()).await;
        assert!(matches!(found, Ok(Change::Trust { .. })));
    }
}
