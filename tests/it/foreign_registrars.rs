//! Services that the frameworks themselves register, proxied as they stand: nothing here is written by us.

use std::path::Path;
use std::process::Command;

use crate::support::gateway::Gateway;
use crate::support::instance::Instance;
use crate::support::script::{Script, run_script};
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

/// kazoo in a process of its own.
fn kazoo(connect: &str) -> Script {
    let mut kazoo = Script::start("kazoo_registrar.py", &[connect]);
    assert_eq!(kazoo.line(), "ok");
    kazoo
}

/// What Spring Cloud Zookeeper writes, to the letter.
fn spring(id: &str, port: u16, status: &str) -> String {
    format!(
        "{{\"name\":\"orders\",\"id\":\"{id}\",\"address\":\"127.0.0.1\",\"port\":{port},\"sslPort\":null,\
         \"payload\":{{\"@class\":\"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance\",\
         \"id\":\"application-1\",\"name\":\"orders\",\"metadata\":{{\"instance_status\":\"{status}\"}}}},\
         \"registrationTimeUTC\":1718000000001,\"serviceType\":\"DYNAMIC\",\"uriSpec\":{{\"parts\":[\
         {{\"value\":\"scheme\",\"variable\":true}},{{\"value\":\"://\",\"variable\":false}},\
         {{\"value\":\"address\",\"variable\":true}},{{\"value\":\":\",\"variable\":false}},\
         {{\"value\":\"port\",\"variable\":true}}]}}}}"
    )
}

#[tokio::test]
async fn a_spring_service_gets_requests_while_its_status_is_up() {
    const A: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
    const B: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";
    let connect = zk::chroot("spring").await;
    let gateway = Gateway::start("spring", &config(&connect, "/services/orders", ""));
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let mut kazoo = kazoo(&connect);
    let mut ask = |line: String| assert_eq!(kazoo.ask(&line), "ok", "{line}");
    let (port_a, port_b) = (a.address.port(), b.address.port());
    ask(format!("create /services/orders/{A} {}", spring(A, port_a, "UP")));
    ask(format!("create /services/orders/{B} {}", spring(B, port_b, "OUT_OF_SERVICE")));
    gateway.instances("orders", &[A, B]);
    assert_eq!(gateway.json("/api/services/orders")["format"], "spring");
    gateway.state("orders", B, "disabled");
    for _ in 0..4 {
        assert_eq!(gateway.get("/").body, "a");
    }
    // An operator puts the one in service and takes the other out of it.
    ask(format!("set /services/orders/{B} {}", spring(B, port_b, "UP")));
    ask(format!("set /services/orders/{A} {}", spring(A, port_a, "DOWN")));
    gateway.state("orders", A, "disabled");
    gateway.state("orders", B, "up");
    for _ in 0..4 {
        assert_eq!(gateway.get("/").body, "b");
    }
    ask("close".into());
    gateway.instances("orders", &[]);
}

#[tokio::test]
async fn a_serverset_gets_requests_while_its_members_are_alive() {
    let connect = zk::chroot("serverset").await;
    let gateway = Gateway::start("serverset", &config(&connect, "/discovery/prod/orders", ""));
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let mut kazoo = kazoo(&connect);
    let mut ask = |line: String| assert_eq!(kazoo.ask(&line), "ok", "{line}");
    let member = |instance: &Instance, status: &str| {
        let port = instance.address.port();
        format!(
            "{{\"status\":\"{status}\",\"additionalEndpoints\":{{\"admin\":{{\"host\":\"127.0.0.1\",\"port\":1}}}},\
             \"serviceEndpoint\":{{\"host\":\"127.0.0.1\",\"port\":{port}}},\"shard\":0}}"
        )
    };
    let (first, second) = ("member_0000000007", "member_0000000008");
    ask(format!("create /discovery/prod/orders/{first} {}", member(&a, "ALIVE")));
    ask(format!("create /discovery/prod/orders/{second} {}", member(&b, "STOPPING")));
    gateway.instances("orders", &[first, second]);
    let view = gateway.json("/api/services/orders");
    assert_eq!(view["format"], "serverset");
    for _ in 0..4 {
        assert_eq!(gateway.get("/").body, "a");
    }
    ask(format!("delete /discovery/prod/orders/{first}"));
    gateway.instances("orders", &[second]);
    assert_eq!(gateway.get("/").header("x-zoogate-error"), Some("no_instances"));
}

/// Asks `test.Echo/Unary` over gRPC.
fn echo(gateway: &Gateway) -> serde_json::Value {
    let target = gateway.listener("public").to_string();
    serde_json::from_str(run_script("grpc_client.py", &[&target, "unary"]).trim_end()).unwrap()
}

#[tokio::test]
async fn a_dubbo_tri_service_is_called_over_grpc_from_its_provider_node() {
    let connect = zk::chroot("dubbo").await;
    let more = "format = \"dubbo\"\nprotocol = \"h2\"";
    let gateway = Gateway::start("dubbo", &config(&connect, "/dubbo/test.Echo/providers", more));
    // A gRPC server that kazoo registers the way Dubbo for Java does: a URL for a name, an IP address for data.
    let mut server = Script::start("grpc_server.py", &[]);
    let port = server.line();
    let mut kazoo = kazoo(&connect);
    let url = format!(
        "tri%3A%2F%2F127.0.0.1%3A{port}%2Ftest.Echo%3Fanyhost%3Dtrue%26application%3Decho%26dubbo%3D2.0.2%26\
         interface%3Dtest.Echo%26methods%3DUnary%26side%3Dprovider%26timestamp%3D1718000000001"
    );
    assert_eq!(kazoo.ask(&format!("create /dubbo/test.Echo/providers/{url} 192.0.2.1")), "ok");
    let id = format!("127.0.0.1:{port}");
    gateway.instances("orders", &[&id]);
    let told = echo(&gateway);
    assert_eq!((&told["code"], &told["answers"][0]), (&"OK".into(), &"unary:a".into()), "{told}");
    assert_eq!(kazoo.ask("close"), "ok");
    gateway.instances("orders", &[]);
    assert_eq!(echo(&gateway)["code"], "UNAVAILABLE");

    // And Dubbo itself, where it is installed.
    let port = zk::free_port().to_string();
    let mut dubbo = Script::start("dubbo_service.py", &[&connect, &port]);
    match dubbo.line().as_str() {
        "no dubbo" => {
            return eprintln!("skipped in part: no apache-dubbo here (./test.sh setup installs it)");
        }
        line => assert_eq!(line, "ok"),
    }
    gateway.instances("orders", &[&format!("127.0.0.1:{port}")]);
    let told = echo(&gateway);
    assert_eq!((&told["code"], &told["answers"][0]), (&"OK".into(), &"dubbo:a".into()), "{told}");
    dubbo.kill();
    gateway.instances("orders", &[]);
}
