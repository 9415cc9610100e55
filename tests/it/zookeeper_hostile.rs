//! Servers that are no ZooKeeper, or not any more: nothing that they say costs a table, a panic or the memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, wait_for};
use crate::support::hostile::{Hostile, Mode};
use crate::support::http;
use crate::support::instance::Instance;
use crate::support::zk::{self, OPEN};

/// So many registries meet them at a time, each with a server that lies and one that is out of reach meanwhile.
const REGISTRIES: usize = 8;
const SEEDS: u64 = 300;
const MIB: f64 = 1048576.0;

struct World {
    gateway: Gateway,
    liars: Vec<Hostile>,
    good: Vec<Hostile>,
    seeds: Arc<AtomicU64>,
}

impl World {
    /// Every service has its whole list, and what it lists is what there is.
    fn is_current(&self, ids: &[&str]) {
        for n in 0..REGISTRIES {
            wait_for(&format!("s{n} = {ids:?}"), || {
                let view = self.gateway.json(&format!("/api/services/s{n}"));
                let found: Vec<_> =
                    view["instances"].as_array()?.iter().filter_map(|i| i["id"].as_str()).collect();
                (view["stale"] == false && found == ids).then_some(())
            });
        }
    }

    fn all(&self, liars: Mode, good: Mode) {
        // First whoever is to be left.
        self.good.iter().for_each(|server| server.set(good));
        self.liars.iter().for_each(|server| server.set(liars));
    }

    /// Until so many connections have met a server that lies.
    fn meet(&self, count: u64, mut meanwhile: impl FnMut()) {
        let (begun, until) = (Instant::now(), self.seeds.load(Ordering::SeqCst) + count);
        while self.seeds.load(Ordering::SeqCst) < until {
            let met = count - (until - self.seeds.load(Ordering::SeqCst));
            assert!(begun.elapsed() < Duration::from_secs(300), "{met} in {:?}", begun.elapsed());
            meanwhile();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_sound(&self) {
        let panicked = self.gateway.log.all().into_iter().find(|line| line.contains("panic"));
        assert_eq!(panicked, None);
        assert_eq!(self.gateway.metric("zoogate_panics_total"), Some(0.0));
    }
}

#[tokio::test]
async fn no_lie_of_a_server_costs_a_table_a_panic_or_the_memory() {
    let first = std::env::var("SEED").map_or(0, |seed| seed.parse().expect("SEED is a number"));
    let seeds = Arc::new(AtomicU64::new(first));
    let connect = zk::chroot("hostile").await;
    let client = zk::client(&connect).await;
    let instance = Instance::start("a");
    client.create("/orders", b"", &OPEN).await.unwrap();
    client.create("/orders/a", instance.address.to_string().as_bytes(), &OPEN).await.unwrap();
    let target = zk::shared().server.address();
    let (mut liars, mut good) = (Vec::new(), Vec::new());
    let mut config = String::from(
        "[gateway]\nworkers = 1\naccess_log = \"off\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n",
    );
    for n in 0..REGISTRIES {
        liars.push(Hostile::start(&target, Mode::Honest, Arc::clone(&seeds)).await);
        good.push(Hostile::start(&target, Mode::Honest, Arc::clone(&seeds)).await);
        let (liar, good) = (&liars[n].address, &good[n].address);
        config += &format!(
            "[registries.r{n}]\nkind = \"zookeeper\"\nconnect = \"{liar},{good}/hostile\"\nsession_timeout = \"4s\"\n\
             [services.s{n}]\nregistry = \"r{n}\"\npath = \"/orders\"\n\
             [[routes]]\npath = \"/s{n}/*\"\nservice = \"s{n}\"\n"
        );
    }
    let world = tokio::task::spawn_blocking(move || {
        let gateway = Gateway::start("zookeeper-hostile", &config);
        gateway.may_drift();
        gateway.ready();
        World { gateway, liars, good, seeds }
    });
    let world = world.await.unwrap();
    let world = tokio::task::spawn_blocking(move || {
        world.is_current(&["a"]);
        let resident = || world.gateway.metric("process_resident_memory_bytes").unwrap() / MIB;
        let (before, mut most) = (resident(), 0.0_f64);
        let public = world.gateway.listener("public");
        world.all(Mode::Lies, Mode::Refuses);
        let mut turn = 0;
        world.meet(SEEDS, || {
            turn += 1;
            let n = turn % REGISTRIES;
            let answer = http::get(public, &format!("/s{n}/x"));
            assert_eq!((answer.status, &*answer.body), (200, "a"), "the last table serves");
            most = most.max(resident());
        });
        let told: usize = world.liars.iter().map(Hostile::told).sum();
        eprintln!("{told} lies, {before:.0} MiB before and {most:.0} at the most");
        assert!(told as u64 > SEEDS / 2, "{told} lies");
        assert!(most < before + 128.0, "from {before} to {most} MiB");
        world.is_sound();
        // The liars go on; the other server of each is back.
        world.all(Mode::Lies, Mode::Honest);
        world
    });
    let world = world.await.unwrap();
    client.create("/orders/b", instance.address.to_string().as_bytes(), &OPEN).await.unwrap();
    let world = tokio::task::spawn_blocking(move || {
        world.is_current(&["a", "b"]);
        // Where any bit may be wrong, some of it is believed: but not for longer than it is said.
        world.all(Mode::Scrambles, Mode::Refuses);
        world.meet(SEEDS / 3, || {});
        world.is_sound();
        world.all(Mode::Refuses, Mode::Honest);
        world.is_current(&["a", "b"]);
        world.is_sound();
        world
    });
    drop(world.await.unwrap());
}
