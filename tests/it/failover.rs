//! Instances that fail to connect, break off, or stay silent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

use crate::support::gateway::{Gateway, LOCAL, ORDERS, wait_for};
use crate::support::http::Client;
use crate::support::instance::Instance;
use crate::support::zk::free_port;

#[test]
fn a_connect_that_fails_goes_to_the_next_instance_and_the_dead_one_is_ejected_until_it_answers() {
    let gateway = Gateway::start("failover", ORDERS);
    let address = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let (a, b) = (Instance::start_at("a", address), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    a.kill();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        for _ in 0..4 {
            let answer = client.request(method, "/", &[], b"body").unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "b"), "{method}");
        }
    }
    gateway.state("orders", "a", "ejected");
    let failed =
        "zoogate_upstream_requests_total{instance=\"a\",outcome=\"connect_failed\",service=\"orders\"}";
    assert!(gateway.metric(failed).unwrap() >= 1.0);
    let retries = "zoogate_retries_total{reason=\"connect_failed\",service=\"orders\"}";
    assert!(gateway.metric(retries).unwrap() >= 1.0);
    assert_eq!(gateway.metric("zoogate_service_instances{service=\"orders\",state=\"ejected\"}"), Some(1.0));

    let back = Instance::start_at("a", address);
    let since = Instant::now();
    gateway.state("orders", "a", "up");
    assert!(since.elapsed().as_secs() < 10, "back after {:?}", since.elapsed());
    assert_eq!(back.count(), 0, "a probe is no request");
    wait_for("an answer of the one that is back", || {
        (client.request("GET", "/", &[], b"").unwrap().body == "a").then_some(())
    });
}

#[test]
fn when_nobody_answers_the_client_is_told_so() {
    let gateway = Gateway::start("nobody", ORDERS);
    for (id, port) in [("a", free_port()), ("b", free_port())] {
        gateway.register(&format!("orders/{id}"), format!("127.0.0.1:{port}"));
    }
    gateway.instances("orders", &["a", "b"]);
    for _ in 0..3 {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.header("x-zoogate-error")), (502, Some("connect_failed")));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["status"], 502);
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
    }
}

#[test]
fn a_post_whose_instance_breaks_off_before_the_answer_is_502_and_is_not_repeated() {
    let gateway = Gateway::start("break", ORDERS);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    let answer =
        Client::connect(gateway.listener("public")).unwrap().request("POST", "/break", &[], b"x").unwrap();
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (502, Some("upstream_reset")));
    assert_eq!(a.count() + b.count(), 1, "it was sent, so it is not sent again");
    let series = |id| {
        format!("zoogate_upstream_requests_total{{instance=\"{id}\",outcome=\"reset\",service=\"orders\"}}")
    };
    let resets: f64 = ["a", "b"].into_iter().filter_map(|id| gateway.metric(&series(id))).sum();
    assert!((resets - 1.0).abs() < f64::EPSILON, "{resets}");
}

#[test]
fn an_answer_that_is_no_http_is_502_upstream_protocol() {
    let gateway = Gateway::start("nonsense", ORDERS);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    gateway.register("orders/a", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n");
        }
    });
    gateway.instances("orders", &["a"]);
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (502, Some("upstream_protocol")));
}

#[test]
fn a_silent_instance_costs_the_routes_timeout_and_a_504() {
    let config = format!(
        "{LOCAL}[services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\ntimeout = \"200ms\"\n"
    );
    let gateway = Gateway::start("timeout", &config);
    let a = Instance::start("a");
    a.hold(true);
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (504, Some("upstream_timeout")));
    let series = "zoogate_upstream_requests_total{instance=\"a\",outcome=\"timeout\",service=\"orders\"}";
    assert_eq!(gateway.metric(series), Some(1.0));
    a.hold(false);
    assert_eq!(gateway.get("/").status, 200, "a timeout is no reason to eject");
}

#[test]
fn a_vanished_instance_gets_nothing_new_and_finishes_what_it_has() {
    let gateway = Gateway::start("vanish", ORDERS);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    a.hold(true);
    let public = gateway.listener("public");
    let running = std::thread::spawn(move || crate::support::http::get(public, "/slow"));
    wait_for("the request to arrive", || (a.count() == 1).then_some(()));
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a", "b"]);
    gateway.withdraw("orders/a");
    gateway.state("orders", "a", "draining");
    for _ in 0..5 {
        assert_eq!(gateway.get("/").body, "b");
    }
    assert_eq!(gateway.metric("zoogate_service_instances{service=\"orders\",state=\"draining\"}"), Some(1.0));
    a.hold(false);
    let answer = running.join().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
    gateway.instances("orders", &["b"]);
    assert_eq!(a.count(), 1);
    let text = wait_for("the series to vanish", || {
        let text = gateway.admin("/metrics").body;
        (!text.contains("instance=\"a\"")).then_some(text)
    });
    assert!(text.contains("instance=\"b\""));
}

#[test]
fn a_registration_that_names_the_admin_or_a_denied_address_is_rejected() {
    let gateway = Gateway::start("deny", ORDERS);
    gateway.register("orders/admin", gateway.admin);
    gateway.register("orders/link", "169.254.169.254:80");
    wait_for("both rejections", || {
        let view = gateway.json("/api/services/orders");
        (view["rejected"].as_array()?.len() == 2).then_some(())
    });
    let view = gateway.json("/api/services/orders");
    assert_eq!(view["instances"], serde_json::json!([]));
    assert_eq!(gateway.get("/metrics").status, 503);
}
