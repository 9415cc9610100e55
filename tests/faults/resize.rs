//! More workers and fewer, by reloads, under load and with streams open.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use super::held::Held;
use crate::departures::Streaming;
use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::instance::Instance;
use crate::support::load::{Clients, Load, Sent, check};
use crate::support::process::descriptors;

fn config(registry: &Scratch, workers: usize) -> String {
    format!(
        "[gateway]\nworkers = {workers}\ndrain_timeout = \"10m\"\n[limits]\nidle_timeout = \"10m\"\n\
         [registries.local]\nkind = \"directory\"\npath = {:?}\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [services.stream]\npath = \"/stream\"\n[[routes]]\npath = \"/stream\"\nservice = \"stream\"\n\
         [services.orders]\npath = \"/orders\"\n[[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
        registry.path().join("services")
    )
}

/// Of a process: threads that are workers, descriptors that listen at this address, and those of runtimes.
fn parts(process: u32, address: SocketAddr) -> [usize; 3] {
    let each = |folder: &str| fs::read_dir(format!("/proc/{process}/{folder}")).unwrap().flatten();
    let names = each("task").filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let threads = names.filter(|name| name.starts_with("worker-")).count();
    let links = each("fd").filter_map(|fd| fs::read_link(fd.path()).ok());
    let links: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    // The state of who listens is 0A; the tenth column is the socket's number.
    let (table, port) = (fs::read_to_string("/proc/net/tcp").unwrap(), format!(":{:04X}", address.port()));
    let listening = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let ours = columns.get(1)?.ends_with(&port) && columns.get(3) == Some(&"0A");
        ours.then(|| format!("socket:[{}]", columns.get(9).unwrap_or(&"")))
    });
    let listening: Vec<_> = listening.collect();
    let sockets = links.iter().filter(|link| listening.contains(link)).count();
    let runtimes = links.iter().filter(|link| link.starts_with("anon_inode:")).count();
    [threads, sockets, runtimes]
}

fn more(instance: &Instance, count: usize) {
    let goal = instance.count() + count;
    wait_for("more answers", || (instance.count() >= goal).then_some(()));
}

/// Whether so many workers serve, each of them some connection.
fn all_serve(gateway: &Gateway, workers: usize) -> bool {
    let load = |worker| gateway.metric(&format!("zoogate_worker_connections{{worker=\"{worker}\"}}"));
    (0..workers).all(|worker| load(worker) > Some(0.0))
}

#[test]
fn workers_come_and_go_under_load_and_no_connection_is_refused_or_reset() {
    let registry = Scratch::new("resize-registry");
    let (streaming, instance) = (Streaming::start("first"), Instance::start("a"));
    registry.write("services/stream/s", &streaming.address.to_string());
    registry.write("services/orders/a", &instance.address.to_string());
    let mut gateway = Gateway::start("resize", &config(&registry, 1));
    gateway.instances("stream", &["s"]);
    gateway.instances("orders", &["a"]);
    let (address, process) = (gateway.listener("public"), gateway.pid());
    let at_first = parts(process, address);
    assert_eq!(at_first[0], 1, "{at_first:?}");
    let kept = Clients { name: "k", count: 2, pace: Duration::from_millis(2), posts: true, fresh: false };
    let loads = [kept, Clients { name: "f", fresh: true, ..kept }].map(|clients| Load::of(address, clients));
    more(&instance, 50);
    let before = descriptors(process);

    gateway.reload(&config(&registry, 4));
    wait_for("four workers", || (parts(process, address)[0] == 4).then_some(()));
    // Endless answers, WebSockets, streams of HTTP/2: more than enough to have some on each.
    let mut held = Held::open(address, "/stream", 8);
    wait_for("everybody's service", || all_serve(&gateway, 4).then_some(()));
    for workers in [2, 1] {
        more(&instance, 50);
        gateway.reload(&config(&registry, workers));
        let said = format!("now={workers}");
        gateway.log.find("the news", |line| {
            (line.contains("another number of workers") && line.contains(&said)).then_some(())
        });
    }
    more(&instance, 50);
    assert!(parts(process, address)[0] > 1, "who leaves has streams to finish");
    streaming.say();
    held.hear();
    let sent: Vec<Sent> = loads.into_iter().flat_map(Load::stop).collect();
    let history = check(&sent, [&instance]);
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    streaming.finish();
    let streams = held.count();
    held.end();
    let now = wait_for("what there was at first", || {
        let now = parts(process, address);
        (now == at_first && descriptors(process) <= before + 8).then_some(now)
    });
    println!("{} requests, {streams} streams; {now:?} workers, sockets, runtimes", history.requests);
    let gone = r#"zoogate_worker_connections{worker="3"}"#;
    wait_for("nothing told of who left", || gateway.metric(gone).is_none().then_some(()));

    // And again, as if nothing had been.
    gateway.reload(&config(&registry, 2));
    wait_for("two workers", || (parts(process, address)[0] == 2).then_some(()));
    assert_eq!(gateway.get("/").status, 200);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}
