//! Discovery while the link, the session or the servers fail.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zookeeper_client::Client;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::seen::{PATIENCE, Seen, service};
use crate::support::zk::{self, Ensemble, OPEN, Standalone};

async fn put(client: &Client, path: &str) {
    client.create(path, b"127.0.0.1:8001", &OPEN).await.unwrap();
}

/// A service with nodes a and b, seen through a proxy that works.
async fn through_proxy(name: &str) -> (Seen, FaultProxy, Client) {
    let connect = zk::chroot(name).await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    put(&client, "/orders/b").await;
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let mut seen = Seen::start(&format!("{}/{name}", proxy.address()), vec![service("orders", "/orders")]);
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), ["a", "b"]);
    (seen, proxy, client)
}

/// Nothing was ever missing but what this says.
fn assert_kept(seen: &Seen, id: &str) {
    let without = seen.history.iter().find(|(_, ids)| !ids.iter().any(|known| known == id));
    assert_eq!(without, None, "{id} was gone for a while");
}

#[tokio::test]
async fn changes_during_a_cut_link_are_found_after_it() {
    let (mut seen, proxy, client) = through_proxy("cut").await;
    proxy.set(Fault::Cut);
    seen.until("the link is down", |seen| seen.connected == Some(false)).await;
    seen.until_stale("orders", "no connection to 127.0.0.1").await;
    client.delete("/orders/a", None).await.unwrap();
    put(&client, "/orders/c").await;
    proxy.set(Fault::None);
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), ["b", "c"]);
    assert_kept(&seen, "b");
    assert_eq!(seen.session_losses, 0);
    assert_eq!(seen.discovery.counters().removed_by_listing, 1);

    // The new watch lives, which the crate's own would not.
    client.delete("/orders/b", None).await.unwrap();
    seen.until_ids("orders", &["c"]).await;
    assert_eq!(seen.discovery.counters().removed_by_event, 1);
}

#[tokio::test]
async fn expired_session_is_replaced_and_the_table_kept() {
    let (mut seen, proxy, client) = through_proxy("expired").await;
    proxy.set(Fault::BlackHole);
    seen.until("the session is lost", |seen| seen.session_losses == 1).await;
    assert_eq!(seen.ids("orders"), ["a", "b"]);
    client.delete("/orders/a", None).await.unwrap();
    proxy.set(Fault::None);
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), ["b"]);
    assert_kept(&seen, "b");
    put(&client, "/orders/c").await;
    seen.until_ids("orders", &["b", "c"]).await;
}

#[tokio::test]
async fn link_that_flaps_ends_in_the_truth() {
    let (mut seen, proxy, client) = through_proxy("flaps").await;
    for round in 0..8 {
        proxy.set(if round % 2 == 0 { Fault::Cut } else { Fault::None });
        client.create(&format!("/orders/n{round}"), b"127.0.0.1:1", &OPEN).await.unwrap();
        if round > 2 {
            client.delete(&format!("/orders/n{}", round - 2), None).await.unwrap();
        }
        let moment = Duration::from_millis(fastrand::u64(5..300));
        // News arrive or don't: this is the flapping's pace.
        let _ = tokio::time::timeout(moment, seen.until("nothing", |_| false)).await;
    }
    proxy.set(Fault::None);
    client.delete("/orders/a", None).await.unwrap();
    let mut truth = client.list_children("/orders").await.unwrap();
    truth.sort();
    let truth: Vec<&str> = truth.iter().map(String::as_str).collect();
    seen.until_ids("orders", &truth).await;
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), truth);
    assert_kept(&seen, "b");
}

#[tokio::test]
async fn swallowed_events_are_made_good_by_an_audit() {
    let (mut seen, proxy, client) = through_proxy("swallowed").await;
    proxy.set(Fault::NoEvents);
    client.delete("/orders/a", None).await.unwrap();
    put(&client, "/orders/c").await;
    let right = |seen: &Seen| seen.ids("orders") == ["b", "c"];
    seen.until_within(Duration::from_secs(35), "an audit", right).await;
    assert_eq!(seen.discovery.counters().drift, 2);
}

#[tokio::test]
async fn server_that_is_down_at_start_is_found_when_it_comes() {
    let mut zk = Standalone::start();
    let connect = zk.server.address();
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    drop(client);
    zk.server.kill();

    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_stale("orders", &format!("no connection to {connect}")).await;
    seen.until("the link is down", |seen| seen.connected == Some(false)).await;
    assert!(seen.services.is_empty(), "nothing is known, so nothing is told");
    zk.server.restart();
    let up = std::time::Instant::now();
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), ["a"]);
    assert!(up.elapsed() < Duration::from_secs(3), "{:?} after its first answer", up.elapsed());
}

#[tokio::test]
async fn table_outlives_its_server() {
    let mut zk = Standalone::start();
    let connect = zk.server.address();
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    put(&client, "/orders/b").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;

    zk.server.kill();
    seen.until_stale("orders", "no connection").await;
    // Long enough for the client to give its session up.
    seen.until("the session is lost", |seen| seen.session_losses == 1).await;
    assert_eq!(seen.ids("orders"), ["a", "b"]);
    zk.server.restart();
    seen.until_live("orders").await;
    let client = zk::client(&connect).await;
    client.delete("/orders/a", None).await.unwrap();
    seen.until_ids("orders", &["b"]).await;
    assert_kept(&seen, "b");
}

#[tokio::test]
async fn silent_server_is_noticed_and_survived() {
    let zk = Standalone::start();
    let connect = zk.server.address();
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;
    zk.server.pause();
    let paused = std::time::Instant::now();
    seen.until_stale("orders", "no connection").await;
    assert!(paused.elapsed() < Duration::from_secs(3), "noticed after {:?}", paused.elapsed());
    zk.server.resume();
    seen.until_live("orders").await;
    assert_kept(&seen, "a");
}

#[tokio::test]
async fn leader_and_quorum_may_die_and_come_back() {
    let mut zk = Ensemble::start();
    let connect = zk.connect();
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    for name in ["a", "b", "c"] {
        put(&client, &format!("/orders/{name}")).await;
    }
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;

    let leader = zk.leader();
    zk.servers[leader].kill();
    delete_when_possible(&connect, "/orders/a").await;
    seen.until_ids("orders", &["b", "c"]).await;

    let next = zk.leader();
    zk.servers[next].kill();
    seen.until("the quorum is gone", |seen| seen.connected == Some(false)).await;
    assert_eq!(seen.ids("orders"), ["b", "c"]);
    zk.servers[leader].restart();
    zk.servers[next].restart();
    delete_when_possible(&connect, "/orders/b").await;
    seen.until_ids("orders", &["c"]).await;
    seen.until_live("orders").await;
    assert_kept(&seen, "c");
}

/// Deletes through a client of its own, as soon as there is a quorum.
async fn delete_when_possible(connect: &str, path: &str) {
    let deleting = async {
        loop {
            let client = zk::client(connect).await;
            let deleted = tokio::time::timeout(Duration::from_secs(3), client.delete(path, None)).await;
            match deleted {
                Ok(Ok(()) | Err(zookeeper_client::Error::NoNode)) => return,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, deleting).await.expect("a quorum comes together");
}

#[tokio::test]
async fn server_older_than_3_6_is_refused_by_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(old_server(stream));
        }
    });
    let mut seen = Seen::start(&address, vec![service("orders", "/orders")]);
    seen.until_stale("orders", "older than ZooKeeper 3.6").await;
    assert!(!seen.services.contains_key("orders"));
}

/// Opens a session, answers pings, and calls everything else unimplemented before it closes: as 3.5 does.
async fn old_server(mut stream: tokio::net::TcpStream) {
    let mut opened = false;
    while let Ok(length) = stream.read_u32().await {
        let mut body = vec![0; length as usize];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let mut answer = Vec::new();
        let mut last = false;
        if opened {
            let (xid, op) = (&body[..4], i32::from_be_bytes([body[4], body[5], body[6], body[7]]));
            let ping = op == 11;
            answer.extend_from_slice(xid);
            answer.extend_from_slice(&1i64.to_be_bytes());
            answer.extend_from_slice(&(if ping { 0i32 } else { -6 }).to_be_bytes());
            last = !ping;
        } else {
            opened = true;
            answer.extend_from_slice(&0i32.to_be_bytes());
            answer.extend_from_slice(&4000i32.to_be_bytes());
            answer.extend_from_slice(&7i64.to_be_bytes());
            answer.extend_from_slice(&16i32.to_be_bytes());
            answer.extend_from_slice(&[1; 16]);
            answer.push(0);
        }
        let mut frame = (answer.len() as u32).to_be_bytes().to_vec();
        frame.append(&mut answer);
        if stream.write_all(&frame).await.is_err() || last {
            return;
        }
    }
}
