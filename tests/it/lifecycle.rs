//! Reload, log rotation, drain.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, LOCAL, ORDERS, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;

fn one(name: &str, config: &str) -> (Gateway, Instance) {
    let gateway = Gateway::start(name, config);
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    (gateway, instance)
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("zoogate_config_reloads_total{{result=\"{result}\"}}")).unwrap_or(0.0)
}

fn reload(gateway: &Gateway, config: &str, result: &str) {
    let before = reloads(gateway, result);
    gateway.reload(config);
    wait_for(&format!("a reload: {result}"), || (reloads(gateway, result) > before).then_some(()));
}

#[test]
fn a_reload_puts_new_routes_and_services_in_force_and_keeps_what_stays() {
    let (gateway, a) = one("reload", ORDERS);
    let mut kept = Client::connect(gateway.listener("public")).unwrap();
    kept.request("GET", "/", &[], b"").unwrap();
    // A client may have its answer before its request is counted.
    let ok = "zoogate_upstream_requests_total{instance=\"a\",outcome=\"ok\",service=\"orders\"}";
    let counted = |count| wait_for("the count", || (gateway.metric(ok) == Some(count)).then_some(()));
    counted(1.0);
    let before = gateway.json("/api/services/orders");
    let new = Instance::start("new");
    gateway.register("new/n", new.address);
    let config = format!(
        "{ORDERS}[services.new]\npath = \"/new\"\n[[routes]]\npath = \"/new/*\"\nservice = \"new\"\n"
    );
    reload(&gateway, &config, "ok");
    gateway.instances("new", &["n"]);
    assert_eq!(kept.request("GET", "/new/x", &[], b"").unwrap().body, "new", "an open connection sees it");
    assert_eq!(kept.request("GET", "/x", &[], b"").unwrap().body, "a");
    assert_eq!(gateway.json("/api/services/orders"), before);
    // Counters stay.
    counted(2.0);

    reload(&gateway, LOCAL, "ok");
    assert_eq!(kept.request("GET", "/x", &[], b"").unwrap().header("x-zoogate-error"), Some("no_route"));
    assert_eq!(gateway.admin("/api/services/orders").status, 404);
    assert_eq!(a.count(), 2);
}

#[test]
fn a_bad_file_is_refused_whole_and_the_old_configuration_stays() {
    let (gateway, _a) = one("refused", ORDERS);
    let routes = gateway.json("/api/routes");
    let bad =
        format!("{ORDERS}[[routes]]\npath = \"/new\"\nservice = \"nobody\"\n[limits]\nmax_bdy = \"1KiB\"\n");
    reload(&gateway, &bad, "refused");
    assert_eq!(gateway.json("/api/routes"), routes);
    assert_eq!(gateway.get("/").body, "a");
    for says in ["nobody", "max_bdy"] {
        gateway.log.find(says, |line| (line.contains("ERROR") && line.contains(says)).then_some(()));
    }
    // A port that cannot be had refuses the file as a whole, too.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let bad = format!("{LOCAL}[[listeners]]\nname = \"more\"\nlisten = \"{taken}\"\n");
    reload(&gateway, &bad, "refused");
    assert_eq!(gateway.json("/api/routes"), routes);
    assert_eq!(gateway.get("/").body, "a");
    gateway.log.find("the address", |line| line.contains(&taken.to_string()).then_some(()));
    reload(&gateway, ORDERS, "ok");
}

#[test]
fn a_reload_adds_and_removes_listeners_without_touching_the_others() {
    let (gateway, _a) = one("listeners", ORDERS);
    let public = gateway.listener("public");
    let more = format!("{ORDERS}[[listeners]]\nname = \"more\"\nlisten = \"127.0.0.1:0\"\n");
    reload(&gateway, &more, "ok");
    let address = gateway.listener("more");
    assert_eq!(http::get(address, "/").body, "a");
    let names = || {
        let view = gateway.json("/api/listeners");
        let list = view["listeners"].as_array().unwrap().clone();
        list.iter()
            .map(|l| (l["name"].as_str().unwrap().into(), l["address"].as_str().unwrap().into()))
            .collect()
    };
    let listed: Vec<(String, String)> = names();
    assert_eq!(listed, [("public".into(), public.to_string()), ("more".into(), address.to_string())]);
    let mut open = Client::connect(address).unwrap();
    open.request("GET", "/", &[], b"").unwrap();

    reload(&gateway, ORDERS, "ok");
    wait_for("the listener to close", || TcpStream::connect(address).is_err().then_some(()));
    let listed: Vec<(String, String)> = names();
    assert_eq!(listed, [("public".into(), public.to_string())]);
    assert_eq!(open.request("GET", "/", &[], b"").unwrap().body, "a", "its connections stay");
    assert_eq!(http::get(public, "/").body, "a");
}

#[test]
fn the_access_log_file_is_reopened_after_rotation() {
    let config = ORDERS.replace("workers = 1", "workers = 1\naccess_log = \"logs/access.log\"");
    let scratch_log = |gateway: &Gateway, name: &str| gateway.folder().join("logs").join(name);
    // The folder is the operator's: without it the start is refused.
    let gateway =
        Gateway::start_with("rotation", &config, |folder| std::fs::create_dir(folder.join("logs")).unwrap());
    let a = Instance::start("a");
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let read = |name: &str| std::fs::read_to_string(scratch_log(&gateway, name)).unwrap_or_default();
    gateway.get("/before");
    wait_for("the first line", || read("access.log").contains("/before").then_some(()));
    std::fs::rename(scratch_log(&gateway, "access.log"), scratch_log(&gateway, "access.log.1")).unwrap();
    reload(&gateway, &config, "ok");
    gateway.get("/after");
    wait_for("the second line", || read("access.log").contains("/after").then_some(()));
    assert!(!read("access.log.1").contains("/after"));
    assert!(!read("access.log").contains("/before"));
}

#[test]
fn sigterm_drains_and_the_admin_answers_to_the_end() {
    let config = ORDERS.replace("workers = 1", "workers = 2\ndrain_delay = \"6s\"\ndrain_timeout = \"20s\"");
    let (mut gateway, a) = one("drain", &config);
    let public = gateway.listener("public");
    gateway.ready();
    a.hold(true);
    let running = std::thread::spawn(move || http::get(public, "/running"));
    wait_for("the request to arrive", || (a.count() == 1).then_some(()));
    gateway.signal("TERM");
    let since = Instant::now();
    let draining = wait_for("/readyz to turn", || {
        let ready = gateway.admin("/readyz");
        (ready.status == 503).then_some(ready)
    });
    assert!(since.elapsed() < Duration::from_millis(5900), "after {:?}", since.elapsed());
    assert!(draining.body.contains("draining"), "{draining:?}");

    // Within the delay new connections are served.
    let new = std::thread::spawn(move || http::get(public, "/new"));
    wait_for("the new request to arrive", || (a.count() == 2).then_some(()));
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "this machine is too slow for the test: {:?}",
        since.elapsed()
    );
    wait_for("the listener to close", || TcpStream::connect(public).is_err().then_some(()));
    assert!(since.elapsed() >= Duration::from_secs(6), "closed after {:?}", since.elapsed());
    assert_eq!(gateway.admin("/livez").status, 200);
    assert!(gateway.admin("/readyz").body.contains("draining"));
    assert!(gateway.admin("/metrics").body.contains("zoogate_requests_in_flight"));
    a.hold(false);
    for answer in [running.join().unwrap(), new.join().unwrap()] {
        assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    }
    assert_eq!(gateway.wait().code(), Some(0));
    let lines = gateway.out.all();
    assert!(
        lines.iter().any(|l| l.contains("/running")) && lines.iter().any(|l| l.contains("/new")),
        "{lines:?}"
    );
}

#[test]
fn idle_connections_do_not_hold_up_a_drain() {
    let (mut gateway, _a) =
        one("idle", &ORDERS.replace("workers = 1", "workers = 1\ndrain_timeout = \"50s\""));
    let mut idle = Client::connect(gateway.listener("public")).unwrap();
    idle.request("GET", "/", &[], b"").unwrap();
    let mut silent = TcpStream::connect(gateway.listener("public")).unwrap();
    let since = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn a_drain_timeout_that_is_over_still_exits_with_0() {
    let (mut gateway, a) =
        one("over", &ORDERS.replace("workers = 1", "workers = 1\ndrain_timeout = \"300ms\""));
    a.hold(true);
    let mut stream = TcpStream::connect(gateway.listener("public")).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    wait_for("the request to arrive", || (a.count() == 1).then_some(()));
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_second_signal_exits_at_once() {
    let (mut gateway, a) =
        one("second", &ORDERS.replace("workers = 1", "workers = 1\ndrain_timeout = \"300s\""));
    a.hold(true);
    let mut stream = TcpStream::connect(gateway.listener("public")).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    wait_for("the request to arrive", || (a.count() == 1).then_some(()));
    gateway.signal("TERM");
    wait_for("the drain to begin", || (gateway.admin("/readyz").status == 503).then_some(()));
    gateway.signal("TERM");
    gateway.wait();
}
