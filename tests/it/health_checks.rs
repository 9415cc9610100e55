//! Instances that are asked how they are, whether requests come or not.

use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, LOCAL, wait_for};
use crate::support::moody::{Mood, Moody};
use crate::support::zk::{self, OPEN};

fn with(health_check: &str) -> String {
    format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\nejection = \"off\"\n{health_check}\n[[routes]]\nservice = \"orders\"\nretry = \"off\"\n"
    )
}

fn reason(gateway: &Gateway, service: &str, id: &str) -> Option<String> {
    let view = gateway.json(&format!("/api/services/{service}"));
    let instances = view["instances"].as_array().unwrap();
    let health = &instances.iter().find(|instance| instance["id"] == id).unwrap()["health"];
    health["reason"].as_str().map(str::to_owned)
}

fn checks(gateway: &Gateway, result: &str) -> f64 {
    let series = format!("zoogate_health_checks_total{{result=\"{result}\",service=\"orders\"}}");
    gateway.metric(&series).unwrap_or_default()
}

/// Requests of clients go to `/request`.
fn requests(moody: &Moody) -> usize {
    moody.seen().iter().filter(|line| line.contains("/request")).count()
}

#[test]
fn who_says_503_to_its_check_gets_no_request_until_it_says_200() {
    let config = with("health_check = { kind = \"http\", path = \"/healthz?x=1\", interval = \"100ms\" }");
    let gateway = Gateway::start("checks-http", &config);
    let (a, b) = (Moody::start("a", Mood::Fails), Moody::start("b", Mood::Well));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    gateway.state("orders", "a", "ejected");
    assert_eq!(reason(&gateway, "orders", "a").as_deref(), Some("check"));
    let (seen, counted) = (a.seen().len(), requests(&a));
    assert!((0..20).all(|_| gateway.get("/request").body == "b"));
    wait_for("more checks that fail", || (a.seen().len() > seen + 2).then_some(()));
    assert_eq!(requests(&a), counted);
    assert!(a.seen().iter().all(|line| line.starts_with("GET /healthz?x=1 ")), "{:?}", a.seen());
    gateway.log.find("the ejection's line", |line| {
        (line.contains("instance ejected: its health check fails") && line.contains("503")).then_some(())
    });
    a.is(Mood::Well);
    gateway.state("orders", "a", "up");
    wait_for("an answer of the one that is back", || (gateway.get("/request").body == "a").then_some(()));
    assert!(checks(&gateway, "failed") >= 2.0 && checks(&gateway, "passed") >= 1.0);
}

#[test]
fn a_reload_without_the_check_ends_what_it_said() {
    let config =
        with("health_check = { kind = \"http\", statuses = [204], interval = \"100ms\", unhealthy = 1 }");
    let gateway = Gateway::start("checks-reload", &config);
    let (a, b) = (Moody::start("a", Mood::Well), Moody::start("b", Mood::Well));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    // Both say 200, and one of two may be out.
    wait_for("an ejection by the check", || {
        ["a", "b"].iter().any(|id| reason(&gateway, "orders", id).as_deref() == Some("check")).then_some(())
    });
    wait_for("checks that find no room", || (checks(&gateway, "failed") > 6.0).then_some(()));
    let out = gateway.metric("zoogate_service_instances{service=\"orders\",state=\"ejected\"}");
    assert_eq!(out, Some(1.0), "one of two, although both fail");
    gateway.reload(&with("health_check = \"off\""));
    gateway.state("orders", "a", "up");
    gateway.state("orders", "b", "up");
    assert_eq!(gateway.metric("zoogate_readmissions_total{service=\"orders\"}"), Some(1.0));
}

#[test]
fn a_tcp_check_ejects_without_a_request_whoever_refuses() {
    let gateway =
        Gateway::start("checks-tcp", &with("health_check = { kind = \"tcp\", interval = \"100ms\" }"));
    let b = Moody::start("b", Mood::Well);
    // Ports that nobody listens on, nor ever will by chance.
    gateway.register("orders/a", "127.0.0.1:1");
    gateway.register("orders/c", "127.0.0.1:2");
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b", "c"]);
    gateway.state("orders", "a", "ejected");
    gateway.state("orders", "c", "ejected");
    assert!(b.seen().is_empty(), "no request was made, nor asked for");
    assert!((0..10).all(|_| gateway.get("/request").body == "b"));
    assert_eq!(gateway.metric("zoogate_retries_total{reason=\"connect_failed\",service=\"orders\"}"), None);
}

#[test]
fn checks_come_by_their_interval_and_not_more_often() {
    let config = with("health_check = { kind = \"http\", interval = \"500ms\" }");
    let gateway = Gateway::start("checks-count", &config);
    let a = Moody::start("a", Mood::Well);
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let begun = Instant::now();
    wait_for("six checks", || (a.seen().len() >= 6).then_some(()));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(2_000), "six in {took:?}");
}

#[tokio::test]
async fn a_persistent_node_whose_process_is_dead_is_out_before_any_request_meets_it() {
    let connect = zk::chroot("checks").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    let live = Moody::start("live", Mood::Well);
    let address = live.address.to_string();
    client.create("/orders/dead", b"127.0.0.1:1", &OPEN).await.unwrap();
    client.create("/orders/live", address.as_bytes(), &OPEN).await.unwrap();
    // Ephemeral ones vanish by themselves: nobody asks them.
    client.create("/orders/mortal", b"127.0.0.1:2", &zk::EPHEMERAL).await.unwrap();
    let config = format!(
        "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n[services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\n"
    );
    tokio::task::spawn_blocking(move || {
        let gateway = Gateway::start("checks-persistent", &config);
        gateway.instances("orders", &["dead", "live", "mortal"]);
        gateway.state("orders", "dead", "ejected");
        assert_eq!(reason(&gateway, "orders", "dead").as_deref(), Some("connect"));
        // By then whoever is checked was checked twice.
        wait_for("checks of the live one", || (checks(&gateway, "passed") > 2.0).then_some(()));
        assert_eq!(reason(&gateway, "orders", "mortal"), None);
        assert!(live.seen().is_empty());
    })
    .await
    .unwrap();
    drop(client);
}
