//! `zoogate register` as a shell sees it: checks, commands and their signals, hooks, every format, lost sessions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use zoogate::model::{FormatName, Instance};
use zoogate::registration::Announcement;
use zookeeper_client::Client;

use crate::discovery::close_session;
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::process::Process;
use crate::support::script::Script;
use crate::support::zk::{self, Standalone};

/// `zoogate register` as a child process.
fn register(arguments: &[&str]) -> Process {
    Process::start(binary().arg("register").args(arguments))
}

/// A directory registry with at most one registration, `/orders/me`.
struct Directory {
    scratch: Scratch,
    root: String,
}

impl Directory {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let root = scratch.path().join("services").display().to_string();
        Self { scratch, root }
    }

    fn node(&self) -> PathBuf {
        Path::new(&self.root).join("orders/me")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn register(&self, address: SocketAddr, more: &[&str]) -> Process {
        let address = address.to_string();
        let place = ["--directory", &self.root, "--path", "/orders", "--id", "me", "--address", &address];
        register(&[&place, more].concat())
    }

    fn until(&self, there: bool) {
        wait_for(&format!("the node to be there: {there}"), || (self.node().exists() == there).then_some(()));
    }
}

const SOMEWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8001);
const OFTEN: [&str; 6] = ["--check-interval", "20ms", "--rise", "2", "--fall", "2"];

/// A server whose status can be changed.
fn answering() -> (SocketAddr, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU16::new(503));
    let now = Arc::clone(&status);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let status = now.load(Ordering::SeqCst);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (address, status)
}

#[test]
fn the_node_is_there_only_while_a_get_is_answered_with_2xx() {
    let directory = Directory::new("check-http");
    let (address, status) = answering();
    let check = format!("http://{address}/healthz");
    let mut register = directory.register(address, &[&["--check", &check], &OFTEN[..]].concat());
    register.log.find("the failure", |line| line.contains("503").then_some(()));
    assert!(!directory.node().exists());
    for _ in 0..2 {
        status.store(204, Ordering::SeqCst);
        directory.until(true);
        status.store(500, Ordering::SeqCst);
        directory.until(false);
    }
    register.signal("TERM");
    assert_eq!(register.wait().code(), Some(0));
}

#[test]
fn the_node_is_there_only_while_a_connection_is_accepted_or_a_command_succeeds() {
    let directory = Directory::new("check-tcp");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let register = directory.register(address, &[&["--check", "tcp"], &OFTEN[..]].concat());
    directory.until(true);
    drop(listener);
    directory.until(false);
    drop(register);

    let up = directory.file("up");
    let test = format!("cmd: test -e {}", up.display());
    for check in [["--check", &test], ["--check-command", test.strip_prefix("cmd: ").unwrap()]] {
        let register = directory.register(SOMEWHERE, &[&check, &OFTEN[..]].concat());
        register.log.find("the failure", |line| line.contains("the check fails").then_some(()));
        std::fs::write(&up, "").unwrap();
        directory.until(true);
        std::fs::remove_file(&up).unwrap();
        directory.until(false);
    }
    // One that hangs has failed.
    let hangs = ["--check", "cmd: sleep 1000", "--check-timeout", "20ms"];
    let register = directory.register(SOMEWHERE, &[&hangs, &OFTEN[..]].concat());
    register.log.find("the timeout", |line| line.contains("no answer within 20ms").then_some(()));
}

#[test]
fn the_node_is_there_only_while_a_foreign_grpc_server_says_that_it_serves() {
    let directory = Directory::new("check-grpc");
    let mut server = Script::start("health_server.py", &[]);
    let address: SocketAddr = format!("127.0.0.1:{}", server.line()).parse().unwrap();
    for check in ["grpc".to_owned(), format!("grpc://{address}/orders")] {
        let slowly = ["--check", &check, "--check-timeout", "10s"];
        let register = directory.register(address, &[&slowly, &OFTEN[..]].concat());
        register.log.find("the status", |line| line.contains("NOT_SERVING").then_some(()));
        assert_eq!(server.ask("SERVING"), "ok");
        directory.until(true);
        assert_eq!(server.ask("NOT_SERVING"), "ok");
        directory.until(false);
    }
    let unknown = format!("grpc://{address}/other");
    let register = directory.register(address, &[&["--check", &unknown], &OFTEN[..]].concat());
    register.log.find("the status", |line| line.contains("unknown there").then_some(()));
}

#[test]
fn with_a_check_the_command_comes_first_and_its_node_when_it_is_well() {
    let directory = Directory::new("command-first");
    let up = directory.file("up");
    let check = format!("cmd: test -e {}", up.display());
    // Started before it is registered; told to end after its node has gone.
    let script = format!(
        "look() {{ test -e {node} && echo $1-there || echo $1-gone; }}; trap 'look end; exit 3' TERM; \
         look start; while :; do sleep 0.02; done",
        node = directory.node().display()
    );
    let command = ["--linger", "10ms", "--", "sh", "-c", &script];
    let mut register =
        directory.register(SOMEWHERE, &[&["--check", &check], &OFTEN[..], &command[..]].concat());
    register.says("start-gone");
    std::fs::write(&up, "").unwrap();
    directory.until(true);
    register.signal("TERM");
    register.says("end-gone");
    assert_eq!(register.wait().code(), Some(3));
    assert!(!directory.node().exists());
}

#[test]
fn lingering_parts_the_node_s_end_from_the_command_s_and_a_second_signal_cuts_it_short() {
    let directory = Directory::new("linger");
    let script =
        "trap 'echo told; exit 4' INT; trap 'echo reload' HUP; echo up; while :; do sleep 0.02; done";
    let mut register = directory.register(SOMEWHERE, &["--linger", "1h", "--", "sh", "-c", script]);
    register.says("up");
    register.signal("HUP");
    register.says("reload");
    register.signal("INT");
    directory.until(false);
    assert!(!register.out.all().contains(&"told".to_owned()), "an hour is not over");
    register.signal("INT");
    register.says("told");
    assert_eq!(register.wait().code(), Some(4));
}

#[test]
fn the_command_s_end_is_the_registrar_s_and_takes_the_node_along() {
    let directory = Directory::new("statuses");
    let node = directory.node();
    for (script, code) in [("exit 0", 0), ("exit 5", 5), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        let script = format!("test -e {} || exit 99; {script}", node.display());
        let mut register = directory.register(SOMEWHERE, &["--", "sh", "-c", &script]);
        assert_eq!(register.wait().code(), Some(code), "{script}");
        assert!(!node.exists(), "{script}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_ends_with_a_registrar_that_is_killed() {
    let directory = Directory::new("orphan");
    let mut register = directory.register(SOMEWHERE, &["--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let process: u32 = register.out.find("the command's pid", |line| line.parse().ok());
    register.kill();
    wait_for("the command's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let running = stat.contains("(sleep)") && !stat.contains(") Z");
        (!running).then_some(())
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Names and owners of the nodes of `/services/orders`.
async fn nodes(client: &Client) -> Vec<(String, i64)> {
    let mut nodes = Vec::new();
    for name in client.list_children("/services/orders").await.unwrap_or_default() {
        let stat = client.check_stat(&format!("/services/orders/{name}")).await.unwrap();
        nodes.extend(stat.map(|stat| (name, stat.ephemeral_owner)));
    }
    nodes
}

fn on_zookeeper(connect: &str, more: &[&str]) -> Process {
    let place = ["--zookeeper", connect, "--path", "/services/orders", "--address", "127.0.0.1:8001"];
    register(&[&place, more].concat())
}

/// Waits until a node of another session than this one is there, and returns that session.
fn until_another(runtime: &tokio::runtime::Runtime, client: &Client, first: i64) -> i64 {
    wait_for("another session's node", || {
        let nodes = runtime.block_on(nodes(client));
        assert!(nodes.len() <= 1, "registered twice: {nodes:?}");
        nodes.first().map(|(_, owner)| *owner).filter(|owner| *owner != first)
    })
}

#[test]
fn a_session_that_ends_is_told_once_and_replaced_without_a_second_node() {
    let runtime = runtime();
    let server = zk::shared().server.address();
    for (name, more) in [("ended", &["--id", "me"][..]), ("ended-numbered", &["--id", "me", "--sequential"])]
    {
        let connect = runtime.block_on(zk::chroot(&format!("registration-{name}")));
        let client = runtime.block_on(zk::client(&connect));
        let scratch = Scratch::new(name);
        let told = scratch.path().join("told");
        let note =
            format!("echo $ZOOGATE_EVENT $ZOOGATE_NODE $ZOOGATE_PATH $ZOOGATE_ADDRESS >> {}", told.display());
        let hooks = ["--on-lost", &note, "--on-registered", &note];
        let mut register = on_zookeeper(&connect, &[more, &hooks].concat());
        let mut session = until_another(&runtime, &client, 0);
        let lines = || std::fs::read_to_string(&told).unwrap_or_default();
        let count = |event: &str| lines().lines().filter(|line| line.starts_with(event)).count();
        for losses in 1..=2 {
            wait_for("the registration's hook", || (count("registered ") == losses).then_some(()));
            let next = wait_for("another session", || {
                // The owner may take its session back before the close is read.
                close_session(&server, session);
                let owner = runtime.block_on(nodes(&client)).first().map(|(_, owner)| *owner);
                owner.filter(|owner| *owner != session)
            });
            session = next;
            wait_for("the loss's hook", || (count("lost ") == losses).then_some(()));
        }
        wait_for("the last hook", || (count("registered ") == 3).then_some(()));
        let all = lines();
        let events: Vec<&str> = all.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(events, ["registered", "lost", "registered", "lost", "registered"], "{all}");
        let first = all.lines().next().unwrap();
        assert!(first.contains(&format!("/registration-{name}/services/orders/me")), "{first}");
        assert!(first.ends_with(" /services/orders 127.0.0.1:8001"), "{first}");
        register.signal("TERM");
        assert_eq!(register.wait().code(), Some(0));
        assert_eq!(runtime.block_on(nodes(&client)), []);
    }
}

/// An ensemble that is down for longer than the session lasts: the command lives through it, the loss is told, and the
/// node comes back, once.
fn outage(name: &str, session: &str, at_least: Duration) {
    let runtime = runtime();
    let mut zk = Standalone::start();
    let connect = zk.server.address();
    let scratch = Scratch::new(name);
    let lost = scratch.path().join("lost");
    let hook = format!("echo lost >> {}", lost.display());
    let more = ["--id", "me", "--sequential", "--session-timeout", session, "--on-lost", &hook];
    let command = ["--", "sh", "-c", "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"];
    let mut register = on_zookeeper(&connect, &[&more[..], &command].concat());
    register.says("up");
    let before = runtime.block_on(async { nodes(&zk::client(&connect).await).await });
    assert_eq!(before.len(), 1);

    let down = Instant::now();
    zk.server.kill();
    wait_for("the loss's hook", || lost.exists().then_some(()));
    register.log.find("the session's end", |line| line.contains("lost the ZooKeeper session").then_some(()));
    // The outage's length is the subject, not a way to wait for something.
    std::thread::sleep(at_least.saturating_sub(down.elapsed()));
    zk.server.restart();
    let client = runtime.block_on(zk::client(&connect));
    // The server remembers the old session and its node for a while: never do two stand there when all is settled.
    wait_for("the new node alone", || {
        let now = runtime.block_on(nodes(&client));
        (now.len() == 1 && now[0].1 != before[0].1).then_some(())
    });
    assert_eq!(std::fs::read_to_string(&lost).unwrap().lines().count(), 1);
    register.signal("TERM");
    assert_eq!(register.wait().code(), Some(6), "the command has lived through it");
    assert_eq!(runtime.block_on(nodes(&client)), []);
}

#[test]
fn a_command_and_its_registration_survive_an_outage_of_the_ensemble() {
    outage("outage", "2s", Duration::from_secs(6));
}

#[test]
fn a_command_and_its_registration_survive_a_minute_without_the_ensemble() {
    if std::env::var_os("ZOOGATE_TEST_LONG").is_none() {
        eprintln!("skipped: set ZOOGATE_TEST_LONG=1");
        return;
    }
    outage("long-outage", "10s", Duration::from_secs(60));
}

#[test]
fn every_format_that_is_written_is_read_back_by_the_gateway_itself() {
    let runtime = runtime();
    let connect = runtime.block_on(zk::chroot("registration-formats"));
    let formats: Vec<&str> = FormatName::WRITABLE.iter().map(|f| f.as_str()).collect();
    let mut config = format!(
        "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
    );
    for format in &formats {
        config += &format!("[services.{format}]\npath = \"/services/{format}\"\nformat = \"{format}\"\n");
    }
    let mut registrars = Vec::new();
    for format in &formats {
        let path = format!("/services/{format}");
        let of = ["--zookeeper", &connect, "--path", &path, "--format", format];
        let named = ["--address", "192.0.2.1:81", "--id", "7"];
        registrars.push(register(&[&of[..], &named].concat()));
        let numbered = ["--address", "[2001:db8::1]:82", "--id", "8", "--sequential"];
        registrars.push(register(&[&of[..], &numbered].concat()));
    }
    let gateway = Gateway::start("formats", &config);
    for format in &formats {
        let both = wait_for(&format!("both of {format}"), || {
            let view = gateway.json(&format!("/api/services/{format}"));
            let instances = view["instances"].as_array()?.clone();
            (instances.len() == 2).then_some(instances)
        });
        let mut addresses: Vec<_> = both.iter().filter_map(|i| i["address"].as_str()).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, ["192.0.2.1:81", "[2001:db8::1]:82"], "{format}");
        for instance in &both {
            assert_eq!(instance["state"], "up", "{format}: {instance}");
        }
        let of = Instance::new("8".into(), "[2001:db8::1]:82".parse().unwrap());
        let wanted = Announcement::new(format.parse().unwrap(), "/services/x", &of, true).unwrap().node;
        let client = runtime.block_on(zk::client(&connect));
        let names = runtime.block_on(client.list_children(&format!("/services/{format}"))).unwrap();
        let numbered = |name: &&String| {
            name.strip_prefix(&*wanted)
                .is_some_and(|n| n.len() == 10 && n.bytes().all(|b| b.is_ascii_digit()))
        };
        assert!(names.iter().any(|name| numbered(&name)), "{format}: {names:?}");
    }
}

#[test]
fn a_server_without_ttl_nodes_is_one_warning_and_no_obstacle() {
    let runtime = runtime();
    let zk = Standalone::start_without_ttl();
    let connect = zk.server.address();
    let register = on_zookeeper(&connect, &["--id", "me", "--parents", "ttl=1h"]);
    let client = runtime.block_on(zk::client(&connect));
    until_another(&runtime, &client, 0);
    let log = register.log.all();
    assert_eq!(log.iter().filter(|line| line.contains("the server has no TTL nodes")).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn a_protected_registration_is_readable_as_asked_and_deleted_by_its_own_credentials_alone() {
    let connect = zk::chroot("register-acl").await;
    let place =
        ["--zookeeper", &connect, "--address", "10.0.0.7:8080", "--id", "me", "--session-timeout", "4s"];
    let start = |path: &str, acl: &str| {
        let flags = ["--path", path, "--acl", acl];
        let mut command = binary();
        command.arg("register").args(place).args(flags).env("ZOOGATE_AUTH", "digest:me:pass:word");
        let process = Process::start(&mut command);
        process.log.find("the registration", |line| line.contains("registered").then_some(()));
        process
    };
    let (mut readable, mut closed) =
        (start("/guarded/orders", "readable"), start("/closed/orders", "creator"));
    let stranger = zk::client(&connect).await;
    assert_eq!(stranger.get_data("/guarded/orders/me").await.unwrap().0, b"10.0.0.7:8080");
    let denied = |result: Result<(), zookeeper_client::Error>| {
        assert!(matches!(result, Err(zookeeper_client::Error::NoAuth)), "{result:?}");
    };
    denied(stranger.delete("/guarded/orders/me", None).await);
    denied(stranger.set_data("/guarded/orders/me", b"10.6.6.6:1", None).await.map(drop));
    denied(stranger.create("/guarded/orders/other", b"10.6.6.6:1", &zk::EPHEMERAL).await.map(drop));
    denied(stranger.get_data("/closed/orders/me").await.map(drop));
    denied(stranger.list_children("/closed/orders").await.map(drop));

    // Its owner takes it back all the same.
    for process in [&mut readable, &mut closed] {
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
    }
    let owner = zk::client(&connect).await;
    owner.auth("digest", b"me:pass:word").await.unwrap();
    assert_eq!(owner.list_children("/closed/orders").await.unwrap(), Vec::<String>::new());

    let mut unnamed = register(&[&place[..], &["--path", "/closed/orders", "--acl", "creator"]].concat());
    assert_eq!(unnamed.wait().code(), Some(1));
    unnamed.log.find("what to do", |line| line.contains("set ZOOGATE_AUTH=digest:").then_some(()));
}
