//! Gateways that register themselves, and what each tells of the others.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::zk;

fn config(registry: &str, id: &str, policy: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\nid = \"{id}\"\nregister = {{ registry = \"main\" }}\n[registries.main]\n{registry}\n\
         [services.orders]\npath = \"/services/orders\"\nbalance = \"{policy}\"\n\
         [services.users]\npath = \"/services/users\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
    )
}

fn ids(fleet: &Value) -> Vec<String> {
    let all = fleet["gateways"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(|gateway| gateway["id"].as_str()).map(str::to_owned).collect()
}

/// Waits until a gateway tells of these gateways, and whether they are alike.
fn until(gateway: &Gateway, wanted: &[&str], alike: bool) -> Value {
    let mut last = Value::Null;
    wait_for(&format!("the fleet {wanted:?}, alike: {alike}"), || {
        last = gateway.json("/api/gateways");
        (ids(&last) == wanted
            && last["alike"] == alike
            && last["registered"] == true
            && last["stale"] == false)
            .then(|| last.clone())
    })
}

fn a_fleet_sees_itself(name: &str, registry: &str, register: impl Fn(&str)) {
    let mut first = Gateway::start(&format!("{name}-a"), &config(registry, "a", "round_robin"));
    let alone = until(&first, &["a"], true);
    assert_eq!((&alone["id"], &alone["path"]), (&json!("a"), &json!("/zoogate/gateways")));
    let second = Gateway::start(&format!("{name}-b"), &config(registry, "b", "round_robin"));
    for gateway in [&first, &second] {
        let both = until(gateway, &["a", "b"], true);
        assert_eq!(both["differ"], json!([]));
    }
    let told = until(&second, &["a", "b"], true)["gateways"][0].clone();
    assert_eq!((&told["admin"], &told["services"]), (&json!(first.admin.to_string()), &json!(2)));
    assert_eq!(told["listeners"]["public"], json!(first.listener("public").to_string()));
    let own = first.json("/api/services/orders")["fingerprint"].clone();
    assert_eq!(told["fingerprints"]["orders"], own);

    // An instance changes the fingerprints of both; they are alike again when both have told.
    register("/services/orders/n1");
    first.instances("orders", &["n1"]);
    second.instances("orders", &["n1"]);
    let print = first.json("/api/services/orders")["fingerprint"].clone();
    assert_ne!(print, own);
    wait_for("the change in both nodes", || {
        let fleet = second.json("/api/gateways");
        let all = fleet["gateways"].as_array()?;
        all.iter().all(|gateway| gateway["fingerprints"]["orders"] == print).then_some(())
    });
    until(&first, &["a", "b"], true);

    // One that balances otherwise is named with its service, until it is as the others.
    second.reload(&config(registry, "b", "random"));
    for gateway in [&first, &second] {
        assert_eq!(until(gateway, &["a", "b"], false)["differ"], json!(["orders"]));
    }
    second.reload(&config(registry, "b2", "round_robin"));
    until(&first, &["a", "b2"], true);
    until(&second, &["a", "b2"], true);
    first.signal("TERM");
    assert!(first.wait().success());
    until(&second, &["b2"], true);
}

#[test]
fn a_fleet_in_zookeeper_sees_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = runtime.block_on(zk::chroot("fleet"));
    let client = runtime.block_on(zk::client(&connect));
    let registry = format!("kind = \"zookeeper\"\nconnect = \"{connect}\"");
    a_fleet_sees_itself("fleet", &registry, |node| {
        runtime.block_on(async {
            client.mkdir("/services/orders", &zk::OPEN).await.unwrap();
            client.create(node, b"127.0.0.1:8001", &zk::OPEN).await.unwrap();
        });
    });
}

#[test]
fn a_fleet_in_a_directory_sees_itself() {
    let scratch = Scratch::new("fleet-directory");
    let registry = format!("kind = \"directory\"\npath = {:?}", scratch.path());
    a_fleet_sees_itself("fleet-directory", &registry, |node| {
        scratch.write(&node[1..], "127.0.0.1:8001");
    });
}

#[test]
fn a_gateway_that_registers_nowhere_tells_of_itself_alone() {
    let gateway = Gateway::start("fleet-none", crate::support::gateway::ORDERS);
    let fleet = gateway.json("/api/gateways");
    assert_eq!((&fleet["registry"], &fleet["registered"]), (&Value::Null, &json!(false)));
    assert_eq!(ids(&fleet).len(), 1);
    assert_eq!(fleet["alike"], json!(true));
    assert!(ids(&fleet)[0].ends_with(&format!("-{}", gateway.pid())), "{fleet}");
}
