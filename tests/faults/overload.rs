//! More requests than a service bears: limits, queues, shedding, rates.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::http::{self, Answer, Client};
use crate::support::instance::Instance;

/// `ORDERS` with two workers and more keys of the service.
fn limited(keys: &str) -> String {
    let config = ORDERS.replace("workers = 1", "workers = 2");
    config.replace("path = \"/orders\"\n", &format!("path = \"/orders\"\n{keys}\n"))
}

fn start(name: &str, config: &str, instances: &[&Instance]) -> Gateway {
    let gateway = Gateway::start(name, config);
    for instance in instances {
        gateway.register(&format!("orders/{}", instance.name), instance.address);
    }
    let ids: Vec<&str> = instances.iter().map(|instance| &*instance.name).collect();
    gateway.instances("orders", &ids);
    gateway
}

fn get_in_background(address: SocketAddr) -> JoinHandle<Answer> {
    std::thread::spawn(move || http::get(address, "/x"))
}

fn limits(gateway: &Gateway) -> serde_json::Value {
    gateway.json("/api/services/orders")["limits"].clone()
}

fn is_shed(answer: &Answer) {
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (503, Some("overloaded")), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn a_service_has_no_more_than_its_limit_the_queue_no_more_than_its_length_and_all_of_them_are_served() {
    let instance = Instance::start("a");
    instance.hold(true);
    let config = limited("max_requests = 2\nqueue = { length = 3, timeout = \"30s\" }");
    let gateway = start("overload-queue", &config, &[&instance]);
    let public = gateway.listener("public");
    let mut waiting = Vec::new();
    for count in 1..=5 {
        waiting.push(get_in_background(public));
        wait_for("the request in its place", || {
            let limits = limits(&gateway);
            let placed = limits["in_flight"].as_u64()? + limits["waiting"].as_u64()?;
            (placed == count).then_some(())
        });
    }
    wait_for("both at the instance", || (instance.count() == 2).then_some(()));
    is_shed(&http::get(public, "/x"));
    let grpc = http::get_with(public, "/x", &[("content-type", "application/grpc")]);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
    let limits = limits(&gateway);
    assert_eq!(
        (&limits["limit"], &limits["in_flight"], &limits["waiting"]),
        (&2.into(), &2.into(), &3.into())
    );
    assert_eq!(limits["shed"]["queue_full"], 2);
    assert_eq!(instance.count(), 2, "no more reach it");
    for (series, value) in [
        ("zoogate_concurrency_limit{service=\"orders\"}", 2.0),
        ("zoogate_queue_length{service=\"orders\"}", 3.0),
        ("zoogate_shed_total{reason=\"queue_full\",service=\"orders\"}", 2.0),
    ] {
        assert_eq!(gateway.metric(series), Some(value), "{series}");
    }
    instance.hold(false);
    for request in waiting {
        assert_eq!(request.join().unwrap().status, 200);
    }
    assert_eq!(http::get(public, "/x").status, 200);
    wait_for("an empty service", || (limits_are_idle(&gateway)).then_some(()));
}

fn limits_are_idle(gateway: &Gateway) -> bool {
    let limits = limits(gateway);
    limits["in_flight"] == 0 && limits["waiting"] == 0
}

#[test]
fn an_instance_at_its_limit_is_no_candidate_and_explain_says_so() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    a.hold(true);
    let gateway = start("overload-instance", &limited("max_requests_per_instance = 1"), &[&a, &b]);
    let public = gateway.listener("public");
    // By turns: the first or the second goes to `a`, and stays there.
    let held = wait_for("a request at a", || {
        let request = get_in_background(public);
        wait_for("it answered, or held", || (request.is_finished() || a.count() == 1).then_some(()));
        (a.count() == 1).then_some(request)
    });
    for _ in 0..10 {
        assert_eq!(http::get(public, "/x").body, "b");
    }
    let explained = gateway.json("/api/explain?url=http://h/x");
    let a_is = explained["considered"].as_array().unwrap().iter().find(|c| c["name"] == "a").unwrap();
    assert_eq!(
        (a_is["verdict"].as_str(), a_is["reason"].as_str()),
        (Some("rejected"), Some("at its limit of 1 requests"))
    );
    assert_eq!(limits(&gateway)["full"], serde_json::json!(["a"]));
    a.hold(false);
    assert_eq!(held.join().unwrap().body, "a");
}

#[test]
fn who_waits_longer_than_the_queue_allows_is_turned_away_and_who_leaves_gives_up_the_place() {
    let instance = Instance::start("a");
    instance.hold(true);
    let config = limited("max_requests = 1\nqueue = { length = 1, timeout = \"400ms\" }");
    let gateway = start("overload-deadline", &config, &[&instance]);
    let public = gateway.listener("public");
    let first = get_in_background(public);
    wait_for("the first at the instance", || (instance.count() == 1).then_some(()));
    let since = Instant::now();
    is_shed(&http::get(public, "/x"));
    assert!(since.elapsed() >= Duration::from_millis(400), "{:?}: it was to wait", since.elapsed());
    assert_eq!(limits(&gateway)["shed"]["timeout"], 1);
    // A client that waits and goes away.
    let mut leaving = std::net::TcpStream::connect(public).unwrap();
    leaving.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    wait_for("it waits", || (limits(&gateway)["waiting"] == 1).then_some(()));
    drop(leaving);
    wait_for("its place is free", || (limits(&gateway)["waiting"] == 0).then_some(()));
    instance.hold(false);
    assert_eq!(first.join().unwrap().status, 200);
}

/// A server that does so many requests at a time, each in the same time; others wait inside it.
struct Capacity {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
    /// The most that were inside at a time.
    peak: Arc<AtomicUsize>,
    /// For how long slots were taken, in µs, over all of them.
    taken_us: Arc<AtomicU64>,
}

impl Capacity {
    fn start(slots: usize, service: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let free = Arc::new((Mutex::new(slots), Condvar::new()));
        let (served, peak, inside) = (Arc::default(), Arc::default(), Arc::<AtomicUsize>::default());
        let taken_us = Arc::<AtomicU64>::default();
        let this = Self {
            address,
            served: Arc::clone(&served),
            peak: Arc::clone(&peak),
            taken_us: Arc::clone(&taken_us),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (free, served, peak, inside) =
                    (Arc::clone(&free), Arc::clone(&served), Arc::clone(&peak), Arc::clone(&inside));
                let taken_us = Arc::clone(&taken_us);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let mut line = String::new();
                    while matches!(reader.read_line(&mut line), Ok(1..)) {
                        if line != "\r\n" {
                            line.clear();
                            continue;
                        }
                        line.clear();
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        peak.fetch_max(now, Ordering::SeqCst);
                        let mut slots = free.1.wait_while(free.0.lock().unwrap(), |free| *free == 0).unwrap();
                        *slots -= 1;
                        drop(slots);
                        let taken = Instant::now();
                        std::thread::sleep(service);
                        taken_us.fetch_add(taken.elapsed().as_micros() as u64, Ordering::SeqCst);
                        *free.0.lock().unwrap() += 1;
                        free.1.notify_one();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                        if reader
                            .get_mut()
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        this
    }
}

/// What came of some seconds of load.
#[derive(Debug, Default)]
struct Outcome {
    ok_per_second: f64,
    /// Of the time of all slots, the share in which what was answered well was done. A machine that is busy makes each take longer,
    /// and fewer of them: that is no waste of the server's time.
    well_spent: f64,
    by_status: HashMap<u16, usize>,
    shed_took: Vec<Duration>,
}

/// Each of so many clients asks once in a `pace`, or when the answer before is there.
fn offer(server: &Capacity, public: SocketAddr, clients: usize, pace: Duration, lasts: Duration) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let so_far = || (server.served.load(Ordering::SeqCst), server.taken_us.load(Ordering::SeqCst));
    let before = so_far();
    let threads: Vec<_> = (0..clients)
        .map(|i| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut sent = Vec::new();
                let mut client = Client::connect(public).unwrap();
                // Spread over the first pace.
                let mut due = Instant::now() + pace * i as u32 / clients as u32;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due = (due + pace).max(Instant::now());
                    let at = Instant::now();
                    let answer = client.request("GET", "/x", &[], b"").unwrap();
                    sent.push((answer.status, at.elapsed()));
                }
                sent
            })
        })
        .collect();
    std::thread::sleep(lasts);
    stop.store(true, Ordering::Relaxed);
    let mut outcome = Outcome::default();
    for (status, took) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        *outcome.by_status.entry(status).or_default() += 1;
        if status == 503 {
            outcome.shed_took.push(took);
        }
    }
    outcome.shed_took.sort();
    let ok = outcome.by_status.get(&200).copied().unwrap_or_default();
    let (lasted, after) = (begun.elapsed().as_secs_f64(), so_far());
    outcome.ok_per_second = ok as f64 / lasted;
    let each = (after.1 - before.1) as f64 / 1e6 / (after.0 - before.0) as f64;
    outcome.well_spent = ok as f64 * each / (SLOTS as f64 * lasted);
    outcome
}

const SLOTS: usize = 10;
const SERVICE: Duration = Duration::from_millis(50);

/// At what it bears, then at three times that, under the same limits.
fn three_times(name: &str, keys: &str, warm_up: Duration) -> (Outcome, Outcome, Capacity, Gateway) {
    let server = Capacity::start(SLOTS, SERVICE);
    let gateway = Gateway::start(name, &limited(keys));
    gateway.register("orders/a", server.address);
    gateway.instances("orders", &["a"]);
    let public = gateway.listener("public");
    let lasts = Duration::from_secs(3);
    // As many clients as it has slots: none waits, none idles.
    let peak = offer(&server, public, SLOTS, SERVICE, lasts);
    let pace = SERVICE * 2;
    let clients = SLOTS * 3 * 2;
    if !warm_up.is_zero() {
        offer(&server, public, clients, pace, warm_up);
    }
    let over = offer(&server, public, clients, pace, lasts);
    (peak, over, server, gateway)
}

#[test]
fn at_three_times_what_it_bears_a_limited_service_does_as_much_as_at_its_best() {
    let keys = "max_requests = 10\nqueue = { length = 10, timeout = \"500ms\" }";
    let (peak, over, server, gateway) = three_times("overload-3x", keys, Duration::ZERO);
    assert_eq!(peak.by_status.keys().collect::<Vec<_>>(), [&200], "{peak:?}");
    assert!(over.well_spent >= 0.8 * peak.well_spent, "{over:?} after {peak:?}");
    assert!(server.peak.load(Ordering::SeqCst) <= SLOTS, "{:?} at a time", server.peak);
    assert_eq!(over.by_status.keys().filter(|s| ![200, 503].contains(*s)).count(), 0, "{over:?}");
    let shed = gateway.metric("zoogate_shed_total{reason=\"queue_full\",service=\"orders\"}");
    assert!(shed.is_some_and(|shed| shed > 0.0), "{over:?}");
    let median = over.shed_took[over.shed_took.len() / 2];
    eprintln!(
        "peak {:.0}/s, three times {:.0}/s, shed in {median:?}",
        peak.ok_per_second, over.ok_per_second
    );
    assert!(median < Duration::from_millis(100), "{median:?} to be turned away");
    assert!(limits_are_idle(&gateway));
}

#[test]
fn an_adaptive_limit_finds_what_the_service_bears() {
    let keys = "adaptive = true\nmax_requests = 200\nqueue = { length = 10, timeout = \"500ms\" }";
    let (peak, over, server, gateway) = three_times("overload-adaptive", keys, Duration::from_secs(4));
    assert!(over.well_spent >= 0.8 * peak.well_spent, "{over:?} after {peak:?}");
    let limit = limits(&gateway)["limit"].as_u64().unwrap();
    let inside = server.peak.load(Ordering::SeqCst);
    eprintln!(
        "limit {limit}, at most {inside} inside, peak {:.0}/s, over {:.0}/s",
        peak.ok_per_second, over.ok_per_second
    );
    // Without a limit it would have been all sixty clients.
    assert!((4..45).contains(&limit), "{limit}");
    assert!(over.by_status.get(&503).is_some_and(|shed| *shed > 0), "{over:?}");
}

#[test]
fn a_rate_limit_counts_each_key_apart_and_goes_on_over_a_reload() {
    let instance = Instance::start("a");
    let rate = |rest: &str| {
        format!("{ORDERS}rate_limit = {{ rate = 3, per = \"1h\", key = \"header:x-user\" }}\n{rest}")
    };
    let gateway = start("overload-rate", &rate(""), &[&instance]);
    let public = gateway.listener("public");
    let ask = |user: &str| http::get_with(public, "/x", &[("x-user", user)]);
    let ok = |user: &str| (0..6).filter(|_| ask(user).status == 200).count();
    assert_eq!((ok("ann"), ok("ben")), (3, 3));
    let refused = ask("ann");
    assert_eq!((refused.status, refused.header("x-zoogate-error")), (429, Some("rate_limited")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1200).contains(&wait), "{wait} s until the next of three an hour");
    let grpc = http::get_with(public, "/x", &[("x-user", "ann"), ("content-type", "application/grpc")]);
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("8")));
    let route = &gateway.json("/api/routes")["routes"][0];
    assert_eq!((&route["rate_limit"]["keys"], &route["rate_limit"]["limited"]), (&2.into(), &8.into()));
    let series = "zoogate_rate_limited_total{route=\"/*\"}";
    assert_eq!(gateway.metric(series), Some(8.0));

    gateway.reload(&rate("timeout = \"7s\"\n"));
    wait_for("the new timeout", || {
        (gateway.json("/api/routes")["routes"][0]["timeout"] == 7.0).then_some(())
    });
    assert_eq!((ok("ann"), ok("cid")), (0, 3), "the same limit goes on");
    gateway.reload(&rate("").replace("rate = 3", "rate = 4"));
    wait_for("the new rate", || {
        (gateway.json("/api/routes")["routes"][0]["rate_limit"]["rate"] == 4).then_some(())
    });
    assert_eq!(ok("ann"), 4, "another limit begins anew");
    assert_eq!(instance.count(), 3 * 3 + 4, "nobody else's request reached it");
}
