//! Reloads by the hundred, under load and beside a registry that flaps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::departures::{Endless, Streaming};
use crate::support::gateway::{Gateway, LOCAL, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;
use crate::support::load::Load;

/// The configuration of a round: what can change does.
fn config(round: usize) -> String {
    let mut text = LOCAL.to_owned();
    if round % 2 == 1 {
        text += "[[listeners]]\nname = \"more\"\nlisten = \"127.0.0.1:0\"\ntrusted = [\"127.0.0.1\"]\n";
        text += "[services.more]\npath = \"/more\"\n[[routes]]\npath = \"/more/*\"\nservice = \"more\"\n";
        text += "[registries.other]\nkind = \"directory\"\npath = \"other\"\n[services.other]\nregistry = \"other\"\npath = \"/x\"\n";
    }
    let policy = ["round_robin", "least_request", "random"][round % 3];
    text += &format!("[limits]\nmax_headers = {}\n", 100 + round % 7);
    text += &format!(
        "[services.flap]\npath = \"/flap\"\n[services.stream]\npath = \"/stream\"\n\
         [services.orders]\npath = \"/orders\"\nbalance = \"{policy}\"\n\
         [[routes]]\npath = \"/stream\"\nservice = \"stream\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    );
    // Two registries: each service says which.
    text.replace("path = \"/flap\"", "registry = \"local\"\npath = \"/flap\"")
        .replace(
            "path = \"/stream\"\n[services.orders]",
            "registry = \"local\"\npath = \"/stream\"\n[services.orders]",
        )
        .replace("path = \"/orders\"", "registry = \"local\"\npath = \"/orders\"")
        .replace("[services.more]\n", "[services.more]\nregistry = \"local\"\n")
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Resident memory in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn reload(gateway: &Gateway, round: usize) {
    std::fs::write(&gateway.config, format!("[admin]\nlisten = \"127.0.0.1:0\"\n{}", config(round))).unwrap();
    let headers = [("x-zoogate-admin", "1")];
    let told = Client::connect(gateway.admin).unwrap().request("POST", "/api/reload", &headers, b"").unwrap();
    assert_eq!(told.status, 200, "{round}: {}", told.body);
}

#[test]
fn a_storm_of_reloads_loses_nothing_and_leaves_nothing_behind() {
    let rounds = if std::env::var_os("ZOOGATE_TEST_LONG").is_some() { 1000 } else { 120 };
    let gateway = Arc::new(Gateway::start("storm", &config(0)));
    let instances = [Instance::start("a"), Instance::start("b")];
    let streaming = Streaming::start("stream");
    gateway.register("orders/a", instances[0].address);
    gateway.register("orders/b", instances[1].address);
    gateway.register("stream/s", streaming.address);
    gateway.instances("orders", &["a", "b"]);
    gateway.instances("stream", &["s"]);
    let public = gateway.listener("public");
    let mut endless = Endless::open_at(public, "/stream", "h1").0;
    // What is made once is there before it is counted.
    for round in 0..20 {
        reload(&gateway, round);
    }
    reload(&gateway, 0);
    let count = || descriptors(gateway.pid());
    let (before, memory_before) = (count(), memory(gateway.pid()));

    let load = Load::start(public, 2, Duration::from_millis(5));
    let stop = Arc::new(AtomicBool::new(false));
    let until = |mut each: Box<dyn FnMut(usize) + Send>| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || (0..).take_while(|_| !stop.load(Ordering::Relaxed)).map(&mut each).count())
    };
    let fresh = until(Box::new(move |_| {
        assert_eq!(http::get_with(public, "/fresh", &[("x-id", "fresh")]).status, 200)
    }));
    let flapping = Arc::clone(&gateway);
    let flaps = until(Box::new(move |turn| {
        // About a hundred a second: a pace, not a wait.
        std::thread::sleep(Duration::from_millis(10));
        if turn % 2 == 0 {
            flapping.register("flap/x", "10.0.0.1:80");
        } else {
            flapping.withdraw("flap/x");
        }
    }));
    for round in 0..rounds {
        reload(&gateway, round);
    }
    reload(&gateway, 0);
    stop.store(true, Ordering::Relaxed);
    let (fresh, flaps) = (fresh.join().expect("a new connection was lost"), flaps.join().unwrap());
    let sent = load.stop();
    streaming.say();
    assert_eq!(endless.next().as_deref(), Some("more"), "an open stream outlives them all");
    let failed: Vec<_> = sent.iter().filter(|sent| sent.status != 200).collect();
    assert!(failed.is_empty(), "{failed:?}");
    wait_for("the descriptors of before", || (count() <= before + 1).then_some(()));
    let memory_after = memory(gateway.pid());
    println!(
        "{rounds} reloads, {} requests, {fresh} connections, {flaps} events; descriptors {before} to {}, \
         memory {memory_before} to {memory_after} KiB",
        sent.len(),
        count()
    );
    assert!(memory_after < memory_before + 32 * 1024, "{memory_before} KiB became {memory_after}");
    assert_eq!(gateway.metric("zoogate_config_reloads_total{result=\"refused\"}"), None);
}
