//! What is refused, with which answer, and that nothing of it reaches an instance.

use std::time::Duration;

use crate::wire_support::*;

const GOOD: &str = "GET /o/marker HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn nothing_of_a_refused_request_reaches_an_instance() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let post = |lines: &str| format!("POST /o/bad HTTP/1.1\r\nhost: a\r\n{lines}\r\n5\r\nhello\r\n0\r\n\r\n");
    let mut vectors: Vec<String> = [
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5x\r\n",
        "content-length: -5\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "x: a\rb\r\ncontent-length: 0\r\n",
        "x: a\0b\r\n",
        "x: a\nb: c\r\n",
        "host: b\r\n",
        "expect: miracles\r\ncontent-length: 5\r\n",
    ]
    .into_iter()
    .map(post)
    .collect();
    vectors.extend(
        [
            "GET /o/bad HTTP/1.1\r\n\r\n",
            "GET /o/bad HTTP/1.1\r\nhost: \r\n\r\n",
            "GET /o/bad HTTP/1.1\r\nhost: a b\r\n\r\n",
            "GET /o/bad HTTP/1.1\r\nhost: u@a\r\n\r\n",
            "GET http://u:p@a/o/bad HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /o/bad HTTP/1.1\nhost: a\n\n",
            "GET  /o/bad HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /o/bad HTTP/1.2\r\nhost: a\r\n\r\n",
            "GET /o/b\x01d HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /o/%00 HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /o/%2e%2e/x HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /o/..%2fx HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST /o/bad HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "garbage\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
        ]
        .map(str::to_owned),
    );
    for vector in &vectors {
        // A request behind it must not be served either.
        let answer = worker.exchange(format!("{vector}{GOOD}"));
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{vector:?}: {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{vector:?}: {answer:?}");
    }
    assert_eq!(instance.request_lines(), [""; 0]);
    wait_for("the count", || {
        let counted = worker.metric("zoogate_requests_total", &["code=\"400\""]);
        ((counted - vectors.len() as f64).abs() < 0.5).then_some(())
    });
}

#[test]
fn a_refused_head_behind_a_good_request_is_answered_in_turn() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let answer = worker.exchange(format!("{GOOD}{GOOD}GET /o/x HTTP/1.1\r\nhost : a\r\n\r\n{GOOD}"));
    let statuses: Vec<_> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    assert_eq!(instance.request_lines().len(), 2);
}

#[test]
fn a_body_that_breaks_its_framing_is_a_bad_request_and_never_pooled() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    for chunk in
        ["5\nhello", "0x5\r\nhello", "5;ext=1\r\nhello", "fffffffffffffffff\r\nhello", "5\r\nhelloGET"]
    {
        let head = "POST /o/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = worker.exchange(format!("{head}{chunk}\r\n0\r\n\r\n{GOOD}"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunk:?}: {answer:?}");
        assert!(answer.contains("x-zoogate-error: bad_request"), "{answer}");
    }
    assert_eq!(instance.request_lines(), [""; 0], "no whole request arrived");
    assert!(worker.exchange(GOOD.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).contains("200"));
    assert_eq!(instance.request_lines().len(), 1);
}

#[test]
fn heads_over_the_limits_are_refused_with_their_codes() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[instance.address]);
    let many: String = (0..100).map(|i| format!("h{i}: x\r\n")).collect();
    let long = "x".repeat(8 * 1024);
    for (request, status, code) in [
        (format!("GET /o/ HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431", "headers_too_large"),
        (
            format!("GET /o/ HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(65536)),
            "431",
            "headers_too_large",
        ),
        (format!("GET /o/{long} HTTP/1.1\r\nhost: a\r\n\r\n"), "414", "uri_too_long"),
        (format!("GET /o/{}", long.repeat(3)), "414", "uri_too_long"),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".into(), "405", "bad_request"),
    ] {
        let answer = worker.exchange(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {answer}");
        assert!(answer.contains(&format!("x-zoogate-error: {code}\r\n")), "{answer}");
        assert!(worker.metric("zoogate_requests_total", &[&format!("code=\"{status}\"")]) >= 1.0);
    }
    let most: String = (0..98).map(|i| format!("h{i}: x\r\n")).collect();
    let fits = format!("GET /o/ HTTP/1.1\r\nhost: a\r\n{most}connection: close\r\n\r\n");
    assert!(worker.exchange(fits).starts_with("HTTP/1.1 200 "), "at the limit it passes");
    assert_eq!(instance.request_lines().len(), 1);
    let errors: Vec<_> = worker.log_lines(6).iter().map(|line| line["error"].clone()).collect();
    assert_eq!(errors[..4], ["headers_too_large", "headers_too_large", "uri_too_long", "uri_too_long"]);
}

#[test]
fn a_head_that_does_not_end_in_time_is_told_so() {
    let limits = zoogate::config::plan::Limits {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(60),
        ..Setup::default().limits
    };
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[]);
    let mut wire = worker.connect();
    wire.send("GET /o/ HTTP/1.1\r\nhost");
    let answer = wire.read_all();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert!(answer.contains("x-zoogate-error: request_timeout"));
    assert!(worker.metric("zoogate_requests_total", &["code=\"408\""]) >= 1.0);
    let mut partial_method = worker.connect();
    partial_method.send("P");
    assert!(partial_method.read_all().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_body_over_the_limit_is_refused_at_once_or_when_it_gets_there() {
    let limits = zoogate::config::plan::Limits { max_body: Some(10), ..Setup::default().limits };
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    let answer = worker.exchange("POST /o/ HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    assert_eq!(instance.connections(), 0);
    let answer = worker.exchange(
        "POST /o/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(instance.request_lines(), [""; 0], "nothing whole arrived");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let limits = zoogate::config::plan::Limits { max_body: Some(10), ..Setup::default().limits };
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[]);
    for _ in 0..20 {
        let mut wire = worker.connect();
        wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n");
        wire.send([b'x'; 60000]);
        let answer = wire.read_all();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
    }
}

#[test]
fn connections_over_the_cap_are_told_503() {
    let limits = zoogate::config::plan::Limits { max_connections: 2, ..Setup::default().limits };
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[]);
    let held: Vec<_> = (0..2).map(|_| worker.connect()).collect();
    wait_for("both", || (worker.shared.open_connections() == 2).then_some(()));
    let answer = worker.exchange("");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-zoogate-error: overloaded"),
        "{answer}"
    );
    drop(held);
    wait_for("room", || (worker.shared.open_connections() == 0).then_some(()));
    assert!(
        worker.exchange(get("/x").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).contains(" 404 ")
    );
}

#[test]
fn a_stalled_upload_is_told_408_and_a_slow_instance_is_not_held_against_it() {
    let limits =
        zoogate::config::plan::Limits { idle_timeout: Duration::from_millis(250), ..Setup::default().limits };
    let instance = Recorder::scripted(|wire, _| {
        if wire.read_message().is_some() {
            std::thread::sleep(Duration::from_millis(600));
            wire.send(ok("slow"));
        }
    });
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc");
    let answer = wire.read_all();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer:?}");
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().text(), "slow", "longer than the idle limit, and ours to wait");
}
