//! Holding a registration on a real server.

use std::time::Duration;

use zoogate::registration::{Holding, Parents, RegisterError, RegisterOptions, Registration};
use zookeeper_client::Client;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::seen::{PATIENCE, options};
use crate::support::wait::until;
use crate::support::zk::{self, EPHEMERAL, OPEN};

fn wanted(connect: &str) -> RegisterOptions {
    RegisterOptions::new(options(connect), "/services/orders", "me", "127.0.0.1:8001")
}

const NODE: &str = "/services/orders/me";

async fn owner(client: &Client) -> Option<i64> {
    client.check_stat(NODE).await.unwrap().map(|stat| stat.ephemeral_owner)
}

async fn until_owner(client: &Client, what: &str, good: impl Fn(Option<i64>) -> bool) {
    until(what, async || good(owner(client).await).then_some(())).await;
}

/// Waits for a state, past others.
async fn until_state(registration: &mut Registration, wanted: Holding) {
    let waiting = async { while registration.changed().await != wanted {} };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never {wanted:?}");
}

async fn until_held(registration: &mut Registration) {
    until_state(registration, Holding::Held).await;
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
    // After so many attempts the old client waits longer between its own than the new one does.
    proxy.lost(12).await;
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

fn numbered(connect: &str) -> RegisterOptions {
    let sequential = RegisterOptions { sequential: true, ..wanted(connect) };
    RegisterOptions { node: "member_".to_owned(), ..sequential }
}

/// The service's nodes with their owners.
async fn members(client: &Client) -> Vec<(String, i64)> {
    let mut members = Vec::new();
    for name in client.list_children("/services/orders").await.unwrap() {
        let stat = client.check_stat(&format!("/services/orders/{name}")).await.unwrap();
        members.extend(stat.map(|stat| (name, stat.ephemeral_owner)));
    }
    members
}

#[tokio::test]
async fn sequential_node_has_a_number_and_is_gone_when_released() {
    let connect = zk::chroot("numbered").await;
    let registration = Registration::start(numbered(&connect)).await.unwrap();
    let client = zk::client(&connect).await;
    let [(name, owner)] = &members(&client).await[..] else { panic!("one node") };
    assert_eq!((name.as_str(), *owner != 0), ("member_0000000000", true));
    assert_eq!(&*registration.node(), "/numbered/services/orders/member_0000000000");
    registration.release().await.unwrap();
    assert_eq!(members(&client).await, []);
}

#[tokio::test]
async fn answer_to_a_sequential_create_that_is_lost_makes_no_second_node() {
    let connect = zk::chroot("lost-answer").await;
    let client = zk::client(&connect).await;
    client.mkdir("/services/orders", &OPEN).await.unwrap();
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let mut options = numbered(&format!("{}/lost-answer", proxy.address()));
    // Long: whatever a lost session made is there until somebody deletes it.
    options.connect.session_timeout = Duration::from_secs(60);
    options.give_up = PATIENCE;
    proxy.set(Fault::NoAnswers);
    let starting = tokio::spawn(Registration::start(options));
    // The first of them is the create's, others are of attempts to find out.
    proxy.lost(4).await;
    assert!(!members(&client).await.is_empty(), "it was made, and nobody knows");
    proxy.set(Fault::None);
    let registration = starting.await.unwrap().unwrap();
    let [(name, _)] = &members(&client).await[..] else { panic!("{:?}", members(&client).await) };
    assert_eq!(*registration.node(), *format!("/lost-answer/services/orders/{name}"));
    registration.release().await.unwrap();
    assert_eq!(members(&client).await, []);
}

#[tokio::test]
async fn sequential_node_of_a_former_session_goes_when_the_new_one_comes() {
    let connect = zk::chroot("numbered-again").await;
    let client = zk::client(&connect).await;
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let mut options = numbered(&format!("{}/numbered-again", proxy.address()));
    options.connect.session_timeout = Duration::from_secs(60);
    let mut registration = Registration::start(options).await.unwrap();
    for round in 0..3 {
        proxy.set(Fault::Cut);
        assert_eq!(registration.changed().await, Holding::InDoubt);
        proxy.lost(12 * (round + 1)).await;
        proxy.set(Fault::None);
        until_held(&mut registration).await;
        let members = members(&client).await;
        assert_eq!(members.len(), 1, "{members:?}");
    }
    registration.release().await.unwrap();
    assert_eq!(members(&client).await, []);
}

#[tokio::test]
async fn loss_is_told_before_the_server_forgets_the_session() {
    let connect = zk::chroot("told-in-time").await;
    let client = zk::client(&connect).await;
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let mut options = wanted(&format!("{}/told-in-time", proxy.address()));
    options.connect.session_timeout = Duration::from_secs(9);
    let mut registration = Registration::start(options).await.unwrap();
    let first = owner(&client).await;
    proxy.set(Fault::BlackHole);
    assert_eq!(registration.changed().await, Holding::InDoubt);
    assert_eq!(registration.changed().await, Holding::Lost);
    assert_eq!(owner(&client).await, first, "the server still holds the session when its owner gives it up");
    proxy.set(Fault::None);
    until_held(&mut registration).await;
    registration.release().await.unwrap();
}

#[tokio::test]
async fn payload_can_change_and_outlives_the_session() {
    let connect = zk::chroot("updated").await;
    let client = zk::client(&connect).await;
    let registration = Registration::start(wanted(&connect)).await.unwrap();
    let until_data = async |wanted: &[u8]| {
        let data = async || client.get_data(NODE).await.ok().filter(|(data, _)| data == wanted);
        until("the payload", data).await;
    };
    for text in ["one", "two", "three"] {
        registration.update(text);
        until_data(text.as_bytes()).await;
    }
    client.delete(NODE, None).await.unwrap();
    until_data(b"three").await;
    registration.release().await.unwrap();
}

#[tokio::test]
async fn parents_that_others_delete_all_the_time_are_made_all_the_same() {
    let connect = zk::chroot("race").await;
    let client = zk::client(&connect).await;
    let mut registrations = Vec::new();
    let chaos = async {
        loop {
            for path in ["/services/orders", "/services"] {
                let _ = client.delete(path, None).await;
            }
        }
    };
    let registering = async {
        for _ in 0..20 {
            let started: Vec<_> = (0..3)
                .map(|i| RegisterOptions { node: format!("n{i}"), ..wanted(&connect) })
                .map(|options| tokio::spawn(Registration::start(options)))
                .collect();
            for one in started {
                registrations.push(one.await.unwrap().unwrap());
            }
            for one in registrations.drain(..) {
                one.release().await.unwrap();
            }
        }
    };
    tokio::select! {
        () = registering => {}
        never = chaos => never,
    }
}

#[tokio::test]
async fn parents_that_are_containers_or_have_a_time_to_live_go_when_nobody_needs_them() {
    for (name, parents) in
        [("container", Parents::Container), ("ttl", Parents::Ttl(Duration::from_millis(500)))]
    {
        let connect = zk::chroot(name).await;
        let registration =
            Registration::start(RegisterOptions { parents, ..wanted(&connect) }).await.unwrap();
        let client = zk::client(&connect).await;
        assert!(owner(&client).await.is_some());
        registration.release().await.unwrap();
        // The server's own doing, some time after the last child.
        let gone = async || client.check_stat("/services").await.unwrap().is_none().then_some(());
        until(&format!("the end of the parents ({name})"), gone).await;
    }
}
