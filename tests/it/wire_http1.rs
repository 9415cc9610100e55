//! HTTP/1.1 on the wire: what passes, and what goes to another instance.

use std::time::{Duration, Instant};

use crate::wire_support::*;

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let limits =
        zoogate::config::plan::Limits { idle_timeout: Duration::from_millis(200), ..Setup::default().limits };
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup { limits, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().text(), "ok");
    assert_eq!(wire.read_all(), "");
}

#[test]
fn forwarding_headers_are_ours_and_hop_by_hop_ones_stay() {
    let instance = Recorder::start(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\n\r\nok"
            .to_vec()
    });
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(
        "GET http://Shop.Example:8080/o/a/../b?q=1 HTTP/1.1\r\nhost: other\r\nconnection: x-mine\r\nx-mine: 1\r\n\
         x-forwarded-for: 6.6.6.6\r\nauthorization: secret\r\ncookie: s=secret\r\ntraceparent: t\r\n\r\n",
    );
    let answer = wire.read_message().unwrap();
    let seen = instance.seen().remove(0);
    assert_eq!(seen.first_line(), "GET /o/b?q=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some("Shop.Example:8080"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("Shop.Example:8080"));
    assert_eq!(seen.header("traceparent"), Some("t"));
    assert_eq!(seen.header("authorization"), Some("secret"));
    assert!(seen.header("via").unwrap().starts_with("1.1 zoogate-"));
    assert_eq!((seen.header("x-mine"), seen.header("connection")), (None, None));
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
    assert_eq!((answer.header("x-hop"), answer.header("keep-alive")), (None, None));

    let via = seen.header("via").unwrap();
    wire.send(format!("GET /o/ HTTP/1.1\r\nhost: a\r\nvia: 1.0 x, {via}\r\n\r\n"));
    let answer = wire.read_message().unwrap();
    assert_eq!(
        (answer.first_line(), answer.header("x-zoogate-error")),
        ("HTTP/1.1 508 Loop Detected", Some("loop"))
    );

    let lines = worker.log_lines(2);
    assert_eq!(lines[0]["path"], "/o/a/../b?q=1");
    assert_eq!((&lines[0]["status"], &lines[0]["service"]), (&200.into(), &"orders".into()));
    assert_eq!(lines[0]["request_id"], seen.header("x-request-id").unwrap());
    assert!(!lines[0].to_string().contains("secret"));
}

#[test]
fn errors_are_problems_with_a_code() {
    let worker = Worker::start(Setup::default(), &[]);
    let mut wire = worker.connect();
    for (path, status, code) in [("/nowhere", 404, "no_route"), ("/o/", 503, "no_instances")] {
        wire.send(get(path));
        let answer = wire.read_message().unwrap();
        assert!(answer.first_line().contains(&status.to_string()), "{answer:?}");
        assert_eq!(answer.header("x-zoogate-error"), Some(code));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], answer.header("x-request-id").unwrap());
        assert!(problem["title"].is_string() && problem["detail"].is_string());
    }
    wire.send("HEAD /nowhere HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(wire.read_until("\r\n\r\n").unwrap().contains("404"));
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().header("retry-after"), Some("1"), "no body came after HEAD");
}

#[test]
fn a_failed_connect_goes_to_another_instance_whatever_the_method() {
    let instance = Recorder::saying("alive");
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[dead(), dead(), instance.address]);
    for i in 0..20 {
        let mut wire = worker.connect();
        wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(wire.read_message().unwrap().text(), "alive", "{i}");
    }
    assert!(instance.seen().iter().all(|message| message.text() == "abc"));
    let retries: u64 = worker.log_lines(20).iter().map(|line| line["retries"].as_u64().unwrap()).sum();
    assert_eq!(retries, 2, "each dead instance was met once, then it was ejected");
    assert!((worker.metric("zoogate_retries_total", &["connect_failed"]) - 2.0).abs() < 0.5);

    let worker = Worker::start(Setup::default(), &[dead()]);
    let answer = worker.exchange(get("/o/").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"));
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-zoogate-error: connect_failed"),
        "{answer}"
    );
}

#[test]
fn an_ejected_instance_that_answers_again_is_back() {
    let address = dead();
    let other = Recorder::saying("other");
    let worker = Worker::start(Setup::default(), &[address, other.address]);
    let ask = || {
        let mut wire = worker.connect();
        wire.send(get("/o/"));
        wire.read_message().unwrap().text()
    };
    for _ in 0..4 {
        assert_eq!(ask(), "other");
    }
    let listener = std::net::TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut wire = Wire::over(stream);
                while wire.read_message().is_some() {
                    wire.send(ok("back"));
                }
            });
        }
    });
    wait_for("the instance", || (ask() == "back").then_some(()));
}

#[test]
fn a_dead_pooled_connection_costs_no_request() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    for _ in 0..50 {
        wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(wire.read_message().unwrap().text(), "ok");
        instance.hang_up();
    }
    assert_eq!(instance.seen().len(), 50);
}

#[test]
fn removed_instance_gets_no_new_requests() {
    let (a, b) = (Recorder::saying("a"), Recorder::saying("b"));
    let mut worker = Worker::start(Setup::default(), &[a.address, b.address]);
    let mut wire = worker.connect();
    for round in 0..20 {
        worker.announce(&[a.address, b.address]);
        for _ in 0..4 {
            wire.send(get("/o/"));
            wire.read_message().unwrap();
        }
        worker.announce(&[a.address]);
        let before = b.seen().len();
        for _ in 0..10 {
            wire.send(get("/o/"));
            assert_eq!(wire.read_message().unwrap().text(), "a");
        }
        assert_eq!(b.seen().len(), before, "round {round}");
    }
    assert!(b.seen().len() >= 20, "it had its share while it was there");
}

#[test]
fn bodies_stream_both_ways_at_once() {
    let instance = Recorder::scripted(|wire, _| {
        wire.read_until("\r\n\r\n").unwrap();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let chunk = wire.read_until("\r\n").unwrap() + &wire.read_until("\r\n").unwrap();
            wire.send(chunk);
        }
        wire.read_until("0\r\n\r\n").unwrap();
        wire.send("0\r\n\r\n");
    });
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    wire.read_until("\r\n\r\n").unwrap();
    for word in ["one", "two", "six"] {
        wire.send(format!("3\r\n{word}\r\n"));
        assert_eq!(wire.read_until(&format!("{word}\r\n")).unwrap(), format!("3\r\n{word}\r\n"));
    }
    wire.send("0\r\n\r\n");
    assert_eq!(wire.read_until("0\r\n\r\n").unwrap(), "0\r\n\r\n");
}

#[test]
fn expect_100_continue_lets_the_body_flow() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send("PUT /o/ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    assert_eq!(wire.read_until("\r\n\r\n").unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("body");
    assert_eq!(wire.read_message().unwrap().text(), "ok");
    assert_eq!((instance.seen()[0].text().as_str(), instance.seen()[0].header("expect")), ("body", None));
}

#[test]
fn the_route_timeout_ends_the_wait_for_a_head() {
    let instance = Recorder::scripted(|wire, _| {
        wire.read_all();
    });
    let timeout = Some(Duration::from_millis(200));
    let worker = Worker::start(Setup { timeout, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    let answer = wire.read_message().unwrap();
    assert!(answer.first_line().contains("504"));
    assert_eq!(answer.header("x-zoogate-error"), Some("upstream_timeout"));
}

#[test]
fn hostile_answers_are_502_and_never_reach_the_next_client() {
    for hostile in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "",
    ] {
        let instance = Recorder::scripted(move |wire, _| {
            let asked = wire.read_message().map(|message| message.first_line().to_owned());
            wire.send(if asked.as_deref() == Some("GET /o/good HTTP/1.1") {
                ok("ok")
            } else {
                hostile.into()
            });
            wire.close_write();
        });
        let worker = Worker::start(Setup::default(), &[instance.address]);
        let mut wire = worker.connect();
        wire.send(get("/o/"));
        let answer = wire.read_message().unwrap();
        assert!(answer.first_line().contains("502"), "{hostile:?}: {answer:?}");
        wire.send(get("/o/good"));
        assert_eq!(wire.read_message().unwrap().text(), "ok", "{hostile:?}");
    }
}

#[test]
fn a_client_that_leaves_takes_its_upstream_work_along() {
    let (gone, told) = std::sync::mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let instance = Recorder::scripted(move |wire, _| {
        wire.read_until("\r\n\r\n");
        // The answer is never given: what comes next is the connection's end.
        wire.read_all();
        gone.lock().unwrap().send(()).unwrap();
    });
    let worker = Worker::start(Setup { log: true, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    wait_for("the request", || (instance.connections() == 1).then_some(()));
    drop(wire);
    told.recv_timeout(PATIENCE).unwrap();
    let line = worker.log_lines(1).remove(0);
    assert_eq!((&line["status"], &line["error"]), (&499.into(), &"client_gone".into()));
}

#[test]
fn a_half_closing_client_still_gets_its_answer() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    wire.close_write();
    assert!(wire.read_all().ends_with("ok"));
}

#[test]
fn a_whole_answer_is_counted_before_the_client_has_it() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    for n in 1..=200 {
        wire.send(get("/o/"));
        wire.read_message().unwrap();
        let counted = worker.metric("zoogate_requests_total", &["service=\"orders\"", "code=\"200\""]);
        assert!((counted - f64::from(n)).abs() < 0.5, "{counted} of {n}");
    }
}

#[test]
fn draining_ends_connections_with_one_more_answer() {
    let instance = Recorder::saying("ok");
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    assert_eq!(wire.read_message().unwrap().header("connection"), None);
    worker.drain();
    let mut rounds = 0;
    let end = Instant::now() + PATIENCE;
    let last = loop {
        wire.send(get("/o/"));
        let answer = wire.read_message().unwrap();
        assert_eq!(answer.text(), "ok");
        rounds += 1;
        if answer.header("connection") == Some("close") {
            break answer;
        }
        assert!(Instant::now() < end, "{rounds} answers and no close");
    };
    assert_eq!(last.text(), "ok");
    assert_eq!(wire.read_all(), "");
    wait_for("the connection's end", || (worker.shared.open_connections() == 0).then_some(()));
}

#[test]
fn filters_see_every_request_and_a_panic_in_one_costs_that_request() {
    use zoogate::proxy::{Body, FilterService, Filters, ProxyError};

    #[derive(Clone)]
    struct Picky;
    impl tower::Layer<FilterService> for Picky {
        type Service = FilterService;
        fn layer(&self, inner: FilterService) -> FilterService {
            let inner = std::rc::Rc::new(std::cell::RefCell::new(inner));
            FilterService::new(tower::service_fn(move |request: http::Request<Body>| {
                let inner = std::rc::Rc::clone(&inner);
                async move {
                    match request.headers().get("x-do").map(|v| v.to_str().unwrap().to_owned()).as_deref() {
                        Some("panic") => panic!("injected"),
                        Some("refuse") => return Err(ProxyError::RateLimited.into()),
                        Some("answer") => return Ok(http::Response::new(Body::full("mine"))),
                        _ => {}
                    }
                    let sent = tower::Service::call(&mut *inner.borrow_mut(), request);
                    let mut answer = sent.await?;
                    answer.headers_mut().insert("x-filtered", "1".parse().unwrap());
                    Ok(answer)
                }
            }))
        }
    }

    let instance = Recorder::saying("ok");
    let filters = Filters::default().layer(Picky);
    let worker = Worker::start(Setup { filters, log: true, ..Setup::default() }, &[instance.address]);
    let mut wire = worker.connect();
    let mut ask = |what: &str| {
        wire.send(format!("GET /o/ HTTP/1.1\r\nhost: a\r\nx-do: {what}\r\n\r\n"));
        wire.read_message().unwrap()
    };
    assert_eq!(ask("pass").header("x-filtered"), Some("1"));
    assert_eq!(ask("panic").header("x-zoogate-error"), Some("internal"));
    assert_eq!(ask("refuse").header("x-zoogate-error"), Some("rate_limited"));
    assert_eq!(ask("answer").text(), "mine");
    assert_eq!(ask("pass").text(), "ok");
    assert_eq!(instance.seen().len(), 2);
    let statuses: Vec<_> = worker.log_lines(5).iter().map(|l| l["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 500, 429, 200, 200], "each counted once");
    assert!((worker.metric("zoogate_panics_total", &[]) - 1.0).abs() < 0.5);
}

#[test]
fn a_slow_reader_holds_up_the_instance_and_not_our_memory() {
    let (sent, told) = std::sync::mpsc::channel();
    let sent = std::sync::Mutex::new(sent);
    let instance = Recorder::scripted(move |wire, _| {
        wire.read_until("\r\n\r\n").unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
        wire.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut total = 0_usize;
        while let Ok(n) = std::io::Write::write(&mut wire.stream, &[b'x'; 64 * 1024]) {
            total += n;
        }
        sent.lock().unwrap().send(total).unwrap();
    });
    let worker = Worker::start(Setup::default(), &[instance.address]);
    let mut wire = worker.connect();
    wire.send(get("/o/"));
    let total = told.recv_timeout(PATIENCE).unwrap();
    assert!(total < 64 * 1024 * 1024, "{total} bytes were taken from the instance");
}

#[test]
fn requests_arrive_whole_and_in_order_however_they_are_cut() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let instance = Recorder::start(|seen| ok(&format!("{} {}", seen.first_line(), seen.text())));
    let worker = Worker::start(Setup::default(), &[instance.address]);
    for _ in 0..30 {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for i in 0..rng.usize(1..8) {
            let body = "x".repeat(rng.usize(0..5000));
            let framed = match rng.u8(0..3) {
                0 => "\r\n".to_owned(),
                1 => format!("content-length: {}\r\n\r\n{body}", body.len()),
                _ => {
                    let (a, b) = body.split_at(body.len() / 2);
                    let chunk = |part: &str| match part.len() {
                        0 => String::new(),
                        n => format!("{n:x}\r\n{part}\r\n"),
                    };
                    format!("Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", chunk(a), chunk(b))
                }
            };
            let body = if framed == "\r\n" { "" } else { &body };
            expected.push(format!("POST /o/{i} HTTP/1.1 {body}"));
            bytes.extend(format!("POST /o/{i} HTTP/1.1\r\nhost: a\r\n{framed}").into_bytes());
        }
        let mut wire = worker.connect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = if rng.bool() { 40 } else { 4000 };
            let cut = rng.usize(1..=rest.len().min(most));
            wire.send(&rest[..cut]);
            rest = &rest[cut..];
            if rng.u8(0..4) == 0 {
                std::thread::yield_now();
            }
        }
        for text in expected {
            assert_eq!(wire.read_message().expect("an answer").text(), text, "seed {seed}");
        }
    }
}

#[test]
fn a_client_that_sends_on_after_its_last_request_still_gets_the_answer() {
    // The instance answers when the rest is in: bytes that the gateway has no reason to read.
    let (sent, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let instance = Recorder::start(move |_| {
        wait.lock().unwrap().recv().unwrap();
        ok("ok")
    });
    let worker = Worker::start(Setup::default(), &[instance.address]);
    for round in 1..=20 {
        let mut wire = worker.connect();
        wire.send("POST /o/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
        wait_for("the request", || (instance.seen().len() == round).then_some(()));
        wire.send("\r\n");
        sent.send(()).unwrap();
        assert_eq!(wire.read_message().unwrap().text(), "ok");
        assert_eq!(wire.read_all(), "");
    }
}
