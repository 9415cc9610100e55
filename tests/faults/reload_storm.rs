//! Reloads by the hundred, by signal and by request in turn, under load and beside a registry that flaps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::held::Held;
use super::long;
use crate::departures::Streaming;
use crate::support::background::Background;
use crate::support::gateway::{Gateway, wait_for};
use crate::support::http::Client;
use crate::support::instance::Instance;
use crate::support::load::{Clients, Load, check};
use crate::support::process::{descriptors, memory};
use crate::support::zk::{self, EPHEMERAL, OPEN};

/// Events of the registry in a second.
const EVENTS: u32 = 100;

/// The configuration of a round: what can change does.
fn config(connect: &str, round: usize) -> String {
    let more = "[[listeners]]\nname = \"more\"\nlisten = \"127.0.0.1:0\"\ntrusted = [\"127.0.0.1\"]\n\
                [services.more]\nregistry = \"local\"\npath = \"/more\"\n\
                [[routes]]\npath = \"/more/*\"\nservice = \"more\"\n\
                [registries.other]\nkind = \"directory\"\npath = \"other\"\n\
                [services.other]\nregistry = \"other\"\npath = \"/x\"\n";
    let more = if round % 2 == 1 { more } else { "" };
    let policy = ["round_robin", "least_request", "random"][round % 3];
    format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[gateway]\nworkers = 1\n[limits]\nidle_timeout = \"10m\"\nmax_headers = {}\n\
         [registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [registries.local]\nkind = \"directory\"\npath = \"services\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n{more}\
         [services.orders]\nregistry = \"main\"\npath = \"/orders\"\nbalance = \"{policy}\"\n\
         [services.stream]\nregistry = \"local\"\npath = \"/stream\"\n\
         [[routes]]\npath = \"/stream\"\nservice = \"stream\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
        100 + round % 7
    )
}

/// Reloads in turn by POST and by SIGHUP; returns when it is in force.
fn reload(gateway: &Gateway, connect: &str, round: usize) {
    std::fs::write(&gateway.config, config(connect, round)).unwrap();
    if round.is_multiple_of(2) {
        let headers = [("x-zoogate-admin", "1")];
        let told =
            Client::connect(gateway.admin).unwrap().request("POST", "/api/reload", &headers, b"").unwrap();
        assert_eq!(told.status, 200, "{round}: {}", told.body);
    } else {
        let done = || gateway.metric("zoogate_config_reloads_total{result=\"ok\"}").unwrap_or(0.0);
        let before = done();
        gateway.signal("HUP");
        wait_for("the reload", || (done() > before).then_some(()));
    }
}

#[test]
fn a_storm_of_reloads_loses_nothing_and_leaves_nothing_behind() {
    let rounds = if long() { 1000 } else { 150 };
    let background = Background::start();
    let connect = background.block_on(zk::chroot("storm"));
    let session = background.block_on(zk::lasting_client(&connect));
    background.block_on(session.create("/orders", b"", &OPEN)).unwrap();
    let instances = ["a", "b", "flaps"].map(Instance::start);
    for instance in &instances {
        let (path, data) = (format!("/orders/{}", instance.name), instance.address.to_string());
        background.block_on(session.create(&path, data.as_bytes(), &EPHEMERAL)).unwrap();
    }
    let streaming = Streaming::start("stream");
    let start = config(&connect, 0).replace("[admin]\nlisten = \"127.0.0.1:0\"\n", "");
    let gateway = Gateway::start("storm", &start);
    gateway.register("stream/s", streaming.address);
    gateway.instances("orders", &["a", "b", "flaps"]);
    gateway.instances("stream", &["s"]);
    let public = gateway.listener("public");
    let mut held = Held::open(public, "/stream", 5);
    // What is made once is there before it is counted.
    for round in 0..20 {
        reload(&gateway, &connect, round);
    }
    reload(&gateway, &connect, 0);
    let count = || descriptors(gateway.pid());
    let (before, memory_before) = (count(), memory(gateway.pid()));

    let kept = Clients { name: "k", count: 2, pace: Duration::from_millis(10), posts: true, fresh: false };
    let loads = [kept, Clients { name: "f", count: 1, fresh: true, ..kept }].map(|c| Load::of(public, c));
    let stop = Arc::new(AtomicBool::new(false));
    let mut beside = held.beside();
    let stopped = Arc::clone(&stop);
    let over_h2 = std::thread::spawn(move || {
        let ask = |number| {
            std::thread::sleep(Duration::from_millis(10));
            beside.get(&format!("h{number}"))
        };
        (0..).take_while(|_| !stopped.load(Ordering::Relaxed)).map(ask).collect::<Vec<_>>()
    });
    let stopped = Arc::clone(&stop);
    let data = instances[2].address.to_string();
    let flapping = std::thread::spawn(move || {
        let (began, mut events) = (Instant::now(), 0_u32);
        // The last is a creation.
        while !stopped.load(Ordering::Relaxed) || !events.is_multiple_of(2) {
            background.block_on(async {
                if events.is_multiple_of(2) {
                    session.delete("/orders/flaps", None).await.unwrap();
                } else {
                    session.create("/orders/flaps", data.as_bytes(), &EPHEMERAL).await.unwrap();
                }
            });
            events += 1;
            // A pace, not a wait.
            std::thread::sleep((Duration::from_secs(1) / EVENTS * events).saturating_sub(began.elapsed()));
        }
        // With the session, which holds the registrations.
        (events, began.elapsed(), background, session)
    });
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let asked = Instant::now();
        reload(&gateway, &connect, round);
        slowest = slowest.max(asked.elapsed());
        if round % 25 == 24 {
            streaming.say();
            held.hear();
            println!("{} reloads after {:?}", round + 1, began.elapsed());
        }
    }
    let took = began.elapsed();
    reload(&gateway, &connect, 0);
    stop.store(true, Ordering::Relaxed);
    let (events, flapped, _background, _session) = flapping.join().unwrap();
    let mut sent = over_h2.join().unwrap();
    sent.extend(loads.into_iter().flat_map(Load::stop));
    let history = check(&sent, &instances);
    streaming.say();
    held.hear();
    gateway.instances("orders", &["a", "b", "flaps"]);
    // Some connections to instances wait for another request.
    let open = wait_for("the descriptors of before", || Some(count()).filter(|open| *open <= before + 8));
    let memory_after = memory(gateway.pid());
    streaming.finish();
    held.end();
    println!(
        "{rounds} reloads in {took:?}, the slowest {slowest:?}, {} requests, the longest {:?}, {} failed; {:.0} events a second; descriptors \
         {before} to {open}, memory {memory_before} to {memory_after} KiB",
        history.requests,
        history.longest,
        history.failures.len(),
        f64::from(events) / flapped.as_secs_f64(),
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    assert!(memory_after < memory_before + 32 * 1024, "{memory_before} KiB became {memory_after}");
    assert_eq!(gateway.metric("zoogate_config_reloads_total{result=\"refused\"}"), None);
}
