//! Instances that vanish in a mass: held while they answer, where the guard is on; gone at once where it is off.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;
use crate::support::zk;

const GUARD: &str = "vanish_guard = { hold = \"2m\" }\n";

fn config(guard: &str) -> String {
    ORDERS.replace("path = \"/orders\"\n", &format!("path = \"/orders\"\nprotocol = \"http1\"\n{guard}"))
}

fn fleet(count: usize) -> Vec<Instance> {
    (0..count).map(|n| Instance::start(&format!("n{n:03}"))).collect()
}

fn register(gateway: &Gateway, fleet: &[Instance]) {
    for instance in fleet {
        gateway.register(&format!("orders/{}", instance.name), instance.address);
    }
}

/// Takes a whole directory away in one step.
fn vanish(gateway: &Gateway, service: &str) {
    let aside = gateway.folder().join("vanished");
    std::fs::rename(gateway.folder().join("services").join(service), aside).unwrap();
}

/// How many instances are in each state.
fn states(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for instance in gateway.json("/api/services/orders")["instances"].as_array().unwrap() {
        *states.entry(instance["state"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    states
}

fn until(gateway: &Gateway, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
    wait_for(&format!("{expected:?}"), || (states(gateway) == expected).then_some(()));
}

/// Sends requests until each of these has answered one.
fn all_serve(gateway: &Gateway, fleet: &[Instance]) {
    let mut missing: Vec<&str> = fleet.iter().map(|instance| &*instance.name).collect();
    wait_for("an answer of everybody", || {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200, "{}", answer.body);
        missing.retain(|name| *name != answer.body);
        missing.is_empty().then_some(())
    });
}

#[test]
fn half_of_a_hundred_vanish_and_serve_on_until_they_die() {
    let gateway = Gateway::start("vanish-half", &config(GUARD));
    let fleet = fleet(100);
    register(&gateway, &fleet);
    until(&gateway, &[("up", 100)]);
    let (lost, stay) = fleet.split_at(50);
    for instance in lost {
        gateway.withdraw(&format!("orders/{}", instance.name));
    }
    gateway.log.find("the guard's warning", |line| {
        (line.contains("WARN") && line.contains("vanish guard engaged")).then_some(())
    });
    until(&gateway, &[("limbo", 50), ("up", 50)]);
    all_serve(&gateway, &fleet);
    assert_eq!(gateway.metric("zoogate_service_instances{service=\"orders\",state=\"limbo\"}"), Some(50.0));
    // Probed more than once, with a question of ours.
    wait_for("second probes", || lost.iter().all(|instance| instance.probes() >= 2).then_some(()));
    assert!(stay.iter().all(|instance| instance.probes() == 0), "who is registered is not probed");
    // Some are back: one under another name at its address.
    register(&gateway, &lost[1..10]);
    gateway.register("orders/renamed", lost[0].address);
    until(&gateway, &[("limbo", 40), ("up", 60)]);
    let killed = Instant::now();
    for instance in &lost[10..] {
        instance.kill();
    }
    until(&gateway, &[("up", 60)]);
    // Probes come every second; the machine may be slow, but not that slow.
    assert!(killed.elapsed() < Duration::from_secs(5), "out after {:?}", killed.elapsed());
    gateway.log.find("the guard's end", |line| {
        (line.contains("WARN") && line.contains("vanish guard ended") && line.contains("back=10 dead=40"))
            .then_some(())
    });
    for _ in 0..120 {
        assert_eq!(gateway.get("/").status, 200);
    }
}

/// How often an instance has answered, as its endpoint has counted since it is there.
fn answered(gateway: &Gateway, instance: &Instance) -> f64 {
    let name = &instance.name;
    let series = "zoogate_upstream_requests_total";
    let labels = format!("{{instance=\"{name}\",outcome=\"ok\",service=\"orders\"}}");
    gateway.metric(&format!("{series}{labels}")).unwrap_or(0.0)
}

#[test]
fn a_service_that_vanishes_as_a_whole_is_back_with_the_same_endpoints() {
    let gateway = Gateway::start("vanish-all", &config(GUARD));
    let fleet = fleet(4);
    register(&gateway, &fleet);
    until(&gateway, &[("up", 4)]);
    all_serve(&gateway, &fleet);
    vanish(&gateway, "orders");
    until(&gateway, &[("limbo", 4)]);
    all_serve(&gateway, &fleet);
    let before: Vec<f64> = fleet.iter().map(|instance| answered(&gateway, instance)).collect();
    assert!(before.iter().all(|count| *count >= 2.0), "{before:?}");
    register(&gateway, &fleet);
    until(&gateway, &[("up", 4)]);
    all_serve(&gateway, &fleet);
    for (instance, before) in fleet.iter().zip(before) {
        let after = answered(&gateway, instance);
        assert!(after > before, "{} counts on: {after} after {before}", instance.name);
    }
    gateway.log.find("the guard's end", |line| line.contains("back=4 dead=0 expired=0").then_some(()));
}

#[test]
fn a_request_that_cannot_connect_ends_it_and_so_does_time() {
    let gateway = Gateway::start("vanish-time", &config("vanish_guard = { hold = \"5s\" }\n"));
    let fleet = fleet(3);
    register(&gateway, &fleet);
    until(&gateway, &[("up", 3)]);
    vanish(&gateway, "orders");
    until(&gateway, &[("limbo", 3)]);
    fleet[0].kill();
    // Nobody sees more of it than another instance's answer.
    wait_for("two are left", || {
        assert_eq!(gateway.get("/").status, 200);
        (states(&gateway) == BTreeMap::from([("limbo".to_owned(), 2)])).then_some(())
    });
    until(&gateway, &[]);
    assert_eq!(gateway.get("/").status, 503);
    gateway.log.find("the guard's end", |line| line.contains("back=0 dead=1 expired=2").then_some(()));
}

#[test]
fn without_a_guard_they_are_gone_at_once() {
    let gateway = Gateway::start("vanish-off", &config(""));
    let fleet = fleet(20);
    register(&gateway, &fleet);
    until(&gateway, &[("up", 20)]);
    let (lost, stay) = fleet.split_at(15);
    for instance in lost {
        gateway.withdraw(&format!("orders/{}", instance.name));
    }
    let names: Vec<&str> = stay.iter().map(|instance| &*instance.name).collect();
    gateway.instances("orders", &names);
    let before: usize = lost.iter().map(Instance::count).sum();
    for _ in 0..40 {
        assert!(names.contains(&&*gateway.get("/").body));
    }
    assert_eq!(lost.iter().map(Instance::count).sum::<usize>(), before, "no request, no probe");
    assert!(!gateway.log.all().iter().any(|line| line.contains("vanish guard")));
}

#[test]
fn who_went_before_the_share_was_reached_is_back_once_it_answers() {
    let gateway =
        Gateway::start("vanish-early", &config("vanish_guard = { share = 0.7, window = \"1h\" }\n"));
    let fleet = fleet(4);
    register(&gateway, &fleet);
    until(&gateway, &[("up", 4)]);
    gateway.withdraw("orders/n000");
    gateway.withdraw("orders/n001");
    gateway.instances("orders", &["n002", "n003"]);
    fleet[1].kill();
    gateway.withdraw("orders/n002");
    // Of the two that were gone, the one that answers.
    until(&gateway, &[("limbo", 2), ("up", 1)]);
    gateway.instances("orders", &["n000", "n002", "n003"]);
    // Without the guard they are gone.
    gateway.reload(&config(""));
    until(&gateway, &[("up", 1)]);
}

#[test]
fn a_child_of_a_catalog_is_held_with_its_instances_and_goes_with_the_last() {
    let config = "[gateway]\nworkers = 1\n[registries.local]\nkind = \"directory\"\npath = \"services\"\n\
        [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n[catalogs.apps]\npath = \"/apps\"\nvanish_guard = {}\n\
        [[routes]]\npath = \"/{app}/*\"\nservice = \"apps/{app}\"\n";
    let gateway = Gateway::start("vanish-catalog", config);
    let fleet = fleet(2);
    for instance in &fleet {
        gateway.register(&format!("apps/shop/{}", instance.name), instance.address);
    }
    gateway.instances("apps/shop", &["n000", "n001"]);
    vanish(&gateway, "apps/shop");
    gateway.state("apps/shop", "n000", "limbo");
    assert_eq!(gateway.get("/shop/").status, 200);
    fleet.iter().for_each(Instance::kill);
    wait_for("no such service", || (gateway.get("/shop/").status == 404).then_some(()));
    gateway.log.find("the guard's end", |line| line.contains("back=0 dead=2").then_some(()));
}

#[tokio::test]
async fn sessions_that_end_together_leave_their_instances_in_limbo() {
    let connect = zk::chroot("vanish").await;
    zk::client(&connect).await.create("/orders", b"", &zk::OPEN).await.unwrap();
    let fleet = fleet(6);
    let mut sessions = Vec::new();
    for instance in &fleet {
        let session = zk::client(&connect).await;
        let (path, data) = (format!("/orders/{}", instance.name), instance.address.to_string());
        session.create(&path, data.as_bytes(), &zk::EPHEMERAL).await.unwrap();
        sessions.push(session);
    }
    let zookeeper = format!("kind = \"zookeeper\"\nconnect = \"{connect}\"");
    let config = config(GUARD).replace("kind = \"directory\"\npath = \"services\"", &zookeeper);
    let run = move || {
        let gateway = Gateway::start("vanish-sessions", &config);
        until(&gateway, &[("up", 6)]);
        (gateway, fleet)
    };
    let (gateway, fleet) = tokio::task::spawn_blocking(run).await.unwrap();
    sessions.truncate(1);
    let check = move || {
        until(&gateway, &[("limbo", 5), ("up", 1)]);
        all_serve(&gateway, &fleet);
        fleet[1..].iter().for_each(Instance::kill);
        until(&gateway, &[("up", 1)]);
        (gateway, fleet)
    };
    let (_gateway, _fleet) = tokio::task::spawn_blocking(check).await.unwrap();
    drop(sessions);
}
