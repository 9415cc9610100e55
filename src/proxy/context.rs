//! What a worker's connections share: one context a worker, nothing of it shared with another but the table
//! and the metrics.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::access_log::AccessLog;
use super::body::Body;
use super::clock::{Clock, TICK};
use super::filter::{Chain, Filters};
use super::headers::{IdBlock, Via, request_id};
use super::memory::{Memory, MemorySource, Pressure, SETTLES};
use super::probe::Prober;
use super::queue::Lines;
use super::replay::Replays;
use super::silence::Suspects;
use super::streams::{PlacedBy, StreamGuard, Streams};
use crate::config::plan::{ListenerKind, ListenerPlan};
use crate::model::ServiceName;
use crate::table::{CachedReader, Endpoint, RoutingTable, TableReader, Upstream};
use crate::telemetry::{ConnectionSeries, LineSink, Metrics, RequestSeries, SecondsSeries};
use crate::transport::{Transport, TransportOptions};

/// What every worker is started with.
#[derive(Debug, Clone)]
pub struct Shared {
    reader: TableReader,
    metrics: Arc<Metrics>,
    filters: Filters,
    token: Arc<str>,
    connections: Arc<AtomicUsize>,
    resting: Arc<AtomicUsize>,
    memory: Arc<Memory>,
}

impl Shared {
    /// For one gateway. The token that tells its `via` from other gateways' is drawn here.
    pub fn new(reader: TableReader, metrics: Arc<Metrics>, filters: Filters) -> Self {
        let token = format!("{:016x}", fastrand::u64(..)).into();
        let memory = Arc::new(Memory::default());
        metrics.add_live(Box::new(MemorySource(Arc::clone(&memory))));
        Self { reader, metrics, filters, token, connections: Arc::default(), resting: Arc::default(), memory }
    }

    /// Client connections open now, over all workers and listeners.
    pub fn open_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Of those, the ones that have been used, and hold nothing now but their socket.
    pub fn resting_connections(&self) -> usize {
        self.resting.load(Ordering::Relaxed)
    }
}

/// A worker's side of the proxy.
pub struct ProxyContext {
    pub(super) worker: usize,
    shared: Shared,
    pub(super) clock: Rc<Clock>,
    pub(super) transport: Transport<Body>,
    table: RefCell<CachedReader>,
    generation: Cell<u64>,
    rng: RefCell<fastrand::Rng>,
    ids: RefCell<IdBlock>,
    pub(super) via: Via,
    date: RefCell<(Instant, HeaderValue)>,
    draining: Cell<bool>,
    tidying: Cell<Tidying>,
    ticks: Cell<u32>,
    /// When it was last looked for those who keep requests waiting.
    looked: Cell<Instant>,
    suspects: RefCell<Suspects>,
    streams: Rc<Streams>,
    pub(super) access_log: AccessLog,
    series: RefCell<HashMap<SeriesKey, SeriesEntry, BuildHasherDefault<PlaceHasher>>>,
    connects: RefCell<HashMap<ServiceName, SecondsSeries>>,
    pub(super) chain: Option<Chain>,
    /// Bodies that are kept for another attempt.
    pub(super) replays: Replays,
    /// When clients were last cut for what they hold.
    relieved: Cell<Option<Instant>>,
    /// Requests that wait for a slot of a limited service.
    pub(super) lines: Lines,
}

/// An allocation of this size is a page of its own to the allocator. To free one makes it look at what it
/// keeps for later, and give back to the system what it has kept for a second.
const PROMPT: usize = 1 << 20;
const PROMPT_EVERY: u32 = 20;
/// In ticks.
const SILENCE_EVERY: u32 = 2;
/// Suspects that are asked in one look, lest the loss of a network becomes a storm of probes; the rest at the next.
const ASKED_AT_ONCE: usize = 8;
const PROMPTS: u32 = 4;

/// When the allocator is to be prompted: allocators return memory while they are at work, and a worker whose
/// connections have all come to rest asks nothing of its own.
#[derive(Debug, Default, Clone, Copy)]
struct Tidying {
    ticks: u32,
    left: u32,
}

/// Addresses of the three names: each entry keeps them alive, so that none is used twice.
type SeriesKey = (usize, usize, usize);

/// Mixes addresses, which no client chooses.
#[derive(Debug, Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, place: usize) {
        self.0 = (self.0.rotate_left(5) ^ place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct SeriesEntry {
    series: RequestSeries,
    _names: (Arc<str>, Option<Arc<str>>, Option<ServiceName>),
}

/// A listener as a worker serves it.
#[derive(Debug)]
pub struct ListenerState {
    plan: Arc<ListenerPlan>,
    /// Its connections, counted.
    pub(super) connections: ConnectionSeries,
}

/// A client connection's place under `max_connections`.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<AtomicUsize>);

/// A client connection at rest.
#[derive(Debug)]
pub(super) struct Resting(Arc<AtomicUsize>);

impl ListenerState {
    /// A listener that is served by these settings.
    pub fn new(plan: Arc<ListenerPlan>, context: &Rc<ProxyContext>) -> Self {
        Self { connections: context.metrics().connection_series(&plan.name), plan }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub(super) fn plan(&self) -> &ListenerPlan {
        &self.plan
    }

    pub(super) fn kind(&self) -> &ListenerKind {
        &self.plan.kind
    }
}

impl ProxyContext {
    /// The context of worker number `index`. Must be made, and stay, on the worker's thread.
    pub fn new(index: usize, shared: Shared) -> Self {
        let mut table = shared.reader.cached();
        let limits = &table.get().settings().limits;
        let transport = Transport::new(TransportOptions {
            max_headers: limits.max_headers,
            max_header_size: limits.max_header_size,
            ..TransportOptions::default()
        });
        Self {
            worker: index,
            clock: Clock::new(Instant::now()),
            transport,
            generation: Cell::new(table.get().generation()),
            table: RefCell::new(table),
            rng: RefCell::new(fastrand::Rng::new()),
            ids: RefCell::default(),
            via: Via::new(&shared.token),
            date: RefCell::new((Instant::now(), date(SystemTime::now()))),
            draining: Cell::new(false),
            tidying: Cell::default(),
            ticks: Cell::default(),
            looked: Cell::new(Instant::now()),
            suspects: RefCell::default(),
            streams: Rc::default(),
            access_log: AccessLog::default(),
            series: RefCell::default(),
            connects: RefCell::default(),
            chain: Chain::new(&shared.filters),
            replays: Replays::default(),
            relieved: Cell::default(),
            lines: Lines::default(),
            shared,
        }
    }

    /// The gateway's metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Where access lines go from now on; `None`: nowhere.
    pub fn set_access_log(&self, sink: Option<LineSink>) {
        self.access_log.set(sink);
    }

    /// Lets connections end: HTTP/1 after one more answer, or when none is asked for within a second; HTTP/2 by
    /// GOAWAY; tunnels in their own time.
    pub fn drain(&self) {
        if !self.draining.replace(true) {
            self.clock.drain();
        }
    }

    /// Whether [`ProxyContext::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Moves every deadline of the worker, tends its pools and its table. To be called each
    /// [`TICK`](super::TICK).
    pub fn tick(&self) {
        let now = Instant::now();
        self.clock.tick(now);
        self.look_for_memory(now);
        self.access_log.flush();
        self.transport.tick(now);
        self.tidy();
        self.look_for_silence(now);
        let mut table = self.table.borrow_mut();
        let table = table.get();
        let changed = self.generation.replace(table.generation()) != table.generation();
        self.streams.tick(now, changed, table, &mut self.rng.borrow_mut());
        if changed {
            let limits = &table.settings().limits;
            self.transport.limit_heads(limits.max_headers, limits.max_header_size);
            // Names come and go with generations: what is still in use comes back at once.
            self.series.borrow_mut().clear();
            self.connects.borrow_mut().clear();
        }
    }

    /// Holds the process's memory against its limit, and at the limit frees some.
    fn look_for_memory(&self, now: Instant) {
        let limit = self.with_table(|table, _| table.settings().limits.max_memory);
        let pressure = self.shared.memory.look(limit);
        self.clock.set_pressure(pressure);
        if pressure == Pressure::None {
            return;
        }
        self.released();
        if self.clock.pressure() == Pressure::Full {
            self.metrics().shed_for_memory("body", self.replays.give_up());
        }
        let relieved = self.relieved.get();
        if relieved.is_none_or(|at| now.saturating_duration_since(at) >= SETTLES) {
            self.relieved.set(Some(now));
            self.metrics().shed_for_memory("client", self.clock.cut_stuck(now));
        }
    }

    /// Asks those that keep requests waiting. Some ticks apart: that costs what waits, not what runs.
    fn look_for_silence(&self, now: Instant) {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        if !ticks.is_multiple_of(SILENCE_EVERY) {
            return;
        }
        let since = self.looked.replace(now);
        if now.saturating_duration_since(since) > 2 * SILENCE_EVERY * TICK {
            // Who had no time for the answers must not say that there were none.
            return;
        }
        let mut suspects = self.suspects.borrow_mut();
        let late = self.clock.waited_for(now);
        let standing =
            late.into_iter().filter(|endpoint| !endpoint.is_closed() && endpoint.ejected().is_none());
        let due = standing.filter(|endpoint| suspects.waits(endpoint.target.id, now));
        for endpoint in due.take(ASKED_AT_ONCE) {
            let service = self.with_table(|table, _| {
                let has =
                    |u: &&Arc<Upstream>| u.endpoints().iter().any(|e| e.target.id == endpoint.target.id);
                table.upstreams().find(has).map(|upstream| upstream.name().to_string())
            });
            // One whose node is gone finishes what it has.
            if let Some(service) = service {
                tokio::task::spawn_local(Prober::of(self).suspect(service, endpoint));
            }
        }
        suspects.tidy(now);
    }

    /// A stream that may outlast its place, from now on looked after.
    pub(super) fn stream(
        &self,
        service: &ServiceName,
        endpoint: &Arc<Endpoint>,
        by: Option<PlacedBy>,
    ) -> StreamGuard {
        self.streams.enter(self.table.borrow_mut().get(), service, endpoint, by)
    }

    /// Ends what streams for long, spread over this time: clients of a `WebSocket` or of gRPC are told.
    pub fn end_streams(&self, within: Duration) {
        self.streams.end_all(self.clock.now(), within, &mut self.rng.borrow_mut());
    }

    /// A connection has given back what its requests needed, and rests until the guard goes.
    pub(super) fn rest(&self) -> Resting {
        self.shared.resting.fetch_add(1, Ordering::Relaxed);
        Resting(Arc::clone(&self.shared.resting))
    }

    /// A connection gave back what its requests needed.
    pub(super) fn released(&self) {
        self.tidying.set(Tidying { left: PROMPTS, ..self.tidying.get() });
    }

    /// Once a second, for some seconds after the last connection came to rest.
    fn tidy(&self) {
        let Tidying { ticks, left } = self.tidying.get();
        let next = match (ticks + 1, left) {
            (_, 0) => Tidying::default(),
            (PROMPT_EVERY, left) => {
                drop(std::hint::black_box(Vec::<u8>::with_capacity(PROMPT)));
                Tidying { ticks: 0, left: left - 1 }
            }
            (ticks, left) => Tidying { ticks, left },
        };
        self.tidying.set(next);
    }

    /// Looks at the table of now. Never held over an await: it takes a closure.
    pub(super) fn with_table<T>(&self, look: impl FnOnce(&RoutingTable, &mut fastrand::Rng) -> T) -> T {
        look(self.table.borrow_mut().get(), &mut self.rng.borrow_mut())
    }

    /// The id of a request.
    pub(super) fn request_id(&self, headers: &HeaderMap, trusted: bool) -> HeaderValue {
        request_id(headers, trusted, &mut self.ids.borrow_mut(), &mut self.rng.borrow_mut())
    }

    /// The date for an answer that has none, exact to a tick.
    pub(super) fn date(&self) -> HeaderValue {
        let (now, mut cached) = (self.clock.now(), self.date.borrow_mut());
        if cached.0 != now {
            *cached = (now, date(SystemTime::now()));
        }
        cached.1.clone()
    }

    /// Takes a place under the cap; `None` when there is none.
    pub(super) fn open_connection(&self, max: usize) -> Option<OpenConnection> {
        let open = OpenConnection(Arc::clone(&self.shared.connections));
        (open.0.fetch_add(1, Ordering::Relaxed) < max).then_some(open)
    }

    /// Counts a request that is over.
    pub(super) fn count(
        &self,
        listener: &ListenerState,
        route: Option<&Arc<str>>,
        service: Option<&ServiceName>,
        code: u16,
        duration: Duration,
    ) {
        let place = |text: Option<&str>| text.map_or(0, |text| text.as_ptr() as usize);
        let key = (
            place(Some(listener.name())),
            place(route.map(|name| &**name)),
            place(service.map(ServiceName::as_str)),
        );
        let mut cache = self.series.borrow_mut();
        let entry = cache.entry(key).or_insert_with(|| SeriesEntry {
            series: self.shared.metrics.request_series(
                listener.name(),
                route.map_or("", |name| name),
                service.map_or("", ServiceName::as_str),
            ),
            _names: (Arc::clone(&listener.plan.name), route.cloned(), service.cloned()),
        });
        entry.series.finish(code, duration);
    }

    /// Records how long a connect took.
    pub(super) fn connected(&self, service: &ServiceName, took: Duration) {
        let mut connects = self.connects.borrow_mut();
        if !connects.contains_key(service) {
            connects.insert(service.clone(), self.shared.metrics.connect_series(service.as_str()));
        }
        connects[service].observe(took);
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn date(at: SystemTime) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(httpdate::fmt_http_date(at))).expect("visible ASCII")
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ProxyContext {
    fn drop(&mut self) {
        self.access_log.flush();
    }
}

impl fmt::Debug for ProxyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyContext")
            .field("worker", &self.worker)
            .field("draining", &self.draining.get())
            .finish_non_exhaustive()
    }
}
