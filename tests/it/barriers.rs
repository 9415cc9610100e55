//! Routes held back by a node, and gateways that drain one at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::{Gateway, LOCAL, wait_for};
use crate::support::http::{Answer, get};
use crate::support::instance::Instance;
use crate::support::zk::{self, EPHEMERAL, OPEN};

/// Whether the first route's barrier stands, and how many requests it holds.
fn barrier(gateway: &Gateway) -> (bool, u64) {
    let view = gateway.json("/api/routes");
    let routes = view["routes"].as_array().unwrap();
    let barrier = &routes.iter().find(|route| route["name"] == "held").unwrap()["barrier"];
    (barrier["closed"].as_bool().unwrap(), barrier["held"].as_u64().unwrap())
}

fn until_barrier(gateway: &Gateway, closed: bool, held: u64) {
    wait_for(&format!("closed {closed}, held {held}"), || (barrier(gateway) == (closed, held)).then_some(()));
}

/// Verdict and reason that the barrier of a request's route gets.
fn explained(gateway: &Gateway) -> (String, String) {
    let found = gateway.json("/api/explain?method=GET&url=/orders/1");
    let considered = found["considered"].as_array().unwrap();
    let barrier = considered.iter().find(|entry| entry["kind"] == "barrier").unwrap();
    assert_eq!(barrier["name"], "/maintenance/orders");
    (barrier["verdict"].as_str().unwrap().to_owned(), barrier["reason"].as_str().unwrap().to_owned())
}

fn in_background(address: SocketAddr, path: &'static str) -> std::thread::JoinHandle<(Answer, Duration)> {
    std::thread::spawn(move || {
        let asked = Instant::now();
        (get(address, path), asked.elapsed())
    })
}

fn routes(wait: &str) -> String {
    format!(
        "[services.orders]\npath = \"/services/orders\"\n\
         [[routes]]\nname = \"held\"\npath = \"/orders/*\"\nservice = \"orders\"\n\
         barrier = \"/maintenance/orders\"\n{wait}\
         [[routes]]\nname = \"brief\"\npath = \"/brief/*\"\nservice = \"orders\"\n\
         barrier = {{ path = \"/maintenance/orders\" }}\nbarrier_wait = \"200ms\"\n\
         [[routes]]\nname = \"free\"\npath = \"/free/*\"\nservice = \"orders\"\n"
    )
}

fn over(connect: &str) -> String {
    format!(
        "[gateway]\nworkers = 2\n[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         session_timeout = \"4s\"\n[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n{}",
        routes("timeout = \"50s\"\n")
    )
}

#[tokio::test]
async fn requests_wait_while_the_barrier_stands_and_go_on_when_it_is_gone() {
    let connect = zk::chroot("route-barrier").await;
    let client = zk::client(&connect).await;
    let instance = Instance::start("a");
    client.mkdir("/services/orders", &OPEN).await.unwrap();
    client.create("/services/orders/a", instance.address.to_string().as_bytes(), &EPHEMERAL).await.unwrap();
    // It stands before the gateway does.
    client.mkdir("/maintenance/orders", &OPEN).await.unwrap();
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let through = format!("{}/route-barrier", proxy.address());
    let gateway = tokio::task::spawn_blocking(move || {
        let gateway = Gateway::start("route-barrier", &over(&through));
        gateway.instances("orders", &["a"]);
        gateway
    });
    let gateway = gateway.await.unwrap();
    let public = gateway.listener("public");
    let gateway = tokio::task::spawn_blocking(move || {
        until_barrier(&gateway, true, 0);
        assert_eq!(get(public, "/free/1").status, 200, "another route of the same service");
        let refused = get(public, "/brief/1");
        assert_eq!((refused.status, refused.header("x-zoogate-error")), (503, Some("overloaded")));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.body.contains("barrier"), "{}", refused.body);
        gateway
    })
    .await
    .unwrap();

    let held: Vec<_> = (0..3).map(|_| in_background(public, "/orders/1")).collect();
    let gateway = tokio::task::spawn_blocking(move || {
        until_barrier(&gateway, true, 3);
        gateway
    })
    .await
    .unwrap();
    // The registry out of reach: what is known last holds, and is not given up.
    proxy.set(Fault::Cut);
    let gateway = tokio::task::spawn_blocking(move || {
        wait_for("the loss", || {
            (gateway.metric("zoogate_registry_connected{registry=\"main\"}")? == 0.0).then_some(())
        });
        assert_eq!(barrier(&gateway), (true, 3));
        gateway
    })
    .await
    .unwrap();
    client.delete("/maintenance/orders", None).await.unwrap();
    proxy.set(Fault::None);
    tokio::task::spawn_blocking(move || {
        for request in held {
            let (answer, _) = request.join().unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
        }
        until_barrier(&gateway, false, 0);
        assert_eq!(get(public, "/brief/1").status, 200);
    })
    .await
    .unwrap();
    client.mkdir("/maintenance/orders", &OPEN).await.unwrap();
}

#[test]
fn a_file_is_a_barrier_in_a_directory_registry_and_the_wait_is_bounded() {
    let instance = Instance::start("a");
    let config = format!("{LOCAL}{}", routes("timeout = \"50s\"\n"));
    let gateway = Gateway::start("file-barrier", &config);
    gateway.register("services/orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    until_barrier(&gateway, false, 0);
    assert_eq!(gateway.get("/orders/1").status, 200);
    gateway.register("maintenance/orders", "");
    until_barrier(&gateway, true, 0);
    let asked = Instant::now();
    assert_eq!(gateway.get("/brief/1").status, 503);
    assert!(asked.elapsed() >= Duration::from_millis(200), "{:?}", asked.elapsed());
    let held = in_background(gateway.listener("public"), "/orders/1");
    until_barrier(&gateway, true, 1);
    let metric = |name: &str| {
        gateway.metric(&format!("zoogate_barrier_{name}{{path=\"/maintenance/orders\",registry=\"local\"}}"))
    };
    assert_eq!((metric("closed"), metric("held_requests")), (Some(1.0), Some(1.0)));
    assert_eq!(explained(&gateway).0, "rejected");
    assert!(explained(&gateway).1.contains("50s at the most; 1 do"), "{}", explained(&gateway).1);
    gateway.withdraw("maintenance/orders");
    assert_eq!(held.join().unwrap().0.status, 200);
    until_barrier(&gateway, false, 0);
    assert_eq!((metric("closed"), metric("held_requests")), (Some(0.0), Some(0.0)));
    assert_eq!(explained(&gateway).0, "chosen");
    // A reload with the same barrier keeps what is known of it.
    gateway.register("maintenance/orders", "");
    until_barrier(&gateway, true, 0);
    gateway.reload(&format!("{LOCAL}{}", routes("timeout = \"49s\"\n")));
    gateway.log.find("the reload", |line| line.contains("reloaded").then_some(()));
    assert_eq!(barrier(&gateway), (true, 0));
}

/// A log line's time of day, in seconds.
fn time_of(line: &str) -> f64 {
    let time = line.split('T').nth(1).and_then(|rest| rest.split(['Z', '+']).next()).expect("a time");
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[tokio::test]
async fn gateways_with_a_drain_lock_drain_one_at_a_time() {
    let connect = zk::chroot("drain-lock").await;
    let config = format!(
        "[gateway]\nworkers = 1\ndrain_delay = \"1s\"\ndrain_lock = \"/zoogate/drain\"\n\
         [registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
    );
    let work = tokio::task::spawn_blocking(move || {
        let mut both = [Gateway::start("drain-1", &config), Gateway::start("drain-2", &config)];
        for gateway in &both {
            gateway.listener("public");
            gateway.signal("TERM");
        }
        let holds = |line: &str| line.contains("holding the drain lock").then(|| time_of(line));
        let first = wait_for("one that drains", || {
            both.iter().position(|gateway| gateway.log.all().iter().any(|line| holds(line).is_some()))
        });
        // The other one is not ready, but serves on.
        let other = &both[1 - first];
        let ready = other.admin("/readyz");
        assert_eq!((ready.status, ready.body.contains("draining")), (503, true), "{}", ready.body);
        assert_eq!(other.get("/").header("x-zoogate-error"), Some("no_route"));
        assert!(both[first].wait().success());
        assert!(both[1 - first].wait().success());
        let [before, after] = [first, 1 - first].map(|index| both[index].log.find("the lock", holds));
        assert!((after - before).rem_euclid(86_400.0) >= 1.0, "both drained at once: {before} {after}");
        for gateway in &both {
            gateway.log.find("the release", |line| line.contains("drain lock released").then_some(()));
        }
    });
    work.await.unwrap();
    assert_eq!(
        zk::client(&connect).await.list_children("/zoogate/drain").await.unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn a_gateway_that_cannot_have_the_drain_lock_drains_without_it() {
    let config = format!(
        "[gateway]\nworkers = 1\ndrain_lock = \"/zoogate/drain\"\ndrain_lock_timeout = \"300ms\"\n\
         [registries.main]\nkind = \"zookeeper\"\nconnect = \"127.0.0.1:{}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n",
        zk::free_port()
    );
    let mut gateway = Gateway::start("drain-alone", &config);
    gateway.listener("public");
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    gateway.log.find("a warning", |line| line.contains("draining without the drain lock").then_some(()));
}
