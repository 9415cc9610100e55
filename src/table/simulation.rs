//! Seeded lives of a service: whatever happens to it, the table is what was published last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{BalancePolicy, BalanceSpec, HashKey, Instance, Membership, ServiceSnapshot, Trust};
use crate::telemetry::Outcome;

use super::health::Reason;
use super::testing::{config, instance, name, service, snapshot};
use super::{Endpoint, InstanceState, Lease, PickRequest, RoutingTable, TableWriter};

const SEEDS: u64 = 256;
const STEPS: usize = 120;

fn specs() -> Vec<BalanceSpec> {
    let key = || Some(HashKey::ClientIp);
    let plain = |policy| BalanceSpec { policy, ..BalanceSpec::default() };
    vec![
        BalanceSpec::default(),
        plain(BalancePolicy::LeastRequest),
        plain(BalancePolicy::PeakEwma),
        plain(BalancePolicy::Random),
        BalanceSpec { policy: BalancePolicy::Ring { virtual_nodes: 20 }, key: key(), load_bound: Some(1.25) },
        BalanceSpec { policy: BalancePolicy::Maglev { table_size: 251 }, key: key(), load_bound: None },
    ]
}

/// A service whose registry is a map, and what the writer was told of it.
struct World {
    rng: fastrand::Rng,
    writer: TableWriter,
    nodes: BTreeMap<String, Instance>,
    zxid: u64,
    told: Arc<ServiceSnapshot>,
    published: Arc<ServiceSnapshot>,
    revision: u64,
    leases: Vec<Lease>,
    now: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let spec = specs().swap_remove(seed as usize % specs().len());
        let (mut writer, _) = TableWriter::new(2);
        writer.configure(config(vec![service("orders", spec)], Vec::new()));
        assert!(writer.publish() && !writer.publish());
        Self {
            rng: fastrand::Rng::with_seed(seed),
            writer,
            nodes: BTreeMap::new(),
            zxid: 1,
            told: Arc::default(),
            published: Arc::default(),
            revision: 0,
            leases: Vec::new(),
            now: Instant::now(),
        }
    }

    fn table(&self) -> Arc<RoutingTable> {
        self.writer.reader().load()
    }

    /// One event in the registry: a node comes, goes, comes again, moves, or changes its mind.
    fn churn(&mut self) {
        let id = format!("n{}", self.rng.u8(..8));
        self.zxid += 1;
        // Few addresses, so that nodes share them.
        let host = self.rng.u8(1..6);
        match (self.rng.u8(..6), self.nodes.get_mut(&id)) {
            (0 | 1, Some(_)) => _ = self.nodes.remove(&id),
            (2, Some(node)) => node.address = instance("", 0, host).address,
            (3, Some(node)) => node.enabled = !node.enabled,
            (4, Some(node)) => node.weight = f64::from(self.rng.u8(..3)),
            _ => _ = self.nodes.insert(id.clone(), instance(&id, self.zxid, host)),
        }
    }

    fn tell(&mut self) {
        let next = snapshot(self.nodes.values().cloned());
        let membership = self.writer.apply(&name("orders"), Arc::clone(&next));
        assert_eq!(patch(&self.told, &membership), *next, "what is told as the difference is the difference");
        assert_eq!(membership.is_empty(), *self.told == *next);
        assert!(membership.removed.is_empty() || self.writer.has_removals());
        self.told = next;
    }

    fn publish(&mut self) {
        let before = self.table();
        let published = self.writer.publish();
        assert_eq!(published, before.generation() < self.table().generation());
        assert!(!self.writer.has_removals() && !self.writer.has_changes());
        self.revision += u64::from(published);
        self.published = Arc::clone(&self.told);
        self.endpoints_live_on(&before);
    }

    /// A registration in both tables at the same address is the same endpoint with the same life.
    fn endpoints_live_on(&self, before: &RoutingTable) {
        let of = |table: &RoutingTable| -> BTreeMap<_, Arc<Endpoint>> {
            let upstream = table.upstream("orders").unwrap();
            let key = |i: &Instance| (i.id.clone(), i.address.clone());
            upstream
                .instances()
                .map(|(i, slot, _)| (key(i), Arc::clone(&upstream.endpoints()[slot])))
                .collect()
        };
        let (old, new) = (of(before), of(&self.table()));
        let lives = |endpoint: &Endpoint| Arc::as_ptr(&endpoint.vitals);
        for (key, endpoint) in &new {
            if let Some(before) = old.get(key) {
                assert_eq!(lives(before), lives(endpoint), "{key:?}");
            }
            assert!(!endpoint.is_closed() && endpoint.state() != InstanceState::Draining, "{key:?}");
        }
        let alive: BTreeSet<_> = new.values().map(|e| lives(e)).collect();
        for endpoint in old.values().filter(|e| !alive.contains(&lives(e))) {
            assert!(endpoint.is_closed() && endpoint.state() == InstanceState::Draining);
            assert!(endpoint.due().is_none(), "nobody probes the dead");
        }
    }

    fn request(&mut self) {
        let table = self.table();
        let upstream = table.upstream("orders").unwrap();
        let open: BTreeSet<String> = self
            .published
            .instances
            .iter()
            .filter(|i| i.enabled && i.weight > 0.0)
            .map(|i| i.address.to_string())
            .collect();
        let key = self.rng.u32(..100).to_string();
        let key = self.rng.bool().then_some(key.as_bytes());
        let mut tried = Vec::new();
        let mut seen = BTreeSet::new();
        let up = upstream.instances().any(|(i, _, s)| s == InstanceState::Up && i.enabled && i.weight > 0.0);
        loop {
            let worker = self.rng.usize(..2);
            let request = PickRequest { rng: &mut self.rng, worker, key, tried: &tried, now: self.now };
            let Some(lease) = upstream.pick(request) else { break };
            let endpoint = Arc::clone(lease.endpoint());
            assert!(open.contains(&*endpoint.address), "{} is none of {open:?}", endpoint.address);
            assert!(seen.insert(endpoint.address.to_string()), "tried already");
            let ejected = endpoint.state() == InstanceState::Ejected;
            assert!(!tried.is_empty() || !ejected || !up, "an ejected one only where nobody is up");
            match self.rng.u8(..4) {
                0 => {
                    tried.push(lease.id());
                    lease.settle(Outcome::ConnectFailed, None);
                    assert_eq!(endpoint.eject(Reason::Connect, self.now).is_some(), !ejected);
                }
                1 => return self.leases.push(lease),
                2 => return drop(lease),
                _ => return lease.settle(Outcome::Ok, Some(Duration::from_millis(self.rng.u64(..50)))),
            }
        }
        assert_eq!(seen, open, "nobody is left out while a request has nowhere to go");
    }

    fn time_passes(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(..2_000));
        for endpoint in self.table().upstream("orders").unwrap().endpoints() {
            if endpoint.due().is_some_and(|due| due.at() <= self.now) {
                if self.rng.bool() {
                    endpoint.probe_failed(self.now);
                } else {
                    assert!(endpoint.probe_answered(self.now));
                }
            }
        }
        if !self.leases.is_empty() && self.rng.bool() {
            self.leases.swap_remove(self.rng.usize(..self.leases.len())).settle(Outcome::Ok, None);
        }
        self.writer.sweep();
    }

    fn check(&self) {
        let table = self.table();
        let upstream = table.upstream("orders").unwrap();
        assert_eq!(**upstream.snapshot(), *self.published);
        assert_eq!(upstream.revision(), self.revision);
        // Whoever has a request open is shown, live or draining.
        let shown: BTreeSet<String> = upstream.instance_views().into_iter().map(|v| v.address).collect();
        for lease in &self.leases {
            assert!(shown.contains(&*lease.endpoint().address) && lease.endpoint().in_flight() > 0);
        }
        assert!(
            upstream
                .draining()
                .all(|d| self.leases.iter().any(|l| *l.endpoint().address == d.address.to_string()))
        );
        let addresses: BTreeSet<_> = self.published.instances.iter().map(|i| i.address.to_string()).collect();
        assert_eq!(upstream.endpoints().len(), addresses.len(), "one endpoint an address");
    }
}

/// Applies a difference to a snapshot.
fn patch(before: &ServiceSnapshot, membership: &Membership) -> ServiceSnapshot {
    let mut nodes: BTreeMap<_, _> = before.instances.iter().map(|i| (i.id.clone(), Arc::clone(i))).collect();
    for gone in &membership.removed {
        assert!(nodes.remove(&gone.id).is_some_and(|old| old == *gone));
    }
    for (old, new) in &membership.changed {
        assert!(nodes.insert(new.id.clone(), Arc::clone(new)).is_some_and(|was| was == *old));
    }
    for new in &membership.added {
        assert!(nodes.insert(new.id.clone(), Arc::clone(new)).is_none());
    }
    ServiceSnapshot { instances: nodes.into_values().collect(), ..ServiceSnapshot::default() }
}

#[test]
fn the_table_is_what_was_published_last_and_no_pick_leaves_it() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            match world.rng.u8(..10) {
                0..3 => world.churn(),
                3..5 => world.tell(),
                5 => world.publish(),
                6 => world.time_passes(),
                _ => world.request(),
            }
            world.check();
        }
        world.writer.trust(&name("orders"), Trust::Live, None);
        world.tell();
        // Nothing is left behind: neither leases, nor those who left, nor old tables.
        world.leases.clear();
        world.writer.publish();
        world.writer.sweep();
        world.writer.sweep();
        let table = world.table();
        let upstream = table.upstream("orders").unwrap();
        assert_eq!((upstream.in_flight(), upstream.has_departed()), (0, false));
        assert_eq!(world.writer.old_generations(), 0);
    }
}
