//! Stopping under fire: a connection that stands is answered, and none is reset, however the stop falls.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;

#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    refused: usize,
    /// The connection stood, and then there was no answer on it.
    lost: Vec<String>,
}

/// Connection after connection, each with one request, until nobody listens.
fn knock(address: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(30)) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                seen.refused += 1;
                return seen;
            }
            Err(error) => {
                seen.lost.push(format!("connect: {error}"));
                continue;
            }
        };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        match asked.and_then(|()| stream.read_to_string(&mut answer)) {
            Ok(_) if answer.starts_with("HTTP/1.1 200") => seen.answered += 1,
            other => seen.lost.push(format!("{other:?} after {answer:?}")),
        }
    }
    seen
}

/// Clients knock at the listener `public` all the time, while this is done to its gateway.
fn nobody_is_reset(name: &str, workers: usize, done: impl Fn(&mut Gateway, &dyn Fn(usize) -> String)) {
    const CLIENTS: usize = 8;
    let rounds = if std::env::var_os("ZOOGATE_TEST_LONG").is_some() { 50 } else { 5 };
    let instance = Instance::start("a");
    let (mut answered, mut lost) = (0, Vec::new());
    for round in 0..rounds {
        let config = |workers: usize| {
            ORDERS.replace("workers = 1\n", &format!("workers = {workers}\naccess_log = \"off\"\n"))
        };
        let mut gateway = Gateway::start(name, &config(workers));
        gateway.register("orders/a", instance.address);
        gateway.instances("orders", &["a"]);
        let public = gateway.listener("public");
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || knock(public, &stop))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
        let before = instance.count();
        wait_for("requests", || (instance.count() > before + 50).then_some(()));
        done(&mut gateway, &config);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            answered += seen.answered;
            lost.extend(seen.lost.into_iter().map(|what| format!("round {round}: {what}")));
        }
    }
    eprintln!("{answered} answered, {} lost in {rounds} rounds", lost.len());
    assert!(lost.is_empty(), "{lost:?}");
    assert!(answered > rounds * 50);
}

#[test]
fn no_connection_that_stands_is_reset_by_a_stop() {
    nobody_is_reset("stops", 2, |gateway, _| {
        gateway.signal("TERM");
        assert!(gateway.wait().success());
    });
}

#[test]
fn no_connection_that_stands_is_reset_by_a_reload_without_its_listener() {
    nobody_is_reset("stops-reload", 2, |gateway, config| {
        let public = gateway.listener("public");
        gateway.reload(&config(2).replace("name = \"public\"", "name = \"other\""));
        wait_for("the end of it", || TcpStream::connect(public).is_err().then_some(()));
    });
}

#[test]
fn no_connection_that_stands_is_reset_by_a_reload_with_fewer_workers() {
    nobody_is_reset("stops-workers", 4, |gateway, config| {
        gateway.reload(&config(1));
        wait_for("the reload", || gateway.metric("zoogate_config_reloads_total{result=\"ok\"}").map(drop));
        // As long as clients ask there.
        assert_eq!(gateway.get("/").status, 200);
    });
}

#[test]
fn a_descriptor_that_was_promised_and_is_none_ends_the_start_with_its_reason() {
    use crate::support::gateway::{Scratch, binary};
    let folder = Scratch::new("promised");
    let config = folder.write("zoogate.toml", &format!("[admin]\nlisten = \"127.0.0.1:0\"\n{ORDERS}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = |descriptor: &str| {
        let mut command = std::process::Command::new("bash");
        let run = format!("exec {descriptor}; LISTEN_FDS=1 exec \"$0\" run --config \"$1\"");
        command.arg("-c").arg(run).arg(binary().get_program()).arg(&config);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // Closed, a file, and the client's end of a connection.
    for run in ["3>&-", "3</dev/null", &format!("3<>/dev/tcp/127.0.0.1/{port}")] {
        let (code, said) = start(run);
        assert_eq!(code, Some(1), "{run}: {said}");
        assert!(
            said.contains("LISTEN_FDS: descriptor 1 of those passed is no listening TCP socket"),
            "{run}: {said}"
        );
        assert!(!said.contains("starting"), "before anything else: {said}");
    }
}
