//! Health, views, metrics and the access log.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::commands::text;
use crate::support::gateway::{Gateway, LOCAL, Lines, ORDERS, Scratch, signal, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;
use crate::support::script::{curl, finish};
use crate::support::zk::free_port;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn the_views_have_every_key_of_the_contract() {
    let gateway = Gateway::start("views", ORDERS);
    let payload = json!({ "host": "2001:db8::1", "port": 80, "weight": 2.5, "version": "2.1" });
    gateway.register("orders/n1", payload);
    gateway.register("orders/n0", "{\"host\": \"a\"}");
    gateway.instances("orders", &["n1"]);
    wait_for("the rejection", || {
        (gateway.json("/api/services/orders")["rejected"].as_array()?.len() == 1).then_some(())
    });
    gateway.ready();
    let services = gateway.json("/api/services");
    assert_eq!(keys(&services), ["services"]);
    let orders = &services["services"][0];
    assert_eq!(*orders, gateway.json("/api/services/orders"));
    let wanted = [
        "fingerprint",
        "format",
        "instances",
        "name",
        "path",
        "primary",
        "registry",
        "rejected",
        "revision",
        "stale",
    ];
    for key in wanted {
        assert!(keys(orders).contains(&key), "{key} in {orders}");
    }
    assert_eq!(
        (&orders["name"], &orders["path"], &orders["registry"]),
        (&"orders".into(), &"/orders".into(), &"local".into())
    );
    assert_eq!((&orders["primary"], &orders["stale"]), (&Value::Null, &false.into()));
    let fingerprint = orders["fingerprint"].as_str().unwrap();
    assert!(
        fingerprint.len() == 12
            && fingerprint.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
    assert!(orders["revision"].as_u64().unwrap() >= 1);
    let n1 = &orders["instances"][0];
    for key in ["address", "id", "metadata", "state", "tls", "weight", "zone"] {
        assert!(keys(n1).contains(&key), "{key} in {n1}");
    }
    assert_eq!(
        (&n1["id"], &n1["address"], &n1["state"]),
        (&"n1".into(), &"[2001:db8::1]:80".into(), &"up".into())
    );
    assert_eq!((&n1["tls"], &n1["zone"]), (&Value::Null, &Value::Null));
    assert!((n1["weight"].as_f64().unwrap() - 2.5).abs() < f64::EPSILON);
    assert!(n1["metadata"].as_object().unwrap().values().all(Value::is_string));
    assert_eq!(keys(&orders["rejected"][0]), ["node", "reason"]);

    let listener = &gateway.json("/api/listeners")["listeners"][0];
    assert_eq!(
        (&listener["name"], &listener["address"]),
        (&"public".into(), &gateway.listener("public").to_string().into())
    );
    assert_eq!(gateway.json("/api/routes")["routes"][0]["path"], "/*");
    assert_eq!(gateway.admin("/livez").status, 200);
    assert_eq!(gateway.admin("/api/services/nobody").status, 404);
    assert_eq!(gateway.admin("/nothing").status, 404);
    let mut client = Client::connect(gateway.admin).unwrap();
    assert_eq!(client.request("POST", "/api/services", &[], b"").unwrap().status, 403);
}

/// Every metric of the contract but the registry's session losses, which `kazoo`'s tests see.
const METRICS: [&str; 19] = [
    "zoogate_requests_total",
    "zoogate_request_duration_seconds",
    "zoogate_requests_in_flight",
    "zoogate_upstream_requests_total",
    "zoogate_upstream_connect_duration_seconds",
    "zoogate_retries_total",
    "zoogate_service_instances",
    "zoogate_registry_connected",
    "zoogate_registry_stale_seconds",
    "zoogate_registry_session_losses_total",
    "zoogate_membership_changes_total",
    "zoogate_membership_publish_seconds",
    "zoogate_rejected_nodes",
    "zoogate_service_fingerprint",
    "zoogate_config_reloads_total",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
];

#[test]
fn metrics_are_whole_sound_and_never_behind_an_answer() {
    let gateway = Gateway::start("metrics", ORDERS);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let total = "zoogate_requests_total{code=\"200\",listener=\"public\",route=\"/*\",service=\"orders\"}";
    for count in 1..=50 {
        client.request("GET", "/", &[], b"").unwrap();
        assert_eq!(gateway.metric(total), Some(f64::from(count)));
    }
    for id in ["a", "b"] {
        let series =
            format!("zoogate_upstream_requests_total{{instance=\"{id}\",outcome=\"ok\",service=\"orders\"}}");
        assert_eq!(gateway.metric(&series), Some(25.0));
    }
    b.kill();
    gateway.state("orders", "a", "up");
    for _ in 0..4 {
        assert_eq!(client.request("GET", "/", &[], b"").unwrap().body, "a");
    }
    gateway.signal("HUP");
    let reloads = "zoogate_config_reloads_total{result=\"ok\"}";
    wait_for("the reload", || gateway.metric(reloads).filter(|n| *n > 0.0));
    let scrape = gateway.admin("/metrics");
    assert!(scrape.header("content-type").unwrap().starts_with("text/plain"));
    for name in METRICS {
        assert!(
            scrape.body.contains(&format!("\n# TYPE {name} "))
                || scrape.body.starts_with(&format!("# HELP {name} ")),
            "{name}"
        );
        assert!(scrape.body.lines().any(|l| l.starts_with(name)), "{name}");
    }
    let scratch = Scratch::new("promtool");
    let file = scratch.write("metrics", &scrape.body);
    let checked = finish(Command::new("sh").args(["-c", "promtool check metrics <\"$1\"", "sh"]).arg(file));
    assert!(checked.status.success() && checked.stdout.is_empty(), "{}", text(&checked.stdout));
    assert_eq!(text(&checked.stderr), "");

    gateway.withdraw("orders/b");
    wait_for("its series to vanish", || {
        (!gateway.admin("/metrics").body.contains("instance=\"b\"")).then_some(())
    });
}

#[test]
fn a_prometheus_server_scrapes_and_answers() {
    let gateway = Gateway::start("prometheus", ORDERS);
    let a = Instance::start("a");
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    for _ in 0..3 {
        gateway.get("/");
    }
    let scratch = Scratch::new("prometheus");
    let config = scratch.write(
        "prometheus.yml",
        &format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: zoogate\n  static_configs:\n  - targets: ['{}']\n",
            gateway.admin
        ),
    );
    let port = free_port();
    let mut server = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Lines::of(server.stderr.take().unwrap());
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let found = std::panic::catch_unwind(|| {
        wait_for("an answer to the query", || {
            let mut client = Client::connect(address).ok()?;
            let answer =
                client.request("GET", "/api/v1/query?query=zoogate_requests_total", &[], b"").ok()?;
            let json: Value = serde_json::from_str(&answer.body).ok()?;
            json["data"]["result"].as_array()?.first().cloned()
        })
    });
    signal(server.id(), "TERM");
    server.wait().unwrap();
    let found = found.unwrap_or_else(|_| panic!("{}", log.all().join("\n")));
    assert_eq!(found["value"][1], "3");
    assert_eq!((&found["metric"]["service"], &found["metric"]["code"]), (&"orders".into(), &"200".into()));
}

#[test]
fn access_lines_are_json_with_what_an_operator_asks_for() {
    let gateway = Gateway::start("access", ORDERS);
    let a = Instance::start("a");
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let secret = [("authorization", "Bearer hidden-token"), ("cookie", "session=hidden-cookie")];
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let answer = client.request("POST", "/echo?q=1", &secret, b"twelve bytes").unwrap();
    let line = |what: &str| {
        let line = gateway.out.find(what, |line| line.contains(what).then(|| line.to_owned()));
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let ok = line("/echo");
    assert_eq!((&ok["method"], &ok["status"]), (&"POST".into(), &200.into()));
    assert!(ok["path"].as_str().unwrap().starts_with("/echo"));
    assert_eq!((&ok["service"], &ok["instance"], &ok["retries"]), (&"orders".into(), &"a".into(), &0.into()));
    assert_eq!((&ok["bytes_received"], &ok["bytes_sent"]), (&12.into(), &12.into()));
    assert!(ok["duration_ms"].is_number() && ok["upstream_ms"].is_number());
    assert_eq!((&ok["error"], ok["request_id"].as_str()), (&Value::Null, answer.header("x-request-id")));
    client.request("GET", "/no\"quote", &[], b"").ok();

    gateway.withdraw("orders/a");
    gateway.instances("orders", &[]);
    assert_eq!(http::get(gateway.listener("public"), "/none").status, 503);
    let none = line("/none");
    assert_eq!(
        (&none["status"], &none["error"], &none["instance"]),
        (&503.into(), &"no_instances".into(), &Value::Null)
    );

    // A head that does not even parse.
    let refused = http::raw(gateway.listener("public"), b"NONSENSE\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert!(refused.ends_with("\r\n\r\n"), "an empty body: {refused}");
    let bad = line("\"status\":400");
    assert_eq!(bad["error"], "bad_request");
    // One of HTTP/2 that says nothing but GET, behind the preface and SETTINGS.
    let mut stream = TcpStream::connect(gateway.listener("public")).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    stream.write_all(b"\0\0\x01\x01\x05\0\0\0\x01\x82").unwrap();
    let bad = line("\"protocol\":\"HTTP/2\"");
    assert_eq!((&bad["status"], &bad["error"]), (&400.into(), &"bad_request".into()));
    let counted: f64 = gateway
        .admin("/metrics")
        .body
        .lines()
        .filter(|l| l.starts_with("zoogate_requests_total{code=\"400\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(counted >= 2.0);
    for line in gateway.out.all() {
        serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(!line.contains("hidden-"), "{line}");
    }
    assert!(!gateway.log.all().join("\n").contains("hidden-"));
}

#[test]
fn readiness_names_what_is_missing() {
    let port = free_port();
    let config = format!(
        "{LOCAL}[registries.far]\nkind = \"zookeeper\"\nconnect = \"127.0.0.1:{port}\"\n[services.near]\nregistry = \"local\"\n\
         path = \"/near\"\n[services.orders]\nregistry = \"far\"\npath = \"/orders\"\n[catalogs.apps]\nregistry = \"far\"\npath = \"/apps\"\n"
    );
    let gateway = Gateway::start("readiness", &config);
    let named = wait_for("the near one to be listed", || {
        let ready = gateway.admin("/readyz");
        assert_eq!(ready.status, 503);
        let named: BTreeSet<_> = ready.body.split_whitespace().map(str::to_owned).collect();
        (!named.contains("near")).then_some(named)
    });
    assert!(named.contains("orders") && named.contains("apps"), "{named:?}");
    gateway.log.find("what a long start waits for", |l| {
        (l.contains("waiting") && l.contains("orders")).then_some(())
    });
}

#[test]
fn the_admins_root_is_a_page() {
    let gateway = Gateway::start("dashboard", ORDERS);
    let page = curl(&["-i", &format!("http://{}/", gateway.admin)]);
    assert!(page.contains("200 OK") && page.contains("text/html"), "{page}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernel_does_not_fill_up_what_the_gateway_gave_back() {
    let gateway = Gateway::start("sparse", LOCAL);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    // Kernels before 5.0 do not tell.
    let told = status.lines().find(|line| line.starts_with("THP_enabled:"));
    assert!(told.is_none_or(|line| line.ends_with('0')), "{told:?}");
}
