//! The gateway under load while its ensemble of three dies in every way and comes back.
//!
//! `ZOOGATE_TEST_LONG=1` keeps the quorum away for a minute, and kills the leader 20 times instead of twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zookeeper_client::{Client, Error};

use crate::support::gateway::{Gateway, wait_for};
use crate::support::instance::Instance;
use crate::support::load::{self, Load};
use crate::support::zk::{self, Ensemble, OPEN};

const THREADS: usize = 4;
/// From an ensemble's first answer to a table that is the truth.
const LIMIT: Duration = Duration::from_secs(3);

struct World {
    zk: Ensemble,
    gateway: Gateway,
    instances: BTreeMap<String, Instance>,
    /// Those that were stopped or whose node went: they keep what they saw.
    past: Vec<Instance>,
    /// Times at which instances were stopped under load.
    stops: Vec<(String, Instant)>,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let zk = Ensemble::start();
        let config = format!(
            "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{}\"\nsession_timeout = \"4s\"\n\
             [services.orders]\npath = \"/orders\"\nformat = \"plain\"\n\
             [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
             [[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
            zk.connect()
        );
        let gateway = Gateway::start("ensemble", &config);
        let mut world =
            Self { zk, gateway, instances: BTreeMap::new(), past: Vec::new(), stops: Vec::new(), runtime };
        world.write(|client| async move { existing(client.create("/orders", b"", &OPEN).await.map(drop)) });
        for name in ["a", "b", "c", "d", "e"] {
            world.add(name);
        }
        world.gateway.ready();
        world.is_true(Instant::now());
        world
    }

    /// Does something in the ensemble, as soon as it has a quorum.
    fn write<F: Future<Output = Result<(), Error>>>(&self, act: impl Fn(Client) -> F) {
        let connect = self.zk.connect();
        self.runtime.block_on(async {
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let connecting = Client::connector()
                    .with_session_timeout(Duration::from_secs(4))
                    .with_connection_timeout(Duration::from_millis(800))
                    .with_fail_eagerly()
                    .connect(&connect);
                let deadline = Duration::from_secs(2);
                let done = tokio::time::timeout(deadline, async { act(connecting.await?).await }).await;
                if matches!(done, Ok(Ok(()))) {
                    return;
                }
                assert!(Instant::now() < end, "no quorum comes together: {done:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// A new instance with its node.
    fn add(&mut self, name: &str) {
        let instance = Instance::start(name);
        let (path, data) = (format!("/orders/{name}"), instance.address.to_string());
        self.write(|client| {
            let (path, data) = (path.clone(), data.clone());
            async move { existing(client.create(&path, data.as_bytes(), &OPEN).await.map(drop)) }
        });
        self.instances.insert(name.to_owned(), instance);
    }

    /// The node goes; the process goes on, so that a request which it gets wrongly is seen.
    fn delete(&mut self, name: &str) {
        let path = format!("/orders/{name}");
        self.write(|client| {
            let path = path.clone();
            async move {
                match client.delete(&path, None).await {
                    Err(Error::NoNode) => Ok(()),
                    other => other,
                }
            }
        });
        self.past.extend(self.instances.remove(name));
    }

    /// The process dies and another takes its port; the registry knows nothing of it.
    fn stop_and_start(&mut self, name: &str) {
        let old = self.instances.remove(name).unwrap();
        self.stops.push((name.to_owned(), Instant::now()));
        old.kill();
        let served = |world: &Self| world.instances.values().map(Instance::count).sum::<usize>();
        let before = served(self);
        wait_for("the others to serve on", || (served(self) > before + 50).then_some(()));
        self.instances.insert(name.to_owned(), Instance::start_at(name, old.address));
        self.past.push(old);
        wait_for("the one that is back to serve", || (self.instances[name].count() > 0).then_some(()));
    }

    /// Kills servers, waits until the gateway says so.
    fn down(&mut self, servers: &[usize]) {
        servers.iter().for_each(|&server| self.zk.servers[server].kill());
        let alone = self.zk.servers.iter().filter(|s| s.mode().is_some()).count() < 2;
        assert!(alone, "two servers are a quorum");
        wait_for("the gateway to notice", || {
            let stale = self.gateway.metric("zoogate_registry_stale_seconds{registry=\"main\"}")?;
            let connected = self.gateway.metric("zoogate_registry_connected{registry=\"main\"}")?;
            (connected < 0.5 && stale > 0.0).then_some(())
        });
        assert_eq!(self.gateway.json("/api/services/orders")["stale"], true);
        assert_eq!(self.gateway.admin("/readyz").status, 200, "it serves what it knows");
    }

    /// Starts servers; returns when the ensemble first answered.
    fn up(&mut self, servers: &[usize]) -> Instant {
        servers.iter().for_each(|&server| self.zk.servers[server].start());
        wait_for("an answer of the ensemble", || {
            self.zk.servers.iter().any(|s| s.mode().as_deref() == Some("leader")).then(Instant::now)
        })
    }

    /// Waits until the table is what the ensemble holds, and known to be; says how long after `since` that was.
    fn is_true(&self, since: Instant) -> Duration {
        let connect = self.zk.connect();
        let client = self.runtime.block_on(zk::client(&connect));
        let mut seen = (Vec::new(), Vec::new());
        let look = || {
            let listing = async {
                tokio::time::timeout(Duration::from_secs(2), client.list_children("/orders")).await.ok()?.ok()
            };
            let mut nodes = self.runtime.block_on(listing)?;
            nodes.sort();
            let stale = self.gateway.metric("zoogate_registry_stale_seconds{registry=\"main\"}")?;
            let connected = self.gateway.metric("zoogate_registry_connected{registry=\"main\"}")?;
            let view = self.gateway.json("/api/services/orders");
            let table: Vec<String> = view["instances"]
                .as_array()?
                .iter()
                .filter_map(|i| Some(i["id"].as_str()?.to_owned()))
                .collect();
            let current = stale == 0.0 && connected == 1.0 && view["stale"] == false;
            let same = table == nodes;
            seen = (nodes, table);
            (current && same).then(|| since.elapsed())
        };
        let took = wait_for("the table to be what the ensemble holds", look);
        let names: Vec<&str> = self.instances.keys().map(String::as_str).collect();
        if seen.0 != names {
            // Servers that are killed without syncing to disk may forget. What they then hold is the truth all the same.
            println!("the ensemble holds {:?}, though {names:?} was written to it", seen.0);
        }
        took
    }
}

fn existing(created: Result<(), Error>) -> Result<(), Error> {
    match created {
        Err(Error::NodeExists) => Ok(()),
        other => other,
    }
}

#[test]
fn no_ensemble_that_dies_costs_a_request_and_one_that_is_back_is_believed() {
    let long = std::env::var("ZOOGATE_TEST_LONG").is_ok();
    let outage = Duration::from_secs(if long { 60 } else { 3 });
    let mut world = World::start();
    let listener = world.gateway.listener("public");
    let load = Load::start(listener, THREADS, Duration::from_millis(if long { 4 } else { 8 }));
    let mut took = BTreeMap::new();

    // The leader dies. Two go on; nodes come and go.
    let leader = world.zk.leader();
    world.zk.servers[leader].kill();
    world.delete("a");
    world.add("f");
    took.insert("leader killed", world.is_true(Instant::now()));
    world.up(&[leader]);

    // No quorum: nothing can be written, instances come and go all the same.
    let leader = world.zk.leader();
    let other = (leader + 1) % 3;
    let since = Instant::now();
    world.down(&[leader, other]);
    for name in ["b", "c", "d"].iter().cycle() {
        world.stop_and_start(name);
        if since.elapsed() > outage {
            break;
        }
    }
    let answered = world.up(&[leader, other]);
    world.delete("b");
    world.add("g");
    took.insert("quorum back", world.is_true(answered));

    // Nobody at all. What it comes back with is another directory than the one that is known.
    world.down(&[0, 1, 2]);
    world.stop_and_start("c");
    world.stop_and_start("e");
    let answered = world.up(&[0, 1, 2]);
    world.delete("d");
    world.add("a");
    took.insert("all back", world.is_true(answered));
    // And its events arrive again.
    world.delete("a");
    took.insert("deleted after it", world.is_true(Instant::now()));

    let sent = load.stop();
    let history = load::check(&sent, world.instances.values().chain(&world.past));
    let in_flight = |failure: &load::Sent| {
        let (from, to) = (failure.at, failure.at + failure.took);
        let stopped = world.stops.iter().any(|(_, at)| *at + Duration::from_secs(2) > from && *at < to);
        failure.method == "POST" && failure.status == 502 && failure.answer == "upstream_reset" && stopped
    };
    println!(
        "{} requests, the longest {:?}; {} instances stopped, {} requests in flight on them lost; true after {took:?}",
        history.requests,
        history.longest,
        world.stops.len(),
        history.failures.len(),
    );
    assert!(history.failures.iter().all(in_flight), "{:?}", history.failures);
    assert!(history.failures.len() <= THREADS * world.stops.len(), "{:?}", history.failures);
    assert!(took.values().all(|took| *took < LIMIT), "{took:?}");
}

#[test]
fn leaders_that_die_one_after_the_other_cost_no_request() {
    let kills = if std::env::var("ZOOGATE_TEST_LONG").is_ok() { 20 } else { 2 };
    let mut world = World::start();
    let load = Load::start(world.gateway.listener("public"), THREADS, Duration::from_millis(8));
    let mut worst = Duration::ZERO;
    for kill in 0..kills {
        let leader = world.zk.leader();
        world.zk.servers[leader].kill();
        // Each kill finds other members than the one before; `c`, `d` and `e` always serve.
        let (goes, comes) = if kill % 2 == 0 { ("a", "f") } else { ("f", "a") };
        world.delete(goes);
        world.add(comes);
        worst = worst.max(world.is_true(Instant::now()));
        world.up(&[leader]);
    }
    let history = load::check(&load.stop(), world.instances.values().chain(&world.past));
    println!(
        "{} requests, {kills} leaders killed; true at the latest {worst:?} after the write",
        history.requests
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    assert!(worst < LIMIT, "{worst:?}");
    let drift = world.gateway.metric("zoogate_registry_drift_total{registry=\"main\"}");
    assert_eq!(drift, Some(0.0));
}
