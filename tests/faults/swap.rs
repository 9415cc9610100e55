//! One process after another on the same sockets.

use std::net::{SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use super::held::Held;
use crate::departures::Streaming;
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::instance::Instance;
use crate::support::load::{Clients, Load, Sent, check};

/// Two workers in front of a directory registry in `folder`.
fn config(folder: &Scratch, workers: usize) -> String {
    let folder = folder.path().display();
    format!(
        "[gateway]\nworkers = {workers}\nhandover = \"{folder}/door\"\ndrain_timeout = \"10m\"\n\
         [limits]\nidle_timeout = \"10m\"\n\
         [registries.local]\nkind = \"directory\"\npath = \"{folder}/services\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [services.stream]\npath = \"/stream\"\n[[routes]]\npath = \"/stream\"\nservice = \"stream\"\n\
         [services.orders]\npath = \"/orders\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    )
}

/// Clients that keep their connections, and clients that make one for each request; both without much of a pause.
struct Loads([Load; 2]);

impl Loads {
    fn start(gateway: SocketAddr) -> Self {
        let kept = Clients { name: "k", count: 2, pace: Duration::from_millis(2), posts: true, fresh: false };
        Self([kept, Clients { name: "f", fresh: true, ..kept }].map(|clients| Load::of(gateway, clients)))
    }

    /// Every request was answered: none refused, none reset. Returns how many there were.
    fn all_answered(self, instance: &Instance) -> usize {
        let sent: Vec<Sent> = self.0.into_iter().flat_map(Load::stop).collect();
        let history = check(&sent, [instance]);
        assert!(history.failures.is_empty(), "{:?}", history.failures);
        history.requests
    }
}

/// Waits until an instance has served so many more.
fn more(instance: &Instance, count: usize) {
    let goal = instance.count() + count;
    wait_for("more answers", || (instance.count() >= goal).then_some(()));
}

#[test]
fn a_successor_takes_over_under_load_and_no_connection_is_refused_or_reset() {
    let folder = Scratch::new("handover");
    let instance = Instance::start("a");
    folder.write("services/orders/a", &instance.address.to_string());
    let mut old = Gateway::start("handover-1", &config(&folder, 2));
    old.instances("orders", &["a"]);
    let (address, admin) = (old.listener("public"), old.admin);
    let loads = Loads::start(address);
    more(&instance, 50);
    // More workers, fewer, and as many as before.
    for (round, workers) in [3, 1, 2].into_iter().enumerate() {
        let new = Gateway::start(&format!("handover-{}", round + 2), &config(&folder, workers));
        assert_eq!((new.listener("public"), new.admin), (address, admin), "the very same sockets");
        new.log.find("the take-over", |line| line.contains("taken over").then_some(()));
        more(&instance, 50);
        assert!(old.wait().success(), "the old one drained");
        old = new;
        more(&instance, 50);
        assert_eq!(old.admin("/readyz").status, 200);
    }
    assert!(loads.all_answered(&instance) >= 350);
}

#[test]
fn a_place_for_successors_that_a_reload_brings_or_moves_lets_them_in() {
    let folder = Scratch::new("handover-reload");
    let door = |name: &str| config(&folder, 1).replace("/door", &format!("/{name}"));
    let without: String =
        door("x").lines().filter(|line| !line.starts_with("handover")).map(|l| format!("{l}\n")).collect();
    let mut old = Gateway::start("handover-reload-old", &without);
    for (reloads, place) in ["first", "second"].into_iter().enumerate() {
        old.reload(&door(place));
        let done = "zoogate_config_reloads_total{result=\"ok\"}";
        wait_for("the reload", || (old.metric(done) == Some(reloads as f64 + 1.0)).then_some(()));
    }
    let public = old.listener("public");
    let new = Gateway::start("handover-reload-new", &door("second"));
    assert_eq!(new.listener("public"), public);
    assert!(old.wait().success(), "it was relieved");
}

#[test]
fn five_hundred_streams_and_a_load_on_new_and_kept_connections_outlive_a_swap() {
    let folder = Scratch::new("handover-streams");
    let (streaming, instance) = (Streaming::start("first"), Instance::start("a"));
    folder.write("services/stream/s", &streaming.address.to_string());
    folder.write("services/orders/a", &instance.address.to_string());
    let mut old = Gateway::start("handover-streams-1", &config(&folder, 2));
    old.instances("stream", &["s"]);
    old.instances("orders", &["a"]);
    let public = old.listener("public");
    // Of each kind: endless answers, WebSockets, streams of HTTP/2.
    let mut held = Held::open(public, "/stream", 167);
    let loads = Loads::start(public);
    more(&instance, 50);
    let new = Gateway::start("handover-streams-2", &config(&folder, 2));
    new.log.find("the take-over", |line| line.contains("taken over").then_some(()));
    more(&instance, 200);
    streaming.say();
    held.hear();
    let requests = loads.all_answered(&instance);
    assert!(old.ended().is_none(), "it has streams to finish");
    streaming.finish();
    let streams = held.count();
    held.end();
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(new.get("/").status, 200);
    println!("{streams} streams and {requests} requests: none refused, none reset");
}

/// A successor that waits for an ensemble that nobody runs.
struct NeverReady(Child);

impl NeverReady {
    fn start(old: &Gateway, folder: &Scratch) -> Self {
        let waiting = config(folder, 1)
            .replace(
                "[[listeners]]",
                "[registries.main]\nkind = \"zookeeper\"\nconnect = \"127.0.0.1:1\"\n\
                 [services.users]\nregistry = \"main\"\npath = \"/users\"\n[[listeners]]",
            )
            .replace("[services.orders]\n", "[services.orders]\nregistry = \"local\"\n")
            .replace("[services.stream]\n", "[services.stream]\nregistry = \"local\"\n");
        let file = folder.write("successor.toml", &format!("[admin]\nlisten = \"127.0.0.1:0\"\n{waiting}"));
        let child = binary().args(["run", "--config"]).arg(file).spawn().unwrap();
        old.log.find("the request", |line| line.contains("a successor asks").then_some(()));
        Self(child)
    }
}

impl Drop for NeverReady {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_successor_that_does_not_get_ready_changes_nothing() {
    let folder = Scratch::new("handover-dies");
    let instance = Instance::start("a");
    folder.write("services/orders/a", &instance.address.to_string());
    let old = Gateway::start("handover-old", &config(&folder, 1));
    old.instances("orders", &["a"]);
    let successor = NeverReady::start(&old, &folder);
    for _ in 0..20 {
        assert_eq!(old.get("/").status, 200, "the old one serves meanwhile");
    }
    assert_eq!(old.admin("/readyz").status, 200);
    drop(successor);
    old.log.find("the end of it", |line| line.contains("gave up").then_some(()));
    assert_eq!((old.get("/").status, old.admin("/readyz").status), (200, 200));
}

#[test]
fn a_stop_while_a_successor_gets_ready_leaves_it_sockets_that_take_connections() {
    let folder = Scratch::new("handover-stopped");
    let mut old = Gateway::start("handover-stopped-old", &config(&folder, 1));
    let public = old.listener("public");
    let _successor = NeverReady::start(&old, &folder);
    let asked = Instant::now();
    old.signal("TERM");
    assert!(old.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(30), "it does not wait for the successor");
    TcpStream::connect_timeout(&public, Duration::from_secs(20)).expect("a place in the successor's queue");
}
