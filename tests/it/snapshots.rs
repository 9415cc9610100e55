//! What people and scripts read, held as files under `tests/snapshots`: a change of it is a change to look at.
//!
//! A difference leaves a `.snap.new` beside the file; move it over the old one where the change is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::CommandFactory;
use serde_json::Value;
use zoogate::cli::args::Cli;

use super::documentation::{code, rows};
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::http::{Client, get, get_with};
use crate::support::instance::Instance;

fn hold(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
fn the_help_of_every_command() {
    let mut text = String::new();
    let cli = Cli::command();
    let commands = cli.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| vec![c.get_name(), "--help"]);
    for arguments in std::iter::once(vec!["--help"]).chain(commands) {
        let done = binary().args(&arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        let help = String::from_utf8(done.stdout).unwrap();
        let _ = writeln!(text, "$ zoogate {}\n{help}", arguments.join(" "));
    }
    hold("help", &text);
}

#[test]
fn the_errors_of_a_configuration() {
    let scratch = Scratch::new("errors");
    scratch.write(
        "bad.toml",
        r#"[gateway]
worker = 2
drain_timeout = "30"
[limits]
max_header_size = "64KB"
[registries.main]
kind = "zookeeper"
connect = "zk1:2181/prod/"
auth = [{ scheme = "digest", credentials = "${ZOOGATE_TEST_UNSET}" }]
[services.orders]
path = "services/orders"
balance = "ring"
[services.users]
path = "/services/users"
balance = { policy = "round_robin", key = "header:x-user-id" }
[[listeners]]
listen = "localhost:8080"
[[routes]]
path = "/orders/{id"
service = "order"
[[routes]]
path = "/users/*"
services = [{ name = "users", weight = 0 }]
"#,
    );
    let done = binary().args(["check", "--config", "bad.toml"]).current_dir(scratch.path()).output().unwrap();
    assert_eq!((done.status.code(), done.stdout.len()), (Some(1), 0));
    hold("config_errors", &String::from_utf8(done.stderr).unwrap());
}

/// A service in which everything occurs, written before the gateway starts.
#[test]
fn the_admin_json_of_a_fixed_table() {
    let scratch = Scratch::new("table");
    for (name, data) in [
        ("services/orders/a", r#"{"host":"192.0.2.1","port":80,"zone":"z1","metadata":{"version":"2.1"}}"#),
        ("services/orders/b", r#"{"host":"2001:db8::1","port":80,"weight":2.5,"tls":true}"#),
        ("services/orders/c", r#"{"host":"192.0.2.3","port":80,"enabled":false}"#),
        ("services/orders/d", r#"{"host":"192.0.2.4","port":808080}"#),
        ("services/orders/e", r#"{"host":"169.254.169.254","port":80}"#),
        ("apps/shop/one", "192.0.2.9:8080"),
    ] {
        scratch.write(name, data);
    }
    let gateway = Gateway::start(
        "table",
        &format!(
            r#"
[registries.main]
kind = "directory"
path = {:?}
[services.orders]
path = "/services/orders"
balance = {{ policy = "ring", key = "header:x-user-id" }}
[services.empty]
path = "/services/empty"
[catalogs.apps]
path = "/apps"
[[listeners]]
name = "public"
listen = "127.0.0.1:0"
[[routes]]
name = "orders"
host = "*.example.com"
path = "/orders/*"
methods = ["GET"]
headers = {{ x-beta = "1" }}
query = {{ v = "2" }}
services = [{{ name = "orders", weight = 3 }}, {{ name = "empty", weight = 0 }}]
timeout = "250ms"
rewrite = "/v2/*"
[[routes]]
path = "/apps/{{app}}/*"
service = "apps/{{app}}"
"#,
            scratch.path()
        ),
    );
    gateway.instances("orders", &["a", "b", "c"]);
    gateway.instances("apps/shop", &["one"]);
    gateway.ready();
    let mut services = gateway.json("/api/services");
    // How many publications the files came in is a matter of timing.
    for service in services["services"].as_array_mut().unwrap() {
        assert!(service["revision"].is_u64(), "{service}");
        service["revision"] = "[a number]".into();
        for instance in service["instances"].as_array_mut().unwrap() {
            assert!(instance["created_ms"].is_u64(), "{instance}");
            instance["created_ms"] = "[a number]".into();
        }
    }
    hold("admin_services", &pretty(&services));
    hold("admin_routes", &pretty(&gateway.json("/api/routes")));
    let mut listeners = gateway.json("/api/listeners");
    listeners["listeners"][0]["address"] = "[the address in use]".into();
    hold("admin_listeners", &pretty(&listeners));
    let url = "http%3A%2F%2Fshop.example.com%2Forders%2F7%3Fv%3D2";
    let path = format!("/api/explain?method=GET&url={url}&header=x-beta:1&header=x-user-id:ann");
    let explanation = gateway.json(&path);
    hold("admin_explain", &pretty(&explanation));
    let done = binary()
        .args(["explain", "--config"])
        .arg(&gateway.config)
        .args(["GET", "http://shop.example.com/orders/7?v=2", "-H", "x-beta: 1", "-H", "x-user-id: ann"])
        .args(["--admin", &gateway.admin.to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    hold("explain", &String::from_utf8(done.stdout).unwrap());
}

/// A gateway to which everything happens that is counted.
#[test]
fn every_metric_is_exposed_as_it_is_documented() {
    let up = Instance::start("up");
    let scratch = Scratch::new("metrics");
    scratch.write("services/orders/up", &up.address.to_string());
    // A port that nobody listens on, nor ever will by chance.
    scratch.write("services/orders/down", "127.0.0.1:1");
    let config = format!(
        r#"
[limits]
max_connections = 8
[registries.main]
kind = "directory"
path = {:?}
[services.orders]
path = "/services/orders"
health_check = {{ kind = "tcp", interval = "100ms", unhealthy = 100 }}
[services.by-user]
path = "/services/orders"
balance = {{ policy = "ring", key = "header:x-user" }}
max_requests = 1000
[services.spent]
path = "/services/orders"
retry_budget = 0
[[listeners]]
name = "public"
listen = "127.0.0.1:0"
[[routes]]
path = "/status/*"
service = "spent"
[[routes]]
path = "/by-user"
service = "by-user"
barrier = "/maintenance"
rate_limit = {{ rate = 1000 }}
[[routes]]
service = "orders"
"#,
        scratch.path()
    );
    let gateway = Gateway::start("metrics", &config);
    gateway.instances("orders", &["down", "up"]);
    gateway.instances("by-user", &["down", "up"]);
    gateway.instances("spent", &["down", "up"]);
    let address = gateway.listener("public");
    wait_for("a connect that fails", || {
        assert_eq!(get(address, "/").status, 200);
        gateway.metric(r#"zoogate_retries_total{reason="connect_failed",service="orders"}"#)
    });
    assert_eq!(get_with(address, "/by-user", &[]).status, 200);
    wait_for("an attempt that the budget forbids", || {
        assert_eq!(get(address, "/status/503").status, 503);
        gateway.metric(r#"zoogate_retry_budget_exhausted_total{service="spent"}"#)
    });
    wait_for("health checks", || {
        gateway.metric(r#"zoogate_health_checks_total{result="failed",service="orders"}"#)
    });
    gateway.reload(&config);
    wait_for("the reload", || gateway.metric(r#"zoogate_config_reloads_total{result="ok"}"#));
    let mut open = Vec::new();
    wait_for("a connection too many", || {
        let mut client = Client::connect(address).unwrap();
        let status = client.request("GET", "/", &[], b"").map_or(0, |answer| answer.status);
        open.push(client);
        (status == 503).then_some(())
    });
    assert!(open.len() <= 9, "{} connections", open.len());

    let mut exposed: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let text = gateway.admin("/metrics").body;
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            exposed.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, _)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let parts = ["", "_bucket", "_sum", "_count"];
            let name = parts
                .iter()
                .find_map(|part| exposed.get_key_value(series.strip_suffix(part)?).map(|(n, _)| n.clone()));
            let labels = line
                .split_once('{')
                .unwrap()
                .1
                .split("=\"")
                .map(|part| part.rsplit([',', '{']).next().unwrap());
            // What follows the last label is its value.
            let mut labels: Vec<String> = labels.map(str::to_owned).collect();
            labels.pop();
            exposed.get_mut(&name.unwrap()).unwrap().1.extend(labels.into_iter().filter(|l| l != "le"));
        }
    }
    assert!(exposed.remove("process_open_fds").is_some(), "{text}");
    exposed.retain(|name, _| !name.starts_with("process_"));
    let documented: BTreeMap<String, (String, BTreeSet<String>)> =
        rows(include_str!("../../docs/admin.md"), "zoogate_")
            .iter()
            .map(|row| {
                let labels = row[1].split(", ").filter(|label| !label.is_empty()).map(str::to_owned);
                (code(&row[0]).to_owned(), (row[2].clone(), labels.collect()))
            })
            .collect();
    assert_eq!(exposed, documented);
    let mut names = String::new();
    for (name, (kind, labels)) in exposed {
        let labels: Vec<String> = labels.into_iter().collect();
        let _ = writeln!(names, "{name} {{{}}} {kind}", labels.join(","));
    }
    hold("metrics", &names);
}
