//! Promises about the moment between a removal and the table without it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::health::Reason;
use super::testing::{config, instance, name, service, snapshot};
use super::{InstanceState, Lease, PickRequest, RoutingTable, TableConfig, TableReader, TableWriter};
use crate::balance::{Balancer, BalancerFactory, Cursors, Member, Standard};
use crate::model::{BalancePolicy, BalanceSpec, HashKey, Instance, InstanceChoice};

/// Builds the standard balancers, and looks at the table that is in use when it is asked to.
#[derive(Debug, Default)]
struct Witness {
    reader: OnceLock<TableReader>,
    seen: Mutex<Vec<Arc<RoutingTable>>>,
    /// Where the keys went at the last build.
    placed: Mutex<Vec<Option<String>>>,
}

impl BalancerFactory for Witness {
    fn describe(&self, spec: &BalanceSpec) -> String {
        Standard.describe(spec)
    }

    fn build(&self, spec: &BalanceSpec, members: &[Member], cursors: &Arc<Cursors>) -> Arc<dyn Balancer> {
        if let Some(reader) = self.reader.get() {
            *self.placed.lock().unwrap() = placed(&reader.load());
            self.seen.lock().unwrap().push(reader.load());
        }
        // Wrapped, so that there is no successor, and it is asked each time.
        Arc::new(Always(Standard.build(spec, members, cursors)))
    }
}

#[derive(Debug)]
struct Always(Arc<dyn Balancer>);

impl Balancer for Always {
    fn pick(
        &self,
        context: &mut crate::balance::PickContext<'_>,
        candidates: &dyn crate::balance::Candidates,
    ) -> Option<usize> {
        self.0.pick(context, candidates)
    }

    fn placement(&self, affinity: u32) -> Option<Vec<usize>> {
        self.0.placement(affinity)
    }

    fn place(&self, affinity: u32, candidates: &dyn crate::balance::Candidates) -> Option<usize> {
        self.0.place(affinity, candidates)
    }
}

/// The address that each of some keys goes to now.
fn placed(table: &RoutingTable) -> Vec<Option<String>> {
    let upstream = table.upstream("orders").unwrap();
    let now = Instant::now();
    let place = |i: u32| upstream.place(InstanceChoice::Any, format!("user-{i}").as_bytes(), now);
    let address = |slot: usize| upstream.endpoints()[slot].address.to_string();
    (0..300).map(|i| place(i).map(address)).collect()
}

fn ring(load_bound: Option<f64>) -> BalanceSpec {
    BalanceSpec {
        policy: BalancePolicy::Ring { virtual_nodes: 160 },
        key: Some(HashKey::ClientIp),
        load_bound,
    }
}

fn watched(spec: BalanceSpec) -> (TableWriter, Arc<Witness>) {
    let witness = Arc::<Witness>::default();
    let factory: Arc<dyn BalancerFactory> = Arc::clone(&witness) as _;
    let balancers = HashMap::from([(name("orders"), factory)]);
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(TableConfig { balancers, ..config(vec![service("orders", spec)], Vec::new()) });
    writer.publish();
    witness.reader.set(reader).unwrap();
    (writer, witness)
}

fn tell(writer: &mut TableWriter, instances: impl IntoIterator<Item = Instance>) {
    writer.apply(&name("orders"), snapshot(instances));
    assert!(writer.publish());
}

fn hosts(hosts: impl IntoIterator<Item = u8>) -> Vec<Instance> {
    hosts.into_iter().map(|host| instance(&format!("n{host:03}"), u64::from(host), host)).collect()
}

fn pick(table: &RoutingTable, key: &[u8]) -> Option<Lease> {
    let mut rng = fastrand::Rng::with_seed(1);
    let request = PickRequest { rng: &mut rng, worker: 0, key: Some(key), tried: &[], now: Instant::now() };
    table.upstream("orders").unwrap().pick(request)
}

#[test]
fn before_anything_is_rebuilt_keys_go_where_the_ring_without_the_removed_sends_them() {
    for bound in [None, Some(1.0), Some(1.25)] {
        for gone in [vec![3], vec![0, 19], (0..10).collect()] {
            let (mut writer, witness) = watched(ring(bound));
            tell(&mut writer, hosts(0..20));
            let table = writer.reader().load();
            let _open: Vec<Lease> = (0..50_u8).filter_map(|i| pick(&table, &[i % 7])).collect();
            let ejected = &table.upstream("orders").unwrap().endpoints()[11];
            assert!(ejected.eject(Reason::Connect, Instant::now()).is_some());
            let before = placed(&table);
            tell(&mut writer, hosts((0..20).filter(|host| !gone.contains(host))));
            let during = witness.placed.lock().unwrap().clone();
            let after = placed(&writer.reader().load());
            let of_gone = |to: &Option<String>| {
                gone.iter().any(|host| to.as_deref() == Some(&format!("10.0.0.{host}:80")))
            };
            assert!(bound.is_some() || before.iter().any(of_gone));
            assert!(!during.iter().any(of_gone));
            assert_eq!(during, after, "{bound:?} {gone:?}");
        }
    }
}

#[test]
fn where_only_newcomers_are_left_the_old_ones_serve_until_they_are_there() {
    let (mut writer, witness) = watched(ring(None));
    tell(&mut writer, hosts(0..3));
    tell(&mut writer, hosts(3..6));
    let during = witness.placed.lock().unwrap().clone();
    assert!(during.iter().all(Option::is_some));
    let old = witness.seen.lock().unwrap().last().cloned().unwrap();
    assert!(pick(&old, b"late").is_some(), "a worker that still reads the old table finds somebody");
    // One that stays and is out of rotation is no reason either.
    let now = writer.reader().load();
    assert!(now.upstream("orders").unwrap().endpoints()[0].eject(Reason::Connect, Instant::now()).is_some());
    let stays = hosts(3..4).into_iter().chain(hosts(7..9));
    tell(&mut writer, stays);
    let during = witness.placed.lock().unwrap().clone();
    assert!(during.iter().all(|to| to.as_deref().is_some_and(|to| to != "10.0.0.3:80")), "{during:?}");
}

#[test]
fn the_last_one_gets_nothing_more_at_once() {
    let (mut writer, witness) = watched(ring(None));
    tell(&mut writer, hosts(0..3));
    tell(&mut writer, []);
    let during = witness.placed.lock().unwrap().clone();
    assert!(during.iter().all(Option::is_none));
    let old = witness.seen.lock().unwrap().last().cloned().unwrap();
    assert!(pick(&old, b"late").is_none());
}

#[test]
fn a_node_that_is_created_again_at_its_address_serves_without_a_gap() {
    let (mut writer, witness) = watched(ring(None));
    tell(&mut writer, hosts(0..3));
    let before = placed(&writer.reader().load());
    let again =
        [instance("n000", 77, 0), instance("n001", 1, 1), instance("n002", 2, 2), instance("n005", 5, 5)];
    tell(&mut writer, again);
    assert_eq!(*witness.placed.lock().unwrap(), before);
    let now = writer.reader().load();
    let moved = placed(&now).iter().zip(&before).filter(|(after, before)| after != before).count();
    assert_eq!(moved, placed(&now).iter().flatten().filter(|to| *to == "10.0.0.5:80").count());
    let mut states = now.upstream("orders").unwrap().instances().map(|(_, _, state)| state);
    assert!(states.all(|state| state == InstanceState::Up));
}
