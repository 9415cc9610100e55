//! Work to be counted instead of timed: `counts CASE TIMES` does one thing so many times.
//!
//! `bench/callgrind.sh` runs it under valgrind twice and divides: instructions hold still where time does not.
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method, Request};
use zoogate::balance::{Member, Ring, hash};
use zoogate::config::plan::{
    Limits, PathMatch, RoutePlan, Segment, ServiceDefaults, ServicePlan, ServiceRef, WeightedService,
};
use zoogate::model::{
    Address, BalancePolicy, BalanceSpec, FormatChoice, FormatName, HashKey, Host, Incarnation, Instance,
    InstanceId, Protocol, RegistryName, ServiceName, ServiceSnapshot,
};
use zoogate::proxy::codec::{read_requests, serve_h2};
use zoogate::registry::format::{self, Node, Options};
use zoogate::table::{PickRequest, RouteInput, Settings, TableConfig, TableReader, TableWriter};
use zoogate::telemetry::Outcome;
use zoogate::transport::codec::{read_answer, read_h2_answers, write_request};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nserver: origin\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
    content-type: text/plain\r\ncontent-length: 16\r\n\r\n0123456789abcdef";
const REQUEST: &[u8] =
    b"GET /orders/7?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";
const CHUNKS: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n01234567\r\n8\r\n01234567\r\n0\r\n\r\n";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, times] = &args[..] else {
        // `cargo bench` and `cargo test` start it without: there is nothing to time.
        eprintln!(
            "counts serve-http2|ask-http2|read-request|read-answer|read-chunks|write-request|decode-FORMAT|hash-key|build-ring|change-ring|route|pick-POLICY TIMES"
        );
        return;
    };
    let times = times.parse().expect("a number");
    match case.as_str() {
        "serve-http2" => {
            let input = http2_requests();
            repeat(times, || serve_h2(black_box(&input), []));
        }
        "ask-http2" => {
            let input = http2_answers();
            repeat(times, || read_h2_answers(black_box(&input), []));
        }
        "read-request" => repeat(times, || read_requests(black_box(REQUEST), [])),
        "read-answer" => repeat(times, || read_answer(black_box(ANSWER), usize::MAX)),
        "read-chunks" => repeat(times, || read_answer(black_box(CHUNKS), usize::MAX)),
        "write-request" => {
            let (parts, ()) = Request::get("/orders/7?full=1")
                .header("host", "shop.example")
                .header("user-agent", "bench")
                .header("x-request-id", "0123456789abcdef0123456789abcdef")
                .header("x-forwarded-for", "192.0.2.7")
                .body(())
                .expect("a request")
                .into_parts();
            let mut out = BytesMut::with_capacity(4096);
            repeat(times, || {
                out.clear();
                write_request(black_box(&parts), &mut out);
            });
        }
        "decode-json" => {
            decode(FormatName::Json, r#"{"host":"10.0.0.7","port":8080,"weight":2,"zone":"a"}"#, times);
        }
        "decode-url" => decode(FormatName::Url, "http://10.0.0.7:8080/base?weight=2", times),
        "hash-key" => repeat(times, || hash::key(black_box(b"7b1c8f52-0a44-4be2-9d3e-000000000007"))),
        "build-ring" => repeat(times, || Ring::new(black_box(&members()), 160, None)),
        "change-ring" => {
            let (whole, rings) =
                (members(), [&members()[..], &members()[1..]].map(|m| Ring::new(m, 160, None)));
            let mut step = 0;
            repeat(times, || {
                step += 1;
                rings[step % 2].next(black_box(&whole[(step + 1) % 2..])).expect("it is cheaper")
            });
        }
        "route" => route(times),
        other => pick(other.strip_prefix("pick-").expect("a case"), times),
    }
}

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that enters the table.
fn http2_field(name: &str, value: &str) -> Vec<u8> {
    [&[0x40, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// What a client sends behind its preface: settings, and fifty GETs of which all but the first repeat its fields.
fn http2_requests() -> Vec<u8> {
    let (mut first, fields) = (vec![0x82, 0x86], ["user-agent", "accept", "cookie"]);
    first.extend([0x44, 9]);
    first.extend(b"/orders/7");
    first.extend([0x41, 12]);
    first.extend(b"shop.example");
    for name in fields {
        first.extend(http2_field(name, "0123456789abcdef"));
    }
    let repeated = [0x82, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];
    let mut out = http2_frame(4, 0, 0, &[]);
    for index in 0..50_u32 {
        out.extend(http2_frame(1, 5, 2 * index + 1, if index == 0 { &first } else { &repeated }));
    }
    out
}

/// What an instance answers to three requests: settings, heads, data, trailers.
fn http2_answers() -> Vec<u8> {
    let mut out = http2_frame(4, 0, 0, &[]);
    for stream in [1, 3, 5] {
        let head = [&[0x88][..], &http2_field("content-type", "application/grpc")].concat();
        out.extend(http2_frame(1, 4, stream, &head));
        out.extend(http2_frame(0, 0, stream, &[b'x'; 64]));
        out.extend(http2_frame(1, 5, stream, &http2_field("grpc-status", "0")));
    }
    out
}

fn repeat<T>(times: u64, mut work: impl FnMut() -> T) {
    for _ in 0..times {
        black_box(work());
    }
}

fn decode(format: FormatName, data: &str, times: u64) {
    let data = data.as_bytes();
    repeat(times, || {
        let node =
            Node { path: "/services/orders/node1", incarnation: Incarnation(7, 0), data: black_box(data) };
        format::decode(format, &node, Options::default()).expect("an instance")
    });
}

fn members() -> Vec<Member> {
    (0..10).map(|i| Member { address: format!("10.0.0.{i}:8080").into(), share: 1.0 }).collect()
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).expect("a name")
}

/// One service of ten instances, ten routes.
fn table(policy: &str) -> TableReader {
    let load_bound = (policy == "bounded").then_some(1.25);
    let (policy, key) = match policy {
        "least_request" => (BalancePolicy::LeastRequest, None),
        "peak_ewma" => (BalancePolicy::PeakEwma, None),
        "random" => (BalancePolicy::Random, None),
        "ring" | "bounded" => (BalancePolicy::Ring { virtual_nodes: 160 }, Some(HashKey::ClientIp)),
        "maglev" => (BalancePolicy::Maglev { table_size: 65_537 }, Some(HashKey::ClientIp)),
        _ => (BalancePolicy::RoundRobin, None),
    };
    let defaults = ServiceDefaults {
        format: FormatChoice::Auto,
        reading: std::sync::Arc::default(),
        protocol: Protocol::Http1,
        balance: BalanceSpec { policy, key, load_bound },
        connect_timeout: Duration::from_secs(1),
        dns_ttl: Duration::from_secs(30),
        ..ServiceDefaults::default()
    };
    let registry = RegistryName::new("main").expect("a name");
    let service = ServicePlan { name: name("orders"), registry, path: "/services/orders".into(), defaults };
    let limits = Limits {
        max_connections: 1,
        max_headers: 100,
        max_header_size: 65_536,
        max_body: None,
        max_memory: None,
        idle_timeout: Duration::from_secs(60),
        header_timeout: Duration::from_secs(10),
    };
    let route = |i: usize| RoutePlan {
        name: format!("route-{i}").into(),
        host: None,
        path: PathMatch { segments: vec![Segment::Literal(format!("r{i}").into())], prefix: true },
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        services: vec![WeightedService { service: ServiceRef::Named(name("orders")), weight: 1 }],
        timeout: None,
        rewrite: None,
        ..RoutePlan::default()
    };
    let (mut writer, reader) = TableWriter::new(1);
    writer.configure(TableConfig {
        settings: Settings { limits, listeners: Vec::new(), drain_timeout: Duration::ZERO },
        services: vec![service],
        catalogs: Vec::new(),
        routes: (0..10).map(route).collect(),
        deny: HashMap::new(),
        balancers: HashMap::new(),
    });
    let instances = (0..10_u8).map(instance).collect();
    writer.apply(&name("orders"), Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() }));
    writer.publish();
    reader
}

fn instance(i: u8) -> Arc<Instance> {
    Arc::new(Instance {
        id: InstanceId { name: format!("node-{i}").into(), incarnation: Incarnation(u64::from(i), 0) },
        address: Address { host: Host::Ip([10, 0, 0, i].into()), port: 8080 },
        scheme: None,
        tls: None,
        weight: 1.0,
        enabled: true,
        zone: None,
        role: None,
        registered_ms: None,
        warmup_ms: None,
        facts: zoogate::model::NodeFacts::default(),
        metadata: BTreeMap::new(),
    })
}

fn route(times: u64) {
    let mut reader = table("round_robin").cached();
    let (headers, mut rng) = (HeaderMap::new(), fastrand::Rng::with_seed(1));
    repeat(times, || {
        let path = black_box("/r7/orders/7");
        let input =
            RouteInput { method: &Method::GET, host: "shop.example", path, query: None, headers: &headers };
        let table = reader.get();
        let matched = table.route(&input).expect("a route");
        matched.choose_service(table, &mut rng).expect("a service").revision()
    });
}

/// A pick with its lease, settled at once.
fn pick(policy: &str, times: u64) {
    let table = table(policy).load();
    let upstream = table.upstream("orders").expect("it is there");
    let (mut rng, now) = (fastrand::Rng::with_seed(1), Instant::now());
    repeat(times, || {
        let key = Some(black_box(&b"user-7"[..]));
        let request = PickRequest { rng: &mut rng, worker: 0, key, tried: &[], now };
        let lease = upstream.pick(request).expect("someone is up");
        lease.settle(Outcome::Ok, Some(Duration::from_millis(1)));
    });
}
