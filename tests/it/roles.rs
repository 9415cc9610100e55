//! Who of a service gets a request: roles, shards, captured hosts, zones, warm-up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::commands::text;
use crate::support::gateway::{Gateway, LOCAL, binary, wait_for};
use crate::support::http::{Answer, Client, get_with};
use crate::support::instance::Instance;
use crate::support::script::finish;

/// PUT to the primary, GET to the replicas, everything else to anyone.
const ROLES: &str = "
[[routes]]
path = \"/*\"
methods = [\"PUT\"]
service = \"orders\"
instances = \"primary\"
[[routes]]
path = \"/waiting\"
methods = [\"PUT\"]
service = \"orders\"
instances = \"primary\"
primary_wait = \"20s\"
[[routes]]
path = \"/*\"
methods = [\"GET\"]
service = \"orders\"
instances = \"replicas\"
";

fn send(gateway: &Gateway, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    client.request(method, path, &[], b"").unwrap()
}

fn primary(gateway: &Gateway, service: &str, id: Option<&str>) {
    wait_for(&format!("{id:?} leads {service}"), || {
        (gateway.json(&format!("/api/services/{service}"))["primary"].as_str() == id).then_some(())
    });
}

/// Who answers, and how often.
fn shares(gateway: &Gateway, headers: &[(&str, &str)], count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = client.request("GET", "/", headers, b"").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        *shares.entry(answer.body).or_default() += 1;
    }
    shares
}

fn at(instance: &Instance, more: &str) -> String {
    format!("{{\"host\": \"127.0.0.1\", \"port\": {}{more}}}", instance.address.port())
}

#[test]
fn an_election_names_the_primary_by_id_or_address() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\nprimary = {{ election = \"/election/orders\" }}\n{ROLES}"
    );
    let gateway = Gateway::start("election", &config);
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    for instance in &instances {
        gateway.register(&format!("orders/{}", instance.name), instance.address);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    let nobody = send(&gateway, "PUT", "/x");
    assert_eq!((nobody.status, nobody.header("x-zoogate-error")), (503, Some("no_instances")));

    // The name before the number says nothing: that of the second sorts first.
    gateway.register("election/orders/_c_99-latch-0000000009", "b");
    gateway.register("election/orders/_c_11-latch-0000000010", instances[2].address);
    primary(&gateway, "orders", Some("b"));
    for _ in 0..6 {
        assert_eq!(send(&gateway, "PUT", "/x").body, "b");
        assert_ne!(send(&gateway, "GET", "/x").body, "b");
    }
    let told = gateway.json("/api/explain?method=PUT&url=http://h/x");
    assert_eq!((&told["instance"], &told["key"]), (&"b".into(), &serde_json::Value::Null));
    let offline = ["explain", "--config", gateway.config.to_str().unwrap(), "PUT", "http://h/x"];
    let told = text(&finish(binary().args(offline)).stdout);
    assert!(told.contains("instance  b\n") && told.contains("a: not the primary\n"), "{told}");
    assert!(told.contains("b: the primary\n"), "{told}");

    gateway.withdraw("election/orders/_c_99-latch-0000000009");
    primary(&gateway, "orders", Some("c"));
    assert_eq!(send(&gateway, "PUT", "/x").body, "c");
    gateway.withdraw("orders/c");
    primary(&gateway, "orders", None);
    assert_eq!(send(&gateway, "PUT", "/x").status, 503, "its id leads, but it is not there");
    let routes = gateway.json("/api/routes");
    assert!(routes["routes"].as_array().unwrap().iter().any(|r| r["instances"] == "replicas"), "{routes}");
}

#[test]
fn the_lowest_sequence_leads_and_a_request_waits_for_who_does() {
    let config =
        format!("{LOCAL}[services.orders]\npath = \"/orders\"\nprimary = \"lowest_sequence\"\n{ROLES}");
    let gateway = Gateway::start("lowest", &config);
    gateway.ready();
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&gateway, "PUT", "/waiting"));
        wait_for("the request to be there", || {
            (gateway.metric("zoogate_connections{listener=\"public\"}") >= Some(1.0)).then_some(())
        });
        gateway.register("orders/x-0000000007", a.address);
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    });
    gateway.register("orders/a-0000000008", b.address);
    gateway.instances("orders", &["a-0000000008", "x-0000000007"]);
    assert_eq!(
        (send(&gateway, "PUT", "/x").body, send(&gateway, "GET", "/x").body),
        ("a".into(), "b".into())
    );

    // The primary is out of reach, so the request was not sent: it is its successor's.
    a.kill();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&gateway, "PUT", "/waiting"));
        gateway.state("orders", "x-0000000007", "ejected");
        gateway.withdraw("orders/x-0000000007");
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "b"));
    });
}

#[test]
fn a_wait_for_a_primary_ends() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\ninstances = \"primary\"\n\
         primary_wait = \"300ms\"\n"
    );
    let gateway = Gateway::start("no-primary", &config);
    let a = Instance::start("a");
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let since = Instant::now();
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (503, Some("no_instances")));
    assert!(since.elapsed() >= Duration::from_millis(250), "{:?}", since.elapsed());
    assert_eq!(a.count(), 0);
}

#[test]
fn a_key_belongs_to_a_shard_and_explain_shows_both_steps() {
    let config = format!(
        "{LOCAL}[catalogs.data]\npath = \"/data\"\n[[routes]]\npath = \"/data/{{key}}\"\n\
         shard = {{ catalog = \"data\", key = \"path:key\" }}\n"
    );
    let gateway = Gateway::start("shards", &config);
    let instances: Vec<_> = ["z1", "z2", "z3"].into_iter().map(Instance::start).collect();
    for instance in &instances {
        gateway.register(&format!("data/{}/1", instance.name), instance.address);
        gateway.instances(&format!("data/{}", instance.name), &["1"]);
    }
    let owners = |gateway: &Gateway| -> Vec<String> {
        (0..40).map(|key| gateway.get(&format!("/data/k{key}")).body).collect()
    };
    let before = owners(&gateway);
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{before:?}");
    for (key, owner) in before.iter().enumerate() {
        let told = gateway.json(&format!("/api/explain?method=GET&url=http://h/data/k{key}"));
        assert_eq!(
            (&told["service"], &told["shard_key"]),
            (&format!("data/{owner}").into(), &format!("k{key}").into())
        );
    }
    let offline = ["explain", "--config", gateway.config.to_str().unwrap(), "GET", "http://h/data/k0"];
    let told = text(&finish(binary().args(offline)).stdout);
    assert!(told.contains(&format!("shard     k0\nservice   data/{}\n", before[0])), "{told}");
    let first = format!("data/{}: number 1 for path:key = \"k0\" among the shards", before[0]);
    assert!(told.contains(&first), "{told}");

    gateway.withdraw("data/z2/1");
    std::fs::remove_dir(gateway.folder().join("services/data/z2")).unwrap();
    wait_for("the shard is gone", || (gateway.admin("/api/services/data/z2").status == 404).then_some(()));
    for (before, after) in before.iter().zip(owners(&gateway)) {
        assert!(*before == after || before == "z2", "{before} became {after}");
    }
}

#[test]
fn a_captured_label_of_the_host_names_the_service_and_a_pattern_finds_it() {
    let config = format!(
        "{LOCAL}[catalogs.rpc]\npath = \"/dubbo/*/providers\"\n[catalogs.apps]\npath = \"/apps\"\n\
         [[routes]]\nhost = \"{{service}}.internal\"\nservice = \"apps/{{service}}\"\n\
         [[routes]]\nhost = \"*.internal\"\nservice = \"apps/other\"\n\
         [[routes]]\npath = \"/rpc/{{name}}/*\"\nservice = \"rpc/{{name}}\"\n"
    );
    let gateway = Gateway::start("hosts", &config);
    let instances: Vec<_> = ["shop", "other", "foo"].into_iter().map(Instance::start).collect();
    gateway.register("apps/shop/1", instances[0].address);
    gateway.register("apps/other/1", instances[1].address);
    gateway.register("dubbo/com.foo.Bar/providers/1", instances[2].address);
    gateway.register("dubbo/com.foo.Bar/consumers/1", instances[0].address);
    for service in ["apps/shop", "apps/other", "rpc/com.foo.Bar"] {
        gateway.instances(service, &["1"]);
    }
    let address = gateway.listener("public");
    let get = |host: &str| get_with(address, "/", &[("host", host)]);
    assert_eq!(get("Shop.Internal:80").body, "shop");
    assert_eq!(get("a.shop.internal").body, "other", "two labels are the star's");
    assert_eq!(get("nobody.internal").header("x-zoogate-error"), Some("no_route"));
    assert_eq!(gateway.get("/rpc/com.foo.Bar/x").body, "foo");

    std::fs::create_dir(gateway.folder().join("services/apps/a\u{7}b")).unwrap();
    let catalog = wait_for("the bad name", || {
        let catalogs = gateway.json("/api/catalogs")["catalogs"].clone();
        catalogs.as_array()?.iter().find(|c| c["rejected"].as_array().is_some_and(|r| !r.is_empty())).cloned()
    });
    assert_eq!((&catalog["name"], &catalog["services"]), (&"apps".into(), &2.into()));
    assert!(catalog["rejected"][0]["reason"].as_str().unwrap().starts_with("bad_name: "), "{catalog}");

    gateway.withdraw("dubbo/com.foo.Bar/providers/1");
    std::fs::remove_dir(gateway.folder().join("services/dubbo/com.foo.Bar/providers")).unwrap();
    wait_for("no_route", || (gateway.get("/rpc/com.foo.Bar/x").status == 404).then_some(()));
}

#[test]
fn the_gateways_zone_is_served_first_and_spills() {
    let config = "[services.orders]\npath = \"/orders\"\nzone = { spill_below = 0.6 }\n[[routes]]\nservice = \"orders\"\n";
    let local = LOCAL.replace("[gateway]", "[gateway]\nzone = \"eu\"");
    let gateway = Gateway::start("zones", &format!("{local}{config}"));
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    for (instance, zone) in instances.iter().zip(["eu", "eu", "us"]) {
        gateway
            .register(&format!("orders/{}", instance.name), at(instance, &format!(", \"zone\": \"{zone}\"")));
    }
    gateway.instances("orders", &["a", "b", "c"]);
    assert_eq!(shares(&gateway, &[], 20), BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
    let told = gateway.json("/api/explain?method=GET&url=http://h/");
    let c = told["considered"].as_array().unwrap().iter().find(|c| c["name"] == "c").unwrap();
    assert!(c["reason"].as_str().unwrap().contains("zone"), "{told}");
    instances[1].kill();
    assert!(!shares(&gateway, &[], 20).contains_key("b"));
    gateway.state("orders", "b", "ejected");
    assert_eq!(shares(&gateway, &[], 20), BTreeMap::from([("a".into(), 10), ("c".into(), 10)]));
}

/// As Curator writes it.
fn registered_long_ago(instance: &Instance) -> String {
    format!(
        "{{\"name\": \"orders\", \"id\": \"{}\", \"address\": \"127.0.0.1\", \"port\": {}, \"registrationTimeUTC\": 1}}",
        instance.name,
        instance.address.port()
    )
}

#[test]
fn a_newcomer_starts_with_a_tenth() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\nslow_start = \"1h\"\n[[routes]]\nservice = \"orders\"\n"
    );
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    let gateway = Gateway::start_with("slow-start", &config, |folder| {
        for instance in &instances[..2] {
            let node = folder.join("services/orders").join(&instance.name);
            std::fs::create_dir_all(node.parent().unwrap()).unwrap();
            std::fs::write(node, registered_long_ago(instance)).unwrap();
        }
    });
    gateway.instances("orders", &["a", "b"]);
    gateway.ready();
    gateway.register("orders/c", registered_long_ago(&instances[2]));
    gateway.instances("orders", &["a", "b", "c"]);
    assert_eq!(gateway.json("/api/services/orders")["instances"][2]["weight"], 1.0, "as registered");
    let seen = shares(&gateway, &[], 210);
    assert_eq!(seen, BTreeMap::from([("a".into(), 100), ("b".into(), 100), ("c".into(), 10)]));
}
