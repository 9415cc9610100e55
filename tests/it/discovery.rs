//! The real gateway over registries that are down, closed to us, or taken from under it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::http;
use crate::support::instance::Instance;
use crate::support::seen::{Seen, options, service};
use crate::support::zk::{self, Ensemble, OPEN, Standalone};

const STALE: &str = "zoogate_registry_stale_seconds{registry=\"main\"}";
const CONNECTED: &str = "zoogate_registry_connected{registry=\"main\"}";
const LOSSES: &str = "zoogate_registry_session_losses_total{registry=\"main\"}";

const LISTENER: &str = "[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n";

fn zookeeper(connect: &str) -> String {
    format!("[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\nsession_timeout = \"4s\"\n")
}

fn orders(connect: &str) -> String {
    format!(
        "{}[services.orders]\npath = \"/orders\"\n{LISTENER}[[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
        zookeeper(connect)
    )
}

async fn put(client: &Client, path: &str, data: &str) {
    client.create(path, data.as_bytes(), &OPEN).await.unwrap();
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn is_current(gateway: &Gateway) -> bool {
    gateway.metric(STALE) == Some(0.0) && gateway.metric(CONNECTED) == Some(1.0)
}

#[test]
fn a_gateway_that_starts_before_its_ensemble_serves_as_soon_as_that_answers() {
    let instance = Instance::start("a");
    let mut zk = Standalone::start();
    let connect = zk.server.address();
    block(async {
        let client = zk::client(&connect).await;
        put(&client, "/orders", "").await;
        put(&client, "/orders/a", &instance.address.to_string()).await;
    });
    zk.server.kill();

    let catalog =
        "[catalogs.apps]\npath = \"/apps\"\n[[routes]]\npath = \"/apps/{s}/*\"\nservice = \"apps/{s}\"\n";
    let gateway = Gateway::start("early", &format!("{}{catalog}", orders(&connect)));
    let listener = gateway.listener("public");
    for path in ["/", "/apps/shop/"] {
        let early = http::get(listener, path);
        assert_eq!((early.status, early.header("x-zoogate-error")), (503, Some("no_instances")), "{path}");
        assert!(early.header("retry-after").is_some(), "{early:?}");
    }
    let readiness = gateway.admin("/readyz");
    assert_eq!(readiness.status, 503);
    assert!(readiness.body.contains("orders") && readiness.body.contains("apps"), "{}", readiness.body);
    gateway.log.find("a line that names the address", |line| {
        (line.contains("WARN") && line.contains(&connect)).then_some(())
    });
    wait_for("staleness to be counted", || (gateway.metric(STALE)? > 0.0).then_some(()));
    assert_eq!(gateway.metric(CONNECTED), Some(0.0));

    zk.server.start();
    let answered = wait_for("an answer of ZooKeeper", || zk.server.mode().map(|_| Instant::now()));
    wait_for("an answer of the instance", || (http::get(listener, "/").status == 200).then_some(()));
    let took = answered.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?} after its first answer");
    gateway.ready();
    wait_for("the registry to be current", || is_current(&gateway).then_some(()));
    assert_eq!(http::get(listener, "/apps/shop/").status, 404, "now it is known that there is none");
}

#[test]
fn a_session_closed_from_outside_is_replaced_and_nothing_is_lost() {
    let instances = [Instance::start("a"), Instance::start("b")];
    let zk = Standalone::start();
    let connect = zk.server.address();
    block(async {
        let client = zk::client(&connect).await;
        put(&client, "/orders", "").await;
        for instance in &instances {
            let path = format!("/orders/{}", instance.name);
            put(&client, &path, &instance.address.to_string()).await;
        }
    });
    let gateway = Gateway::start("closed", &orders(&connect));
    gateway.ready();
    gateway.instances("orders", &["a", "b"]);
    let revision = gateway.json("/api/services/orders")["revision"].clone();
    let session = gateway.log.find("a session", |line| {
        let id = line.contains("connected to ZooKeeper").then(|| line.split("session=").nth(1))??;
        let id = id.trim_matches('"').split_whitespace().next()?.trim_matches('"');
        i64::from_str_radix(id.trim_start_matches("0x"), 16).ok()
    });
    let listener = gateway.listener("public");
    wait_for("the session to be lost", || {
        assert_eq!(http::get(listener, "/").status, 200);
        let lost = gateway.metric(LOSSES) == Some(1.0);
        // The owner may take its session back before the close is read, so it is closed until it is lost.
        if !lost {
            close_session(&connect, session);
        }
        (lost && is_current(&gateway)).then_some(())
    });
    let view = gateway.json("/api/services/orders");
    assert_eq!(view["revision"], revision, "the same listing is no change");
    // The new session's watch lives.
    block(async { zk::client(&connect).await.delete("/orders/a", None).await.unwrap() });
    gateway.instances("orders", &["b"]);
}

/// Ends a session as anyone can who knows its id: the password follows from it.
pub fn close_session(server: &str, session: i64) {
    // What the server does: 16 bytes of java.util.Random, seeded with the id and a constant of its source.
    let mut state = (session ^ 0xB341_5C00 ^ 0x5_DEEC_E66D) & ((1 << 48) - 1);
    let mut password = Vec::new();
    for _ in 0..4 {
        state = (state.wrapping_mul(0x5_DEEC_E66D) + 0xB) & ((1 << 48) - 1);
        password.extend(((state >> 16) as i32).to_le_bytes());
    }
    let mut open = Vec::new();
    open.extend(0i32.to_be_bytes());
    open.extend(0i64.to_be_bytes());
    open.extend(4000i32.to_be_bytes());
    open.extend(session.to_be_bytes());
    open.extend(16i32.to_be_bytes());
    open.extend(password);
    open.push(0);
    let close = [1i32.to_be_bytes(), (-11i32).to_be_bytes()].concat();
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let framed = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    stream.write_all(&framed(&open)).unwrap();
    let mut answer = [0; 20];
    if stream.read_exact(&mut answer).is_err() || answer[12..] != session.to_be_bytes() {
        return;
    }
    let _ = stream.write_all(&framed(&close));
    while let Ok(1..) = stream.read(&mut answer) {}
}

#[tokio::test]
async fn a_follower_that_lags_does_not_bring_back_the_dead() {
    let zk = Ensemble::start();
    let leader = zk.leader();
    let (ahead, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = zk::client(&zk.servers[leader].address()).await;
    put(&client, "/orders", "").await;
    put(&client, "/filler", "").await;
    put(&client, "/orders/stays", "127.0.0.1:1").await;
    let good = FaultProxy::start(&zk.servers[ahead].address()).await;
    let lagging = FaultProxy::start(&zk.servers[behind].address()).await;
    lagging.set(Fault::Cut);
    let connect = format!("{},{}", good.address(), lagging.address());
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;
    for round in 0..5 {
        let (dead, born) = (format!("dead{round}"), format!("live{round}"));
        put(&client, &format!("/orders/{dead}"), "127.0.0.1:2").await;
        seen.until("it is there", |seen| seen.ids("orders").contains(&&*dead)).await;
        zk.servers[behind].pause();
        client.delete(&format!("/orders/{dead}"), None).await.unwrap();
        put(&client, &format!("/orders/{born}"), "127.0.0.1:3").await;
        // So much that the follower is busy with the past for a while.
        for _ in 0..300 {
            client.set_data("/filler", &[b'x'; 4096], None).await.unwrap();
        }
        seen.until("it is gone", |seen| !seen.ids("orders").contains(&&*dead)).await;
        seen.until("the new one is there", |seen| seen.ids("orders").contains(&&*born)).await;
        let before = seen.history.len();
        good.set(Fault::Cut);
        lagging.set(Fault::None);
        zk.servers[behind].resume();
        seen.until("the link is down", |seen| seen.connected == Some(false)).await;
        seen.until("it reads from the follower", |seen| seen.connected == Some(true)).await;
        seen.until_live("orders").await;
        for (_, ids) in &seen.history[before..] {
            assert!(!ids.contains(&dead), "round {round}: back in time: {ids:?}");
            assert!(ids.contains(&born), "round {round}: {born} is forgotten: {ids:?}");
        }
        lagging.set(Fault::Cut);
        good.set(Fault::None);
        seen.until("the link is down", |seen| seen.connected == Some(false)).await;
        seen.until("it is back", |seen| seen.connected == Some(true)).await;
        seen.until_live("orders").await;
    }
    assert_eq!(seen.ids("orders").len(), 6);
}

#[tokio::test]
async fn credentials_that_are_refused_are_named_and_retried() {
    let zk = zk::shared().server.address();
    let mut wrong = options(&zk);
    wrong.auth.push(("nonsense".to_owned(), b"user:secret".to_vec()));
    let mut seen = Seen::start_with(wrong, vec![service("orders", "/orders")]);
    seen.until_stale("orders", "refuses our credentials").await;
    seen.until("the link is told", |seen| seen.connected == Some(false)).await;
    assert!(seen.services.is_empty(), "refused is not empty");
}

#[test]
fn a_directory_that_may_not_be_read_is_shown_and_no_reason_to_reconnect() {
    let instance = Instance::start("a");
    let zk = Standalone::start();
    let connect = zk.server.address();
    let nobody = AuthId::new("digest", "nobody:AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let closed = [Acl::new(Permission::ALL, nobody)];
    block(async {
        let client = zk::client(&connect).await;
        put(&client, "/apps", "").await;
        let shut = CreateMode::Persistent.with_acls(Acls::new(&closed));
        client.create("/apps/vault", b"", &shut).await.unwrap();
        put(&client, "/apps/open", "").await;
        put(&client, "/apps/open/a", &instance.address.to_string()).await;
    });
    let config = format!(
        "{}[catalogs.apps]\npath = \"/apps\"\n{LISTENER}[[routes]]\npath = \"/{{s}}/*\"\nservice = \"apps/{{s}}\"\n",
        zookeeper(&connect)
    );
    let gateway = Gateway::start("vault", &config);
    gateway.ready();
    let listener = gateway.listener("public");
    assert_eq!(http::get(listener, "/open/").status, 200);
    assert_eq!(http::get(listener, "/vault/").status, 503);
    let rejected = gateway.json("/api/services/apps/vault")["rejected"].clone();
    assert_eq!(rejected[0]["node"], ".", "{rejected}");
    assert!(rejected[0]["reason"].as_str().unwrap().starts_with("forbidden: "), "{rejected}");
    assert_eq!(gateway.metric("zoogate_rejected_nodes{service=\"apps/vault\"}"), Some(1.0));
    // Other news arrive meanwhile, by the session of the start.
    block(async {
        let client = zk::client(&connect).await;
        put(&client, "/apps/later", "").await;
        put(&client, "/apps/later/a", &instance.address.to_string()).await;
    });
    gateway.instances("apps/later", &["a"]);
    assert!(is_current(&gateway));
    assert_eq!(gateway.metric(LOSSES), Some(0.0));
    let connects = gateway.log.all().iter().filter(|l| l.contains("connected to ZooKeeper")).count();
    assert_eq!(connects, 1);
}

#[test]
fn a_directory_registry_is_connected_and_current() {
    let tree = Scratch::new("current");
    tree.write("orders/a", "127.0.0.1:1");
    let config = format!(
        "[registries.main]\nkind = \"directory\"\npath = {:?}\n[services.orders]\npath = \"/orders\"\n\
         {LISTENER}[[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
        tree.path()
    );
    let gateway = Gateway::start("directory", &config);
    gateway.ready();
    wait_for("the registry to be current", || is_current(&gateway).then_some(()));
}

/// A catalog with one route to its children.
fn catalog(registry: &str, path: &str, format: &str) -> String {
    format!(
        "{registry}[catalogs.apps]\npath = \"{path}\"\nformat = \"{format}\"\n{LISTENER}\
         [[routes]]\npath = \"/{{s}}/*\"\nservice = \"apps/{{s}}\"\n"
    )
}

fn names(gateway: &Gateway) -> Vec<String> {
    let all = gateway.json("/api/services");
    all["services"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
}

fn until_names(gateway: &Gateway, wanted: &[&str]) {
    wait_for(&format!("{wanted:?}"), || (names(gateway) == wanted).then_some(()));
}

/// A reload makes a catalog mean another directory, another registry, another format: each time only what is there
/// now may be left, and what is in both is never away.
fn catalogs_are_what_they_mean_now(one: &str, other: &str, mut remove_from_one: impl FnMut(&str)) {
    let gateway = Gateway::start("moved", &catalog(one, "/first", "plain"));
    gateway.ready();
    until_names(&gateway, &["apps/both", "apps/left"]);
    gateway.reload(&catalog(one, "/second", "plain"));
    until_names(&gateway, &["apps/both", "apps/right"]);
    gateway.reload(&catalog(one, "/first", "plain"));
    until_names(&gateway, &["apps/both", "apps/left"]);
    gateway.reload(&catalog(other, "/first", "plain"));
    until_names(&gateway, &["apps/both"]);
    gateway.ready();
    wait_for("the registry to be current", || is_current(&gateway).then_some(()));
    gateway.reload(&catalog(one, "/first", "plain"));
    until_names(&gateway, &["apps/both", "apps/left"]);
    // Changed in the same moment as it is read in another way.
    remove_from_one("/first/left");
    gateway.reload(&catalog(one, "/first", "auto"));
    until_names(&gateway, &["apps/both"]);
    gateway.ready();
    wait_for("the registry to be current", || is_current(&gateway).then_some(()));
}

#[test]
fn a_catalog_in_a_directory_is_what_it_means_after_a_reload() {
    let (one, other) = (Scratch::new("one"), Scratch::new("other"));
    for node in ["first/both/a", "first/left/a", "second/both/b", "second/right/b"] {
        one.write(node, "127.0.0.1:1");
    }
    other.write("first/both/c", "127.0.0.1:1");
    let registry =
        |tree: &Scratch| format!("[registries.main]\nkind = \"directory\"\npath = {:?}\n", tree.path());
    catalogs_are_what_they_mean_now(&registry(&one), &registry(&other), |path| {
        std::fs::remove_dir_all(one.path().join(&path[1..])).unwrap();
    });
}

#[test]
fn a_catalog_in_zookeeper_is_what_it_means_after_a_reload() {
    let (one, other) = block(async {
        let one = zk::chroot("reloaded-one").await;
        let other = zk::chroot("reloaded-other").await;
        let client = zk::client(&one).await;
        for path in ["/first", "/first/both", "/first/left", "/second", "/second/both", "/second/right"] {
            put(&client, path, "").await;
        }
        for path in ["/first/both/a", "/first/left/a", "/second/both/b", "/second/right/b"] {
            put(&client, path, "127.0.0.1:1").await;
        }
        let client = zk::client(&other).await;
        put(&client, "/first", "").await;
        put(&client, "/first/both", "").await;
        put(&client, "/first/both/c", "127.0.0.1:1").await;
        (one, other)
    });
    catalogs_are_what_they_mean_now(&zookeeper(&one), &zookeeper(&other), |path| {
        block(async {
            let client = zk::client(&one).await;
            client.delete(&format!("{path}/a"), None).await.unwrap();
            client.delete(path, None).await.unwrap();
        });
    });
}

#[test]
fn a_service_that_moves_to_another_registry_leaves_nothing_behind() {
    let (one, other) = (Scratch::new("from"), Scratch::new("to"));
    one.write("orders/a", "127.0.0.1:1");
    // The one that it leaves is closed to us: what is stale there must not count any more.
    one.write("blocked", "a file where a directory should be");
    other.write("orders/b", "127.0.0.1:1");
    other.write("users/c", "127.0.0.1:1");
    let config = |registry: &str, path: &str| {
        format!(
            "[registries.main]\nkind = \"directory\"\npath = {:?}\n\
             [registries.other]\nkind = \"directory\"\npath = {:?}\n\
             [services.users]\nregistry = \"other\"\npath = \"/users\"\n\
             [services.orders]\nregistry = \"{registry}\"\npath = \"{path}\"\n\
             {LISTENER}[[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
            one.path(),
            other.path()
        )
    };
    let gateway = Gateway::start("registries", &config("main", "/orders"));
    gateway.instances("orders", &["a"]);
    gateway.reload(&config("main", "/blocked"));
    wait_for("the file to be noticed", || (gateway.metric(STALE)? > 0.0).then_some(()));
    gateway.instances("orders", &[]);
    gateway.reload(&config("other", "/orders"));
    gateway.instances("orders", &["b"]);
    wait_for("both registries to be current", || {
        let theirs = gateway.metric("zoogate_registry_stale_seconds{registry=\"other\"}");
        (is_current(&gateway) && theirs == Some(0.0)).then_some(())
    });
}
