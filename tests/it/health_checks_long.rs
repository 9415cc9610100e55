//! Health checks at their full length: gRPC's own service asked through a gateway, and thousands of instances at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::gateway::{Gateway, LOCAL, PATIENCE, wait_for};
use crate::support::http;
use crate::support::script::Script;

fn health(gateway: &Gateway, id: &str) -> serde_json::Value {
    let view = gateway.json("/api/services/orders");
    let instances = view["instances"].as_array().unwrap();
    instances.iter().find(|instance| instance["id"] == id).unwrap()["health"].clone()
}

#[test]
fn a_grpc_server_that_does_not_serve_is_out_until_it_serves_again() {
    let mut servers = [Script::start("health_server.py", &[]), Script::start("health_server.py", &[])];
    let ports: Vec<String> = servers.iter_mut().map(Script::line).collect();
    for server in &mut servers {
        server.ask("SERVING");
    }
    let gateway = Gateway::start(
        "checks-grpc",
        &format!(
            "{LOCAL}[services.orders]\npath = \"/orders\"\nprotocol = \"h2\"\nejection = \"off\"\n\
             health_check = {{ kind = \"grpc\", service = \"orders\", interval = \"100ms\" }}\n\
             [[routes]]\nservice = \"orders\"\n"
        ),
    );
    for (id, port) in ["a", "b"].iter().zip(&ports) {
        gateway.register(&format!("orders/{id}"), format!("127.0.0.1:{port}"));
    }
    gateway.instances("orders", &["a", "b"]);
    let passed = r#"zoogate_health_checks_total{result="passed",service="orders"}"#;
    wait_for("both to be checked", || (gateway.metric(passed) > Some(4.0)).then_some(()));
    assert_eq!((health(&gateway, "a"), health(&gateway, "b")), Default::default());

    servers[0].ask("NOT_SERVING");
    gateway.state("orders", "a", "ejected");
    assert_eq!(health(&gateway, "a")["reason"], "check");
    gateway.state("orders", "b", "up");
    // A call over the gateway goes to the other: the health service of gRPC's own library answers it.
    let public = gateway.listener("public").to_string();
    for _ in 0..5 {
        let asked = crate::support::script::command("health_client.py").arg(&public).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "SERVING", "{asked:?}");
    }
    servers[0].ask("SERVING");
    gateway.state("orders", "a", "up");

    // A server that has no such service says so with a status: that is no answer to be in rotation with.
    servers[1].ask("UNKNOWN");
    gateway.state("orders", "b", "ejected");
    assert_eq!(gateway.metric("zoogate_panics_total"), Some(0.0));
}

/// One server for all: it listens on every address of the loopback network, and takes down which of them was asked when.
#[derive(Default)]
struct Crowd {
    port: u16,
    asked: Arc<Mutex<HashMap<IpAddr, Vec<Instant>>>>,
    /// Connections open now, and at the most.
    open: Arc<Mutex<(usize, usize)>>,
}

impl Crowd {
    fn start() -> Self {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        let crowd = Self { port, ..Self::default() };
        let (asked, open) = (Arc::clone(&crowd.asked), Arc::clone(&crowd.open));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let address = stream.local_addr().unwrap().ip();
                asked.lock().unwrap().entry(address).or_default().push(Instant::now());
                let open = Arc::clone(&open);
                {
                    let mut open = open.lock().unwrap();
                    open.0 += 1;
                    open.1 = open.1.max(open.0);
                }
                tokio::spawn(async move {
                    let mut head = [0; 512];
                    if stream.read(&mut head).await.is_ok() {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                        let _ = stream.write_all(answer).await;
                    }
                    open.lock().unwrap().0 -= 1;
                });
            }
        };
        std::thread::spawn(move || runtime.block_on(serve));
        crowd
    }
}

#[test]
fn thousands_of_instances_are_all_checked_spread_and_under_the_caps() {
    // Twice what the cap of 460 a second needs for all of them; or as many as do not take a minute.
    let long = std::env::var_os("ZOOGATE_TEST_LONG").is_some();
    let (count, interval) = if long { (10_000, 45) } else { (2_000, 9) };
    let crowd = Crowd::start();
    let payload = |n: usize| format!("127.{}.{}.{}:{}", 1 + n / 65536, n / 256 % 256, n % 256, crowd.port);
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\nejection = \"off\"\n\
         health_check = {{ kind = \"http\", interval = \"{interval}s\", timeout = \"5s\" }}\n\
         [[routes]]\nservice = \"orders\"\n"
    );
    let gateway = Gateway::start_with("checks-scale", &config, |folder| {
        let orders = folder.join("services/orders");
        std::fs::create_dir_all(&orders).unwrap();
        for n in 0..count {
            std::fs::write(orders.join(format!("n{n:05}")), payload(n)).unwrap();
        }
    });
    gateway.ready();
    let begun = Instant::now();
    let limit = Duration::from_secs(interval) + PATIENCE;
    let checked = || crowd.asked.lock().unwrap().len();
    let mut slowest = Duration::ZERO;
    while checked() < count {
        assert!(begun.elapsed() < limit, "{} of {count} checked in {:?}", checked(), begun.elapsed());
        // Meanwhile it serves.
        let asked = Instant::now();
        assert_eq!(http::get(gateway.listener("public"), "/x").status, 200);
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = begun.elapsed();
    let asked = crowd.asked.lock().unwrap();
    let mut times: Vec<Instant> = asked.values().flatten().copied().collect();
    times.sort();
    // Requests of ours open one connection now and then; they are no more than twenty a second.
    let busiest = times
        .iter()
        .enumerate()
        .map(|(i, at)| times[i..].iter().take_while(|later| **later < *at + Duration::from_secs(1)).count());
    let busiest = busiest.max().unwrap();
    let (_, most) = *crowd.open.lock().unwrap();
    let failed = r#"zoogate_health_checks_total{result="failed",service="orders"}"#;
    let failed = gateway.metric(failed).unwrap_or_default();
    eprintln!(
        "{count} in {took:?}, {busiest} in the busiest second, {most} open at the most, {failed} failed, the slowest request {slowest:?}"
    );
    assert!(took > Duration::from_secs(interval) / 2, "{took:?}: they are spread over {interval} s");
    assert!(busiest <= 540, "{busiest} in a second");
    assert!(most <= 128 + 64, "{most} open");
    assert!(failed < 100.0, "{failed} failed");
}
