//! Who of a service is asked: roles, zones, warm-up, shards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Reason;
use super::testing::{config, defaults, input, instance, name, route, service, snapshot};
use super::{NoService, PickRequest, RoutingTable, TableConfig, TableWriter};
use crate::config::plan::{CatalogPlan, RoutePlan, ServicePlan, ShardPlan, ZonePreference};
use crate::model::{
    BalancePolicy, BalanceSpec, HashKey, Instance, InstanceChoice, RegistryName, ServiceSnapshot, Trust,
};

/// When the tests happen.
const NOW: u64 = 1_700_000_000_000;

fn every_policy() -> Vec<BalanceSpec> {
    let key = Some(HashKey::Host);
    let hash = |policy, load_bound| BalanceSpec { policy, key: key.clone(), load_bound };
    let plain = |policy| BalanceSpec { policy, ..BalanceSpec::default() };
    vec![
        BalanceSpec::default(),
        plain(BalancePolicy::LeastRequest),
        plain(BalancePolicy::PeakEwma),
        plain(BalancePolicy::Random),
        hash(BalancePolicy::Ring { virtual_nodes: 160 }, None),
        hash(BalancePolicy::Ring { virtual_nodes: 160 }, Some(1.25)),
        hash(BalancePolicy::Maglev { table_size: 65_537 }, None),
    ]
}

fn writer(plan: ServicePlan, members: Arc<ServiceSnapshot>) -> TableWriter {
    let (mut writer, _) = TableWriter::new(2);
    writer.set_time(NOW);
    writer.configure(config(vec![plan], vec![route("/*")]));
    writer.apply(&name("orders"), members);
    writer.trust(&name("orders"), Trust::Live, None);
    writer.publish();
    writer
}

fn led(primary: &str, members: Vec<Instance>) -> Arc<ServiceSnapshot> {
    let members = snapshot(members);
    Arc::new(ServiceSnapshot { primary: Some(primary.into()), ..ServiceSnapshot::clone(&members) })
}

/// How often each of them is picked, keys and turns going on.
fn picked(writer: &TableWriter, choice: InstanceChoice, count: usize) -> BTreeMap<String, usize> {
    let table = writer.reader().load();
    let (mut rng, mut seen) = (fastrand::Rng::with_seed(3), BTreeMap::new());
    for i in 0..count {
        let key = format!("key-{i}");
        let request = PickRequest {
            rng: &mut rng,
            worker: i % 2,
            key: Some(key.as_bytes()),
            tried: &[],
            now: Instant::now(),
        };
        let lease = table.upstream("orders").unwrap().pick_among(choice, request);
        *seen.entry(lease.map_or("nobody".into(), |lease| lease.endpoint().id.to_string())).or_default() += 1;
    }
    seen
}

fn ids(seen: &BTreeMap<String, usize>) -> Vec<&str> {
    seen.keys().map(String::as_str).collect()
}

#[test]
fn the_primary_gets_what_is_its_own_and_replicas_the_rest_whatever_the_policy() {
    for balance in every_policy() {
        let nodes = || vec![instance("a", 1, 1), instance("b", 2, 2), instance("c", 3, 3)];
        let mut writer = writer(service("orders", balance.clone()), led("b", nodes()));
        assert_eq!(ids(&picked(&writer, InstanceChoice::Primary, 50)), ["b"], "{balance:?}");
        assert_eq!(ids(&picked(&writer, InstanceChoice::Replicas, 200)), ["a", "c"], "{balance:?}");
        assert_eq!(ids(&picked(&writer, InstanceChoice::Any, 200)), ["a", "b", "c"], "{balance:?}");

        // Another leads: no member changed, and yet nobody may wait for additions to gather.
        let generation = writer.reader().load().generation();
        assert!(writer.apply(&name("orders"), led("c", nodes())).is_empty());
        assert!(writer.has_removals() && writer.publish());
        assert_eq!(writer.reader().load().generation(), generation + 1, "in one step");
        assert_eq!(ids(&picked(&writer, InstanceChoice::Primary, 10)), ["c"]);
        assert_eq!(writer.reader().load().service_views()[0].primary.as_deref(), Some("c"));

        // One that is not there, one that wants nothing, none at all.
        let off = Instance { enabled: false, ..instance("c", 3, 3) };
        for members in [led("z", nodes()), led("c", vec![instance("a", 1, 1), off]), snapshot(nodes())] {
            writer.apply(&name("orders"), members);
            writer.publish();
            assert_eq!(ids(&picked(&writer, InstanceChoice::Primary, 10)), ["nobody"], "{balance:?}");
            assert!(!picked(&writer, InstanceChoice::Replicas, 10).contains_key("nobody"));
        }
    }
}

#[test]
fn turns_through_the_replicas_cost_the_primary_no_turn() {
    let nodes = vec![instance("a", 1, 1), instance("b", 2, 2), instance("c", 3, 3)];
    let writer = writer(service("orders", BalanceSpec::default()), led("a", nodes));
    let table = writer.reader().load();
    let (mut rng, mut seen) = (fastrand::Rng::with_seed(3), BTreeMap::new());
    for i in 0..60 {
        let choice = if i % 2 == 0 { InstanceChoice::Replicas } else { InstanceChoice::Any };
        let request = PickRequest { rng: &mut rng, worker: 0, key: None, tried: &[], now: Instant::now() };
        let lease = table.upstream("orders").unwrap().pick_among(choice, request).unwrap();
        *seen.entry((choice, lease.endpoint().id.to_string())).or_insert(0) += 1;
    }
    let of = |choice| seen.iter().filter(|((c, _), _)| *c == choice).map(|(_, n)| *n).collect::<Vec<i32>>();
    assert_eq!((of(InstanceChoice::Any), of(InstanceChoice::Replicas)), (vec![10; 3], vec![15; 2]));
}

#[test]
fn an_ejected_primary_is_tried_and_nobody_in_its_place() {
    let nodes = vec![instance("a", 1, 1), instance("b", 2, 2)];
    let writer = writer(service("orders", BalanceSpec::default()), led("a", nodes));
    let table = writer.reader().load();
    let orders = table.upstream("orders").unwrap();
    assert!(orders.endpoints()[0].eject(Reason::Connect, Instant::now()).is_some());
    assert_eq!(ids(&picked(&writer, InstanceChoice::Primary, 5)), ["a"]);
    let tried = [orders.endpoints()[0].target.id];
    let mut rng = fastrand::Rng::new();
    let request = PickRequest { rng: &mut rng, worker: 0, key: None, tried: &tried, now: Instant::now() };
    assert!(orders.pick_among(InstanceChoice::Primary, request).is_none());
}

fn zoned(id: &str, host: u8, zone: &str) -> Instance {
    Instance { zone: Some(zone.into()), ..instance(id, 1, host) }
}

fn preferring(balance: BalanceSpec, spill_below: f64) -> ServicePlan {
    let mut plan = service("orders", balance);
    plan.defaults.zone = Some(ZonePreference { prefer: "eu".into(), spill_below });
    plan
}

#[test]
fn the_zone_serves_until_too_little_of_it_is_usable() {
    for balance in every_policy() {
        let nodes = (0..4).map(|i| zoned(&format!("e{i}"), i + 1, "eu"));
        let nodes = snapshot(nodes.chain((0..4).map(|i| zoned(&format!("u{i}"), i + 11, "us"))));
        let writer = writer(preferring(balance.clone(), 0.5), nodes);
        let table = writer.reader().load();
        let endpoints = table.upstream("orders").unwrap().endpoints().to_vec();
        assert_eq!(ids(&picked(&writer, InstanceChoice::Any, 400)), ["e0", "e1", "e2", "e3"], "{balance:?}");
        for endpoint in &endpoints[..2] {
            assert!(endpoint.eject(Reason::Connect, Instant::now()).is_some());
        }
        assert_eq!(ids(&picked(&writer, InstanceChoice::Any, 400)), ["e2", "e3"], "half of it is enough");
        assert!(endpoints[2].eject(Reason::Connect, Instant::now()).is_some());
        let spilt = picked(&writer, InstanceChoice::Any, 400);
        assert_eq!(ids(&spilt), ["e3", "u0", "u1", "u2", "u3"], "{balance:?}");
        assert!(endpoints[0].probe_answered(Instant::now()));
        assert_eq!(ids(&picked(&writer, InstanceChoice::Any, 400)), ["e0", "e3"], "{balance:?}");
    }
}

#[test]
fn a_request_that_the_whole_zone_failed_goes_on_elsewhere() {
    let nodes = snapshot([zoned("e", 1, "eu"), zoned("u", 2, "us"), instance("n", 1, 3)]);
    let writer = writer(preferring(BalanceSpec::default(), 0.0), nodes);
    let table = writer.reader().load();
    let (mut rng, mut tried, mut order) = (fastrand::Rng::with_seed(1), Vec::new(), Vec::new());
    while let Some(lease) = table.upstream("orders").unwrap().pick(PickRequest {
        rng: &mut rng,
        worker: 0,
        key: None,
        tried: &tried,
        now: Instant::now(),
    }) {
        tried.push(lease.id());
        order.push(lease.endpoint().id.to_string());
    }
    assert_eq!((order[0].as_str(), order.len()), ("e", 3));
}

#[test]
fn without_anybody_in_the_zone_it_says_nothing() {
    for zone in ["us", "eu"] {
        let nodes = snapshot([zoned("a", 1, zone), zoned("b", 2, zone)]);
        let writer = writer(preferring(BalanceSpec::default(), 1.0), nodes);
        assert_eq!(ids(&picked(&writer, InstanceChoice::Any, 10)), ["a", "b"]);
    }
}

fn warming(balance: BalanceSpec) -> ServicePlan {
    let mut plan = service("orders", balance);
    plan.defaults.slow_start = Some(Duration::from_secs(30));
    plan
}

#[test]
fn a_newcomer_grows_in_ten_steps_under_every_policy() {
    for balance in every_policy().into_iter().filter(|balance| balance.load_bound.is_none()) {
        let old = || [instance("a", 1, 1), instance("b", 2, 2)];
        let mut writer = writer(warming(balance.clone()), snapshot(old()));
        assert_eq!(picked(&writer, InstanceChoice::Any, 3_000).len(), 2, "who was there is warm");
        let before = writer.reader().load().service_views().remove(0);
        writer.apply(&name("orders"), snapshot(old().into_iter().chain([instance("n", 3, 3)])));
        writer.publish();
        let view = writer.reader().load().service_views().remove(0);
        assert_eq!(view.instances[2].weight.to_bits(), 1.0_f64.to_bits(), "as registered");
        assert_ne!(view.fingerprint, before.fingerprint);
        let (mut shares, mut steps) = (Vec::new(), 0);
        for second in 0..=31 {
            steps += u32::from(writer.warm(NOW + second * 1_000));
            if [0, 14, 31].contains(&second) {
                shares.push(picked(&writer, InstanceChoice::Any, 6_000)["n"]);
            }
        }
        assert_eq!(steps, 9, "{balance:?}");
        // A tenth beside two wholes, half beside two, one of three: 286, 1200, 2000.
        let near = |share: usize, of: usize| share.abs_diff(of) < of / 3 + 60;
        assert!(
            near(shares[0], 286) && near(shares[1], 1_200) && near(shares[2], 2_000),
            "{balance:?} {shares:?}"
        );
        let warm = writer.reader().load().service_views().remove(0);
        assert_eq!((warm.fingerprint, warm.revision), (view.fingerprint, view.revision), "no change of it");
        assert!(!writer.warm(NOW + 100_000));
    }
}

#[test]
fn on_a_ring_each_step_moves_keys_to_the_newcomer_only() {
    let ring = every_policy().remove(4);
    let old = || (1..=5).map(|i| instance(&i.to_string(), 1, i));
    let mut writer = writer(warming(ring), snapshot(old()));
    let owner = |table: &RoutingTable, key: usize| {
        let upstream = table.upstream("orders").unwrap();
        let slot = upstream.place(InstanceChoice::Any, format!("k{key}").as_bytes(), Instant::now()).unwrap();
        upstream.endpoints()[slot].id.to_string()
    };
    let owners = |writer: &TableWriter| {
        let table = writer.reader().load();
        (0..2_000).map(|key| owner(&table, key)).collect::<Vec<_>>()
    };
    let mut before = owners(&writer);
    writer.apply(&name("orders"), snapshot(old().chain([instance("n", 9, 9)])));
    writer.publish();
    for second in (0..=30).step_by(3) {
        writer.warm(NOW + second * 1_000);
        let after = owners(&writer);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || after == "n"), "{second}");
        before = after;
    }
    assert!(before.iter().filter(|id| *id == "n").count() > 200);
}

#[test]
fn who_was_there_first_is_new_only_if_the_registry_says_so() {
    let ago = |seconds: u64| Some(NOW - seconds * 1_000);
    let mut young = instance("young", 1, 1);
    young.facts.created_ms = ago(2);
    let fresh = Instance { registered_ms: ago(1), ..instance("fresh", 1, 2) };
    let old = Instance { registered_ms: ago(100), ..instance("old", 1, 3) };
    // Its own warm-up counts from its own start, however long we have known it.
    let dubbo = Instance { registered_ms: ago(300), warmup_ms: Some(600_000), ..instance("dubbo", 1, 4) };
    let nodes = vec![young, fresh, old, dubbo, instance("silent", 1, 5)];
    let shares = |slow_start: Option<u64>| {
        let mut plan = service("orders", BalanceSpec::default());
        plan.defaults.slow_start = slow_start.map(Duration::from_secs);
        picked(&writer(plan, snapshot(nodes.clone())), InstanceChoice::Any, 3_700)
    };
    let seen = shares(Some(30));
    // Tenths of a share: 1, 1, 10, 6, 10 of 28.
    for (id, tenths) in [("young", 1), ("fresh", 1), ("old", 10), ("dubbo", 6), ("silent", 10)] {
        assert!(seen[id].abs_diff(3_700 * tenths / 28) < 30, "{id}: {seen:?}");
    }
    let seen = shares(None);
    assert!(seen["dubbo"].abs_diff(3_700 * 6 / 46) < 30 && seen["young"] > 700, "{seen:?}");
    assert!(shares(Some(0)).values().all(|n| (739..=741).contains(n)), "switched off");
}

#[test]
fn a_warm_up_that_a_rule_changes_counts_from_the_same_start() {
    let of = |warmup_ms| {
        let node = Instance { registered_ms: Some(NOW - 300_000), warmup_ms, ..instance("dubbo", 1, 4) };
        snapshot(vec![node, instance("warm", 1, 5)])
    };
    let mut writer = writer(service("orders", BalanceSpec::default()), of(Some(600_000)));
    let tenths = |writer: &TableWriter| {
        let seen = picked(writer, InstanceChoice::Any, 2_000);
        (seen["dubbo"] * 10 + seen["warm"] / 2) / seen["warm"]
    };
    assert_eq!(tenths(&writer), 6);
    for (warmup_ms, expected) in [(Some(3_000_000), 2), (Some(300_000), 10), (Some(600_000), 6)] {
        writer.apply(&name("orders"), of(warmup_ms));
        writer.publish();
        assert_eq!(tenths(&writer), expected, "{warmup_ms:?}");
    }
}

fn sharded() -> TableWriter {
    let catalog = CatalogPlan {
        name: name("data"),
        registry: RegistryName::new("main").unwrap(),
        path: "/data".parse().unwrap(),
        defaults: defaults(BalanceSpec::default()),
    };
    let shard =
        ShardPlan { catalog: name("data"), key: HashKey::PathCapture("key".into()), virtual_nodes: 160 };
    let route = RoutePlan {
        services: Vec::new(),
        shard: Some(shard),
        instances: InstanceChoice::Primary,
        ..route("/data/{key}")
    };
    let (mut writer, _) = TableWriter::new(1);
    writer.configure(TableConfig { catalogs: vec![catalog], ..config(Vec::new(), vec![route]) });
    writer.publish();
    writer
}

fn shard_of(table: &RoutingTable, key: Option<&str>) -> Result<String, NoService> {
    let path = format!("/data/{}", key.unwrap_or("x"));
    let matched = input("PUT", "h", &path, |input| table.route(input).unwrap());
    let shard = matched.route.shard.clone().unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let found = matched.choose_shard(table, &shard, key.map(str::as_bytes), &mut rng);
    found.map(|upstream| upstream.name().to_string())
}

#[test]
fn a_key_picks_the_group_and_the_role_its_instance() {
    let mut writer = sharded();
    assert_eq!(shard_of(&writer.reader().load(), Some("k")), Err(NoService::NotListed));
    for group in ["data/zdata1", "data/zdata2"] {
        writer.apply(&name(group), led("2", vec![instance("1", 1, 1), instance("2", 2, 2)]));
    }
    writer.publish();
    assert_eq!(
        shard_of(&writer.reader().load(), Some("k")),
        Err(NoService::NotListed),
        "half a ring is none"
    );
    writer.trust(&name("data"), Trust::Live, None);
    writer.publish();
    let table = writer.reader().load();
    let mut met = BTreeMap::new();
    for key in (0..200).map(|i| format!("k{i}")) {
        let service = shard_of(&table, Some(&key)).unwrap();
        let path = format!("/data/{key}");
        let told = input("PUT", "h", &path, |input| table.explain(input, None, Instant::now()));
        assert_eq!((told.service.as_deref(), told.shard_key.as_deref()), (Some(&*service), Some(&*key)));
        assert_eq!((told.key.as_deref(), told.instance.as_deref()), (Some(&*key), Some("2")));
        let verdicts: Vec<_> = told.considered.iter().map(|c| (&*c.kind, &*c.verdict)).collect();
        let [shard, other] = [("service", "chosen"), ("service", "rejected")];
        assert_eq!(
            verdicts,
            [("route", "chosen"), shard, other, ("instance", "rejected"), ("instance", "chosen")]
        );
        assert!(told.considered[3].reason.contains("not the primary"), "{told:?}");
        *met.entry(service).or_insert(0) += 1;
    }
    assert!(met.len() == 2 && met.values().all(|n| *n > 50), "{met:?}");

    // An empty group keeps its keys; one that is gone leaves them.
    writer.apply(&name("data/zdata1"), Arc::default());
    writer.publish();
    let empty = writer.reader().load();
    for key in (0..200).map(|i| format!("k{i}")) {
        assert_eq!(shard_of(&empty, Some(&key)), shard_of(&table, Some(&key)));
    }
    writer.gone(&name("data/zdata1"));
    writer.publish();
    assert_eq!(shard_of(&writer.reader().load(), Some("k1")).as_deref(), Ok("data/zdata2"));
    assert_eq!(shard_of(&writer.reader().load(), None).as_deref(), Ok("data/zdata2"));
    writer.gone(&name("data/zdata2"));
    writer.publish();
    assert_eq!(shard_of(&writer.reader().load(), Some("k1")), Err(NoService::NoShard));
}
