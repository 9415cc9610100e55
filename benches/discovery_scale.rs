//! Very many services: from start to ready, memory, watches, what one removal costs then, and whether the admin
//! stays usable.
//!
//! `cargo bench --bench discovery-scale`, with `SERVICES` (10000), `EACH` (10), `REMOVALS` (200), `IDLE` (35 s, so
//! that every audit falls into it). Once with one catalog, once with every service configured by itself.
#![allow(missing_docs, dead_code, unreachable_pub, missing_debug_implementations)]
#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a measurement fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write;
use std::time::{Duration, Instant};

use support::gateway::{Gateway, wait_for};
use support::http;
use support::instance::Instance;
use support::zk::{self, OPEN, Standalone};
use tokio::task::JoinSet;
use zookeeper_client::Client;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

fn main() {
    let (services, each) = (number("SERVICES", 10_000), number("EACH", 10));
    let zk = Standalone::start();
    let connect = zk.server.address();
    // Driven by a thread of its own, so that our session is kept alive while we measure.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let runtime = handle;
    let start = Instant::now();
    let client = runtime.block_on(fill(&connect, services, each));
    println!("{services} services of {each} instances each, written in {:?}", start.elapsed());

    let head = format!(
        "[gateway]\naccess_log = \"off\"\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
    );
    let catalog = format!(
        "{head}[catalogs.apps]\npath = \"/services\"\nformat = \"plain\"\n\
         [[routes]]\npath = \"/{{s}}/*\"\nservice = \"apps/{{s}}\"\n"
    );
    println!("-- one catalog");
    measure(&zk, &runtime, &client, &catalog, "apps/", services);

    let mut configured = head;
    for service in 0..services {
        write!(configured, "[services.s{service}]\npath = \"/services/s{service}\"\nformat = \"plain\"\n")
            .unwrap();
        write!(configured, "[[routes]]\npath = \"/s{service}/*\"\nservice = \"s{service}\"\n").unwrap();
    }
    println!("-- every service configured");
    measure(&zk, &runtime, &client, &configured, "", services);
}

/// Writes `/services/sN/nM`.
async fn fill(connect: &str, services: usize, each: usize) -> Client {
    let client = zk::client(connect).await;
    client.create("/services", b"", &OPEN).await.unwrap();
    let mut jobs = JoinSet::new();
    for service in 0..services {
        let client = client.clone();
        jobs.spawn(async move {
            client.create(&format!("/services/s{service}"), b"", &OPEN).await.unwrap();
            for node in 0..each {
                let address =
                    format!("127.{}.{}.{}:1", 1 + (service >> 8 & 127), service & 255, 1 + node % 250);
                let path = format!("/services/s{service}/n{node}");
                client.create(&path, address.as_bytes(), &OPEN).await.unwrap();
            }
        });
        if jobs.len() >= 64 {
            jobs.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = jobs.join_next().await {
        done.unwrap();
    }
    client
}

fn measure(
    zk: &Standalone,
    runtime: &tokio::runtime::Handle,
    client: &Client,
    config: &str,
    prefix: &str,
    services: usize,
) {
    let start = Instant::now();
    let gateway = Gateway::start("scale", config);
    println!("start to admin     {:?}", start.elapsed());
    // Asked less often than a test would: the answer names ten thousand services.
    while gateway.admin("/readyz").status != 200 {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("start to ready     {:?}", start.elapsed());
    println!("memory             {}", memory(gateway.pid()));
    println!("cpu so far         {:?}: {}", cpu(gateway.pid()), threads(gateway.pid()));
    let mntr = zk.server.ask("mntr").unwrap();
    for line in mntr.lines().filter(|l| l.starts_with("zk_watch_count") || l.starts_with("zk_num_alive")) {
        println!("server             {line}");
    }
    for path in ["/metrics", "/metrics", "/api/services", "/readyz"] {
        let start = Instant::now();
        let answer = gateway.admin(path);
        println!("{path:<18} {} in {:?}, {} bytes", answer.status, start.elapsed(), answer.body.len());
    }

    let listener = gateway.listener("public");
    let instance = Instance::start("real");
    let mut shown = Vec::new();
    let mut served = Vec::new();
    let before = published(&gateway);
    let removals = number("REMOVALS", 200);
    for round in 0..removals {
        // Only one instance of the service answers: whether it is routed to is whether requests succeed.
        let service = (round * 7919) % services;
        let (name, path) = (format!("{prefix}s{service}"), format!("/services/s{service}/real"));
        let data = instance.address.to_string();
        runtime.block_on(client.create(&path, data.as_bytes(), &OPEN)).unwrap();
        let has = || gateway.admin(&format!("/api/services/{name}")).body.contains(&data);
        wait_for("it to come", || has().then_some(()));
        let deleted = Instant::now();
        runtime.block_on(client.delete(&path, None)).unwrap();
        wait_for("it to go", || (!has()).then_some(()));
        shown.push(deleted.elapsed());
        let count = instance.count();
        let asked = Instant::now();
        let answer = http::get(listener, &format!("/s{service}/"));
        served.push(asked.elapsed());
        assert_eq!((instance.count(), answer.status == 200), (count, false), "{answer:?}");
    }
    tell("delete to not shown", shown);
    let after = published(&gateway);
    for ((le, after), (_, before)) in after.iter().zip(&before) {
        let share = 100.0 * (after - before) / (2 * removals) as f64;
        if share > 0.0 {
            println!("event to published <= {le:>8} s  {share:6.2} %");
        }
    }
    let idle = Duration::from_secs(number("IDLE", 35) as u64);
    let (ours, theirs) = (cpu(gateway.pid()), zk_packets(zk));
    std::thread::sleep(idle);
    println!(
        "idle for {idle:?}: {:?} of cpu, {} packets to the server",
        cpu(gateway.pid()) - ours,
        zk_packets(zk) - theirs
    );
    println!("memory             {}", memory(gateway.pid()));
    let start = Instant::now();
    gateway.reload(&format!("{config}[limits]\nmax_headers = 99\n"));
    gateway.log.find("the reload", |l| l.contains("reload").then_some(()));
    println!("reload             {:?}", start.elapsed());
}

fn tell(what: &str, mut values: Vec<Duration>) {
    values.sort();
    let at = |q: f64| values[((values.len() as f64 * q) as usize).min(values.len() - 1)];
    println!("{what}: p50 {:?}  p90 {:?}  p99 {:?}  max {:?}", at(0.5), at(0.9), at(0.99), at(1.0));
}

fn published(gateway: &Gateway) -> Vec<(String, f64)> {
    let text = gateway.admin("/metrics").body;
    text.lines()
        .filter_map(|l| l.strip_prefix("zoogate_membership_publish_seconds_bucket{le=\""))
        .map(|l| {
            let (le, count) = l.split_once("\"} ").unwrap();
            (le.to_owned(), count.parse().unwrap())
        })
        .collect()
}

fn memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    format!("{} now, {} at the most", of("VmRSS:"), of("VmHWM:"))
}

/// User and system time so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Which threads used it.
fn threads(pid: u32) -> String {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        let name = name.split('(').nth(1).unwrap_or_default();
        threads.push((ticks * 10, format!("{name} {} ms", ticks * 10)));
    }
    threads.sort_by_key(|(ticks, _)| std::cmp::Reverse(*ticks));
    threads.into_iter().take(4).map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

fn zk_packets(zk: &Standalone) -> u64 {
    let mntr = zk.server.ask("mntr").unwrap();
    let line = mntr.lines().find_map(|l| l.strip_prefix("zk_packets_received")).unwrap();
    line.trim().parse::<f64>().unwrap() as u64
}
