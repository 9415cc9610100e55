//! Connections that wait: never used, at rest after a request, and what wakes or ends them.

use std::time::{Duration, Instant};

use zoogate::config::plan::Limits;

use crate::wire_support::*;

/// A worker, an instance that says `ok`, and a connection that has had one answer and rests.
fn at_rest(limits: Limits) -> (Worker, Recorder, Wire) {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().text(), "ok");
    rests(&worker);
    (worker, instance, wire)
}

fn rests(worker: &Worker) {
    wait_for("the connection's rest", || (worker.shared.resting_connections() == 1).then_some(()));
}

fn limits() -> Limits {
    Setup::default().limits
}

#[test]
fn a_connection_at_rest_goes_on_where_it_was() {
    let (worker, instance, mut wire) = at_rest(limits());
    for round in 0..2 {
        assert_eq!(worker.shared.open_connections(), 1, "it keeps its place");
        // In pieces, and with another request right behind.
        for piece in ["P", "OST /o/ HTTP/1.1\r\nhost: a\r\ncontent-le", "ngth: 3\r\n\r\na", "bc", &get("/o/")]
        {
            wire.send(piece);
        }
        assert_eq!(wire.read_message().unwrap().text(), "ok", "{round}");
        assert_eq!(wire.read_message().unwrap().text(), "ok", "{round}");
        rests(&worker);
    }
    let bodies: Vec<_> = instance.seen().iter().map(|seen| seen.text()).collect();
    assert_eq!(bodies, ["", "abc", "", "abc", ""]);
    assert!((worker.metric("zoogate_connections_accepted_total", &[]) - 1.0).abs() < f64::EPSILON);
    drop(wire);
    wait_for("the end", || (worker.shared.open_connections() == 0).then_some(()));
    assert_eq!(worker.shared.resting_connections(), 0);
    assert!(worker.metric("zoogate_connections{", &[]).abs() < f64::EPSILON);
}

#[test]
fn a_connection_at_rest_is_closed_when_it_has_idled_for_too_long() {
    let limits = Limits { idle_timeout: Duration::from_secs(2), ..limits() };
    let (worker, _instance, mut wire) = at_rest(limits);
    let never_used = worker.connect();
    let since = Instant::now();
    assert_eq!(wire.read_all(), "");
    let mut never_used = never_used;
    assert_eq!(never_used.read_all(), "");
    assert!(since.elapsed() >= Duration::from_millis(1900), "{:?}", since.elapsed());
    drop((wire, never_used));
    wait_for("the end", || (worker.shared.open_connections() == 0).then_some(()));
}

#[test]
fn a_drain_wakes_connections_at_rest_for_one_more_answer_and_ends_them() {
    let (worker, _instance, mut wire) = at_rest(limits());
    let mut silent = worker.connect();
    let mut never_used = worker.connect();
    silent.send(get("/o/"));
    assert_eq!(silent.read_message().unwrap().text(), "ok");
    wait_for("both to rest", || (worker.shared.resting_connections() == 2).then_some(()));
    worker.drain();
    wire.send(get("/o/"));
    let answer = wire.read_message().unwrap();
    assert_eq!(answer.text(), "ok");
    assert_eq!(wire.read_all(), "");
    assert_eq!(silent.read_all(), "");
    assert_eq!(never_used.read_all(), "");
    drop((wire, silent, never_used));
    wait_for("the end", || (worker.shared.open_connections() == 0).then_some(()));
}

#[test]
fn what_comes_after_a_rest_is_held_to_the_rules() {
    let (worker, _instance, mut wire) =
        at_rest(Limits { header_timeout: Duration::from_secs(1), ..limits() });
    wire.send("GET /o/ HTTP/1.1\r\nhost:");
    assert!(wire.read_all().starts_with("HTTP/1.1 408 "), "a head that does not end");

    let mut wire = worker.connect();
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().text(), "ok");
    rests(&worker);
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(wire.read_all().starts_with("HTTP/1.1 400 "), "it does not change its protocol");
}
