//! Elections and catalogs of patterns in a real ensemble.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use zoogate::model::{FormatChoice, FormatName, PrimaryRule};
use zoogate::registry::Base;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::support::gateway::Gateway;
use crate::support::http::Client as Http;
use crate::support::instance::Instance;
use crate::support::seen::{PATIENCE, Seen, service};
use crate::support::wait::until;
use crate::support::zk::{self, EPHEMERAL, OPEN};

fn gateway(name: &str, connect: &str, rest: &str) -> Gateway {
    let config = format!(
        "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n{rest}"
    );
    Gateway::start(name, &config)
}

/// Stands for election as Curator's LeaderLatch does.
async fn candidate(client: &Client, id: &str) -> String {
    let path = format!("/election/_c_{:016x}-latch-", fastrand::u64(..));
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&path, id.as_bytes(), &options).await.unwrap();
    format!("{path}{sequence}")
}

#[tokio::test]
async fn a_change_of_the_primary_under_load_loses_no_request_and_strays_to_nobody() {
    let connect = zk::chroot("primary-change").await;
    let client = zk::client(&connect).await;
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    client.create("/orders", b"", &OPEN).await.unwrap();
    client.create("/election", b"", &OPEN).await.unwrap();
    for instance in &instances {
        let address = instance.address.to_string();
        client.create(&format!("/orders/{}", instance.name), address.as_bytes(), &EPHEMERAL).await.unwrap();
    }
    let mut leads = candidate(&client, "a").await;
    let gateway = gateway(
        "primary-change",
        &connect,
        "[services.orders]\npath = \"/orders\"\nprimary = { election = \"/election\" }\n\
         [[routes]]\nmethods = [\"PUT\"]\nservice = \"orders\"\ninstances = \"primary\"\n",
    );
    let leads_now = |id: &str| gateway.json("/api/services/orders")["primary"] == id;
    until("a leads", async || (leads_now("a")).then_some(())).await;
    let (address, stop) = (gateway.listener("public"), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let load = std::thread::spawn(move || {
        let mut client = Http::connect(address).unwrap();
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            let answer = client.request("PUT", "/x", &[], b"").unwrap();
            assert_eq!(answer.status, 200, "request {count}: {answer:?}");
            count += 1;
        }
        count
    });
    for round in 0..20 {
        let (old, next) =
            if round % 2 == 0 { (&instances[0], &instances[1]) } else { (&instances[1], &instances[0]) };
        let waiting = candidate(&client, &next.name).await;
        client.delete(&std::mem::replace(&mut leads, waiting), None).await.unwrap();
        until("the next leads", async || (leads_now(&next.name)).then_some(())).await;
        // Whoever leads no longer gets nothing more, from the moment that the table says so.
        let (before, so_far) = (old.count(), next.count());
        until("requests to the new one", async || (next.count() > so_far + 5).then_some(())).await;
        assert!(old.count() <= before + 1, "one may have been on its way");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 100);
    assert_eq!(instances[2].count(), 0, "c has never led");
}

const SUCCESSIONS: usize = 200;
/// So many may be made before somebody is told of the first of them: of more, on a machine that is busy, the last would be all
/// the news.
const AHEAD: usize = 8;

/// Takes the news of `orders` until the last has succeeded: nowhere in it is a moment without a primary. Lets go on who makes
/// the successions.
async fn successions(seen: &mut Seen, last: &str, ahead: &Semaphore) -> usize {
    let number = |name: &str| name.trim_start_matches("n-").parse::<usize>().unwrap();
    let mut leaders = vec![seen.services["orders"].primary.clone()];
    while leaders.last().is_none_or(|leader| leader.as_deref() != Some(last)) {
        let next = tokio::time::timeout(PATIENCE, seen.next()).await;
        assert!(next.is_ok(), "{last} leads at last, after {leaders:?}");
        let now = &seen.services["orders"];
        let told = now.primary_index().map(|at| Arc::clone(&now.instances[at].id.name));
        assert!(told.is_some(), "a moment without a primary, after {leaders:?}: {now:?}");
        if leaders.last() != Some(&told) {
            let [before, now] =
                [leaders.last().unwrap(), &told].map(|leader| number(leader.as_deref().unwrap()));
            assert!(now > before, "{now} after {before}");
            ahead.add_permits(now - before);
            leaders.push(told);
        }
    }
    leaders.len() - 1
}

#[tokio::test]
async fn a_primary_and_a_successor_that_comes_as_it_goes_change_in_one_step() {
    let connect = zk::chroot("succession").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    let path = |round: usize| format!("/orders/n-{round:010}");
    client.create(&path(0), b"127.0.0.1:8000", &EPHEMERAL).await.unwrap();
    let base = Base { primary: PrimaryRule::LowestSequence, ..service("orders", "/orders") };
    let mut seen = Seen::start(&connect, vec![base]);
    seen.until_live("orders").await;
    let ahead = Arc::new(Semaphore::new(AHEAD));
    let goes_on = Arc::clone(&ahead);
    let writing = tokio::spawn(async move {
        for round in 0..SUCCESSIONS {
            goes_on.acquire().await.unwrap().forget();
            let mut both = client.new_multi_writer();
            both.add_create(&path(round + 1), b"127.0.0.1:8000", &EPHEMERAL).unwrap();
            // After it: the events of a transaction come one by one.
            both.add_delete(&path(round), None).unwrap();
            both.commit().await.unwrap();
        }
        client
    });
    let changes = successions(&mut seen, "n-0000000200", &ahead).await;
    assert!(changes >= SUCCESSIONS / AHEAD, "the news of {changes} changes");
    drop(writing.await.unwrap());
    // With its session goes the last: nobody is left to lead.
    seen.until("nobody leads", |seen| seen.services["orders"].primary.is_none()).await;
}

#[tokio::test]
async fn a_pointer_to_a_primary_that_comes_as_the_old_one_goes_moves_in_one_step() {
    let connect = zk::chroot("pointer").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    client.create("/orders/0", b"127.0.0.1:8000", &EPHEMERAL).await.unwrap();
    client.create("/orders/primary", b"0", &OPEN).await.unwrap();
    let format = FormatChoice::Fixed(FormatName::Numbered);
    let mut seen = Seen::start(&connect, vec![Base { format, ..service("orders", "/orders") }]);
    seen.until_live("orders").await;
    let ahead = Arc::new(Semaphore::new(AHEAD));
    let goes_on = Arc::clone(&ahead);
    let writing = tokio::spawn(async move {
        for round in 0..SUCCESSIONS {
            goes_on.acquire().await.unwrap().forget();
            let (old, new) = (format!("/orders/{round}"), format!("/orders/{}", round + 1));
            let mut all = client.new_multi_writer();
            all.add_create(&new, b"127.0.0.1:8000", &EPHEMERAL).unwrap();
            all.add_set_data("/orders/primary", (round + 1).to_string().as_bytes(), None).unwrap();
            // Last: the events of a transaction come one by one, and what is not told of yet nobody can wait for.
            all.add_delete(&old, None).unwrap();
            all.commit().await.unwrap();
        }
        client
    });
    let changes = successions(&mut seen, "200", &ahead).await;
    assert!(changes >= SUCCESSIONS / AHEAD, "the news of {changes} changes");
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn ten_thousand_services_of_a_pattern_cost_one_watch() {
    const SERVICES: usize = 10_000;
    let server = zk::Standalone::start();
    let connect = server.server.address();
    // Writing so much takes a busy machine more than the tests' usual patience.
    let connector = Client::connector()
        .with_session_timeout(Duration::from_secs(60))
        .with_connection_timeout(Duration::from_secs(30));
    let client = connector.connect(&connect).await.unwrap();
    client.create("/dubbo", b"", &OPEN).await.unwrap();
    for start in (0..SERVICES).step_by(100) {
        let mut batch = client.new_multi_writer();
        for i in start..start + 100 {
            batch.add_create(&format!("/dubbo/com.foo.S{i}"), b"", &OPEN).unwrap();
            for folder in ["providers", "consumers"] {
                batch.add_create(&format!("/dubbo/com.foo.S{i}/{folder}"), b"", &OPEN).unwrap();
            }
            let address = format!("10.0.{}.{}:8080", i / 250, i % 250 + 1);
            batch.add_create(&format!("/dubbo/com.foo.S{i}/providers/n"), address.as_bytes(), &OPEN).unwrap();
        }
        batch.commit().await.unwrap();
    }
    // Neither is a service: one has no providers, the other is not even a directory of any.
    client.mkdir("/dubbo/com.foo.Client/consumers", &OPEN).await.unwrap();
    client.create("/dubbo/config", b"", &OPEN).await.unwrap();

    let started = Instant::now();
    let gateway = gateway(
        "pattern",
        &connect,
        "[catalogs.rpc]\npath = \"/dubbo/*/providers\"\n\
         [[routes]]\npath = \"/{name}/*\"\nservice = \"rpc/{name}\"\n",
    );
    until("ready", async || (gateway.admin("/readyz").status == 200).then_some(())).await;
    println!("{SERVICES} services after {:?}", started.elapsed());
    let services = || gateway.json("/api/catalogs")["catalogs"][0]["services"].clone();
    assert_eq!(services(), SERVICES);
    let watches = server.server.ask("wchs").unwrap();
    assert!(
        watches.contains("Total watches:1\n") || watches.trim_end().ends_with("Total watches:1"),
        "{watches}"
    );

    let instance = Instance::start("new");
    client.mkdir("/dubbo/com.foo.New/providers", &OPEN).await.unwrap();
    let address = instance.address.to_string();
    client.create("/dubbo/com.foo.New/providers/n", address.as_bytes(), &EPHEMERAL).await.unwrap();
    until("the new service", async || (gateway.get("/com.foo.New/x").body == "new").then_some(())).await;
    client.delete("/dubbo/com.foo.New/providers/n", None).await.unwrap();
    client.delete("/dubbo/com.foo.New/providers", None).await.unwrap();
    until("no_route", async || {
        (gateway.get("/com.foo.New/x").header("x-zoogate-error") == Some("no_route")).then_some(())
    })
    .await;
    assert_eq!(services(), SERVICES);
}
