//! Holding a registration on a real server.

use std::time::Duration;

use zoogate::registry::zookeeper::{Holding, RegisterError, RegisterOptions, Registration};
use zookeeper_client::Client;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::seen::{PATIENCE, options};
use crate::support::zk::{self, EPHEMERAL, OPEN};

fn wanted(connect: &str) -> RegisterOptions {
    RegisterOptions {
        connect: options(connect),
        path: "/services/orders".to_owned(),
        node: "me".to_owned(),
        data: b"127.0.0.1:8001".to_vec(),
        give_up: Duration::from_secs(10),
    }
}

const NODE: &str = "/services/orders/me";

async fn owner(client: &Client) -> Option<i64> {
    client.check_stat(NODE).await.unwrap().map(|stat| stat.ephemeral_owner)
}

async fn until_owner(client: &Client, what: &str, good: impl Fn(Option<i64>) -> bool) {
    let waiting = async {
        while !good(owner(client).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

async fn until_held(registration: &mut Registration) {
    let waiting = async { while registration.changed().await != Holding::Held {} };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never held again");
}

#[tokio::test]
async fn registration_makes_parents_and_chroot_and_is_gone_when_released() {
    let connect = zk::chroot("register").await;
    let below = format!("{connect}/not/there");
    let registration = Registration::start(wanted(&below)).await.unwrap();
    let client = zk::client(&below).await;
    let (data, stat) = client.get_data(NODE).await.unwrap();
    assert_eq!(data, b"127.0.0.1:8001");
    assert_ne!(stat.ephemeral_owner, 0, "the node goes with its session");
    let (_, parent) = client.get_data("/services/orders").await.unwrap();
    assert_eq!(parent.ephemeral_owner, 0, "the directory stays");

    registration.release().await.unwrap();
    assert_eq!(owner(&client).await, None, "released means gone");
}

#[tokio::test]
async fn dropped_registration_goes_with_its_session() {
    let connect = zk::chroot("dropped").await;
    let registration = Registration::start(wanted(&connect)).await.unwrap();
    let client = zk::client(&connect).await;
    drop(registration);
    until_owner(&client, "the node stays", |owner| owner.is_none()).await;
}

#[tokio::test]
async fn node_that_somebody_deletes_is_registered_again() {
    let connect = zk::chroot("deleted-mine").await;
    let registration = Registration::start(wanted(&connect)).await.unwrap();
    let client = zk::client(&connect).await;
    let first = client.get_data(NODE).await.unwrap().1.czxid;
    client.delete(NODE, None).await.unwrap();
    until_owner(&client, "the node is back", |owner| owner.is_some()).await;
    assert_ne!(client.get_data(NODE).await.unwrap().1.czxid, first);
    registration.release().await.unwrap();
}

#[tokio::test]
async fn lost_session_is_told_and_registered_again() {
    let connect = zk::chroot("lost-mine").await;
    let client = zk::client(&connect).await;
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let through = format!("{}/lost-mine", proxy.address());
    let mut registration = Registration::start(wanted(&through)).await.unwrap();
    let first = owner(&client).await;

    proxy.set(Fault::BlackHole);
    assert_eq!(registration.changed().await, Holding::InDoubt);
    until_owner(&client, "the server expires the session", |owner| owner.is_none()).await;
    proxy.set(Fault::None);
    until_held(&mut registration).await;
    until_owner(&client, "a new session's node", |owner| owner.is_some() && owner != first).await;
    registration.release().await.unwrap();
    assert_eq!(owner(&client).await, None);
}

#[tokio::test]
async fn remains_of_an_own_session_are_replaced_at_once() {
    let connect = zk::chroot("remains").await;
    let client = zk::client(&connect).await;
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let mut options = wanted(&format!("{}/remains", proxy.address()));
    // Long: the old session is alive all through the test, so its node has to be replaced.
    options.connect.session_timeout = Duration::from_secs(60);
    let mut registration = Registration::start(options).await.unwrap();
    let first = owner(&client).await;
    proxy.set(Fault::Cut);
    assert_eq!(registration.changed().await, Holding::InDoubt);
    // By now the old client waits longer between its attempts than the new one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(owner(&client).await, first, "the node stands while the session does");
    proxy.set(Fault::None);
    until_held(&mut registration).await;
    assert!(owner(&client).await.is_some());
    registration.release().await.unwrap();
    assert_eq!(owner(&client).await, None);
}

#[tokio::test]
async fn strangers_node_is_left_alone_and_waited_for() {
    let connect = zk::chroot("stranger").await;
    let client = zk::client(&connect).await;
    client.mkdir("/services/orders", &OPEN).await.unwrap();
    client.create(NODE, b"theirs", &EPHEMERAL).await.unwrap();
    let theirs = owner(&client).await;

    let mut options = wanted(&connect);
    options.give_up = Duration::from_secs(2);
    let refused = Registration::start(options).await.unwrap_err();
    assert!(refused.to_string().contains("another session"), "{refused}");
    assert_eq!(owner(&client).await, theirs);

    let waiting = tokio::spawn(Registration::start(wanted(&connect)));
    client.delete(NODE, None).await.unwrap();
    let registration = waiting.await.unwrap().unwrap();
    assert!(owner(&client).await.is_some_and(|now| Some(now) != theirs));
    registration.release().await.unwrap();
}

#[tokio::test]
async fn unreachable_ensemble_and_bad_path_are_one_clear_line() {
    let address = format!("127.0.0.1:{}", zk::free_port());
    let mut options = wanted(&address);
    options.give_up = Duration::from_secs(1);
    let error = Registration::start(options).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("no connection"), "{error}");

    for path in ["services", "/a//b", "/a/../b"] {
        let mut options = wanted(&address);
        options.path = path.to_owned();
        let error = Registration::start(options).await.unwrap_err();
        assert!(matches!(error, RegisterError::BadPath { .. }), "{path}: {error}");
    }
}
