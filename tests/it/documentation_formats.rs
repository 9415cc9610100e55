//! The payloads in docs/formats.md are read as it says there.

use zoogate::model::{FormatName, Incarnation, Instance};
use zoogate::registry::format::{Decoded, Look, Node, Options, decode, detect};

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
    let told = FORMATS.lines().find_map(|line| line.strip_prefix("format = \"auto\"")).expect("the choice");
    let names: Vec<&str> = FormatName::ALL.iter().map(|format| format.as_str()).collect();
    assert!(told.ends_with(&format!("# or {}", names.join(", "))), "{told}");
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
        detect(&node).map(Look::as_str)
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
