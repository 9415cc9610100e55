//! Services that the frameworks themselves register, proxied as they stand: nothing here is written by us.

use std::path::Path;
use std::process::Command;

use crate::support::gateway::Gateway;
use crate::support::instance::Instance;
use crate::support::script::Script;
use crate::support::zk;

const JARS: &[&str] = &[
    "curator-client",
    "curator-framework",
    "curator-x-discovery",
    "guava",
    "jackson-annotations",
    "jackson-core",
    "jackson-databind",
    "slf4j-api",
    "slf4j-simple",
    "zookeeper",
    "zookeeper-jute",
];

/// Curator in a JVM of its own; `None`, and a word why, where the machine has no compiler or no Curator.
fn curator(connect: &str) -> Option<Script> {
    let jars: Vec<String> = JARS.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
    if let Some(missing) = jars.iter().find(|jar| !Path::new(jar).exists()) {
        eprintln!("skipped: no {missing} (./test.sh setup installs it)");
        return None;
    }
    if Command::new("javac").arg("-version").output().is_err() {
        eprintln!("skipped: no JDK here, only what runs Java");
        return None;
    }
    let mut java = Command::new("java");
    // One JVM compiles the file and runs it.
    java.args([
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
    ])
    .args(["-cp", &jars.join(":")])
    .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/java/CuratorRegistrar.java"))
    .args([connect, "/services"]);
    let mut script = Script::run(&mut java);
    assert_eq!(script.line(), "ok");
    Some(script)
}

fn config(connect: &str, service: &str, more: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = {connect:?}\n\
         [services.orders]\npath = {service:?}\n{more}\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n[[routes]]\nservice = \"orders\"\n"
    )
}

#[tokio::test]
async fn a_service_of_curators_is_proxied_from_its_registration_to_its_removal() {
    let connect = zk::chroot("curator").await;
    let Some(mut curator) = curator(&connect) else { return };
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let gateway = Gateway::start("curator", &config(&connect, "/services/orders", ""));
    let mut ask = |line: String| assert_eq!(curator.ask(&line), "ok", "{line}");
    ask(format!("register orders one {}", a.address.port()));
    gateway.instances("orders", &["one"]);
    assert_eq!(gateway.get("/").body, "a");
    let view = gateway.json("/api/services/orders");
    assert_eq!(
        (&view["format"], &view["instances"][0]["zone"]),
        (&"curator".into(), &"west".into()),
        "{view}"
    );
    assert_eq!(view["instances"][0]["metadata"]["version"], "2.1");

    // To register again is to delete and to create: another instance under the old name.
    ask(format!("register orders one {}", b.address.port()));
    crate::support::gateway::wait_for("the other address", || {
        let view = gateway.json("/api/services/orders");
        (view["instances"][0]["address"] == b.address.to_string()).then_some(())
    });
    assert_eq!(gateway.get("/").body, "b");
    ask(format!("register orders two {}", a.address.port()));
    gateway.instances("orders", &["one", "two"]);
    let mut bodies = [gateway.get("/").body, gateway.get("/").body];
    bodies.sort();
    assert_eq!(bodies, ["a", "b"]);

    ask("unregister two".into());
    gateway.instances("orders", &["one"]);
    ask("close".into());
    gateway.instances("orders", &[]);
    assert_eq!(gateway.get("/").header("x-zoogate-error"), Some("no_instances"));
}
