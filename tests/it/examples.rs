//! Every program under `examples/` does what its first lines say.

use crate::support::example::{self, address};
use crate::support::gateway::{Gateway, Scratch};
use crate::support::http::{Client, get, get_with};
use crate::support::instance::Instance;
use crate::support::process::Process;
use crate::support::zk;

/// A gateway in front of what the instance example registers.
fn gateway(registry: &str) -> Gateway {
    Gateway::start(
        "examples",
        &format!(
            "[registries.main]\n{registry}\n[services.orders]\npath = \"/services/orders\"\n\
             [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n[[routes]]\nservice = \"orders\"\n"
        ),
    )
}

fn started(kind: &str, place: &str) -> (Process, String) {
    let example = example::start("instance", &[kind, place]);
    let address = address(&example, "", " is registered in /services/orders");
    (example, format!("instance-{}", address.port()))
}

/// A directory registry in which these instances are `one`, `two`, … of the service `hello`.
fn registry(instances: &[&Instance]) -> Scratch {
    let scratch = Scratch::new("examples");
    for (name, instance) in ["one", "two"].iter().zip(instances) {
        scratch.write(&format!("services/hello/{name}"), &instance.address.to_string());
    }
    scratch
}

#[test]
fn an_instance_leaves_a_directory_without_costing_a_request() {
    let scratch = Scratch::new("examples");
    let place = scratch.path().to_str().unwrap();
    let gateway = gateway(&format!("kind = \"directory\"\npath = {place:?}"));
    let (mut leaving, first) = started("--directory", place);
    let (mut staying, second) = started("--directory", place);
    let mut ids = [first.as_str(), second.as_str()];
    ids.sort_unstable();
    gateway.instances("orders", &ids);
    let view = gateway.json("/api/services/orders");
    assert!(view["instances"][0]["metadata"]["process"].is_string(), "{view}");

    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let mut ask = || client.request("GET", "/", &[], b"").unwrap();
    let bodies: std::collections::BTreeSet<String> = (0..8).map(|_| ask().body).collect();
    assert_eq!(bodies.len(), 2, "both answer: {bodies:?}");
    leaving.signal("TERM");
    let mut during = 0;
    let status = loop {
        let answer = ask();
        assert_eq!(answer.status, 200, "after {during} answers: {answer:?}");
        during += 1;
        if let Some(status) = leaving.ended() {
            break status;
        }
    };
    assert!(status.success() && during > 0, "{status}");
    leaving.says("stopped");
    gateway.instances("orders", &[&second]);
    staying.signal("INT");
    assert!(staying.wait().success());
    gateway.instances("orders", &[]);
}

#[tokio::test]
async fn an_instance_registers_in_zookeeper_and_is_gone_when_it_stops() {
    let connect = zk::chroot("example-instance").await;
    let gateway = gateway(&format!("kind = \"zookeeper\"\nconnect = {connect:?}"));
    let (mut instance, id) = started("--zookeeper", &connect);
    gateway.instances("orders", &[&id]);
    let answer = get(gateway.listener("public"), "/");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("hello from 127.0.0.1:"), "{answer:?}");
    instance.signal("TERM");
    instance.says("deregistered");
    gateway.instances("orders", &[]);
    assert!(instance.wait().success());
}

#[test]
fn an_embedded_gateway_answers_and_drains() {
    let instance = Instance::start("one");
    let registry = registry(&[&instance]);
    let mut example = example::start("embedded", &[registry.path().to_str().unwrap(), "127.0.0.1:0"]);
    let address = address(&example, "listening on ", "");
    example.says("hello has 1 instances");
    let answer = get(address, "/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    example.signal("INT");
    example.says("drained");
    assert!(example.wait().success());
}

#[test]
fn a_balancer_of_ones_own_decides() {
    let mut instances = [Instance::start("a"), Instance::start("b")];
    instances.sort_by_key(|instance| instance.address.to_string());
    let [first, second] = instances;
    // Registered the other way round: the addresses decide, not the names.
    let registry = registry(&[&second, &first]);
    let mut example = example::start("custom_balancer", &[registry.path().to_str().unwrap(), "127.0.0.1:0"]);
    let address = address(&example, "listening on ", "");
    example.says("ready");
    for _ in 0..20 {
        assert_eq!(get(address, "/").body, first.name);
    }
    first.kill();
    for _ in 0..20 {
        let answer = get(address, "/");
        assert_eq!((answer.status, answer.body), (200, second.name.clone()));
    }
    example.signal("INT");
    assert!(example.wait().success());
}

#[test]
fn a_filter_of_ones_own_answers_or_lets_pass() {
    let instance = Instance::start("one");
    let registry = registry(&[&instance]);
    let mut example = example::start("custom_filter", &[registry.path().to_str().unwrap(), "127.0.0.1:0"]);
    let address = address(&example, "listening on ", "");
    example.says("ready");
    for headers in [&[][..], &[("x-api-key", "wrong"), ("x-user", "ann")]] {
        let answer = get_with(address, "/", headers);
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.body, "an API key is needed, in the header x-api-key\n");
    }
    assert_eq!(instance.count(), 0, "nothing was forwarded");

    let answer = get_with(address, "/", &[("x-api-key", "xyz"), ("x-user", "ann")]);
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    assert_eq!(answer.header("cache-control"), Some("private"));
    let seen = &instance.seen()[0];
    assert_eq!((seen.header("x-user"), seen.header("x-api-key")), (Some("bob"), None));
    example.signal("INT");
    assert!(example.wait().success());
}

#[tokio::test]
async fn the_recipes_do_what_they_say() {
    let connect = zk::chroot("examples-recipes").await;
    let run = |name: &'static str, arguments: &[&str]| {
        let mut all = vec![connect.as_str()];
        all.extend(arguments);
        example::start(name, &all)
    };
    let ends = |mut example: Process| assert!(example.wait().success());

    let mut first = run("election", &["one"]);
    let fence = |example: &Process, id: &str| {
        let begin = format!("{id} leads with fence ");
        example.out.find("fence", |line| line.strip_prefix(&begin)?.parse::<u64>().ok())
    };
    let before = fence(&first, "one");
    let second = run("election", &["two"]);
    first.signal("TERM");
    assert!(first.wait().success());
    first.says("one resigned");
    assert!(fence(&second, "two") > before);
    second.signal("TERM");
    ends(second);

    let locks = [run("lock", &[]), run("lock", &[]), run("lock", &[])];
    for lock in locks {
        lock.says("released");
        ends(lock);
    }

    let client = zk::client(&connect).await;
    client.create("/examples/barrier", b"", &zk::OPEN).await.unwrap();
    let held = run("barriers", &["pass"]);
    held.says("waiting");
    client.delete("/examples/barrier", None).await.unwrap();
    held.says("passed");
    ends(held);
    let together = [run("barriers", &["together", "2"]), run("barriers", &["together", "2"])];
    for member in together {
        member.says("all of us are out");
        ends(member);
    }

    let put = run("queue", &["put", "a", "b"]);
    put.says("2 wait");
    ends(put);
    let work = run("queue", &["work"]);
    work.says("nothing left");
    assert_eq!(work.out.all(), ["working on a", "working on b", "nothing left"]);
    ends(work);

    for number in 1..=2 {
        let counter = run("counter", &[]);
        counter.says(&format!("I am number {number}"));
        ends(counter);
    }
}
