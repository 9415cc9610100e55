//! Streams that outlast their place: whose instance was removed, or whose key moved to another.
//!
//! What streams for long (an answer that had to be waited for, a WebSocket, a tcp connection) enters a list of its
//! worker. A new generation of the table makes the worker's ticks go through that list, some entries a tick. A
//! stream that has to go gets a moment for that, drawn by chance, so that its client does not come back together
//! with everybody else's.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::clock::Slots;
use super::error::ProxyError;
use crate::model::{InstanceChoice, ServiceName};
use crate::table::{Endpoint, RoutingTable};

/// Entries looked at in one tick: with a key each costs a look into its ring.
const LOOKS: usize = 512;
/// Streams ended in one tick.
const ENDS: usize = 256;
/// After its `drain_timeout` a stream goes on for up to this part of it, by chance, ...
const SPREAD_PART: u32 = 4;
/// ... and for no longer than this.
const SPREAD: Duration = Duration::from_secs(30);

/// Why a stream is ended before either side has ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Leave {
    /// Its instance was removed.
    #[error("the instance was removed")]
    Removed,
    /// Its key belongs to another instance.
    #[error("the key moved to another instance")]
    Moved,
    /// The gateway stops.
    #[error("the gateway stops")]
    Stopping,
}

impl From<Leave> for ProxyError {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Removed => Self::InstanceRemoved,
            Leave::Moved => Self::KeyMoved,
            Leave::Stopping => Self::Stopping,
        }
    }
}

/// By what a stream was placed: which instances, and which key.
pub(super) type PlacedBy = (InstanceChoice, Box<[u8]>);

/// A stream under way.
pub(super) struct Stream {
    service: ServiceName,
    endpoint: Arc<Endpoint>,
    /// The key, and whose it was when the stream began.
    home: Option<(PlacedBy, Arc<Endpoint>)>,
    due: Cell<Option<(Instant, Leave)>>,
    over: Cell<Option<Leave>>,
    waker: RefCell<Option<Waker>>,
}

impl Stream {
    fn moved(&self, table: &RoutingTable, now: Instant) -> Option<Duration> {
        let ((choice, key), then) = self.home.as_ref()?;
        let upstream = table.upstream(self.service.as_str())?;
        let window = upstream.spec().defaults.rehome?;
        let home = upstream.home(*choice, key)?;
        if is_same_place(home, then) || is_same_place(home, &self.endpoint) {
            return None;
        }
        // Whoever reconnects must get there.
        upstream.owner(*choice, key, now).filter(|owner| owner.is_same(home)).map(|_| window)
    }

    /// Whether its instance is not in the table, neither as it was nor registered anew.
    ///
    /// A server whose session expired while it was well is registered again, at its address: whoever still has a
    /// connection to it loses nothing by staying.
    fn is_homeless(&self, table: &RoutingTable) -> bool {
        self.endpoint.is_removed()
            && table.upstream(self.service.as_str()).is_none_or(|upstream| {
                !upstream.endpoints().iter().any(|endpoint| is_same_place(endpoint, &self.endpoint))
            })
    }

    fn limit(&self, table: &RoutingTable) -> Duration {
        let own = table.upstream(self.service.as_str()).and_then(|u| u.spec().defaults.drain_timeout);
        own.unwrap_or(table.settings().drain_timeout)
    }

    /// When, and why, it has to go, as the table is now.
    fn judge(&self, table: &RoutingTable, now: Instant, rng: &mut fastrand::Rng) -> Option<(Instant, Leave)> {
        if self.is_homeless(table) {
            let limit = self.limit(table);
            let spread = (limit / SPREAD_PART).min(SPREAD);
            return Some((now + limit + within(spread, rng), Leave::Removed));
        }
        self.moved(table, now).map(|window| (now + within(window, rng), Leave::Moved))
    }
}

/// Whether both are one registration, or one address after the other.
fn is_same_place(one: &Endpoint, other: &Endpoint) -> bool {
    one.is_same(other) || one.address == other.address && one.target.protocol == other.target.protocol
}

fn within(span: Duration, rng: &mut fastrand::Rng) -> Duration {
    span.mul_f64(rng.f64())
}

/// The streams of one worker.
#[derive(Default)]
pub(super) struct Streams {
    slots: RefCell<Slots<Rc<Stream>>>,
    /// Where the look goes on, and how many entries it has yet to see.
    cursor: Cell<usize>,
    left: Cell<usize>,
    /// How many have a moment to go.
    due: Cell<usize>,
}

impl Streams {
    /// Takes a stream in, for as long as the guard lives.
    pub(super) fn enter(
        self: &Rc<Self>,
        table: &RoutingTable,
        service: &ServiceName,
        endpoint: &Arc<Endpoint>,
        by: Option<PlacedBy>,
    ) -> StreamGuard {
        let home = by.and_then(|by| {
            let home = Arc::clone(table.upstream(service.as_str())?.home(by.0, &by.1)?);
            Some((by, home))
        });
        let stream = Rc::new(Stream {
            service: service.clone(),
            endpoint: Arc::clone(endpoint),
            home,
            due: Cell::new(None),
            over: Cell::new(None),
            waker: RefCell::new(None),
        });
        let key = self.slots.borrow_mut().insert(Rc::clone(&stream));
        if endpoint.is_removed() {
            // It began on the last generation that had its instance: no other look will come.
            self.left.set(self.slots.borrow().len());
        }
        StreamGuard { streams: Rc::clone(self), key, stream }
    }

    /// Looks at some streams where the table has changed, and ends those whose moment has come.
    pub(super) fn tick(&self, now: Instant, changed: bool, table: &RoutingTable, rng: &mut fastrand::Rng) {
        let slots = self.slots.borrow();
        if changed {
            // The look goes on where it was: however often the table changes, everybody is seen.
            self.left.set(slots.len());
        }
        for _ in 0..LOOKS.min(self.left.get()) {
            self.left.set(self.left.get() - 1);
            let at = self.cursor.get() % slots.len().max(1);
            self.cursor.set(at + 1);
            let Some(stream) = slots.get(at) else { continue };
            // An instance may be registered anew, a key move back, or its instance be removed as well.
            if !matches!(stream.due.get(), Some((_, Leave::Stopping))) {
                let judged = stream.judge(table, now, rng);
                let kept = stream.due.get().filter(|due| judged.is_some_and(|judged| judged.1 == due.1));
                self.set_due(stream, kept.or(judged));
            }
        }
        if self.due.get() > 0 {
            self.end_due(now, &slots);
        }
    }

    /// Gives every stream a moment to go within this time.
    pub(super) fn end_all(&self, now: Instant, span: Duration, rng: &mut fastrand::Rng) {
        for stream in self.slots.borrow().iter() {
            self.set_due(stream, Some((now + within(span, rng), Leave::Stopping)));
        }
    }

    fn end_due(&self, now: Instant, slots: &Slots<Rc<Stream>>) {
        let due = |stream: &&Rc<Stream>| stream.due.get().is_some_and(|(at, _)| at <= now);
        for stream in slots.iter().filter(due).take(ENDS) {
            if let Some((_, leave)) = stream.due.get() {
                self.set_due(stream, None);
                stream.over.set(Some(leave));
                // Only marks the task as runnable.
                if let Some(waker) = stream.waker.borrow().as_ref() {
                    waker.wake_by_ref();
                }
            }
        }
    }

    fn set_due(&self, stream: &Stream, due: Option<(Instant, Leave)>) {
        if stream.over.get().is_some() {
            return;
        }
        let had = usize::from(stream.due.replace(due).is_some());
        self.due.set(self.due.get() + usize::from(due.is_some()) - had);
    }
}

/// A stream's place in its worker's list.
pub(super) struct StreamGuard {
    streams: Rc<Streams>,
    key: usize,
    stream: Rc<Stream>,
}

impl StreamGuard {
    /// Why the stream must end, once it must.
    pub(super) fn over(&self) -> Option<Leave> {
        self.stream.over.get()
    }

    /// Remembers whom to wake then.
    pub(super) fn park(&self, cx: &Context<'_>) {
        let mut slot = self.stream.waker.borrow_mut();
        match slot.as_ref() {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *slot = Some(cx.waker().clone()),
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.set_due(&self.stream, None);
        // Whoever is ended has no moment any more.
        self.streams.slots.borrow_mut().remove(self.key);
    }
}

impl fmt::Debug for StreamGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamGuard").field("due", &self.stream.due.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::ServicePlan;
    use crate::model::{BalancePolicy, BalanceSpec, HashKey};
    use crate::table::testing::{config, instance, name, route, service, snapshot};
    use crate::table::{Lease, PickRequest, Reason, TableWriter};

    const LIMIT: Duration = Duration::from_secs(20);
    const WINDOW: Duration = Duration::from_secs(10);

    struct World {
        writer: TableWriter,
        streams: Rc<Streams>,
        now: Instant,
        rng: fastrand::Rng,
        /// Each stream is a load.
        leases: Vec<Lease>,
    }

    impl World {
        /// A ring of instances at 10.0.0.1 and so on, whose streams follow their keys.
        fn new(instances: u8, load_bound: Option<f64>) -> Self {
            let policy = BalancePolicy::Ring { virtual_nodes: 160 };
            let balance = BalanceSpec { policy, key: Some(HashKey::Host), load_bound };
            let mut plan: ServicePlan = service("orders", balance);
            plan.defaults.drain_timeout = Some(LIMIT);
            plan.defaults.rehome = Some(WINDOW);
            let (mut writer, _) = TableWriter::new(1);
            writer.configure(config(vec![plan], vec![route("/*")]));
            let mut world = Self {
                writer,
                streams: Rc::default(),
                now: Instant::now(),
                rng: fastrand::Rng::with_seed(7),
                leases: Vec::new(),
            };
            world.members(1..=instances);
            world
        }

        fn members(&mut self, hosts: impl IntoIterator<Item = u8>) {
            let all = hosts.into_iter().map(|host| instance(&format!("n{host}"), u64::from(host), host));
            self.writer.apply(&name("orders"), snapshot(all));
            self.writer.publish();
            self.tick(Duration::ZERO, true);
        }

        fn tick(&mut self, later: Duration, changed: bool) {
            self.now += later;
            let table = self.writer.reader().load();
            self.streams.tick(self.now, changed, &table, &mut self.rng);
        }

        fn open(&mut self, key: &str) -> StreamGuard {
            let table = self.writer.reader().load();
            let pick = PickRequest {
                rng: &mut self.rng,
                worker: 0,
                key: Some(key.as_bytes()),
                tried: &[],
                now: self.now,
            };
            let lease = table.upstream("orders").unwrap().pick(pick).unwrap();
            let by = (InstanceChoice::Any, key.as_bytes().into());
            let stream = self.streams.enter(&table, &name("orders"), lease.endpoint(), Some(by));
            self.leases.push(lease);
            stream
        }

        fn open_all(&mut self, count: usize) -> Vec<(String, StreamGuard)> {
            (0..count).map(|i| format!("key-{i}")).map(|key| (key.clone(), self.open(&key))).collect()
        }

        fn owner(&self, key: &str) -> String {
            let table = self.writer.reader().load();
            let owner =
                table.upstream("orders").unwrap().owner(InstanceChoice::Any, key.as_bytes(), self.now);
            owner.unwrap().id.to_string()
        }
    }

    fn over(streams: &[(String, StreamGuard)]) -> usize {
        streams.iter().filter(|(_, stream)| stream.over().is_some()).count()
    }

    #[test]
    fn streams_of_a_removed_instance_have_their_time_and_end_spread_over_a_quarter_of_it() {
        let mut world = World::new(1, None);
        let streams = world.open_all(LOOKS);
        world.members([2]);
        world.tick(LIMIT * 999 / 1000, false);
        assert_eq!(over(&streams), 0, "not before");
        let mut before = 0;
        for _ in 0..10 {
            world.tick(LIMIT / 40, false);
            let now = over(&streams);
            assert!(now - before > 20 && now - before < 100, "{} in a tenth of the spread", now - before);
            before = now;
        }
        world.tick(Duration::from_secs(1), false);
        assert_eq!((over(&streams), world.streams.due.get()), (LOOKS, 0));
        assert!(streams.iter().all(|(_, stream)| stream.over() == Some(Leave::Removed)));
        drop(streams);
        assert_eq!((world.streams.due.get(), world.streams.slots.borrow().iter().count()), (0, 0));
    }

    #[test]
    fn streams_of_an_instance_that_is_registered_anew_stay_and_others_go() {
        let mut world = World::new(2, None);
        let streams = world.open_all(100);
        let of = |id: &str, world: &World| streams.iter().filter(|(key, _)| world.owner(key) == id).count();
        let (here, there) = (of("n1", &world), of("n2", &world));
        assert!(here > 20 && there > 20);
        world.members([]);
        assert_eq!(world.streams.due.get(), 100);
        world.tick(LIMIT / 2, false);
        world.members([1]);
        assert_eq!(world.streams.due.get(), there, "one of them is back at its address");
        world.tick(LIMIT * 2, true);
        assert_eq!(over(&streams), there);
        world.members([]);
        world.tick(LIMIT * 2, false);
        assert_eq!(over(&streams), 100, "and it may go again");
    }

    #[test]
    fn streams_whose_key_moved_to_a_new_instance_follow_it_and_no_others() {
        let mut world = World::new(3, None);
        let old = world.open_all(600);
        let before: Vec<String> = old.iter().map(|(key, _)| world.owner(key)).collect();
        world.members(1..=4);
        let young = world.open_all(600);
        world.tick(Duration::ZERO, false);
        world.tick(WINDOW / 2, false);
        let half = over(&old);
        world.tick(WINDOW / 2 + Duration::from_millis(1), false);
        let mut moved = 0;
        for ((key, stream), before) in old.iter().zip(before) {
            let now = world.owner(key);
            moved += usize::from(now != before);
            assert_eq!(stream.over(), (now != before).then_some(Leave::Moved), "{key}: {before} to {now}");
        }
        assert!(
            moved > 50 && half > moved / 4 && half < moved * 3 / 4,
            "{half} of {moved} after half the window"
        );
        assert_eq!(over(&young), 0, "they are where they belong");
    }

    #[test]
    fn a_key_that_moves_back_in_time_leaves_its_stream_alone() {
        let mut world = World::new(3, None);
        let streams = world.open_all(300);
        world.members(1..=4);
        assert!(world.streams.due.get() > 30);
        // At the very moment of the change none was due; then the new instance goes again.
        let ended = over(&streams);
        world.members(1..=3);
        assert_eq!(world.streams.due.get(), 0);
        world.tick(WINDOW, false);
        assert_eq!(over(&streams), ended);
    }

    #[test]
    fn neither_a_failing_owner_nor_a_full_one_is_a_move() {
        let mut world = World::new(3, Some(1.0));
        // Bounded to the mean, many are elsewhere than at home.
        let streams = world.open_all(100);
        let table = world.writer.reader().load();
        let failing = &table.upstream("orders").unwrap().endpoints()[0];
        assert!(failing.eject(Reason::Connect, world.now).is_some());
        world.members(1..=3);
        world.tick(Duration::ZERO, true);
        assert_eq!((world.streams.due.get(), over(&streams)), (0, 0));
    }

    #[test]
    fn a_tick_looks_at_some_and_however_often_the_table_changes_everybody_is_seen() {
        let mut world = World::new(1, None);
        let streams = world.open_all(3 * LOOKS);
        world.members([2]);
        assert_eq!(world.streams.due.get(), LOOKS, "a bounded look");
        world.tick(Duration::ZERO, true);
        world.tick(Duration::ZERO, true);
        assert_eq!(world.streams.due.get(), 3 * LOOKS);
        world.tick(LIMIT * 2, false);
        assert_eq!(over(&streams), ENDS, "and ends some");
    }

    #[test]
    fn a_stop_ends_whatever_is_left() {
        let mut world = World::new(2, None);
        let streams = world.open_all(10);
        let now = world.now;
        world.streams.end_all(now, WINDOW, &mut world.rng);
        world.tick(WINDOW, false);
        assert!(streams.iter().all(|(_, stream)| stream.over() == Some(Leave::Stopping)));
    }
}
