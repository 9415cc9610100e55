//! Sessions that expire while their instances live: the ensemble's bad day, not theirs. Then the instances die as well.

use std::time::{Duration, Instant};

use zookeeper_client::Client;

use crate::support::background::Background;
use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;
use crate::support::zk;

const ALL: usize = 100;
const CUT_OFF: usize = 50;

fn states(gateway: &Gateway, state: &str) -> usize {
    let view = gateway.json("/api/services/orders");
    view["instances"].as_array().unwrap().iter().filter(|instance| instance["state"] == state).count()
}

/// A session of its own for each node, through `connect`, that lives for four seconds without a word.
async fn register(connect: &str, fleet: &[Instance]) -> Vec<Client> {
    let mut sessions = Vec::new();
    for instance in fleet {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(4));
        let session = connector.connect(connect).await.unwrap();
        let (path, data) = (format!("/orders/{}", instance.name), instance.address.to_string());
        session.create(&path, data.as_bytes(), &zk::EPHEMERAL).await.unwrap();
        sessions.push(session);
    }
    sessions
}

#[test]
fn fifty_of_a_hundred_sessions_expire_and_their_instances_serve_until_they_die() {
    let background = Background::start();
    let fleet: Vec<Instance> = (0..ALL).map(|n| Instance::start(&format!("n{n:03}"))).collect();
    let (lost, stay) = fleet.split_at(CUT_OFF);
    let (connect, proxy, sessions) = background.block_on(async {
        let connect = zk::chroot("expiry").await;
        zk::client(&connect).await.create("/orders", b"", &zk::OPEN).await.unwrap();
        let proxy = FaultProxy::start(&zk::shared().server.address()).await;
        let mut sessions = register(&format!("{}/expiry", proxy.address()), lost).await;
        sessions.extend(register(&connect, stay).await);
        (connect, proxy, sessions)
    });
    let zookeeper = format!("kind = \"zookeeper\"\nconnect = \"{connect}\"");
    let config = ORDERS
        .replace("kind = \"directory\"\npath = \"services\"", &zookeeper)
        .replace("path = \"/orders\"\n", "path = \"/orders\"\nvanish_guard = { share = 0.4 }\n");
    let gateway = Gateway::start("expiry", &config);
    wait_for("all are up", || (states(&gateway, "up") == ALL).then_some(()));

    // Their registrars reach nobody any more, and nobody closes their sessions: they expire.
    proxy.set(Fault::BlackHole);
    let begun = Instant::now();
    wait_for("the expired in limbo", || {
        assert_eq!(gateway.get("/").status, 200);
        (states(&gateway, "limbo") == CUT_OFF).then_some(())
    });
    eprintln!("in limbo {:?} after the cut", begun.elapsed());
    assert_eq!(states(&gateway, "up"), ALL - CUT_OFF);
    let mut served: std::collections::HashSet<String> = std::collections::HashSet::new();
    wait_for("an answer of everybody", || {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200, "{}", answer.body);
        served.insert(answer.body);
        (served.len() == ALL).then_some(())
    });

    // Now they die, every one of them.
    let killed = Instant::now();
    lost.iter().for_each(Instance::kill);
    wait_for("the dead are out", || {
        assert_eq!(gateway.get("/").status, 200);
        (states(&gateway, "limbo") == 0).then_some(())
    });
    let took = killed.elapsed();
    eprintln!("out {took:?} after the first kill");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(states(&gateway, "up"), ALL - CUT_OFF);
    gateway.log.find("the guard's end", |line| {
        (line.contains("vanish guard ended") && line.contains("dead=50")).then_some(())
    });
    background.block_on(async move { drop((sessions, proxy)) });
}
