//! The payloads in docs/formats.md are read as it says there.

use crate::documentation::{code, rows};
use zoogate::model::{FormatName, Incarnation, Instance};
use zoogate::registry::format::{Decoded, Node, Options, decode, detect};

const FORMATS: &str = include_str!("../../docs/formats.md");

/// The section of a format.
fn section(format: FormatName) -> &'static str {
    let heading = format!("\n### `{format}`\n");
    let text = FORMATS.split_once(&heading).unwrap_or_else(|| panic!("no section {format}")).1;
    text.split("\n#").next().unwrap()
}

/// The first block of a format's section.
fn block(format: FormatName) -> &'static str {
    let text = section(format).split_once("```").expect("an example").1;
    text.split_once('\n').unwrap().1.split_once("\n```").expect("its end").0
}

fn read(format: FormatName, path: &str, data: &str) -> Instance {
    let node = Node { path, incarnation: Incarnation(1, 0), data: data.as_bytes() };
    match decode(format, &node, Options::default()) {
        Ok(Decoded::Instances(instances)) => {
            let [instance] = <[Instance; 1]>::try_from(instances).unwrap();
            instance
        }
        other => panic!("{format}: {data}: {other:?}"),
    }
}

/// Address, weight, TLS, zone, whether it wants traffic: what a line of an example says.
fn facts(instance: &Instance) -> (String, f64, Option<bool>, Option<&str>, bool) {
    let Instance { address, weight, tls, zone, enabled, .. } = instance;
    (address.to_string(), *weight, *tls, zone.as_deref(), *enabled)
}

#[test]
fn there_is_a_section_and_an_example_for_every_format() {
    for format in FormatName::ALL {
        assert!(!section(*format).trim().is_empty(), "{format}");
    }
    let told: Vec<String> =
        rows(FORMATS.split("\n## ").next().unwrap(), "").iter().map(|row| code(&row[0]).to_owned()).collect();
    let names: Vec<&str> = FormatName::ALL.iter().map(|format| format.as_str()).collect();
    assert_eq!(told, names);
    let written =
        FORMATS.split_once("`zoogate register --format` writes ").unwrap().1.split(';').next().unwrap();
    let mut written: Vec<FormatName> =
        written.split('`').skip(1).step_by(2).map(|name| name.parse().unwrap()).collect();
    written.sort();
    let mut writable = FormatName::WRITABLE.to_vec();
    writable.sort();
    assert_eq!(written, writable);
}

/// The examples of frameworks' formats: where they stand, and whether they are the name or the data.
const FRAMEWORKS: [(FormatName, &str, bool, &str); 18] = [
    (FormatName::Spring, "/services/catalog/0f8fad5b", false, "192.0.2.30:8081 3 eu-1a"),
    (FormatName::DubboApp, "/services/demo/192.0.2.51:50051", false, "192.0.2.51:50051 100 -"),
    (FormatName::Dubbo, "/dubbo/org.example.Demo/providers", true, "192.0.2.71:50052 250 -"),
    (FormatName::Sofa, "/sofa-rpc/org.example.Demo/providers", true, "192.0.2.93:12200 100 -"),
    (FormatName::ServerSet, "/aurora/demo/member_0000000000", false, "192.0.2.110:31001 1 -"),
    (FormatName::Nerve, "/nerve/web/i-0aa2_0000000008", false, "192.0.2.141:3000 10 us-east-1a"),
    (FormatName::D2, "/d2/uris/Foo/ephemoral-0000000001", false, "192.0.2.170:1338 2 -"),
    (FormatName::Kafka, "/brokers/ids/3", false, "b3.example.net:9094 1 use1-az2"),
    (FormatName::Solr, "/live_nodes", true, "192.0.2.220:8983 1 -"),
    (FormatName::HBase, "/hbase/rs", true, "rs-1.example.net:16020 1 -"),
    (FormatName::Hive, "/hiveserver2", true, "hs2-1.example.net:10000 1 -"),
    (FormatName::Rpcx, "/rpcx_test/Arith", true, "192.0.2.221:8972 1 -"),
    (FormatName::BookKeeper, "/ledgers/available", true, "192.0.2.149:3181 1 -"),
    (FormatName::Druid, "/druid/internal-discovery/BROKER/192.0.2.230:8082", false, "192.0.2.230:8082 1 -"),
    (FormatName::ClickHouse, "/clickhouse/discovery/c1/shards/6a0d", false, "ch-2.example.net:9440 1 -"),
    (FormatName::Kratos, "/microservices/helloworld/hw-1", false, "192.0.2.250:9000 20 sh001"),
    (FormatName::Kitex, "/echo/192.0.2.252:8888", false, "192.0.2.252:8888 20 a1"),
    (FormatName::Ranger, "/myns/orders/192.0.2.120:8090", false, "192.0.2.120:8090 1 -"),
];

#[test]
fn the_examples_of_frameworks_are_detected_and_read_as_what_they_are() {
    for (format, place, named, expected) in FRAMEWORKS {
        let example = block(format);
        let path = if named { format!("{place}/{example}") } else { place.to_owned() };
        let data = if named { "" } else { example };
        let node = Node { path: &path, incarnation: Incarnation(1, 0), data: data.as_bytes() };
        assert_eq!(detect(&node), Some(format), "{path}");
        let instance = read(format, &path, data);
        let zone = instance.zone.as_deref().unwrap_or("-");
        assert_eq!(format!("{} {} {zone}", instance.address, instance.weight), expected, "{format}");
    }
    let numbered = read(FormatName::Numbered, "/data/kv/3", block(FormatName::Numbered));
    assert_eq!(numbered.address.to_string(), "192.0.2.73:7000");
}

#[test]
fn plain_examples() {
    let lines: Vec<Instance> = block(FormatName::Plain)
        .lines()
        .map(|line| read(FormatName::Plain, "/services/orders/n", line))
        .collect();
    let found: Vec<_> = lines.iter().map(facts).collect();
    assert_eq!(
        found,
        [
            ("192.0.2.10:8080".to_owned(), 1.0, None, None, true),
            ("[2001:db8::10]:8080".to_owned(), 1.0, None, None, true),
            ("orders-1.example.net:8080".to_owned(), 300.0, None, None, true),
            ("192.0.2.10:8080".to_owned(), 20.0, None, None, true),
            ("192.0.2.10:8080".to_owned(), 1.0, None, None, true),
        ]
    );
    assert_eq!(lines[3].metadata["tag"].as_ref(), "20");
    assert_eq!(lines[4].metadata["tag"].as_ref(), "blue");
}

#[test]
fn url_examples_and_ports() {
    let url = |text: &str| read(FormatName::Url, "/services/orders/n", text);
    let lines: Vec<Instance> = block(FormatName::Url).lines().map(url).collect();
    assert_eq!(
        lines.iter().map(facts).collect::<Vec<_>>(),
        [
            ("orders.example.net:443".to_owned(), 5.0, Some(true), Some("eu-1a"), true),
            ("[2001:db8::10]:50051".to_owned(), 1.0, Some(false), None, true),
            ("192.0.2.10:7000".to_owned(), 1.0, None, None, false),
        ]
    );
    assert_eq!(lines[0].metadata["path"].as_ref(), "/api");
    // "(http, ws, h2c 80; https, wss 443; …)"
    let text = section(FormatName::Url).replace('\n', " ");
    let ports = text.split_once("one of its own (").expect("the ports").1.split(')').next().unwrap();
    let mut schemes = 0;
    for pair in
        ports.split([';', ',']).map(str::trim).collect::<Vec<_>>().iter().rev().scan("", |port, part| {
            let (scheme, own) = part.split_once(' ').unwrap_or((part, port));
            *port = own;
            Some((scheme, own.to_owned()))
        })
    {
        let (scheme, port) = pair;
        assert_eq!(url(&format!("{scheme}://h")).address.to_string(), format!("h:{port}"));
        schemes += 1;
    }
    assert!(schemes >= 10, "only {schemes} schemes in {ports:?}");
    // "yes for https, …; no for http, …"
    let tls = text.split_once("does: yes for ").expect("which speak TLS").1;
    let (yes, no) = tls.split('.').next().unwrap().split_once("; no for ").unwrap();
    for (schemes, tls) in [(yes, true), (no, false)] {
        for scheme in schemes.split(", ") {
            assert_eq!(url(&format!("{scheme}://h:1")).tls, Some(tls), "{scheme}");
        }
    }
}

#[test]
fn json_and_curator_examples() {
    let json = read(FormatName::Json, "/services/orders/n", block(FormatName::Json));
    assert_eq!(facts(&json), ("192.0.2.10:8080".to_owned(), 5.0, None, Some("eu-1a"), true));
    assert_eq!(json.metadata["version"].as_ref(), "2.1");
    for field in section(FormatName::Json)
        .lines()
        .find(|l| l.starts_with("| host |"))
        .unwrap()
        .split('`')
        .skip(1)
        .step_by(2)
    {
        if field != "host:port" {
            let data = format!("{{\"{field}\": \"h\", \"port\": 1}}");
            assert_eq!(read(FormatName::Json, "/s/n", &data).address.to_string(), "h:1", "{field}");
        }
    }
    let curator = read(FormatName::Curator, "/services/orders/o-1", block(FormatName::Curator));
    assert_eq!(facts(&curator), ("192.0.2.10:8080".to_owned(), 1.0, Some(false), None, true));
    let look = |data: &str| {
        let node = Node { path: "/services/orders/n", incarnation: Incarnation(1, 0), data: data.as_bytes() };
        detect(&node).map(FormatName::as_str)
    };
    assert_eq!(look(block(FormatName::Json)), Some("json"));
    assert_eq!(look(block(FormatName::Curator)), Some("curator"));
}

#[test]
fn name_addr_examples() {
    let text = section(FormatName::NameAddr);
    let mut read_names = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("192.")) {
        let instance = read(FormatName::NameAddr, &format!("/services/orders/{name}"), "");
        assert_eq!(instance.address.to_string(), "192.0.2.10:8080", "{name}");
        read_names += 1;
    }
    assert_eq!(read_names, 2);
}
