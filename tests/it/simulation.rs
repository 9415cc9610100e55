//! Mirror, view and table writer together against a simulated directory, network and requests.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zoogate::config::plan::{CatalogPlan, Limits, ServiceDefaults, ServicePlan};
use zoogate::model::{
    BalancePolicy, BalanceSpec, FormatChoice, FormatName, PrimaryRule, Protocol, RegistryName, ServiceName,
    Trust,
};
use zoogate::registry::view::BaseView;
use zoogate::registry::zookeeper::mirror::{Depth, Place};
use zoogate::registry::{Base, Change};
use zoogate::table::{PickRequest, Settings, TableConfig, TableReader, TableWriter};

use crate::support::sim::{BASE, Sim};

const SEEDS: u64 = 256;
const STEPS: usize = 400;

/// A gateway without threads: what drives a base, the way to the pump, the pump, a worker.
struct World {
    sim: Sim,
    base: Base,
    view: BaseView,
    /// On the way to the pump, with how many deletions were known when it set out.
    queue: VecDeque<(Change, usize)>,
    writer: TableWriter,
    reader: TableReader,
    listed: bool,
    /// Incarnations that nobody may pick any more: their deletion was handled.
    forbidden: HashSet<i64>,
    handled: usize,
    now: Instant,
    picks: u64,
    reloads: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let base = Base {
            name: ServiceName::new("base").unwrap(),
            catalog: sim.depth == Depth::Catalog,
            path: BASE.to_owned(),
            format: FormatChoice::Fixed(FormatName::Plain),
            reading: std::sync::Arc::default(),
            deny: Arc::default(),
            primary: PrimaryRule::Registered,
            election: false,
        };
        let (writer, reader) = TableWriter::new(1);
        let mut world = Self {
            view: BaseView::new(&base),
            sim,
            base,
            queue: VecDeque::new(),
            writer,
            reader,
            listed: false,
            forbidden: HashSet::new(),
            handled: 0,
            now: Instant::now(),
            picks: 0,
            reloads: 0,
        };
        world.reload();
        world
    }

    fn step(&mut self) {
        self.sim.step();
        self.drive();
        match self.sim.rng.u32(..20) {
            0..6 => self.pump(1),
            6..8 => self.pump(usize::MAX),
            8..10 => _ = self.writer.publish(),
            10 => _ = self.writer.sweep(),
            11 if self.sim.rng.u32(..8) == 0 => self.reload(),
            _ => self.request(),
        }
        self.now += Duration::from_millis(1);
    }

    /// As the driver of a base does after each wake-up.
    fn drive(&mut self) {
        for delta in std::mem::take(&mut self.sim.deltas) {
            delta.apply(&mut self.view);
        }
        if !self.sim.mirror.is_listed() {
            return;
        }
        let known = self.sim.buried.len();
        for change in self.view.take_changes(self.now, zoogate::model::Source::Event) {
            self.queue.push_back((change, known));
        }
        if !self.listed {
            self.listed = true;
            let live = Change::Trust { base: self.base.name.clone(), trust: Trust::Live, reason: None };
            self.queue.push_back((live, known));
        }
    }

    /// As the pump does: what takes somebody away is published before anything else happens.
    fn pump(&mut self, most: usize) {
        for _ in 0..most {
            let Some((change, known)) = self.queue.pop_front() else { break };
            match change {
                Change::Updated { service, snapshot, .. } => _ = self.writer.apply(&service, snapshot),
                Change::Gone { service, .. } => _ = self.writer.gone(&service),
                Change::Trust { base, trust, reason } => _ = self.writer.trust(&base, trust, reason),
                Change::Leader { .. }
                | Change::Refused { .. }
                | Change::Drift { .. }
                | Change::Link { .. } => {
                    unreachable!("nobody sends it here")
                }
            }
            if self.writer.has_removals() {
                self.writer.publish();
            }
            // A change of another service may overtake nothing, so what set out before it is handled. What the
            // mirror knew to be dead then is so in every snapshot up to here, once the queue has no older one.
            if self.queue.is_empty() {
                self.forbidden.extend(&self.sim.buried[self.handled..known]);
                self.handled = known;
            }
        }
    }

    fn reload(&mut self) {
        self.reloads += 1;
        let policies = [
            BalancePolicy::RoundRobin,
            BalancePolicy::Random,
            BalancePolicy::LeastRequest,
            BalancePolicy::PeakEwma,
        ];
        let policy = policies[self.sim.rng.usize(..policies.len())];
        let registry = RegistryName::new("main").unwrap();
        let (name, path) = (self.base.name.clone(), self.base.path.clone());
        let defaults = ServiceDefaults {
            format: self.base.format,
            reading: std::sync::Arc::default(),
            protocol: Protocol::Http1,
            balance: BalanceSpec { policy, ..BalanceSpec::default() },
            connect_timeout: Duration::from_secs(self.sim.rng.u64(1..3)),
            dns_ttl: Duration::from_secs(30),
            ..ServiceDefaults::default()
        };
        let (mut services, mut catalogs) = (Vec::new(), Vec::new());
        if self.base.catalog {
            catalogs.push(CatalogPlan { name, registry, path: path.parse().unwrap(), defaults });
        } else {
            services.push(ServicePlan { name, registry, path, defaults });
        }
        let limits = Limits {
            max_connections: 1,
            max_headers: 1,
            max_header_size: 1,
            max_body: None,
            max_memory: None,
            idle_timeout: Duration::ZERO,
            header_timeout: Duration::ZERO,
        };
        let gone = self.writer.configure(TableConfig {
            settings: Settings { limits, listeners: Vec::new(), drain_timeout: Duration::ZERO },
            services,
            catalogs,
            routes: Vec::new(),
            deny: HashMap::new(),
            balancers: HashMap::new(),
        });
        assert!(gone.is_empty(), "the same directory: {gone:?}");
        self.writer.publish();
    }

    fn request(&mut self) {
        let table = self.reader.load();
        let upstreams = table.sorted_upstreams();
        if upstreams.is_empty() {
            return;
        }
        let upstream = upstreams[self.sim.rng.usize(..upstreams.len())];
        let rng = &mut fastrand::Rng::with_seed(self.sim.rng.u64(..));
        let request = PickRequest { rng, worker: 0, key: None, tried: &[], now: self.now };
        if let Some(lease) = upstream.pick(request) {
            self.picks += 1;
            let address = &lease.endpoint().address;
            let dead = self.forbidden.contains(&incarnation(address));
            assert!(!dead, "{address} was picked after its deletion was handled");
        }
    }

    /// Everything arrives, is handled and published.
    fn settle(&mut self) {
        self.sim.settle();
        self.drive();
        self.pump(usize::MAX);
        self.writer.publish();
        self.writer.sweep();
    }

    /// What the table holds: by service and node the incarnation and the address.
    fn held(&self) -> BTreeMap<String, BTreeMap<String, (u64, String)>> {
        let upstreams = self.reader.load().upstreams().cloned().collect::<Vec<_>>();
        upstreams
            .iter()
            .map(|upstream| {
                let instances = upstream.instances().map(|(i, slot, _)| {
                    assert_eq!(*upstream.endpoints()[slot].address, *i.address.to_string());
                    (i.id.name.to_string(), (i.id.incarnation.0, i.address.to_string()))
                });
                (upstream.name().to_string(), instances.collect())
            })
            .collect()
    }

    fn truth(&self) -> BTreeMap<String, BTreeMap<String, (u64, String)>> {
        let (nodes, folders) = self.sim.truth();
        let service = |place: &Place| match &place.child {
            Some(child) => format!("base/{child}"),
            None => "base".to_owned(),
        };
        let mut truth: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        if self.base.catalog {
            truth.extend(folders.iter().map(|child| (format!("base/{child}"), BTreeMap::new())));
        } else {
            truth.insert("base".to_owned(), BTreeMap::new());
        }
        for (place, node) in nodes {
            let value = (node.czxid as u64, String::from_utf8(node.data.clone()).unwrap());
            truth.entry(service(place)).or_default().insert(place.node.to_string(), value);
        }
        truth
    }
}

/// The incarnation that a payload's host tells.
fn incarnation(address: &str) -> i64 {
    let host = address.split(':').next().unwrap();
    host.split('.').skip(1).fold(0, |sum, part| sum << 8 | part.parse::<i64>().unwrap())
}

#[test]
fn the_table_is_the_truth_in_the_end_and_nobody_picks_the_dead() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect::<Vec<_>>(),
    };
    let (mut picks, mut losses, mut forbidden, mut reloads) = (0, 0, 0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        assert_eq!(world.held(), world.truth(), "seed {seed}");
        let table = world.reader.load();
        assert!(table.unlisted().is_empty(), "seed {seed}");
        assert_eq!(world.writer.old_generations(), 0, "seed {seed}: nobody reads an old table");
        picks += world.picks;
        losses += world.sim.losses;
        forbidden += world.forbidden.len();
        reloads += world.reloads;
    }
    println!("{picks} picks, {forbidden} deletions handled, {losses} losses, {reloads} reloads");
    assert!(picks > 0 && forbidden > 0 || std::env::var("SEED").is_ok(), "it shows nothing");
}
