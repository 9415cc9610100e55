//! Folders of nodes inside and beside those of services, in a real ensemble.

use std::sync::Arc;

use zoogate::model::{FormatChoice, ServiceSnapshot};
use zoogate::registry::Base;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::gateway::Gateway;
use crate::support::instance::Instance;
use crate::support::seen::{Seen, catalog, service};
use crate::support::wait::until;
use crate::support::zk::{self, EPHEMERAL, OPEN};

fn auto(base: Base) -> Base {
    Base { format: FormatChoice::Auto, ..base }
}

/// A node's name from a URL, as Java's encoder makes it.
fn encoded(url: &str) -> String {
    let escaped = |c: char| {
        if "-._*".contains(c) || c.is_ascii_alphanumeric() {
            c.to_string()
        } else {
            format!("%{:02X}", c as u32)
        }
    };
    url.chars().map(escaped).collect()
}

/// Ids and weights of the enabled.
fn weights(snapshot: &ServiceSnapshot) -> String {
    let enabled = snapshot.instances.iter().filter(|instance| instance.enabled);
    enabled.map(|i| format!("{}={}", i.id.name, i.weight)).collect::<Vec<_>>().join(" ")
}

async fn weighs(seen: &mut Seen, service: &str, expected: &str) {
    let now = |seen: &Seen| seen.services.get(service).map(|snapshot| weights(snapshot));
    seen.until(&format!("{service} {expected}"), |seen| now(seen).as_deref() == Some(expected)).await;
}

#[tokio::test]
async fn dubbos_rules_change_providers_that_register_nothing_anew() {
    let connect = zk::chroot("rules").await;
    let client = zk::client(&connect).await;
    let provider =
        |n: u8| format!("/dubbo/I/providers/{}", encoded(&format!("dubbo://192.0.2.{n}:20880/I?weight=50")));
    let rule = |text: &str| format!("/dubbo/I/configurators/{}", encoded(text));
    client.mkdir("/dubbo/I/providers", &OPEN).await.unwrap();
    client.create(&provider(1), b"", &EPHEMERAL).await.unwrap();
    client.create(&provider(2), b"", &EPHEMERAL).await.unwrap();
    // One knows no folder of rules, the other no folder at all, when it starts.
    let bases =
        vec![auto(service("orders", "/dubbo/I/providers")), auto(service("late", "/dubbo/L/providers"))];
    let mut seen = Seen::start(&connect, bases);
    seen.until_live("orders").await;
    seen.until_live("late").await;
    let before = Arc::clone(&seen.services["orders"]);
    assert_eq!(weights(&before), "192.0.2.1:20880=50 192.0.2.2:20880=50");

    client.create("/dubbo/I/configurators", b"", &OPEN).await.unwrap();
    let all = rule("override://0.0.0.0/I?category=configurators&dynamic=false&enabled=true&weight=400");
    client.create(&all, b"", &OPEN).await.unwrap();
    weighs(&mut seen, "orders", "192.0.2.1:20880=400 192.0.2.2:20880=400").await;
    let one = rule("override://192.0.2.1:20880/I?category=configurators&disabled=true");
    client.create(&one, b"", &OPEN).await.unwrap();
    weighs(&mut seen, "orders", "192.0.2.2:20880=400").await;
    assert_eq!(seen.services["orders"].instances.len(), 2, "the disabled are told, too");
    client.delete(&all, None).await.unwrap();
    weighs(&mut seen, "orders", "192.0.2.2:20880=50").await;
    // Somebody who starts now finds the rule.
    let mut second = Seen::start(&connect, vec![auto(service("orders", "/dubbo/I/providers"))]);
    second.until_live("orders").await;
    assert_eq!(weights(&second.services["orders"]), "192.0.2.2:20880=50");
    client.delete(&one, None).await.unwrap();
    weighs(&mut seen, "orders", "192.0.2.1:20880=50 192.0.2.2:20880=50").await;
    assert_eq!(seen.services["orders"], before);
    assert_eq!(seen.discovery.counters().drift, 0);

    client.mkdir("/dubbo/L/providers", &OPEN).await.unwrap();
    let late = encoded("dubbo://192.0.2.9:1/L");
    client.create(&format!("/dubbo/L/providers/{late}"), b"", &EPHEMERAL).await.unwrap();
    client.create("/dubbo/L/configurators", b"", &OPEN).await.unwrap();
    let half = format!("/dubbo/L/configurators/{}", encoded("override://0.0.0.0/L?weight=5"));
    client.create(&half, b"", &OPEN).await.unwrap();
    weighs(&mut seen, "late", "192.0.2.9:1=5").await;
}

#[tokio::test]
async fn a_catalog_reads_its_services_rules_by_its_one_watch() {
    let server = zk::Standalone::start();
    let client = zk::client(&server.server.address()).await;
    let provider =
        |of: &str| format!("/dubbo/{of}/providers/{}", encoded(&format!("tri://192.0.2.1:50051/{of}")));
    let rule = |of: &str| {
        format!("/dubbo/{of}/configurators/{}", encoded(&format!("override://0.0.0.0/{of}?weight=5")))
    };
    for of in ["A", "B"] {
        client.mkdir(&format!("/dubbo/{of}/providers"), &OPEN).await.unwrap();
        client.create(&provider(of), b"", &EPHEMERAL).await.unwrap();
    }
    for of in ["A", "C"] {
        client.mkdir(&format!("/dubbo/{of}/configurators"), &OPEN).await.unwrap();
        client.create(&rule(of), b"", &OPEN).await.unwrap();
    }
    let mut seen = Seen::start(&server.server.address(), vec![auto(catalog("rpc", "/dubbo/*/providers"))]);
    seen.until_live("rpc").await;
    let (plain, ruled) = ("192.0.2.1:50051=100", "192.0.2.1:50051=5");
    let services: Vec<_> = seen.services.iter().map(|(name, now)| (name.as_str(), weights(now))).collect();
    assert_eq!(services, [("rpc/A", ruled.to_owned()), ("rpc/B", plain.to_owned())]);
    let watches = server.server.ask("wchs").unwrap();
    assert!(watches.trim_end().ends_with("Total watches:1"), "{watches}");

    client.mkdir("/dubbo/B/configurators", &OPEN).await.unwrap();
    client.create(&rule("B"), b"", &OPEN).await.unwrap();
    weighs(&mut seen, "rpc/B", ruled).await;
    client.delete(&rule("B"), None).await.unwrap();
    weighs(&mut seen, "rpc/B", plain).await;
    // A rule that was there before its service, and one that outlives it.
    for of in ["C", "A"] {
        if of == "A" {
            client.delete(&provider(of), None).await.unwrap();
            client.delete("/dubbo/A/providers", None).await.unwrap();
            seen.until("A is gone", |seen| !seen.services.contains_key("rpc/A")).await;
        }
        client.create(&format!("/dubbo/{of}/providers"), b"", &OPEN).await.unwrap();
        client.create(&provider(of), b"", &EPHEMERAL).await.unwrap();
        weighs(&mut seen, &format!("rpc/{of}"), ruled).await;
    }
    assert_eq!(seen.discovery.counters().drift, 0);
}

#[tokio::test]
async fn rules_that_may_not_be_read_cost_nothing_but_themselves() {
    let connect = zk::chroot("secret-rules").await;
    let client = zk::client(&connect).await;
    client.mkdir("/dubbo/I/providers", &OPEN).await.unwrap();
    let node = format!("/dubbo/I/providers/{}", encoded("dubbo://192.0.2.1:20880/I"));
    client.create(&node, b"", &EPHEMERAL).await.unwrap();
    let closed = [Acl::new(Permission::CREATE | Permission::ADMIN, AuthId::anyone())];
    let shut = CreateMode::Persistent.with_acls(Acls::new(&closed));
    client.create("/dubbo/I/configurators", b"", &shut).await.unwrap();
    let bases = vec![auto(service("one", "/dubbo/I/providers")), auto(catalog("all", "/dubbo/*/providers"))];
    let mut seen = Seen::start(&connect, bases);
    for (base, service) in [("one", "one"), ("all", "all/I")] {
        seen.until_live(base).await;
        assert_eq!(weights(&seen.services[service]), "192.0.2.1:20880=100");
        assert_eq!(seen.rejected(service), [("../configurators/.", "forbidden")]);
    }
}

#[tokio::test]
async fn replicas_and_bookies_have_nodes_deeper_than_their_services() {
    let connect = zk::chroot("deeper").await;
    let client = zk::client(&connect).await;
    for folder in ["/hits/replicas/r1/queue", "/ledgers/available/readonly"] {
        client.mkdir(folder, &OPEN).await.unwrap();
    }
    client
        .create("/hits/replicas/r1/host", b"host: 192.0.2.1\nport: 9009\ntcp_port: 9000\n", &OPEN)
        .await
        .unwrap();
    client.create("/hits/replicas/r1/is_active", b"", &EPHEMERAL).await.unwrap();
    client.create("/ledgers/available/192.0.2.1:3181", b"", &EPHEMERAL).await.unwrap();
    client.create("/ledgers/available/readonly/192.0.2.2:3181", b"", &EPHEMERAL).await.unwrap();
    let bases = vec![auto(service("hits", "/hits/replicas")), auto(service("books", "/ledgers/available"))];
    let mut seen = Seen::start(&connect, bases);
    seen.until_live("hits").await;
    seen.until_live("books").await;
    assert_eq!(weights(&seen.services["hits"]), "r1=1");
    assert_eq!(weights(&seen.services["books"]), "192.0.2.1:3181=1 192.0.2.2:3181=1");

    client.create("/hits/replicas/r1/queue/queue-0000000000", b"", &OPEN).await.unwrap();
    client.create("/hits/replicas/r2", b"", &OPEN).await.unwrap();
    client
        .create("/hits/replicas/r2/host", b"host: 192.0.2.2\nport: 9009\ntcp_port: 9000\n", &OPEN)
        .await
        .unwrap();
    seen.until_ids("hits", &["r1", "r2"]).await;
    assert_eq!(weights(&seen.services["hits"]), "r1=1", "not alive yet");
    client.create("/hits/replicas/r2/is_active", b"", &EPHEMERAL).await.unwrap();
    weighs(&mut seen, "hits", "r1=1 r2=1").await;
    client.delete("/hits/replicas/r1/is_active", None).await.unwrap();
    weighs(&mut seen, "hits", "r2=1").await;
    assert!(seen.rejected("hits").is_empty());

    let mut full = client.new_multi_writer();
    full.add_delete("/ledgers/available/192.0.2.1:3181", None).unwrap();
    full.add_create("/ledgers/available/readonly/192.0.2.1:3181", b"", &EPHEMERAL).unwrap();
    full.commit().await.unwrap();
    seen.until("a bookie is read-only", |seen| {
        let first = &seen.services["books"].instances;
        first.len() == 2 && first[0].metadata.get("readonly").is_some_and(|value| &**value == "true")
    })
    .await;
    assert!(seen.rejected("books").is_empty());
    assert_eq!(seen.discovery.counters().drift, 0);
}

async fn register(client: &Client, instance: &Instance) {
    let name = encoded(&format!("http://{}/shop.Orders?interface=shop.Orders", instance.address));
    client.create(&format!("/dubbo/shop.Orders/providers/{name}"), b"", &EPHEMERAL).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_a_rule_disables_gets_no_request_until_the_rule_goes() {
    let connect = zk::chroot("rule-traffic").await;
    let client = zk::client(&connect).await;
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    for folder in ["providers", "configurators"] {
        client.mkdir(&format!("/dubbo/shop.Orders/{folder}"), &OPEN).await.unwrap();
    }
    register(&client, &a).await;
    register(&client, &b).await;
    let gateway = Gateway::start(
        "rule-traffic",
        &format!(
            "[gateway]\nworkers = 1\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
             [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
             [catalogs.rpc]\npath = \"/dubbo/*/providers\"\n[[routes]]\npath = \"/{{name}}/*\"\nservice = \"rpc/{{name}}\"\n"
        ),
    );
    let ten = || (0..10).map(|_| gateway.get("/shop.Orders/x").body).collect::<Vec<_>>();
    until("both serve", async || ten().contains(&"a".to_owned()).then_some(())).await;
    let address = format!(
        "/dubbo/shop.Orders/configurators/{}",
        encoded(&format!("override://{}/shop.Orders?disabled=true", a.address))
    );
    client.create(&address, b"", &OPEN).await.unwrap();
    let states = || {
        let services = gateway.json("/api/services/rpc/shop.Orders");
        let mut all: Vec<_> =
            services["instances"].as_array().unwrap().iter().map(|i| i["state"].to_string()).collect();
        all.sort();
        all
    };
    until("one is disabled", async || (states() == ["\"disabled\"", "\"up\""]).then_some(())).await;
    assert_eq!(ten(), vec!["b"; 10]);
    client.delete(&address, None).await.unwrap();
    until("both serve again", async || ten().contains(&"a".to_owned()).then_some(())).await;
}
