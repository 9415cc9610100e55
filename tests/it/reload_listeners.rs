//! A reload that moves addresses between listeners.

use std::net::SocketAddr;

use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::http::{Client, get};
use crate::support::instance::Instance;
use crate::support::zk::free_port;

fn config(registry: &Scratch, listeners: &[(&str, u16)]) -> String {
    let mut text = format!(
        "[registries.main]\nkind = \"directory\"\npath = {:?}\n[services.orders]\npath = \"/services/orders\"\n\
         [services.bytes]\npath = \"/services/orders\"\nprotocol = \"tcp\"\n[[routes]]\nservice = \"orders\"\n",
        registry.path()
    );
    for (name, port) in listeners {
        text += &format!("[[listeners]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n");
    }
    text
}

/// Names and addresses as the admin shows them.
fn shown(gateway: &Gateway) -> Vec<(String, String)> {
    let json = gateway.json("/api/listeners");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let listeners = json["listeners"].as_array().unwrap().iter();
    let mut all: Vec<_> = listeners.map(|l| (text(&l["name"]), text(&l["address"]))).collect();
    all.sort();
    all
}

#[test]
fn listeners_are_renamed_and_swapped_in_one_reload() {
    let instance = Instance::start("a");
    let registry = Scratch::new("listeners");
    registry.write("services/orders/a", &instance.address.to_string());
    let (one, two) = (free_port(), free_port());
    let gateway = Gateway::start("listeners", &config(&registry, &[("x", one), ("y", two)]));
    gateway.instances("orders", &["a"]);
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let mut kept = Client::connect(address(one)).unwrap();
    assert_eq!(kept.request("GET", "/", &[], b"").unwrap().status, 200);
    for listeners in [[("z", one), ("y", two)], [("z", two), ("y", one)]] {
        gateway.reload(&config(&registry, &listeners));
        let mut wanted: Vec<_> =
            listeners.iter().map(|(name, port)| ((*name).to_owned(), address(*port).to_string())).collect();
        wanted.sort();
        wait_for("the reload", || (shown(&gateway) == wanted).then_some(()));
        for port in [one, two] {
            assert_eq!(get(address(port), "/").status, 200);
        }
        assert_eq!(kept.request("GET", "/", &[], b"").unwrap().status, 200, "connections stay");
    }
    assert_eq!(gateway.metric(r#"zoogate_config_reloads_total{result="refused"}"#), None);
}

#[test]
fn a_listener_that_changes_its_protocol_is_shown_as_it_is_now() {
    let instance = Instance::start("a");
    let registry = Scratch::new("listeners");
    registry.write("services/orders/a", &instance.address.to_string());
    let text = config(&registry, &[("x", 0)]);
    let gateway = Gateway::start("protocol", &text);
    gateway.instances("bytes", &["a"]);
    gateway.reload(&format!("{text}protocol = \"tcp\"\nservice = \"bytes\"\n"));
    let view = wait_for("the reload", || {
        let view = gateway.json("/api/listeners")["listeners"][0].clone();
        (view["protocol"] == "tcp").then_some(view)
    });
    assert_eq!(view["service"], "bytes", "{view}");
}
