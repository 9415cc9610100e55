//! Connections that stop being HTTP, or never were.

use std::time::Duration;

use zoogate::config::plan::ListenerKind;
use zoogate::model::Protocol;

use crate::wire_support::*;

const ASK: &str = "GET /o/ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: k\r\n\r\n";

fn echo() -> Recorder {
    Recorder::scripted(|wire, seen| {
        let head = wire.read_until("\r\n\r\n").unwrap();
        seen.lock().unwrap().push(Message { head, body: Vec::new() });
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: k\r\n\r\nwelcome",
        );
        while let Some(bytes) = wire.read_exact(1) {
            wire.send(bytes);
        }
        wire.send("bye");
        wire.close_write();
    })
}

#[test]
fn an_upgrade_becomes_a_tunnel_with_its_halves_closed_apart() {
    let instance = echo();
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(ASK);
    let head = wire.read_until("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-accept: k"), "{head}");
    assert_eq!(instance.seen()[0].header("upgrade"), Some("websocket"));
    assert_eq!(wire.read_exact(7).unwrap(), b"welcome", "bytes behind the 101 are not lost");
    wire.send("\0\x01binary\r\n\r\n");
    assert_eq!(wire.read_exact(12).unwrap(), b"\0\x01binary\r\n\r\n");
    wire.close_write();
    assert_eq!(wire.read_all(), "bye");
    let line = worker.log_lines(1).remove(0);
    assert_eq!(
        (&line["status"], &line["bytes_sent"], &line["bytes_received"]),
        (&101.into(), &22.into(), &12.into())
    );
}

#[test]
fn bytes_behind_a_refused_upgrade_are_http() {
    let instance = Recorder::saying("plain");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send(format!("{ASK}{}", get("/o/next")));
    assert_eq!(wire.read_message().unwrap().text(), "plain");
    assert_eq!(wire.read_message().unwrap().text(), "plain");
    assert_eq!(instance.request_lines(), ["GET /o/ws HTTP/1.1", "GET /o/next HTTP/1.1"]);
    wire.send(format!("{ASK}GET /o/smuggled HTTP/1.1\r\nhost : a\r\n\r\n"));
    assert_eq!(wire.read_message().unwrap().text(), "plain");
    assert!(wire.read_message().unwrap().first_line().contains("400"));
    assert_eq!(instance.seen().len(), 3);
}

#[test]
fn a_switch_to_something_else_is_an_upstream_error() {
    let instance = Recorder::scripted(|wire, _| {
        wire.read_until("\r\n\r\n").unwrap();
        wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n");
        wire.read_all();
    });
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send(ASK);
    let answer = wire.read_message().unwrap();
    assert_eq!(answer.header("x-zoogate-error"), Some("upstream_protocol"), "{answer:?}");
}

#[test]
fn a_quiet_tunnel_ends_at_the_idle_limit() {
    let instance = echo();
    let limits =
        zoogate::config::plan::Limits { idle_timeout: Duration::from_millis(300), ..Setup::default().limits };
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(ASK);
    assert!(wire.read_all().ends_with("welcome"));
}

fn tcp_setup() -> Setup {
    Setup {
        kind: ListenerKind::Tcp { service: orders() },
        protocol: Protocol::Tcp,
        log: true,
        ..Setup::default()
    }
}

#[test]
fn tcp_is_balanced_over_living_instances_and_keeps_half_closes() {
    let upper = || {
        Recorder::scripted(|wire, seen| {
            let all = wire.read_all();
            seen.lock().unwrap().push(Message { head: all.clone(), body: Vec::new() });
            wire.send(all.to_uppercase());
            wire.close_write();
        })
    };
    let (a, b) = (upper(), upper());
    let mut worker = Worker::start(tcp_setup(), &[a.address, dead(), b.address]);
    let talk = |worker: &Worker| {
        let mut wire = worker.connect();
        wire.send("hello");
        wire.close_write();
        assert_eq!(wire.read_all(), "HELLO");
    };
    (0..20).for_each(|_| talk(&worker));
    assert!(a.seen().len() >= 8 && b.seen().len() >= 8, "{} and {}", a.seen().len(), b.seen().len());
    let line = worker.log_lines(20).remove(0);
    assert_eq!((&line["protocol"], &line["bytes_sent"]), (&"tcp".into(), &5.into()));
    worker.announce(&[a.address]);
    let before = b.seen().len();
    (0..10).for_each(|_| talk(&worker));
    assert_eq!(b.seen().len(), before, "the removed one got nothing");
}

#[test]
fn tcp_without_an_instance_is_closed() {
    let worker = Worker::start(tcp_setup(), &[]);
    assert_eq!(worker.exchange(""), "");
    assert_eq!(worker.log_lines(1)[0]["error"], "no_instances");
}
