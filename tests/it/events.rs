//! Membership changes as they are told: the admin's stream, the file, its replay; and a reload that is asked for.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::{Gateway, ORDERS, binary, wait_for};
use crate::support::http::Client;
use crate::support::zk;

/// A reader of `GET /api/events`.
struct Follower(BufReader<TcpStream>);

impl Follower {
    fn new(gateway: &Gateway, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(gateway.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET /api/events{query} HTTP/1.1\r\nhost: a\r\n{headers}\r\n").unwrap();
        let mut follower = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            follower.0.read_line(&mut head).unwrap();
        }
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        // It is heard from here on.
        follower.line(": ");
        follower
    }

    /// The rest of the next line that begins so.
    fn line(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(rest) = line.trim_end().strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    /// The next event with its number.
    fn next(&mut self) -> (u64, Value) {
        let number = self.line("id: ").parse().unwrap();
        (number, serde_json::from_str(&self.line("data: ")).unwrap())
    }
}

fn replay(gateway: &Gateway, arguments: &[&str]) -> Output {
    binary().arg("replay").arg(gateway.folder().join("events.jsonl")).args(arguments).output().unwrap()
}

fn with_event_log(rest: &str) -> String {
    ORDERS.replace("workers = 1\n", &format!("workers = 1\nevent_log = \"events.jsonl\"\n{rest}"))
}

#[test]
fn each_change_of_a_member_is_told_with_its_cause_and_can_be_read_again() {
    let gateway = Gateway::start("events", ORDERS);
    gateway.ready();
    let mut follower = Follower::new(&gateway, "", "");
    gateway.register("orders/a", "127.0.0.1:8001");
    let (first, added) = follower.next();
    for (key, expected) in [
        ("registry", "local"),
        ("service", "orders"),
        ("instance", "a"),
        ("change", "added"),
        ("address", "127.0.0.1:8001"),
        ("cause", "added"),
    ] {
        assert_eq!(added[key], expected, "{key} of {added}");
    }
    assert!(added["time"].as_str().unwrap().ends_with('Z') && added["published_us"].is_u64(), "{added}");
    gateway.register("orders/a", "127.0.0.1:8002");
    // A file that is renamed over another is another node: the old one goes, the new one comes.
    let (_, removed) = follower.next();
    assert_eq!((&removed["change"], &removed["address"]), (&"removed".into(), &"127.0.0.1:8001".into()));
    let (_, again) = follower.next();
    assert_eq!((&again["change"], &again["address"]), (&"added".into(), &"127.0.0.1:8002".into()));
    gateway.withdraw("orders/a");
    let (last, gone) = follower.next();
    assert_eq!((&gone["change"], &gone["instance"]), (&"removed".into(), &"a".into()));
    assert_eq!(gone["cause"], "deleted");

    // A reader that was cut off goes on where it was; another one asks for a number.
    let mut back = Follower::new(&gateway, "", &format!("last-event-id: {first}\r\n"));
    assert_eq!(back.next().0, first + 1);
    let mut asked = Follower::new(&gateway, &format!("?after={}", last - 1), "");
    assert_eq!(asked.next().0, last);
    assert_eq!(gateway.admin("/api/events?after=x").status, 400);
}

#[test]
fn the_event_log_replays_the_table_of_any_moment() {
    let gateway = Gateway::start("replay", &with_event_log(""));
    gateway.ready();
    let mut follower = Follower::new(&gateway, "", "");
    for (node, address) in [("a", "127.0.0.1:8001"), ("b", "127.0.0.1:8002")] {
        gateway.register(&format!("orders/{node}"), address);
        follower.next();
    }
    gateway.withdraw("orders/a");
    let (_, gone) = follower.next();
    let moment = gone["time"].as_str().unwrap().to_owned();
    gateway.register("orders/c", "127.0.0.1:8003");
    let (_, last) = follower.next();
    let ids = |arguments: &[&str]| {
        let done = replay(&gateway, arguments);
        assert!(done.status.success(), "{done:?}");
        let table: Value = serde_json::from_slice(&done.stdout).unwrap();
        let orders = table["services"].as_array().unwrap().iter().find(|s| s["name"] == "orders").cloned();
        let members = orders.unwrap_or_default()["instances"].as_array().cloned().unwrap_or_default();
        members.iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    wait_for("the file", || (ids(&["--json"]) == "b c").then_some(()));
    assert_eq!(ids(&["--json", "--at", &moment]), "b");
    assert_eq!(ids(&["--json", "--at", last["time"].as_str().unwrap()]), "b c");
    assert_eq!(ids(&["--json", "--service", "users"]), "");
    let text = String::from_utf8(replay(&gateway, &[]).stdout).unwrap();
    assert!(text.contains("orders\tc\t127.0.0.1:8003\t1"), "{text}");
    // What is cut short by a crash is left out; what is no event log is refused.
    let log = gateway.folder().join("events.jsonl");
    let mut content = std::fs::read(&log).unwrap();
    content.extend_from_slice(b"{\"type\":\"event\",\"ti");
    std::fs::write(&log, &content).unwrap();
    let done = replay(&gateway, &["--json"]);
    assert!(done.status.success() && String::from_utf8_lossy(&done.stderr).contains("cut short"), "{done:?}");
    std::fs::write(&log, "nothing\n").unwrap();
    assert_eq!(replay(&gateway, &[]).status.code(), Some(1));
    let early = replay(&gateway, &["--at", "1999-01-01T00:00:00Z"]);
    assert_eq!(early.status.code(), Some(1));
}

#[test]
fn a_full_event_log_is_begun_anew_with_the_whole_table() {
    let gateway = Gateway::start("rotate", &with_event_log("event_log_size = \"64KiB\"\n"));
    gateway.ready();
    gateway.register("orders/steady", "127.0.0.1:8001");
    let mut follower = Follower::new(&gateway, "", "");
    // Some 330 bytes an event, two events a round.
    for round in 0..160 {
        gateway.register("orders/b", format!("127.0.0.1:{}", 9000 + round));
        wait_for("the round", || {
            let address = follower.next().1["address"].as_str()?.to_owned();
            (address == format!("127.0.0.1:{}", 9000 + round)).then_some(())
        });
    }
    let older = gateway.folder().join("events.jsonl.1");
    wait_for("the older part", || older.exists().then_some(()));
    std::fs::remove_file(&older).unwrap();
    wait_for("the whole table in the newer part", || {
        let text = String::from_utf8(replay(&gateway, &[]).stdout).unwrap();
        (text.contains("orders\tsteady\t") && text.contains("orders\tb\t127.0.0.1:9159")).then_some(())
    });
}

#[test]
fn a_reload_over_the_admin_answers_with_its_outcome() {
    let gateway = Gateway::start("reload-api", ORDERS);
    gateway.ready();
    let mut client = Client::connect(gateway.admin).unwrap();
    let refused = client.request("POST", "/api/reload", &[], b"").unwrap();
    assert_eq!(refused.status, 403, "no web page may do this");
    let guard = [("x-zoogate-admin", "1")];
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    std::fs::write(&gateway.config, format!("{text}\n[services.users]\npath = \"/users\"\n")).unwrap();
    let done = client.request("POST", "/api/reload", &guard, b"").unwrap();
    assert_eq!((done.status, done.body.trim()), (200, "{\"reloaded\":true}"));
    assert_eq!(gateway.admin("/api/services/users").status, 200, "it is in force when the answer comes");
    std::fs::write(&gateway.config, format!("{text}\n[services.users]\npaht = \"/users\"\n")).unwrap();
    let refused = client.request("POST", "/api/reload", &guard, b"").unwrap();
    assert_eq!(refused.status, 422);
    let problem: Value = serde_json::from_str(&refused.body).unwrap();
    let errors = problem["errors"].as_array().unwrap();
    assert!(errors.iter().any(|e| e.as_str().unwrap().contains("paht")), "{problem}");
    assert_eq!(gateway.admin("/api/services/users").status, 200, "the old configuration stays");
    assert_eq!(gateway.metric("zoogate_config_reloads_total{result=\"ok\"}"), Some(1.0));
    assert_eq!(gateway.metric("zoogate_config_reloads_total{result=\"refused\"}"), Some(1.0));
    assert_eq!(client.request("DELETE", "/api/services", &guard, b"").unwrap().status, 405);
}

/// What is told of a ZooKeeper directory, with the zxids that the server itself tells.
#[tokio::test]
async fn the_cause_is_what_told_of_it() {
    let connect = zk::chroot("causes").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &zk::OPEN).await.unwrap();
    client.create("/orders/a", b"127.0.0.1:8001", &zk::OPEN).await.unwrap();
    let (server, chroot) = connect.split_once('/').unwrap();
    let proxy = FaultProxy::start(server).await;
    let zookeeper = format!("kind = \"zookeeper\"\nconnect = \"{}/{chroot}\"", proxy.address());
    let config = with_event_log("").replace("kind = \"directory\"\npath = \"services\"", &zookeeper);
    let start = move || {
        let gateway = Gateway::start("causes", &config);
        let follower = Follower::new(&gateway, "?after=0", "");
        (gateway, Arc::new(Mutex::new(follower)))
    };
    let (gateway, follower) = tokio::task::spawn_blocking(start).await.unwrap();
    let told = async |expected: &str| {
        let follower = Arc::clone(&follower);
        let next = tokio::task::spawn_blocking(move || follower.lock().unwrap().next().1);
        let event = next.await.unwrap();
        let word = |key: &str| event[key].as_str().unwrap_or("?").to_owned();
        let found = format!("{} {} {}", word("instance"), word("change"), word("cause"));
        assert_eq!(found, expected, "{event}");
        assert!(event["published_us"].is_u64() && event["created"].is_string(), "{event}");
        event
    };
    told("a added listing").await;
    let (stat, _) = client.create("/orders/b", b"127.0.0.1:8002", &zk::EPHEMERAL).await.unwrap();
    let added = told("b added added").await;
    assert_eq!(added["zxid"], format!("0x{:x}", stat.czxid));
    assert_eq!(added["session"], format!("0x{:x}", stat.ephemeral_owner));
    client.set_data("/orders/b", b"127.0.0.1:8003", None).await.unwrap();
    told("b changed changed").await;
    client.delete("/orders/b", None).await.unwrap();
    told("b removed deleted").await;
    // What happens while the gateway is cut off is found by the listing after its return.
    proxy.set(Fault::Cut);
    client.delete("/orders/a", None).await.unwrap();
    client.create("/orders/c", b"127.0.0.1:8004", &zk::OPEN).await.unwrap();
    proxy.set(Fault::None);
    told("a removed relisted").await;
    told("c added relisted").await;
    let drift = "zoogate_registry_drift_total{registry=\"local\"}";
    assert_eq!(gateway.metric(drift), Some(0.0), "a cut link is no drift");
    // Events that are swallowed are found by the audit, which says so.
    gateway.may_drift();
    proxy.set(Fault::NoEvents);
    client.delete("/orders/c", None).await.unwrap();
    let swallowed = Instant::now();
    told("c removed relisted").await;
    assert!(swallowed.elapsed() < Duration::from_secs(35), "{:?}", swallowed.elapsed());
    assert_eq!(gateway.metric(drift), Some(1.0));
    let log = gateway.folder().join("events.jsonl");
    wait_for("the file", || {
        let text = std::fs::read_to_string(&log).unwrap();
        let last = |line: &str| line.contains("\"instance\":\"c\"") && line.contains("\"removed\"");
        text.lines().any(last).then_some(())
    });
    // A log of before causes were told apart is read as well.
    let old = std::fs::read_to_string(&log).unwrap().replace("\"cause\":\"deleted\"", "\"cause\":\"event\"");
    std::fs::write(&log, old).unwrap();
    let done = replay(&gateway, &[]);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && !text.contains("orders\t"), "{done:?}");
}

/// A machine that is busy, or a container that is frozen for a moment: that is not the server's silence.
#[tokio::test]
async fn a_pause_of_the_gateway_itself_costs_neither_its_connection_nor_a_listing() {
    let connect = zk::chroot("pauses").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &zk::OPEN).await.unwrap();
    let zookeeper = format!("kind = \"zookeeper\"\nconnect = \"{connect}\"");
    let config = ORDERS.replace("kind = \"directory\"\npath = \"services\"", &zookeeper);
    let start = move || {
        let gateway = Gateway::start("pauses", &config);
        gateway.ready();
        let follower = Follower::new(&gateway, "", "");
        (gateway, Arc::new(Mutex::new(follower)))
    };
    let (gateway, follower) = tokio::task::spawn_blocking(start).await.unwrap();
    let told = async |change: &str, cause: &str| {
        let follower = Arc::clone(&follower);
        let next = tokio::task::spawn_blocking(move || follower.lock().unwrap().next().1);
        let event = next.await.unwrap();
        assert_eq!((&event["change"], &event["cause"]), (&change.into(), &cause.into()), "{event}");
    };
    for round in 0..3 {
        let address = format!("127.0.0.1:{}", 8001 + round);
        client.create("/orders/a", address.as_bytes(), &zk::OPEN).await.unwrap();
        told("added", "added").await;
        // Longer than a server may be silent, and much shorter than a session.
        gateway.signal("STOP");
        client.delete("/orders/a", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        gateway.signal("CONT");
        told("removed", "deleted").await;
    }
    let log = gateway.log.all();
    let connections = log.iter().filter(|line| line.contains("connected to ZooKeeper")).count();
    assert_eq!(connections, 1, "{log:?}");
}
