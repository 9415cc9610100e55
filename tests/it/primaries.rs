//! `zoogate primaries`: groups keep a living primary, whatever happens to members and controllers.

use std::process::ExitStatus;

use zookeeper_client::Client;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::binary;
use crate::support::process::Process;
use crate::support::wait::until;
use crate::support::zk::{self, EPHEMERAL, OPEN};

fn controller(connect: &str, id: &str) -> Process {
    let more = ["--root", "/data", "--id", id, "--session-timeout", "4s"];
    Process::start(binary().args(["primaries", "--zookeeper", connect]).args(more))
}

async fn ended(controller: &mut Process) -> ExitStatus {
    until("the controller's end", async || controller.ended()).await
}

async fn text(client: &Client, path: &str) -> Option<String> {
    client.get_data(path).await.ok().map(|(data, _)| String::from_utf8(data).unwrap())
}

async fn primary(client: &Client, group: &str, wanted: &str) {
    let path = format!("/data/{group}/primary");
    until(&format!("primary {wanted} of {group}"), async || {
        (text(client, &path).await.as_deref() == Some(wanted)).then_some(())
    })
    .await;
}

async fn master(client: &Client, wanted: impl Fn(&str) -> bool) -> String {
    until("a master", async || text(client, "/server/0").await.filter(|id| wanted(id))).await
}

async fn member(client: &Client, path: &str) {
    let parent = path.rsplit_once('/').unwrap().0;
    client.mkdir(parent, &OPEN).await.unwrap();
    client.create(path, b"10.0.0.1:7000", &EPHEMERAL).await.unwrap();
}

#[tokio::test]
async fn a_group_has_a_living_primary_which_stays_while_it_lives() {
    let connect = zk::chroot("primaries").await;
    let client = zk::client(&connect).await;
    for path in ["/data/zdata1/1", "/data/zdata1/2", "/data/zdata2/0000000003", "/data/zdata2/10"] {
        member(&client, path).await;
    }
    for path in ["/data/zdata1/top", "/data/zdata1/lock", "/data/lock", "/data/empty"] {
        client.create(path, b"9", &OPEN).await.unwrap();
    }
    client.create("/data/zdata2/primary", b"garbage", &OPEN).await.unwrap();
    let mut controller = controller(&connect, "a");
    primary(&client, "zdata1", "1").await;
    primary(&client, "zdata2", "3").await;
    assert_eq!(master(&client, |_| true).await, "a");

    // The primary dies: the next one takes over, and keeps it when the first comes back.
    client.delete("/data/zdata1/1", None).await.unwrap();
    primary(&client, "zdata1", "2").await;
    let version = client.get_data("/data/zdata1/primary").await.unwrap().1.version;
    member(&client, "/data/zdata1/1").await;
    // A group that appears later: once it has its primary, what came before has been looked at.
    member(&client, "/data/zdata3/5").await;
    primary(&client, "zdata3", "5").await;
    primary(&client, "zdata1", "2").await;
    assert_eq!(client.get_data("/data/zdata1/primary").await.unwrap().1.version, version, "it flapped");

    // Deleted by hand, and written by hand.
    client.delete("/data/zdata1/primary", None).await.unwrap();
    primary(&client, "zdata1", "1").await;
    client.set_data("/data/zdata1/primary", b"17", None).await.unwrap();
    primary(&client, "zdata1", "1").await;
    client.set_data("/data/zdata1/primary", b"2", None).await.unwrap();
    client.create("/data/zdata1/no-number", b"", &OPEN).await.unwrap();

    // The last member goes: nobody is named, and who comes first is.
    client.delete("/data/zdata3/5", None).await.unwrap();
    let gone = |line: &str| (line.contains("no live member") && line.contains("zdata3")).then_some(());
    controller.log.find("a group without primary", gone);
    assert_eq!(text(&client, "/data/zdata3/primary").await.as_deref(), Some("5"));
    member(&client, "/data/zdata3/8").await;
    primary(&client, "zdata3", "8").await;
    // A group vanishes, and comes again.
    for path in ["/data/zdata3/8", "/data/zdata3/primary", "/data/zdata3"] {
        // The controller may name one in between.
        until("a group's end", async || match client.delete(path, None).await {
            Err(zookeeper_client::Error::NotEmpty) => {
                let _ = client.delete("/data/zdata3/primary", None).await;
                None
            }
            _ => Some(()),
        })
        .await;
    }
    member(&client, "/data/zdata3/4").await;
    primary(&client, "zdata3", "4").await;
    primary(&client, "zdata1", "2").await;
    assert_eq!(text(&client, "/data/zdata1/no-number").await.as_deref(), Some(""));

    controller.signal("TERM");
    assert!(ended(&mut controller).await.success());
    assert_eq!(client.list_children("/server").await.unwrap(), Vec::<String>::new(), "it resigned");
}

#[tokio::test]
async fn a_controller_that_is_killed_or_cut_off_is_replaced() {
    let connect = zk::chroot("primaries-killed").await;
    let client = zk::client(&connect).await;
    let mut proxies = Vec::new();
    let mut controllers = Vec::new();
    for id in ["0", "1", "2"] {
        let proxy = FaultProxy::start(&zk::shared().server.address()).await;
        controllers.push(controller(&format!("{}/primaries-killed", proxy.address()), id));
        proxies.push(proxy);
    }
    for number in 1..=4 {
        member(&client, &format!("/data/zdata1/{number}")).await;
    }
    primary(&client, "zdata1", "1").await;

    let first = master(&client, |_| true).await;
    controllers[first.parse::<usize>().unwrap()].kill();
    // Nobody controls at this moment.
    client.delete("/data/zdata1/1", None).await.unwrap();
    let second = master(&client, |id| id != first).await;
    primary(&client, "zdata1", "2").await;

    let proxy = &proxies[second.parse::<usize>().unwrap()];
    proxy.set(Fault::BlackHole);
    client.delete("/data/zdata1/2", None).await.unwrap();
    let third = master(&client, |id| id != first && id != second).await;
    primary(&client, "zdata1", "3").await;
    // The one of before comes back, stands in line, and changes nothing.
    let version = client.get_data("/data/zdata1/primary").await.unwrap().1.version;
    proxy.set(Fault::None);
    until("the second in line again", async || {
        let line = client.list_children("/server").await.unwrap();
        (line.len() == 3).then_some(())
    })
    .await;
    assert_eq!(master(&client, |_| true).await, third);
    assert_eq!(client.get_data("/data/zdata1/primary").await.unwrap().1.version, version);
}
