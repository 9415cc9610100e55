//! A reload of what is no route and no service: the log, and how large the heads of answers may be.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;

#[test]
fn the_log_changes_its_level_and_its_format() {
    let instance = Instance::start("a");
    let config = ORDERS.replace("path = \"/*\"\n", "path = \"/known/*\"\n");
    let gateway = Gateway::start("reload-log", &config);
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    assert_eq!(gateway.get("/unknown").status, 404);

    gateway.reload(&format!("{config}[log]\nlevel = \"debug\"\nformat = \"json\"\n"));
    gateway.log.find("a JSON line of the reload", |line| {
        (line.starts_with('{') && line.contains("\"reloaded\"")).then_some(())
    });
    assert_eq!(gateway.get("/unknown").status, 404);
    let line = gateway.log.find("the refusal, now", |line| {
        (line.contains("no_route") && line.contains("DEBUG")).then(|| line.to_owned())
    });
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");

    gateway.reload(&config);
    let reloads = || {
        let text = |line: &&String| !line.starts_with('{') && line.contains("INFO reloaded");
        gateway.log.all().iter().filter(text).count()
    };
    wait_for("text again", || (reloads() == 1).then_some(()));
    assert_eq!(gateway.get("/unknown").status, 404);
    // Whatever the request had to tell is told before this.
    gateway.withdraw("orders/a");
    gateway.log.find("the next news", |line| {
        (line.contains("INFO membership changed") && line.contains("removed=1")).then_some(())
    });
    let all = gateway.log.all();
    let last = all.iter().rposition(|line| line.contains("INFO reloaded")).unwrap();
    assert!(!all[last..].iter().any(|line| line.contains("no_route")), "{:?}", &all[last..]);
}

/// Answers with forty fields.
fn talkative() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            if lines.any(|line| line.is_empty()) {
                let fields: String = (0..40).map(|n| format!("x-{n}: {n}\r\n")).collect();
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{fields}connection: close\r\ncontent-length: 2\r\n\r\nok");
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

#[test]
fn the_heads_of_answers_are_held_to_the_limits_of_now() {
    let gateway = Gateway::start("reload-heads", ORDERS);
    gateway.register("orders/a", talkative());
    gateway.instances("orders", &["a"]);
    assert_eq!(gateway.get("/x").status, 200);
    gateway.reload(&format!("{ORDERS}[limits]\nmax_headers = 20\n"));
    wait_for("a refusal", || {
        let answer = gateway.get("/x");
        (answer.header("x-zoogate-error") == Some("upstream_protocol")).then_some(())
    });
    gateway.reload(ORDERS);
    wait_for("an answer", || (gateway.get("/x").status == 200).then_some(()));
}
