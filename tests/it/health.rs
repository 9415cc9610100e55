//! Instances that fail in other ways than to refuse connections, through the real gateway.

use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, LOCAL, ORDERS, wait_for};
use crate::support::http::get;
use crate::support::moody::{Mood, Moody};

/// `a` and `b` registered, in these moods.
fn two(name: &str, config: &str, moods: [Mood; 2]) -> (Gateway, Moody, Moody) {
    let gateway = Gateway::start(name, config);
    let [a, b] = moods;
    let (a, b) = (Moody::start("a", a), Moody::start("b", b));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    (gateway, a, b)
}

/// `ORDERS` with an `ejection`; each request shows what its instance did.
fn with(ejection: &str) -> String {
    format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\nejection = {ejection}\n[[routes]]\nservice = \"orders\"\nretry = \"off\"\n"
    )
}

fn health(gateway: &Gateway, id: &str) -> serde_json::Value {
    let view = gateway.json("/api/services/orders");
    let instances = view["instances"].as_array().unwrap();
    instances.iter().find(|instance| instance["id"] == id).unwrap()["health"].clone()
}

fn ejections(gateway: &Gateway, reason: &str) -> f64 {
    gateway
        .metric(&format!("zoogate_ejections_total{{reason=\"{reason}\",service=\"orders\"}}"))
        .unwrap_or_default()
}

#[test]
fn who_breaks_a_fresh_connection_off_is_out_until_it_answers_a_probe() {
    let (gateway, a, _b) = two("health-reset", ORDERS, [Mood::Breaks, Mood::Well]);
    wait_for("a broken request", || (a.gets() > 0 || gateway.get("/").body.is_empty()).then_some(()));
    gateway.state("orders", "a", "ejected");
    let why = health(&gateway, "a");
    assert_eq!((why["reason"].as_str(), why["trial"].as_bool()), (Some("reset"), Some(false)));
    assert!(
        why["since_ms"].as_u64().unwrap() > 0 && why["next_probe_ms"].as_u64() > why["since_ms"].as_u64()
    );
    assert!(health(&gateway, "b").is_null());
    let before = a.gets();
    assert!((0..20).all(|_| gateway.get("/").body == "b"));
    assert_eq!(a.gets(), before, "nothing goes there any more");
    // The kernel accepts for it all the time: a connect alone would bring it back.
    wait_for("a failed probe", || (health(&gateway, "a")["failed_probes"].as_u64()? > 0).then_some(()));
    gateway.log.find("the ejection's line", |line| {
        (line.contains("instance ejected: it broke a fresh connection off")
            && line.contains("instance=\"a\""))
        .then_some(())
    });
    a.is(Mood::Well);
    gateway.state("orders", "a", "up");
    assert_eq!(a.gets(), before, "a probe is no client's request");
    assert!(a.seen().iter().any(|line| line.starts_with("OPTIONS * ")), "{:?}", a.seen());
    wait_for("an answer of the one that is back", || (gateway.get("/").body == "a").then_some(()));
    assert!((ejections(&gateway, "reset") - 1.0).abs() < f64::EPSILON);
    assert_eq!(gateway.metric("zoogate_readmissions_total{service=\"orders\"}"), Some(1.0));
}

#[test]
fn failures_in_a_row_eject_and_other_answers_do_not() {
    let config = with("{ failures = 3, statuses = [503] }");
    let (gateway, a, b) = two("health-failures", &config, [Mood::Fails, Mood::Well]);
    let failed = (0..40).filter(|_| gateway.get("/").status == 503).count();
    assert!(failed >= 3, "{failed}");
    gateway.state("orders", "a", "ejected");
    assert_eq!(health(&gateway, "a")["reason"], "failures");
    a.is(Mood::Well);
    gateway.state("orders", "a", "up");
    assert_eq!(b.gets() + a.gets(), 40);

    let (gateway, _a, _b) =
        two("health-other", &with("{ failures = 1, statuses = [502] }"), [Mood::Fails, Mood::Well]);
    assert!((0..10).any(|_| gateway.get("/").status == 503));
    gateway.state("orders", "a", "up");
}

#[test]
fn a_service_that_fails_as_a_whole_keeps_half_of_its_instances() {
    let gateway = Gateway::start("health-share", &with("{ failures = 1 }"));
    let moodies: Vec<Moody> = (0..4).map(|i| Moody::start(&format!("n{i}"), Mood::Fails)).collect();
    for (i, moody) in moodies.iter().enumerate() {
        gateway.register(&format!("orders/n{i}"), moody.address);
    }
    gateway.instances("orders", &["n0", "n1", "n2", "n3"]);
    for _ in 0..40 {
        assert_eq!(gateway.get("/").status, 503, "their answer, not ours");
        let out = gateway.metric("zoogate_service_instances{service=\"orders\",state=\"ejected\"}");
        assert!(out.unwrap() <= 2.0, "{out:?} of four");
    }
    assert!(ejections(&gateway, "failures") >= 2.0);
}

#[test]
fn a_server_that_registers_again_is_trusted_at_once() {
    let (gateway, a, _b) = two("health-again", &with("{ failures = 1 }"), [Mood::Fails, Mood::Well]);
    wait_for("its failure", || (gateway.get("/").status == 503).then_some(()));
    gateway.state("orders", "a", "ejected");
    // While it fails on, so that only the registration can bring it back.
    gateway.withdraw("orders/a");
    gateway.instances("orders", &["b"]);
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a", "b"]);
    assert!(health(&gateway, "a").is_null());
    assert_eq!(gateway.metric("zoogate_readmissions_total{service=\"orders\"}"), Some(0.0));

    wait_for("its failure", || (gateway.get("/").status == 503).then_some(()));
    gateway.state("orders", "a", "ejected");
    // Beside the node that lingers, as the sequential node of a server that crashed does.
    gateway.register("orders/c", a.address);
    gateway.instances("orders", &["a", "b", "c"]);
    assert!(health(&gateway, "a").is_null() && health(&gateway, "c").is_null());
}

#[test]
fn ejection_that_is_off_leaves_only_failed_connects() {
    let (gateway, a, _b) = two("health-off", &with("\"off\""), [Mood::Fails, Mood::Well]);
    for _ in 0..20 {
        gateway.get("/");
    }
    a.is(Mood::Breaks);
    assert!((0..20).any(|_| gateway.get("/").status == 502));
    gateway.state("orders", "a", "up");
    assert!(health(&gateway, "a").is_null());
}

#[test]
fn who_hangs_is_out_without_costing_a_get_and_who_is_slow_stays() {
    let (gateway, a, b) = two("health-silent", ORDERS, [Mood::Hangs, Mood::Slow]);
    let public = gateway.listener("public");
    // Some of them meet the one that hangs. The route's timeout is a minute.
    let asked = Instant::now();
    let waiting: Vec<_> = (0..8).map(|_| std::thread::spawn(move || get(public, "/").body)).collect();
    for answer in waiting {
        assert_eq!(answer.join().unwrap(), "b");
    }
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(a.gets() > 0, "nobody met the one that hangs");
    gateway.state("orders", "a", "ejected");
    assert_eq!(health(&gateway, "a")["reason"], "silent");
    assert_eq!(b.gets(), 8, "each once");
    // The slow one has kept requests for longer than a second, and was asked, and answered.
    assert!(health(&gateway, "b").is_null());
    assert!(b.seen().iter().any(|line| line.starts_with("OPTIONS * ")), "{:?}", b.seen());
    assert!((ejections(&gateway, "silent") - 1.0).abs() < f64::EPSILON);
    let moved = gateway.metric("zoogate_retries_total{reason=\"silent\",service=\"orders\"}").unwrap();
    assert!((moved - a.gets() as f64).abs() < f64::EPSILON, "{moved} moved, {} were there", a.gets());
    a.is(Mood::Well);
    gateway.state("orders", "a", "up");
    wait_for("an answer of the one that is back", || (gateway.get("/").body == "a").then_some(()));
}

#[test]
fn who_leaves_requests_waiting_for_longer_than_usual_gets_no_more_until_it_is_known_why() {
    let (gateway, a, _b) = two("health-doubt", ORDERS, [Mood::Well, Mood::Well]);
    let public = gateway.listener("public");
    // What is usual.
    assert!((0..40).all(|_| gateway.get("/").status == 200));
    a.is(Mood::Hangs);
    let before = a.gets();
    let mut waiting = Vec::new();
    wait_for("a request that waits for the one that hangs", || {
        waiting.push(std::thread::spawn(move || get(public, "/").body));
        (a.gets() > before).then_some(())
    });
    let doubts = "zoogate_doubts_total{service=\"orders\"}";
    wait_for("a doubt", || (gateway.metric(doubts)? >= 1.0).then_some(()));
    let met = a.gets();
    assert!((0..20).all(|_| gateway.get("/").body == "b"));
    assert_eq!(a.gets(), met, "nothing new goes there");
    gateway.state("orders", "a", "ejected");
    assert_eq!(health(&gateway, "a")["reason"], "silent");
    for answer in waiting {
        assert_eq!(answer.join().unwrap(), "b");
    }
    let lines = gateway.log.all();
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).expect("a line of it");
    assert!(at("instance doubted") < at("instance ejected"), "{lines:?}");
    a.is(Mood::Well);
    gateway.state("orders", "a", "up");
    wait_for("an answer of the one that is back", || (gateway.get("/").body == "a").then_some(()));
}
