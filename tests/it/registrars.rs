//! Registrars of others and our own `register`, on a real ZooKeeper server.

use std::process::Command;

use crate::commands::text;
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::instance::Instance;
use crate::support::process::Process;
use crate::support::script::{Script, finish};
use crate::support::zk;
use zookeeper_client::Client;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn config(connect: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [services.orders]\npath = \"/services/orders\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [[routes]]\nservice = \"orders\"\n"
    )
}

fn chroot(name: &str) -> String {
    runtime().block_on(zk::chroot(&format!("registrars-{name}")))
}

/// Whether a node is there.
async fn exists(client: &Client, path: &str) -> bool {
    client.check_stat(path).await.unwrap().is_some()
}

#[test]
fn the_table_follows_a_registrar_of_others() {
    let connect = chroot("kazoo");
    let gateway = Gateway::start("kazoo", &config(&connect));
    gateway.ready();
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let mut kazoo = Script::start("kazoo_registrar.py", &[&connect]);
    assert_eq!(kazoo.line(), "ok");
    let mut ask = |line: String| assert_eq!(kazoo.ask(&line), "ok", "{line}");
    ask(format!("create /services/orders/n1 {}", a.address));
    gateway.instances("orders", &["n1"]);
    assert_eq!(gateway.get("/").body, "a");
    let view = gateway.json("/api/services/orders");
    assert_eq!(
        (&view["format"], &view["stale"], &view["registry"]),
        (&"plain".into(), &false.into(), &"main".into())
    );

    ask(format!("create /services/orders/n2 {}", b.address));
    gateway.instances("orders", &["n1", "n2"]);
    ask("delete /services/orders/n1".into());
    gateway.instances("orders", &["n2"]);
    assert_eq!(gateway.get("/").body, "b");
    // Created again it is a new instance, and changed data a new endpoint.
    ask(format!("create /services/orders/n1 {}", a.address));
    gateway.instances("orders", &["n1", "n2"]);
    ask("delete /services/orders/n2".into());
    ask(format!("set /services/orders/n1 {}", b.address));
    wait_for("the new address", || {
        (gateway.json("/api/services/orders")["instances"][0]["address"] == b.address.to_string())
            .then_some(())
    });
    assert_eq!(gateway.get("/").body, "b");
    ask("set /services/orders/n1 no:address".into());
    wait_for("the rejection", || {
        gateway.json("/api/services/orders")["rejected"]
            .as_array()?
            .iter()
            .find(|r| r["node"] == "n1")
            .cloned()
    });
    assert_eq!(gateway.get("/").body, "b", "the last good value serves");
    ask("close".into());
    gateway.instances("orders", &[]);
    assert_eq!(gateway.get("/").header("x-zoogate-error"), Some("no_instances"));
    for change in ["added", "removed", "changed"] {
        let series = format!("zoogate_membership_changes_total{{change=\"{change}\",service=\"orders\"}}");
        assert!(gateway.metric(&series).is_some_and(|count| count >= 1.0), "{series}");
    }
    assert_eq!(gateway.metric("zoogate_registry_connected{registry=\"main\"}"), Some(1.0));
}

#[test]
fn services_reads_the_ensemble_once() {
    let connect = chroot("services");
    let mut kazoo = Script::start("kazoo_registrar.py", &[&connect]);
    assert_eq!(kazoo.line(), "ok");
    assert_eq!(kazoo.ask("create /services/orders/good 10.0.0.7:8080"), "ok");
    assert_eq!(kazoo.ask("create /services/orders/bad 10.0.0.7:port"), "ok");
    let scratch = Scratch::new("zk-services");
    let file = scratch.write("zoogate.toml", &config(&connect));
    let output = finish(binary().args(["services", "--json", "--config"]).arg(&file));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    let orders = &json["services"][0];
    assert_eq!((&orders["name"], &orders["instances"][0]["id"]), (&"orders".into(), &"good".into()));
    assert_eq!(orders["rejected"][0]["node"], "bad");
}

/// `zoogate register` as a child process.
fn registrar(connect: &str, more: &[&str]) -> Process {
    let place = ["register", "--zookeeper", connect, "--path", "/services/orders", "--id", "me"];
    Process::start(binary().args(place).args(more))
}

const NODE: &str = "/services/orders/me";

#[test]
fn register_makes_what_is_missing_and_deletes_its_node_on_sigterm() {
    let connect = chroot("register-plain");
    // A chroot that nobody has made yet.
    let connect = format!("{connect}/not/yet");
    let instance = Instance::start("a");
    let address = instance.address.to_string();
    let mut register = registrar(&connect, &["--address", &address]);
    let gateway = Gateway::start("register", &config(&connect));
    gateway.instances("orders", &["me"]);
    assert_eq!(gateway.get("/").body, "a");
    register.signal("TERM");
    assert_eq!(register.wait().code(), Some(0));
    runtime().block_on(async {
        let client = zk::client(&connect).await;
        assert!(!exists(&client, NODE).await, "deleted before the end");
        assert!(exists(&client, "/services/orders").await);
    });
    gateway.instances("orders", &[]);
}

#[test]
fn a_command_gets_its_sigterm_after_the_node_is_deleted_and_its_status_is_passed_on() {
    let connect = chroot("register-command");
    let scratch = Scratch::new("register-command");
    let go = scratch.path().join("go");
    // Told to end, the command waits until the test has looked.
    let script = format!(
        "trap 'echo told; while [ ! -e {0} ]; do sleep 0.05; done; exit 9' TERM; echo up; while :; do sleep 0.05; done",
        go.display()
    );
    let mut register = registrar(&connect, &["--address", "127.0.0.1:8001", "--", "sh", "-c", &script]);
    register.out.find("the command", |line| (line == "up").then_some(()));
    let runtime = runtime();
    let client = runtime.block_on(zk::client(&connect));
    assert!(runtime.block_on(exists(&client, NODE)), "registered before the command starts");
    register.signal("TERM");
    register.out.find("the command's SIGTERM", |line| (line == "told").then_some(()));
    assert!(!runtime.block_on(exists(&client, NODE)), "the node goes first");
    std::fs::write(go, "").unwrap();
    assert_eq!(register.wait().code(), Some(9));

    let mut ends = registrar(&connect, &["--address", "127.0.0.1:8001", "--", "sh", "-c", "exit 5"]);
    assert_eq!(ends.wait().code(), Some(5));
    assert!(!runtime.block_on(exists(&client, NODE)));
    let mut fails = registrar(&connect, &["--address", "127.0.0.1:8001", "--", "/nonexistent/command"]);
    assert_eq!(fails.wait().code(), Some(1));
    fails.log.find("the command", |line| line.contains("/nonexistent/command").then_some(()));
    assert!(!runtime.block_on(exists(&client, NODE)));
}

#[test]
fn a_lost_session_is_registered_again_and_a_killed_registrar_is_gone_with_its_session() {
    let connect = chroot("register-session");
    let instance = Instance::start("a");
    let address = instance.address.to_string();
    let gateway = Gateway::start("session", &config(&connect));
    let mut register = registrar(&connect, &["--address", &address]);
    gateway.instances("orders", &["me"]);
    let runtime = runtime();
    let owner = || {
        runtime.block_on(async {
            let client = zk::client(&connect).await;
            client.check_stat(NODE).await.unwrap().map(|stat| stat.ephemeral_owner)
        })
    };
    let first = owner().expect("it is registered");
    // Asleep for longer than its session lasts, as a laptop would be.
    register.signal("STOP");
    gateway.instances("orders", &[]);
    register.signal("CONT");
    wait_for("another session's node", || owner().filter(|owner| *owner != first));
    gateway.instances("orders", &["me"]);
    assert_eq!(gateway.get("/").body, "a");
    register.kill();
    register.wait();
    gateway.instances("orders", &[]);
}

#[test]
fn digest_auth_from_the_environment_opens_what_is_closed_and_a_wrong_one_is_one_clear_line() {
    let connect = chroot("auth");
    let instance = Instance::start("a");
    let runtime = runtime();
    let _owner = runtime.block_on(async {
        let client = zk::client(&connect).await;
        client.auth("digest", b"gate:secret word").await.unwrap();
        let closed =
            zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::creator_all());
        client.create("/services", b"", &zk::OPEN).await.unwrap();
        client.create("/services/orders", b"", &closed).await.unwrap();
        client.create("/services/orders/n", instance.address.to_string().as_bytes(), &closed).await.unwrap();
        client
    });
    let with = |credentials: &str| {
        config(&connect).replace(
            "[services.orders]",
            &format!(
                "auth = [{{ scheme = \"digest\", credentials = \"{credentials}\" }}]\n[services.orders]"
            ),
        )
    };
    let right = Gateway::start("auth", &with("gate:${ZOOGATE_TEST_SECRET:-secret word}"));
    right.instances("orders", &["n"]);
    assert_eq!(right.get("/").body, "a");

    let wrong = Gateway::start("no-auth", &with("gate:wrong"));
    let host = connect.split('/').next().unwrap().to_owned();
    wrong.log.find("the refusal", |line| (line.contains("WARN") && line.contains(&host)).then_some(()));
    wait_for("readiness to say so", || wrong.admin("/readyz").body.contains("orders").then_some(()));
    let log = wrong.log.all();
    let warnings: Vec<_> = log.iter().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    assert_eq!(warnings.len(), 1, "{log:#?}");
    assert!(!log.join("\n").contains("wrong"), "credentials are never printed");
    let ready = wrong.admin("/readyz");
    assert!(ready.status == 503 && ready.body.contains("orders"), "{ready:?}");
    let scratch = Scratch::new("auth-services");
    let file = scratch.write("zoogate.toml", &with("gate:${ZOOGATE_TEST_SECRET}"));
    let output = finish(
        Command::new(env!("CARGO_BIN_EXE_zoogate"))
            .args(["services", "--config"])
            .arg(&file)
            .env("ZOOGATE_TEST_SECRET", "secret word"),
    );
    assert!(text(&output.stdout).contains(&instance.address.to_string()), "{}", text(&output.stderr));
}
