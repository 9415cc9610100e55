//! Micro-benchmarks of the payload formats: from a node's bytes to an instance.
//!
//! `cargo bench --bench formats`.
#![allow(missing_docs)]

use divan::{Bencher, black_box};
use zoogate::model::{FormatName, Incarnation};
use zoogate::registry::format::{Node, Options, decode};

fn main() {
    divan::main();
}

const PAYLOADS: [(FormatName, &str, &str); 5] = [
    (FormatName::Plain, "node1", "10.0.0.7:8080"),
    (FormatName::Url, "node1", "http://10.0.0.7:8080/base?weight=2"),
    (FormatName::Json, "node1", r#"{"host":"10.0.0.7","port":8080,"weight":2,"zone":"a","tags":["x","y"]}"#),
    (
        FormatName::Curator,
        "0f9e9b2c",
        r#"{"name":"orders","id":"0f9e9b2c","address":"10.0.0.7","port":8080,"sslPort":null,
            "payload":{"@class":"x","metadata":{"zone":"a"}},"registrationTimeUTC":1767225600000,
            "serviceType":"DYNAMIC","uriSpec":null}"#,
    ),
    (FormatName::NameAddr, "10.0.0.7:8080", ""),
];

#[divan::bench(args = 0..PAYLOADS.len())]
fn decode_a_node(bencher: Bencher<'_, '_>, which: usize) {
    let (format, name, data) = PAYLOADS[which];
    let path = format!("/services/orders/{name}");
    bencher.bench(|| {
        let node = Node { path: &path, incarnation: Incarnation(7, 0), data: black_box(data).as_bytes() };
        decode(format, &node, Options::default()).expect("an instance")
    });
}
