//! Micro-benchmarks of the table: pick by policy, ring, route, publish.
//!
//! `cargo bench --bench balance`. A pick includes the lease: counted in flight and given back.
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use http::{HeaderMap, Method};
use zoogate::balance::{Maglev, Member, Ring};
use zoogate::config::plan::{
    HostMatch, Limits, PathMatch, RoutePlan, Segment, ServiceDefaults, ServicePlan, ServiceRef,
    WeightedService,
};
use zoogate::model::{
    Address, BalancePolicy, BalanceSpec, FormatChoice, HashKey, Host, Incarnation, Instance, InstanceId,
    Protocol, RegistryName, ServiceName, ServiceSnapshot,
};
use zoogate::table::{Lease, PickRequest, RouteInput, Settings, TableConfig, TableReader, TableWriter};
use zoogate::telemetry::Outcome;

fn main() {
    divan::main();
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).expect("a name")
}

fn spec(policy: &str) -> BalanceSpec {
    let key = Some(HashKey::ClientIp);
    let (policy, key, load_bound) = match policy {
        "round_robin" => (BalancePolicy::RoundRobin, None, None),
        "random" => (BalancePolicy::Random, None, None),
        "least_request" => (BalancePolicy::LeastRequest, None, None),
        "peak_ewma" => (BalancePolicy::PeakEwma, None, None),
        "maglev" => (BalancePolicy::Maglev { table_size: 65_537 }, key, None),
        "ring" => (BalancePolicy::Ring { virtual_nodes: 160 }, key, None),
        _ => (BalancePolicy::Ring { virtual_nodes: 160 }, key, Some(1.25)),
    };
    BalanceSpec { policy, key, load_bound }
}

fn service(text: &str, balance: BalanceSpec) -> ServicePlan {
    let defaults = ServiceDefaults {
        format: FormatChoice::Auto,
        reading: std::sync::Arc::default(),
        protocol: Protocol::Http1,
        balance,
        connect_timeout: Duration::from_secs(1),
        dns_ttl: Duration::from_secs(30),
        ..ServiceDefaults::default()
    };
    let registry = RegistryName::new("main").expect("a name");
    ServicePlan { name: name(text), registry, path: format!("/services/{text}"), defaults }
}

fn config(services: Vec<ServicePlan>, routes: Vec<RoutePlan>) -> TableConfig {
    let limits = Limits {
        max_connections: 10_000,
        max_headers: 100,
        max_header_size: 65_536,
        max_body: None,
        max_memory: None,
        idle_timeout: Duration::from_secs(60),
        header_timeout: Duration::from_secs(10),
    };
    let settings = Settings { limits, listeners: Vec::new(), drain_timeout: Duration::ZERO };
    let (deny, balancers) = (HashMap::new(), HashMap::new());
    TableConfig { settings, services, catalogs: Vec::new(), routes, deny, balancers }
}

fn instance(i: usize) -> Arc<Instance> {
    let ip = [10, (i >> 16) as u8, (i >> 8) as u8, i as u8];
    Arc::new(Instance {
        id: InstanceId { name: format!("node-{i:06}").into(), incarnation: Incarnation(i as u64, 0) },
        address: Address { host: Host::Ip(ip.into()), port: 8080 },
        scheme: None,
        tls: None,
        weight: 1.0,
        enabled: true,
        zone: None,
        role: None,
        registered_ms: None,
        warmup_ms: None,
        facts: zoogate::model::NodeFacts::default(),
        metadata: BTreeMap::new(),
    })
}

fn snapshot(instances: impl Iterator<Item = usize>) -> Arc<ServiceSnapshot> {
    Arc::new(ServiceSnapshot { instances: instances.map(instance).collect(), ..ServiceSnapshot::default() })
}

fn members(n: usize) -> Vec<Member> {
    (0..n).map(|i| Member { address: instance(i).address.to_string().into(), share: 1.0 }).collect()
}

/// A table of one service with so many instances, each with a request's worth of history.
fn table(policy: &str, n: usize) -> (TableWriter, TableReader) {
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(config(vec![service("orders", spec(policy))], Vec::new()));
    writer.apply(&name("orders"), snapshot(0..n));
    writer.publish();
    (writer, reader)
}

const POLICIES: [&str; 7] =
    ["round_robin", "random", "least_request", "peak_ewma", "ring", "maglev", "ring, bounded"];

/// A choice with its lease: counted in flight. A hash policy's includes the hashing of the key.
#[divan::bench(args = POLICIES, consts = [10, 1_000], sample_size = 1_024, sample_count = 400)]
fn pick<const N: usize>(bencher: Bencher<'_, '_>, policy: &str) {
    picks(bencher, policy, N, |lease| lease);
}

/// The same to the end of the request: the lease settled with an outcome and a latency, and given back.
#[divan::bench(args = POLICIES, consts = [10, 1_000], sample_size = 1_024, sample_count = 400)]
fn pick_and_settle<const N: usize>(bencher: Bencher<'_, '_>, policy: &str) {
    picks(bencher, policy, N, |lease| lease.settle(Outcome::Ok, Some(Duration::from_millis(1))));
}

/// `then`'s output is dropped when the clock stands.
fn picks<T>(bencher: Bencher<'_, '_>, policy: &str, n: usize, then: impl Fn(Lease) -> T) {
    let (_writer, reader) = table(policy, n);
    let table = reader.load();
    let upstream = table.upstream("orders").expect("it is there");
    let keyed = upstream.balance().key.is_some();
    let keys: Vec<String> = (0..1_024).map(|i| format!("user-{i}")).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let now = Instant::now();
    let mut i = 0;
    bencher.bench_local(|| {
        i = (i + 1) % keys.len();
        let key = keyed.then(|| keys[i].as_bytes());
        let request = PickRequest { rng: &mut rng, worker: 0, key, tried: &[], now };
        then(upstream.pick(request).expect("someone is up"))
    });
}

#[divan::bench(args = [10, 100, 1_000])]
fn build_ring(bencher: Bencher<'_, '_>, n: usize) {
    let members = members(n);
    bencher.bench_local(|| Ring::new(black_box(&members), 160, None));
}

/// One instance less, or one more, of so many, out of the ring before.
#[divan::bench(args = [10, 100, 1_000])]
fn change_ring(bencher: Bencher<'_, '_>, n: usize) {
    let whole = members(n);
    let less = &whole[1..];
    let rings = [Ring::new(&whole, 160, None), Ring::new(less, 160, None)];
    let mut step = 0;
    bencher.bench_local(|| {
        step += 1;
        let to = if step % 2 == 0 { &whole[..] } else { less };
        rings[(step + 1) % 2].next(black_box(to)).expect("it is cheaper")
    });
}

/// What of a pick by key is the hashing of the key.
#[divan::bench(args = [6, 36, 200], sample_size = 1_024, sample_count = 400)]
fn hash_key(bencher: Bencher<'_, '_>, len: usize) {
    let key = vec![b'u'; len];
    bencher.bench_local(|| zoogate::balance::hash::key(black_box(&key)));
}

#[divan::bench(args = [10, 100, 1_000])]
fn build_maglev(bencher: Bencher<'_, '_>, n: usize) {
    let members = members(n);
    bencher.bench_local(|| Maglev::new(black_box(&members), 65_537, None));
}

/// Routes on a hundred hosts, half of them with captures.
fn routes(n: usize) -> Vec<RoutePlan> {
    let literal = |text: String| Segment::Literal(text.into());
    let route = |i: usize| {
        let second = if i.is_multiple_of(2) { literal("v1".into()) } else { Segment::Capture("id".into()) };
        RoutePlan {
            name: format!("route-{i}").into(),
            host: Some(HostMatch::Exact(format!("host-{}.example.com", i % 100).into())),
            path: PathMatch { segments: vec![literal(format!("path-{i}")), second], prefix: true },
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            services: vec![WeightedService { service: ServiceRef::Named(name("orders")), weight: 1 }],
            timeout: None,
            rewrite: None,
            ..RoutePlan::default()
        }
    };
    (0..n).map(route).collect()
}

#[divan::bench(args = [10, 1_000])]
fn route(bencher: Bencher<'_, '_>, n: usize) {
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(config(vec![service("orders", BalanceSpec::default())], routes(n)));
    writer.publish();
    let mut cached = reader.cached();
    let headers = HeaderMap::new();
    let requests: Vec<_> =
        (0..n).map(|i| (format!("host-{}.example.com", i % 100), format!("/path-{i}/v1/orders/7"))).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut i = 0;
    bencher.bench_local(|| {
        i = (i + 7) % n;
        let (host, path) = &requests[i];
        let input = RouteInput { method: &Method::GET, host, path, query: None, headers: &headers };
        let table = cached.get();
        let matched = table.route(&input).expect("a route");
        black_box(matched.choose_service(table, &mut rng).expect("a service").revision());
    });
}

/// One instance less, then one more, of ten, among 10,000 services: from `apply` to the swap.
#[divan::bench(args = ["round_robin", "ring"])]
fn publish_one_of_10_000_services(bencher: Bencher<'_, '_>, policy: &str) {
    let names: Vec<String> = (0..10_000).map(|i| format!("service-{i}")).collect();
    let (mut writer, _reader) = TableWriter::new(2);
    writer.configure(config(names.iter().map(|n| service(n, spec(policy))).collect(), Vec::new()));
    for text in &names {
        writer.apply(&name(text), snapshot(0..10));
    }
    writer.publish();
    let (less, whole) = (snapshot(1..10), snapshot(0..10));
    let mut step = 0;
    bencher.bench_local(|| {
        step += 1;
        let service = name(&names[(step - 1) / 2 % names.len()]);
        writer.apply(&service, Arc::clone(if step % 2 == 0 { &whole } else { &less }));
        assert!(writer.publish());
    });
}

/// The same of a thousand in one service.
#[divan::bench(args = POLICIES)]
fn publish_one_of_1_000_instances(bencher: Bencher<'_, '_>, policy: &str) {
    let (mut writer, _reader) = table(policy, 1_000);
    let (less, whole) = (snapshot(1..1_000), snapshot(0..1_000));
    let mut step = 0;
    bencher.bench_local(|| {
        step += 1;
        writer.apply(&name("orders"), Arc::clone(if step % 2 == 0 { &whole } else { &less }));
        assert!(writer.publish());
    });
}
