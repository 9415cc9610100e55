//! Promises of the writer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Reason;
use super::testing::{config, defaults, instance, name, route, service, snapshot};
use super::{InstanceState, Lease, PickRequest, RoutingTable, TableConfig, TableWriter};
use crate::config::plan::{CatalogPlan, ServicePlan};
use crate::model::{Address, BalancePolicy, BalanceSpec, Host, Instance, Protocol, RegistryName, Trust};

fn writer(services: Vec<ServicePlan>) -> TableWriter {
    let (mut writer, _) = TableWriter::new(1);
    writer.configure(config(services, vec![route("/*")]));
    writer
}

fn orders() -> ServicePlan {
    service("orders", BalanceSpec::default())
}

fn pick(writer: &TableWriter, service: &str) -> Option<Lease> {
    let table = writer.reader().load();
    let mut rng = fastrand::Rng::new();
    let request = PickRequest { rng: &mut rng, worker: 0, key: None, tried: &[], now: Instant::now() };
    table.upstream(service)?.pick(request)
}

fn states(writer: &TableWriter) -> Vec<(String, InstanceState)> {
    let table = writer.reader().load();
    let views = table.upstream("orders").unwrap().instance_views();
    views.into_iter().map(|view| (format!("{} {}", view.id, view.address), view.state)).collect()
}

#[test]
fn nothing_is_seen_before_it_is_published() {
    let mut writer = writer(vec![orders()]);
    let (reader, mut cached) = (writer.reader(), writer.reader().cached());
    assert!(reader.load().upstream("orders").is_none());
    assert!(writer.publish());
    assert_eq!((reader.load().generation(), cached.get().generation()), (1, 1));
    assert!(pick(&writer, "orders").is_none(), "known, and empty");
    let added = writer.apply(&name("orders"), snapshot([instance("a", 1, 1)]));
    assert_eq!((added.added.len(), writer.has_removals()), (1, false));
    assert!(pick(&writer, "orders").is_none());
    assert!(writer.publish() && !writer.publish());
    assert_eq!(cached.get().generation(), 2);
    assert_eq!(&*pick(&writer, "orders").unwrap().endpoint().id, "a");
    assert!(writer.apply(&name("unheard-of"), snapshot([instance("a", 1, 1)])).is_empty());
    assert!(writer.apply(&name("orders"), snapshot([instance("a", 1, 1)])).is_empty());
    assert!(!writer.has_changes(), "the same again is no change");
}

#[test]
fn a_removed_instance_drains_and_leaves() {
    let mut writer = writer(vec![orders()]);
    writer.apply(&name("orders"), snapshot([instance("a", 1, 1), instance("b", 2, 2)]));
    writer.publish();
    let a = std::iter::repeat_with(|| pick(&writer, "orders").unwrap())
        .find(|l| &*l.endpoint().id == "a")
        .unwrap();
    writer.apply(&name("orders"), snapshot([instance("b", 2, 2)]));
    assert!(writer.has_removals());
    writer.publish();
    let expected = [
        ("a 10.0.0.1:80".to_owned(), InstanceState::Draining),
        ("b 10.0.0.2:80".to_owned(), InstanceState::Up),
    ];
    assert_eq!(states(&writer), expected);
    assert!(!writer.sweep(), "a request is open");
    assert_eq!(&*pick(&writer, "orders").unwrap().endpoint().id, "b");
    drop(a);
    assert_eq!(states(&writer), expected[1..]);
    assert!(writer.sweep() && !writer.sweep());
    assert_eq!(writer.reader().load().upstream("orders").unwrap().revision(), 2, "a sweep is no change");
}

#[test]
fn two_nodes_with_one_address_are_one_endpoint_until_the_last_goes() {
    let mut writer = writer(vec![orders()]);
    let heavy = Instance { weight: 3.0, ..instance("b", 2, 1) };
    let off = Instance { enabled: false, weight: 9.0, ..instance("c", 3, 1) };
    writer.apply(
        &name("orders"),
        snapshot([instance("a", 1, 1), heavy.clone(), off.clone(), instance("d", 4, 2)]),
    );
    writer.publish();
    let mut ids = HashMap::new();
    for _ in 0..400 {
        *ids.entry(pick(&writer, "orders").unwrap().endpoint().id.to_string()).or_insert(0) += 1;
    }
    assert_eq!(ids, HashMap::from([("a".to_owned(), 300), ("d".to_owned(), 100)]), "the larger weight, once");
    let states_now: Vec<_> = states(&writer).into_iter().map(|(_, state)| state).collect();
    assert_eq!(
        states_now,
        [InstanceState::Up, InstanceState::Up, InstanceState::Disabled, InstanceState::Up]
    );
    let lease = std::iter::repeat_with(|| pick(&writer, "orders").unwrap())
        .find(|l| &*l.endpoint().id == "a")
        .unwrap();
    writer.apply(&name("orders"), snapshot([heavy, instance("d", 4, 2)]));
    writer.publish();
    let table = writer.reader().load();
    let kept = &table.upstream("orders").unwrap().endpoints()[0];
    assert_eq!(
        (&*kept.id, kept.target.id, kept.in_flight()),
        ("b", lease.id(), 1),
        "another label, the same life"
    );
    assert!(!kept.is_closed() && table.upstream("orders").unwrap().draining().next().is_none());
}

#[test]
fn a_node_created_again_is_trusted_anew() {
    let mut writer = writer(vec![orders()]);
    writer.apply(&name("orders"), snapshot([instance("a", 1, 1)]));
    writer.publish();
    let old = Arc::clone(pick(&writer, "orders").unwrap().endpoint());
    assert!(
        old.eject(Reason::Connect, Instant::now()).is_some()
            && old.eject(Reason::Connect, Instant::now()).is_none()
    );
    assert_eq!(states(&writer)[0].1, InstanceState::Ejected);
    assert!(pick(&writer, "orders").is_some(), "better than nobody");
    let again = writer.apply(&name("orders"), snapshot([instance("a", 7, 1)]));
    assert_eq!((again.added.len(), again.removed.len()), (1, 1));
    writer.publish();
    assert_eq!(states(&writer)[0].1, InstanceState::Up);
    assert!(old.is_closed() && old.due().is_none() && !old.probe_answered(Instant::now()));
    assert_ne!(pick(&writer, "orders").unwrap().id(), old.target.id);
}

#[test]
fn a_reload_keeps_what_it_does_not_change() {
    let users = service("users", BalanceSpec::default());
    let mut writer = writer(vec![orders(), users.clone()]);
    for service in ["orders", "users"] {
        writer.apply(&name(service), snapshot([instance("a", 1, 1)]));
        writer.trust(&name(service), Trust::Live, None);
    }
    writer.publish();
    let table = writer.reader().load();
    let before = Arc::clone(&table.upstream("orders").unwrap().endpoints()[0]);
    assert!(before.eject(Reason::Connect, Instant::now()).is_some());
    // Another policy, another protocol: the same endpoint by another way, still ejected.
    let mut changed =
        service("orders", BalanceSpec { policy: BalancePolicy::LeastRequest, key: None, load_bound: None });
    changed.defaults.protocol = Protocol::H2;
    changed.defaults.connect_timeout = Duration::from_secs(3);
    assert!(writer.configure(config(vec![changed, users.clone()], Vec::new())).is_empty());
    writer.publish();
    let now = writer.reader().load();
    let after = &now.upstream("orders").unwrap().endpoints()[0];
    assert_eq!((after.state(), after.target.protocol), (InstanceState::Ejected, Protocol::H2));
    assert_ne!(after.target.id, before.target.id);
    assert!(before.is_closed() && !after.is_closed());
    let print = |table: &RoutingTable| table.upstream("orders").unwrap().fingerprint();
    assert_ne!(print(&now), print(&table));
    assert!(Arc::ptr_eq(now.upstream("users").unwrap(), table.upstream("users").unwrap()), "untouched");
    assert!(now.unlisted().is_empty() && now.routes().is_empty());
    // Another directory: nobody from before; and one that is configured no more.
    let moved = ServicePlan { path: "/elsewhere".into(), ..orders() };
    let gone: Vec<_> = writer
        .configure(config(vec![moved], Vec::new()))
        .into_iter()
        .map(|(n, m)| (n.to_string(), m.removed.len()))
        .collect();
    assert_eq!(gone, [("orders".to_owned(), 1), ("users".to_owned(), 1)]);
    assert!(writer.has_removals() && writer.publish());
    let now = writer.reader().load();
    assert!(pick(&writer, "orders").is_none() && now.upstream("users").is_none());
    assert_eq!(now.unlisted(), [name("orders")]);
    assert!(after.is_closed());
}

#[test]
fn the_trust_of_a_catalog_covers_its_children() {
    let catalog = CatalogPlan {
        name: name("apps"),
        registry: RegistryName::new("main").unwrap(),
        path: "/services".parse().unwrap(),
        defaults: defaults(BalanceSpec::default()),
    };
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(TableConfig { catalogs: vec![catalog.clone()], ..config(vec![orders()], Vec::new()) });
    writer.apply(&name("apps/a"), snapshot([instance("1", 1, 1)]));
    writer.publish();
    assert_eq!(reader.load().unlisted(), [name("apps"), name("orders")]);
    assert!(
        writer.trust(&name("apps"), Trust::Live, None) && !writer.trust(&name("apps"), Trust::Live, None)
    );
    assert!(!writer.trust(&name("unheard-of"), Trust::Live, None));
    writer.publish();
    let stale = |child: &str| {
        let table = reader.load();
        let view = table.service_view(table.upstream(child).unwrap());
        (view.stale, view.stale_reason)
    };
    assert_eq!((stale("apps/a"), stale("orders")), ((false, None), (true, None)));
    assert_eq!(reader.load().unlisted(), [name("orders")]);
    writer.trust(&name("apps"), Trust::Stale, Some("no connection".into()));
    writer.restored(&name("orders"));
    writer.publish();
    assert_eq!(
        (stale("apps/a"), reader.load().unlisted().len()),
        ((true, Some("no connection".to_owned())), 0)
    );
    // A change of the catalog's defaults reaches its children and costs them nothing.
    let mut h2 = catalog;
    h2.defaults.protocol = Protocol::H2;
    writer.configure(TableConfig { catalogs: vec![h2], ..config(vec![orders()], Vec::new()) });
    writer.publish();
    assert_eq!(pick(&writer, "apps/a").unwrap().endpoint().target.protocol, Protocol::H2);
    assert_eq!(writer.gone(&name("apps/a")).removed.len(), 1);
    assert!(writer.publish() && reader.load().upstream("apps/a").is_none());
}

#[test]
fn the_fingerprint_is_the_same_on_every_gateway() {
    let print = |instances: Vec<Instance>| {
        let mut writer = writer(vec![orders()]);
        writer.apply(&name("orders"), snapshot(instances));
        writer.publish();
        let table = writer.reader().load();
        table.upstream("orders").unwrap().fingerprint().to_string()
    };
    let here = print(vec![instance("a", 1, 1), instance("b", 2, 2)]);
    let zoned = Instance { zone: Some("z".into()), ..instance("x", 9, 2) };
    let off = Instance { enabled: false, ..instance("z", 9, 3) };
    assert_eq!(here, print(vec![zoned, instance("y", 8, 1), off]), "ids, zones, the disabled don't count");
    assert_ne!(here, print(vec![instance("a", 1, 1), Instance { weight: 2.0, ..instance("b", 2, 2) }]));
    let named = Address { host: Host::Name("b.example.com".into()), port: 80 };
    assert_ne!(here, print(vec![instance("a", 1, 1), Instance { address: named, ..instance("b", 2, 2) }]));
}

#[test]
fn old_tables_are_freed_by_the_writer_once_nobody_reads_them() {
    let mut writer = writer(vec![orders()]);
    writer.publish();
    let held = writer.reader().load();
    let mut cached = writer.reader().cached();
    for i in 0..10 {
        writer.apply(&name("orders"), snapshot([instance("a", i, 1)]));
        writer.publish();
    }
    assert_eq!(writer.old_generations(), 1, "the one that is held");
    assert!(writer.sweep(), "the nodes that went had no request open");
    drop(held);
    cached.get();
    writer.sweep();
    assert_eq!(writer.old_generations(), 0);
}
