//! A registration that comes and goes twenty times a second: the others notice nothing, what is known of them stays, and
//! the table is rebuilt no more often than something changes.

use std::time::{Duration, Instant};

use zookeeper_client::CreateOptions;

use super::long;
use crate::support::background::Background;
use crate::support::gateway::Gateway;
use crate::support::instance::Instance;
use crate::support::load::{Load, Witness, check};
use crate::support::process::memory;
use crate::support::zk::{self, EPHEMERAL, OPEN, free_port};

/// Deleted and created again so often in a second.
const FLAPS: u32 = 20;

#[test]
fn a_registration_that_flaps_disturbs_nobody_and_what_is_known_of_the_others_stays() {
    let lasts = Duration::from_secs(if long() { 300 } else { 10 });
    let background = Background::start();
    let connect = background.block_on(zk::chroot("flapping"));
    let session = background.block_on(zk::lasting_client(&connect));
    let put = |path: &str, data: &str, create: &CreateOptions<'static>| {
        background.block_on(session.create(path, data.as_bytes(), create)).unwrap();
    };
    put("/orders", "", &OPEN);
    put("/quiet", "", &OPEN);
    let instances = ["flaps", "rewritten", "well"].map(Instance::start);
    for instance in &instances {
        put(&format!("/orders/{}", instance.name), &instance.address.to_string(), &EPHEMERAL);
    }
    put("/orders/dead", &format!("127.0.0.1:{}", free_port()), &EPHEMERAL);
    put("/quiet/well", &instances[2].address.to_string(), &EPHEMERAL);
    let gateway = Gateway::start(
        "flapping",
        &format!(
            "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
             [services.orders]\npath = \"/orders\"\n[services.quiet]\npath = \"/quiet\"\n\
             [[routes]]\nservice = \"orders\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
        ),
    );
    let names = ["dead", "flaps", "rewritten", "well"];
    gateway.instances("orders", &names);
    gateway.instances("quiet", &["well"]);
    let load = Load::start(gateway.listener("public"), 4, Duration::from_millis(15));
    gateway.state("orders", "dead", "ejected");
    let ejected_since = || {
        let view = gateway.json("/api/services/orders");
        let dead = view["instances"].as_array().unwrap().iter().find(|i| i["id"] == "dead").unwrap().clone();
        (dead["health"]["since_ms"].as_u64().expect("it is ejected"), dead["health"]["failed_probes"].clone())
    };
    let (since, _) = ejected_since();
    let quiet = || gateway.json("/api/services/quiet")["revision"].as_u64().unwrap();
    let generation = || gateway.metric("zoogate_table_generation").unwrap() as u64;
    let (revision, first, resident) = (quiet(), generation(), memory(gateway.pid()));

    let (path, data) = ("/orders/flaps", instances[0].address.to_string());
    let rewritten = instances[1].address.to_string();
    let began = Instant::now();
    let mut flaps = 0;
    while began.elapsed() < lasts {
        background.block_on(async {
            session.delete(path, None).await.unwrap();
            // The same again: an event, and no change.
            session.set_data("/orders/rewritten", rewritten.as_bytes(), None).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1) / FLAPS / 2).await;
            session.create(path, data.as_bytes(), &EPHEMERAL).await.unwrap();
        });
        flaps += 1;
        // A pace, not a wait.
        std::thread::sleep((Duration::from_secs(1) / FLAPS * flaps).saturating_sub(began.elapsed()));
    }
    let took = began.elapsed().as_secs_f64();
    gateway.instances("orders", &names);
    let history = check(&load.stop(), &instances);
    let published = generation() - first;
    println!(
        "{flaps} flaps, {:.1} a second; {published} tables published; {} requests, the longest {:?}, {} failed; memory \
         {resident} to {} KiB",
        f64::from(flaps) / took,
        history.requests,
        history.longest,
        history.failures.len(),
        memory(gateway.pid()),
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    let (still, probes) = ejected_since();
    // Told by the wall clock, to some milliseconds; another ejection would be seconds later.
    assert!(
        still.abs_diff(since) < 500,
        "{since} to {still}: one that is registered all the time is ejected once"
    );
    assert!(probes.as_u64() > Some(1), "{probes} probes");
    for instance in &instances[1..] {
        let name = &instance.name;
        let series = format!(
            "zoogate_upstream_requests_total{{instance=\"{name}\",outcome=\"ok\",service=\"orders\"}}"
        );
        assert_eq!(
            gateway.metric(&series),
            Some(instance.requests().len() as f64),
            "its counts are of one life: {name}"
        );
    }
    assert_eq!(quiet(), revision, "a service of which nothing changed");
    // It goes, what it still had to answer ends, and it comes.
    assert!(published <= 3 * u64::from(flaps) + 5, "{published} tables for {flaps} flaps");
    assert!(published > 0, "nothing was seen to flap");
    assert!(memory(gateway.pid()) < resident + 32 * 1024);
}
