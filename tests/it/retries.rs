//! What goes out again, and what never does.

use std::time::Duration;

use http::StatusCode;
use zoogate::model::{MethodSet, RetrySpec, StatusSet};

use crate::support::gateway::{Gateway, LOCAL};
use crate::support::http::Client;
use crate::support::instance::Instance;
use crate::wire_support::*;

const BROKEN: &str = "";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// Reads each request whole, then says this and closes.
fn closing(answer: &'static str) -> Recorder {
    Recorder::scripted(move |wire, seen| {
        if let Some(message) = wire.read_message() {
            seen.lock().unwrap().push(message);
            wire.send(answer);
            wire.close_write();
        }
    })
}

fn silent() -> Recorder {
    Recorder::scripted(|wire, seen| {
        if let Some(message) = wire.read_message() {
            seen.lock().unwrap().push(message);
            wire.read_all();
        }
    })
}

fn unavailable() -> Recorder {
    Recorder::start(|_| UNAVAILABLE.into())
}

fn ask(worker: &Worker, method: &str, body: &str) -> Message {
    let mut wire = worker.connect();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    wire.send(format!("{method} /o/ HTTP/1.1\r\nhost: a\r\nx-method: {method}\r\n{length}\r\n{body}"));
    if method == "HEAD" {
        return Message { head: wire.read_until("\r\n\r\n").unwrap(), body: Vec::new() };
    }
    wire.read_message().unwrap()
}

fn status(message: &Message) -> u16 {
    message.first_line().split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn retried(worker: &Worker, reason: &str) -> f64 {
    worker.metric("zoogate_retries_total", &[&format!("reason=\"{reason}\"")])
}

/// Asks until the request has been at `first` once more; those that go elsewhere at once prove nothing.
fn ask_at(worker: &Worker, first: &Recorder, method: &str, body: &str) -> Message {
    let before = first.seen().len();
    wait_for("a request at the first instance", || {
        let answer = ask(worker, method, body);
        (first.seen().len() > before).then_some(answer)
    })
}

fn per_try(limit: Duration) -> Setup {
    let retry = RetrySpec { per_try_timeout: Some(limit), ..RetrySpec::default() };
    Setup { retry, ..Setup::default() }
}

#[test]
fn what_may_be_repeated_goes_to_another_instance_with_all_of_its_body() {
    let (broken, good) = (closing(BROKEN), Recorder::saying("good"));
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[broken.address, good.address]);
    for (method, body) in
        [("GET", ""), ("HEAD", ""), ("OPTIONS", ""), ("TRACE", ""), ("DELETE", ""), ("PUT", "all of it")]
    {
        let answer = ask_at(&worker, &broken, method, body);
        assert_eq!(status(&answer), 200, "{method}");
        let (first, second) = (broken.seen().pop().unwrap(), good.seen().pop().unwrap());
        assert_eq!((first.header("x-method"), second.header("x-method")), (Some(method), Some(method)));
        assert_eq!((first.text().as_str(), second.text().as_str()), (body, body), "{method}");
        assert_eq!(first.header("x-request-id"), second.header("x-request-id"), "it is one request");
    }
    assert!((retried(&worker, "reset") - broken.seen().len() as f64).abs() < 0.1);
    let lines = worker.log_lines(good.seen().len());
    assert_eq!(lines.iter().filter(|line| line["retries"] == 1).count(), broken.seen().len());
}

#[test]
fn a_post_that_was_sent_is_at_one_instance_alone() {
    let (broken, good) = (closing(BROKEN), Recorder::saying("good"));
    let worker = Worker::start(Setup::default(), &[broken.address, good.address]);
    let mut lost = 0;
    for n in 0..20 {
        let answer = ask(&worker, if n % 2 == 0 { "POST" } else { "PATCH" }, &format!("id-{n}"));
        lost += usize::from(status(&answer) != 200);
    }
    assert_eq!(lost, broken.seen().len(), "each that broke off is told of");
    let mut ids: Vec<_> = broken.seen().iter().chain(&good.seen()).map(Message::text).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), broken.seen().len() + good.seen().len()), (20, 20));
    assert!(lost > 0 && retried(&worker, "reset") < 0.1);
}

#[test]
fn a_route_may_say_that_a_post_may_be_repeated() {
    let (broken, good) = (closing(BROKEN), Recorder::saying("good"));
    let mut methods = MethodSet::NONE;
    methods.insert(&http::Method::POST);
    let retry = RetrySpec { methods, ..RetrySpec::default() };
    let worker = Worker::start(Setup { retry, ..Setup::default() }, &[broken.address, good.address]);
    assert_eq!(status(&ask_at(&worker, &broken, "POST", "again")), 200);
    assert_eq!(status(&ask_at(&worker, &broken, "GET", "")), 502, "and that a GET may not");
}

#[test]
fn a_body_that_was_not_kept_is_sent_once() {
    let large = "x".repeat(100_000);
    for (buffer, expected) in [(RetrySpec::DEFAULT_BUFFER, 502), (200_000, 200)] {
        let (broken, good) = (closing(BROKEN), Recorder::saying("good"));
        let retry = RetrySpec { buffer, ..RetrySpec::default() };
        let worker = Worker::start(Setup { retry, ..Setup::default() }, &[broken.address, good.address]);
        assert_eq!(status(&ask_at(&worker, &broken, "PUT", &large)), expected, "{buffer}");
        // In chunks nobody knows beforehand how long it is.
        let before = broken.seen().len();
        let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
        let answer = wait_for("a request at the broken instance", || {
            let mut wire = worker.connect();
            wire.send(format!("PUT /o/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"));
            let answer = wire.read_message().unwrap();
            (broken.seen().len() > before).then_some(answer)
        });
        assert_eq!(status(&answer), expected, "{buffer}, chunked");
        if expected == 200 {
            assert!(good.seen().iter().all(|message| message.body.len() >= large.len()));
        }
    }
}

#[test]
fn a_listed_status_is_another_instances_turn_and_the_last_one_passes_as_it_is() {
    let (busy, good) = (unavailable(), Recorder::saying("good"));
    let worker = Worker::start(Setup::default(), &[busy.address, good.address]);
    assert_eq!(ask_at(&worker, &busy, "GET", "").text(), "good");
    assert_eq!(ask_at(&worker, &busy, "POST", "x").text(), "busy", "not for a POST");
    assert!(retried(&worker, "status") >= 1.0);

    let all = [unavailable(), unavailable(), unavailable(), unavailable()];
    let worker = Worker::start(Setup::default(), &all.each_ref().map(|instance| instance.address));
    let answer = ask(&worker, "GET", "");
    assert_eq!(
        (status(&answer), answer.text().as_str(), answer.header("x-zoogate-error")),
        (503, "busy", None)
    );
    assert_eq!(
        all.iter().map(|instance| instance.seen().len()).sum::<usize>(),
        3,
        "two attempts after the first"
    );
}

#[test]
fn an_answer_in_hand_is_better_than_an_attempt_that_fails() {
    let busy = unavailable();
    let worker = Worker::start(Setup::default(), &[busy.address, dead()]);
    for _ in 0..4 {
        assert_eq!(ask(&worker, "GET", "").text(), "busy", "also where the next cannot be connected to");
    }
    let (busy, never) = (unavailable(), silent());
    let timeout = Some(Duration::from_millis(300));
    let worker = Worker::start(Setup { timeout, ..Setup::default() }, &[busy.address, never.address]);
    let answer = wait_for("an attempt at both", || {
        let (one, other) = (busy.seen().len(), never.seen().len());
        let answer = ask(&worker, "GET", "");
        (busy.seen().len() > one && never.seen().len() > other).then_some(answer)
    });
    assert_eq!(answer.text(), "busy", "also where the route's time is over");
}

#[test]
fn off_is_off_but_for_what_was_never_sent() {
    let (broken, busy) = (closing(BROKEN), unavailable());
    let setup = Setup { retry: RetrySpec::OFF, ..Setup::default() };
    let worker = Worker::start(setup, &[broken.address, busy.address, dead()]);
    let mut statuses: Vec<_> = (0..12).map(|_| status(&ask(&worker, "GET", ""))).collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [502, 503]);
    assert_eq!(broken.seen().len() + busy.seen().len(), 12);
    assert!(retried(&worker, "connect_failed") >= 1.0);
}

#[test]
fn a_service_whose_every_instance_is_unavailable_gets_at_most_a_fifth_more_than_it_is_asked() {
    let all = [unavailable(), unavailable(), unavailable()];
    let worker = Worker::start(Setup::default(), &all.each_ref().map(|instance| instance.address));
    let mut wire = worker.connect();
    const OFFERED: usize = 500;
    for _ in 0..OFFERED {
        wire.send(get("/o/"));
        assert_eq!(wire.read_message().unwrap().text(), "busy");
    }
    let load: usize = all.iter().map(|instance| instance.seen().len()).sum();
    assert!(load <= OFFERED * 6 / 5 && load > OFFERED, "{load} of {OFFERED}");
    assert!(worker.metric("zoogate_retry_budget_exhausted_total", &["orders"]) > 0.0);
}

#[test]
fn without_a_budget_nothing_that_was_sent_goes_out_again() {
    let (busy, good) = (unavailable(), Recorder::saying("good"));
    let setup = Setup { retry_budget: 0.0, ..Setup::default() };
    let worker = Worker::start(setup, &[busy.address, good.address]);
    assert_eq!(ask_at(&worker, &busy, "GET", "").text(), "busy");
}

#[test]
fn an_attempt_that_takes_too_long_makes_room_for_the_next() {
    let (never, good) = (silent(), Recorder::saying("good"));
    let worker = Worker::start(per_try(Duration::from_millis(200)), &[never.address, good.address]);
    assert_eq!(ask_at(&worker, &never, "GET", "").text(), "good");
    assert_eq!(ask_at(&worker, &never, "PUT", "body").text(), "good");
    assert_eq!(good.seen().pop().unwrap().text(), "body");
    assert_eq!(retried(&worker, "timeout") as usize, never.seen().len());
    let answer = ask_at(&worker, &never, "POST", "x");
    assert_eq!((status(&answer), answer.header("x-zoogate-error")), (504, Some("upstream_timeout")));
    let timeouts = worker.metric("zoogate_retries_total", &["timeout"]);
    assert!((timeouts - (never.seen().len() - 1) as f64).abs() < 0.1);
}

#[test]
fn what_breaks_off_after_its_head_is_seen_to_break_off() {
    let (tell, told) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let broken = Recorder::scripted(move |wire, seen| {
        if let Some(message) = wire.read_message() {
            seen.lock().unwrap().push(message);
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhal");
            told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            wire.close_write();
        }
    });
    let good = Recorder::saying("halibuts: good");
    let worker = Worker::start(Setup::default(), &[broken.address, good.address]);
    while broken.seen().is_empty() {
        let mut wire = worker.connect();
        wire.send(get("/o/"));
        wire.read_until("\r\n\r\nhal").unwrap();
        if !broken.seen().is_empty() {
            tell.send(()).unwrap();
            assert_eq!(wire.read_all(), "", "the end comes too soon, and nothing instead");
        }
    }
    assert_eq!((broken.seen().len(), good.seen().len()), (1, usize::from(!good.seen().is_empty())));
    assert!(worker.metric("zoogate_retries_total", &[]) < 0.1);
}

#[test]
fn interim_answers_are_no_answer() {
    let broken = closing("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    let good = Recorder::saying("good");
    let worker = Worker::start(Setup::default(), &[broken.address, good.address]);
    assert_eq!(ask_at(&worker, &broken, "GET", "").text(), "good");
}

#[test]
fn a_request_that_waits_for_an_instance_that_is_ejected_goes_elsewhere_if_it_may() {
    // Takes no connection but the first two, and says nothing on those.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let good = Recorder::saying("good");
    let worker = Worker::start(Setup::default(), &[address, good.address]);
    let arrived = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&arrived);
    let accept = std::thread::spawn(move || {
        let mut held: Vec<Wire> = Vec::new();
        while held.len() < 2 {
            let mut wire = Wire::over(listener.accept().unwrap().0);
            wire.read_message().unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            held.push(wire);
        }
        held
    });
    let ask = |method: &'static str| {
        let all = || arrived.load(std::sync::atomic::Ordering::SeqCst) + good.seen().len();
        let (mut wire, before) = (worker.connect(), all());
        wire.send(format!(
            "{method} /o/ HTTP/1.1\r\nhost: a\r\nx-method: {method}\r\ncontent-length: 2\r\n\r\nhi"
        ));
        wait_for("the request to arrive", || (all() > before).then_some(()));
        wire
    };
    // One of each two goes to it.
    let mut waiting = [ask("PUT"), ask("PUT"), ask("POST"), ask("POST")];
    let mut held = accept.join().unwrap();
    // The next connect fails.
    for _ in 0..2 {
        let mut wire = ask("GET");
        assert_eq!(wire.read_message().unwrap().text(), "good");
    }
    for wire in &mut waiting[..2] {
        assert_eq!(wire.read_message().unwrap().text(), "good");
    }
    assert_eq!(retried(&worker, "silent") as usize, 1);
    let puts = good.seen().iter().filter(|message| message.header("x-method") == Some("PUT")).count();
    assert_eq!((puts, good.seen().len()), (2, 5), "two PUTs, two GETs, and one POST");
    // The POST is still there, and gets its answer.
    held.iter_mut().for_each(|wire| wire.send(ok("late")));
    let mut answers: Vec<_> =
        waiting[2..].iter_mut().map(|wire| wire.read_message().unwrap().text()).collect();
    answers.sort();
    assert_eq!(answers, ["good", "late"]);
}

/// Serves one request on each connection, and closes it the moment the next has come.
fn closes_under_the_second() -> Recorder {
    Recorder::scripted(|wire, seen| {
        if let Some(message) = wire.read_message() {
            seen.lock().unwrap().push(message);
            wire.send(ok("one"));
            wire.read_message();
            wire.close_write();
        }
    })
}

#[test]
fn a_pooled_connection_that_closes_under_a_request_costs_no_get_even_where_there_is_one_instance() {
    let instance = closes_under_the_second();
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    for _ in 0..40 {
        wire.send(get("/o/"));
        assert_eq!(wire.read_message().unwrap().text(), "one");
    }
    assert_eq!(instance.seen().len(), 40);
    assert_eq!(retried(&worker, "reset") as usize, 20 + 19, "each that found a connection in the pool");
}

#[test]
fn of_two_instances_the_faster_one_answers_a_hedged_request_and_the_other_is_cancelled() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\nhedge = \"100ms\"\n"
    );
    let gateway = Gateway::start("hedge", &config);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    a.hold(true);
    for _ in 0..4 {
        assert_eq!(gateway.get("/").body, "b");
    }
    let count = a.count();
    assert!(count > 0, "it was asked, too");
    let cancelled =
        "zoogate_upstream_requests_total{instance=\"a\",outcome=\"cancelled\",service=\"orders\"}";
    assert_eq!(gateway.metric(cancelled), Some(count as f64));
    assert_eq!(
        gateway.metric("zoogate_retries_total{reason=\"hedge\",service=\"orders\"}"),
        Some(count as f64)
    );
    // What must not be repeated waits for the one it went to.
    let public = gateway.listener("public");
    let posts: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn(move || {
                Client::connect(public).unwrap().request("POST", "/", &[], b"").unwrap()
            })
        })
        .collect();
    wait_for("the post to arrive", || (a.count() > count).then_some(()));
    a.hold(false);
    let mut answers: Vec<_> = posts.into_iter().map(|post| post.join().unwrap().body).collect();
    answers.sort();
    assert_eq!(answers, ["a", "b"]);
}

#[test]
fn a_hedged_request_takes_the_better_of_two_answers() {
    let busy = Recorder::start(|_| {
        std::thread::sleep(Duration::from_millis(300));
        UNAVAILABLE.into()
    });
    let good = Recorder::start(|_| {
        std::thread::sleep(Duration::from_millis(600));
        ok("good")
    });
    let setup = Setup { hedge: Some(Duration::from_millis(50)), ..Setup::default() };
    let worker = Worker::start(setup, &[busy.address, good.address]);
    for _ in 0..2 {
        assert_eq!(ask(&worker, "GET", "").text(), "good");
    }
    assert!(retried(&worker, "hedge") >= 1.0);
}

#[test]
fn statuses_are_the_routes_own() {
    let late = Recorder::start(|_| "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nlate".into());
    let good = Recorder::saying("good");
    let mut statuses = StatusSet::NONE;
    statuses.insert(StatusCode::TOO_MANY_REQUESTS);
    let retry = RetrySpec { statuses, ..RetrySpec::default() };
    let worker = Worker::start(Setup { retry, ..Setup::default() }, &[late.address, good.address]);
    assert_eq!(ask_at(&worker, &late, "GET", "").text(), "good");
    let busy = unavailable();
    let worker = Worker::start(Setup { retry, ..Setup::default() }, &[busy.address, good.address]);
    assert_eq!(ask_at(&worker, &busy, "GET", "").text(), "busy", "503 is not among them");
}
