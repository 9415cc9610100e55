//! `examples/kvstore`: what it promises, held against processes that are killed, stopped and emptied.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::support::gateway::{PATIENCE, wait_for};
use crate::support::http::Client;
use crate::support::kvstore::Group;
use crate::support::script::run_script;
use crate::support::zk;

async fn group(name: &str) -> Group {
    Group::new(&zk::chroot(&format!("kvstore-{name}")).await, name)
}

#[tokio::test]
async fn a_write_is_on_every_server_in_sync_before_it_is_acknowledged() {
    let group = group("copies").await;
    let (primary, standby) = group.pair().await;
    for round in 0..20 {
        let value = format!("value {round}");
        assert_eq!(primary.put("key", &value).status, 204);
        assert_eq!([primary.get("key"), standby.get("key")], [Some(value.clone()), Some(value)]);
    }
    assert_eq!(primary.ask("DELETE", "/kv/key", b"").status, 204);
    assert_eq!([primary.get("key"), standby.get("key")], [None, None]);

    for method in ["PUT", "DELETE"] {
        let refused = standby.ask(method, "/kv/key", b"x");
        assert_eq!((refused.status, &*refused.body), (409, "not the primary, which is server 1\n"));
        assert_eq!(refused.header("x-primary"), Some(&*primary.address.to_string()));
    }
    assert_eq!(standby.get("key"), None);
    assert_eq!(primary.put("", "x").status, 400);
    assert_eq!(primary.put(&"k".repeat(1025), "x").status, 400);
    assert_eq!(primary.put("big", &"x".repeat((1 << 20) + 1)).status, 413);
    let big = "x".repeat(1 << 20);
    assert_eq!(primary.put("a%2Fb%20c", &big).status, 204);
    assert_eq!(standby.get("a%2Fb%20c"), Some(big));
}

#[tokio::test]
async fn a_grpc_client_of_others_reads_and_writes_by_the_proto_file() {
    let group = group("grpc").await;
    let (primary, standby) = group.pair().await;
    let say = |server: &crate::support::kvstore::Server, words: &[&str]| {
        let target = server.address.to_string();
        run_script("kv_client.py", &[&[target.as_str()], words].concat()).trim_end().to_owned()
    };
    assert_eq!(say(&primary, &["put", "k", "v"]), "OK 1");
    assert_eq!(say(&standby, &["get", "k"]), "OK v");
    assert_eq!(standby.get("k").as_deref(), Some("v"), "over HTTP as well");
    let refused = say(&standby, &["put", "k", "w"]);
    assert_eq!(
        refused,
        format!("FAILED_PRECONDITION not the primary, which is server 1 {}", primary.address)
    );
    assert_eq!(say(&primary, &["delete", "k"]), "OK 2");
    assert_eq!(say(&standby, &["get", "k"]), "OK absent");
    assert!(say(&primary, &["put", "", "v"]).starts_with("INVALID_ARGUMENT"));
}

#[tokio::test]
async fn a_killed_standby_is_done_without_and_comes_back_whole() {
    let group = group("standby").await;
    let (primary, mut standby) = group.pair().await;
    assert_eq!(primary.put("before", "1").status, 204);
    standby.process.signal("KILL");
    standby.process.wait();
    assert_eq!(primary.put("before", "2").status, 204);
    assert_eq!(primary.put("meanwhile", "3").status, 204);
    // The answer came after the change of the set; what the server shows comes from ZooKeeper, a little later.
    wait_for("a set of one", || (primary.status()["set"] == serde_json::json!([1])).then_some(()));
    let standby = group.start(2);
    standby.process.says("registered");
    assert_eq!((standby.get("before"), standby.get("meanwhile")), (Some("2".into()), Some("3".into())));
    assert_eq!(primary.put("after", "4").status, 204);
    assert_eq!(standby.get("after").as_deref(), Some("4"));
    assert!(group.folder(2).join("log.old").exists(), "what it had is kept beside");
}

#[tokio::test]
async fn a_standby_that_catches_up_under_load_stays() {
    let group = group("stays").await;
    let (primary, mut standby) = group.pair().await;
    standby.process.signal("KILL");
    standby.process.wait();
    assert_eq!(primary.put("key", "without it").status, 204);
    let done = AtomicBool::new(false);
    let standby = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let begin = Instant::now();
            for write in 0.. {
                if done.load(Ordering::Relaxed) || begin.elapsed() > PATIENCE {
                    return write;
                }
                assert_eq!(primary.put("key", &write.to_string()).status, 204);
            }
            unreachable!("the loop returns")
        });
        let standby = group.start(2);
        standby.process.says("registered");
        let from = standby.status()["sequence"].as_u64().unwrap();
        wait_for("more writes", || (standby.status()["sequence"].as_u64()? > from + 50).then_some(()));
        done.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 50);
        standby
    });
    // One snapshot a connection, and another connection only where one broke.
    let lines = standby.process.out.all();
    let count = |begin: &str| lines.iter().filter(|line| line.starts_with(begin)).count();
    assert!(count("has everything") <= 1 + count("does not follow"), "{lines:?}");
    assert_eq!(standby.get("key"), primary.get("key"));
}

#[tokio::test]
async fn a_primary_that_slept_through_its_deposition_acknowledges_nothing() {
    let group = group("fencing").await;
    let (former, primary) = group.pair().await;
    assert_eq!(former.put("key", "old").status, 204);
    // It gets these before it learns of anything.
    let mut late = [Client::connect(former.address).unwrap(), Client::connect(former.address).unwrap()];
    assert_eq!(late[0].request("GET", "/kv/key", &[], b"").unwrap().body, "old");
    former.process.signal("STOP");
    group.appoint(2).await;
    primary.leads();
    assert_eq!(primary.put("key", "new").status, 204);
    let waiting = late.map(|mut client| {
        std::thread::spawn(move || client.request("PUT", "/kv/key", &[], b"late").unwrap().status)
    });
    former.process.signal("CONT");
    for answer in waiting {
        let status = answer.join().unwrap();
        assert!([409, 503].contains(&status), "a late write was answered with {status}");
    }
    // It may count itself in sync, as it did when it led, until it has the contents of who leads now.
    wait_for("its own late write to be gone", || {
        (former.ask("GET", "/kv/key", b"").body == "new").then_some(())
    });
    former.in_sync();
    assert_eq!(primary.get("key").as_deref(), Some("new"));
    assert_eq!(former.put("key", "x").status, 409);
}

#[tokio::test]
async fn a_server_that_lacks_acknowledged_writes_does_not_lead_even_when_named() {
    let group = group("behind").await;
    let (mut whole, mut behind) = group.pair().await;
    behind.process.signal("KILL");
    behind.process.wait();
    assert_eq!(whole.put("key", "acknowledged").status, 204);
    whole.process.signal("KILL");
    whole.process.wait();
    group.appoint(2).await;
    let behind = group.start(2);
    behind.process.says("is named primary but lacks acknowledged writes: it does not lead");
    assert_eq!(behind.ask("GET", "/kv/key", b"").status, 503);
    assert_eq!(behind.put("key", "x").status, 409);

    let whole = group.start(1);
    whole.process.says("registered");
    group.appoint(1).await;
    whole.leads();
    behind.in_sync();
    assert_eq!(
        (whole.get("key").as_deref(), behind.get("key").as_deref()),
        (Some("acknowledged"), Some("acknowledged"))
    );
}

#[tokio::test]
async fn an_emptied_folder_is_another_store_and_starts_from_the_primary() {
    let group = group("emptied").await;
    let (mut emptied, other) = group.pair().await;
    assert_eq!(emptied.put("key", "kept").status, 204);
    emptied.process.signal("KILL");
    emptied.process.wait();
    std::fs::remove_dir_all(group.folder(1)).unwrap();
    // Still named primary, and by number still in the set.
    let emptied = group.start(1);
    emptied.process.says("is named primary but lacks acknowledged writes: it does not lead");
    group.appoint(2).await;
    other.leads();
    emptied.in_sync();
    assert_eq!(emptied.get("key").as_deref(), Some("kept"));
}
