//! Every vector of `tests/vectors`, and what no bytes may do.
#![allow(clippy::float_cmp, reason = "weights are read as they are written, to the last bit")]

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::{Control, DecodeError, Decoded, Node, Options, Selector, decode, detect, encode, fold};
use crate::model::{Address, FormatName, Incarnation, Instance, RejectReason, TlsChoice};

/// Files of whole folders, not of single nodes.
const FOLDERS: &str = "tree.json";

struct Vector {
    file: String,
    path: String,
    data: Vec<u8>,
    case: Value,
}

impl Vector {
    fn node(&self) -> Node<'_> {
        Node { path: &self.path, incarnation: Incarnation(1, 0), data: &self.data }
    }

    fn options(&self) -> Options<'_> {
        options(&self.case["options"])
    }

    fn expected(&self) -> &Value {
        &self.case["expect"]
    }
}

/// The options of a case, as the vectors write them.
pub(in crate::registry) fn options(written: &Value) -> Options<'_> {
    for key in written.as_object().into_iter().flat_map(serde_json::Map::keys) {
        assert!(["default_port", "endpoint", "protocol", "tls"].contains(&key.as_str()), "an option {key}");
    }
    Options {
        default_port: written["default_port"].as_u64().map(|port| u16::try_from(port).unwrap()),
        endpoint: written["endpoint"].as_str(),
        protocol: written["protocol"].as_str(),
        tls: written["tls"].as_str().map_or(TlsChoice::Prefer, |word| word.to_lowercase().parse().unwrap()),
    }
}

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = Vec::new();
    for path in files.iter().filter(|path| !path.ends_with(FOLDERS)) {
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        all.extend(cases.into_iter().map(|case| Vector {
            file: path.file_name().unwrap().to_string_lossy().into_owned(),
            path: case["path"].as_str().unwrap().to_owned(),
            data: match case["data_base64"].as_str() {
                Some(text) => base64(text),
                None => case["data"].as_str().unwrap().as_bytes().to_vec(),
            },
            case,
        }));
    }
    assert!(all.len() > 100, "only {} vectors found", all.len());
    all
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | ALPHABET.iter().position(|letter| *letter == byte).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

#[test]
fn every_vector_is_detected_as_what_it_is() {
    let mut wrong = Vec::new();
    for vector in vectors() {
        if vector.case["auto"] == Value::Bool(false) {
            continue;
        }
        let expected = match &vector.expected()["error"] {
            Value::String(code) if code == "unknown_format" => None,
            _ => vector.expected()["format"].as_str(),
        };
        let found = detect(&vector.node()).map(FormatName::as_str);
        if found != expected {
            wrong.push(format!("{} {}: {found:?}, not {expected:?}", vector.file, vector.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_vector_is_decoded_as_it_says() {
    let mut wrong = Vec::new();
    for vector in vectors() {
        let format: FormatName = vector.expected()["format"].as_str().unwrap().parse().unwrap();
        let found = decode(format, &vector.node(), vector.options());
        if let Err(why) = compare(vector.expected(), &found) {
            wrong.push(format!("{} {}: {why} in {found:?}", vector.file, vector.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(expected: &Value, found: &Result<Decoded, DecodeError>) -> Result<(), String> {
    match (found, &expected["error"], &expected["control"]) {
        (Err(error), Value::String(code), _) => {
            let same = code == error.reason.code() || code == "unknown_format";
            same.then_some(()).ok_or(format!("not {code}"))
        }
        (Ok(Decoded::Control(found)), Value::Null, control @ Value::Object(_)) => {
            same_control(control, found)
        }
        (Ok(Decoded::Instances(found)), Value::Null, Value::Null) => {
            let expected = expected["instances"].as_array().ok_or("no instances expected")?;
            if found.len() != expected.len() {
                return Err(format!("{} instances expected", expected.len()));
            }
            expected.iter().zip(found).try_for_each(|(e, f)| same_instance(e, f))
        }
        _ => Err(format!("not {expected}")),
    }
}

/// Every field of an expected control node; numbers and flags also where they are written as text.
fn same_control(expected: &Value, found: &Control) -> Result<(), String> {
    let as_json = match found {
        Control::Override(rule) => {
            let mut object = serde_json::json!(rule.params);
            object["host"] = (&*rule.written_host).into();
            object["port"] = rule.port.into();
            object
        }
        Control::Vector(entries) => {
            let entry = |(select, weight): &(Selector, f64)| serde_json::json!({ "select": select.to_string(), "weight": weight });
            serde_json::json!({ "entries": entries.iter().map(entry).collect::<Vec<_>>() })
        }
        Control::Primary(value) | Control::Top(value) => serde_json::json!({ "value": value }),
        _ => serde_json::json!({}),
    };
    for (key, wanted) in expected.as_object().unwrap() {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let same = match key.as_str() {
            "kind" => wanted == found.kind(),
            "entries" => {
                let entries = |list: &Value| {
                    let entry = |e: &Value| (e["select"].clone(), e["weight"].as_f64());
                    list.as_array().map(|list| list.iter().map(entry).collect::<Vec<_>>())
                };
                entries(&as_json[key]) == entries(wanted)
            }
            _ => text(&as_json[key]) == text(wanted),
        };
        if !same {
            return Err(format!("{key} is not {wanted}"));
        }
    }
    Ok(())
}

pub(in crate::registry) fn same_instance(expected: &Value, found: &Instance) -> Result<(), String> {
    let as_json = serde_json::json!({
        "id": &*found.id.name,
        "host": found.address.host.to_string(),
        "port": found.address.port,
        "tls": found.tls,
        "weight": found.weight,
        "enabled": found.enabled,
        "zone": found.zone,
        "scheme": found.scheme,
    });
    for key in ["id", "host", "port", "tls", "enabled", "zone"] {
        if as_json[key] != expected[key] {
            return Err(format!("{key} is not {}", expected[key]));
        }
    }
    if as_json["weight"].as_f64() != expected["weight"].as_f64() {
        return Err(format!("weight is not {}", expected["weight"]));
    }
    if expected["scheme"].is_string() && as_json["scheme"] != expected["scheme"] {
        return Err(format!("scheme is not {}", expected["scheme"]));
    }
    for (key, value) in expected["metadata"].as_object().unwrap() {
        if found.metadata.get(key.as_str()).map(|text| &**text) != value.as_str() {
            return Err(format!("metadata {key} is not {value}"));
        }
    }
    Ok(())
}

fn read(format: FormatName, name: &str, data: &str) -> Result<Instance, DecodeError> {
    let path = format!("/services/orders/{name}");
    let node = Node { path: &path, incarnation: Incarnation::default(), data: data.as_bytes() };
    decode(format, &node, Options::default()).map(|decoded| match decoded {
        Decoded::Instances(mut list) => list.remove(0),
        Decoded::Control(control) => panic!("{control:?}"),
    })
}

fn code(result: Result<Instance, DecodeError>) -> RejectReason {
    result.unwrap_err().reason
}

#[test]
fn plain_reads_every_form_that_the_reference_names() {
    let plain = |data: &str| read(FormatName::Plain, "n", data);
    assert_eq!(plain("[2001:db8::1]:80:7").unwrap().weight, 7.0);
    assert_eq!(plain("[2001:db8::1]:80 7").unwrap().weight, 7.0);
    assert_eq!(plain("h:80 blue").unwrap().metadata["tag"], "blue".into());
    assert_eq!(plain("h:80 0").unwrap().weight, 1.0);
    assert_eq!(plain("h:80:0").unwrap().weight, 0.0);
    assert_eq!(plain("\"h:80\"").unwrap().address.to_string(), "h:80");
    assert_eq!(code(plain("h:80:x")), RejectReason::BadHost);
    assert_eq!(code(plain("null")), RejectReason::MissingHost);
    assert_eq!(code(plain("h:80\nh:81")), RejectReason::Syntax);
    assert_eq!(code(plain("::1:80")), RejectReason::MissingPort);
}

#[test]
fn url_flags_and_ports_follow_the_reference() {
    let url = |data: &str| read(FormatName::Url, "n", data);
    assert_eq!(url("HTTP://h:80").unwrap().scheme.as_deref(), Some("http"));
    assert_eq!(url("http://h?isSecure=true").unwrap().tls, Some(true));
    assert_eq!(url("https://h:8443?isSecure=false").unwrap().tls, Some(false));
    assert!(!url("http://h?disabled=true&enabled=true").unwrap().enabled);
    assert_eq!(url("http://h?a=b%20c+d&az=z9").unwrap().metadata["a"], "b c d".into());
    assert_eq!(url("http://h?az=z9").unwrap().zone.as_deref(), Some("z9"));
    assert_eq!(url("http://u:p@x@h:1/a").unwrap().address.to_string(), "h:1");
    assert_eq!(code(url("http://[::g]:80")), RejectReason::BadHost);
    assert_eq!(code(url("http://h:99999")), RejectReason::BadPort);
    assert_eq!(code(url("h:80")), RejectReason::Syntax);
    let client = Node {
        path: "/motan/g/S/client/192.0.2.1:0",
        incarnation: Incarnation::default(),
        data: b"motan://192.0.2.1:0/S?nodeType=referer",
    };
    assert_eq!(decode(FormatName::Url, &client, Options::default()), Ok(Decoded::Control(Control::Consumer)));
}

#[test]
fn json_reads_state_and_address_from_the_usual_keys() {
    let json = |data: &str| read(FormatName::Json, "n", data);
    for (data, enabled) in [
        (r#"{"host":"h","port":1,"status":"passing"}"#, true),
        (r#"{"host":"h","port":1,"status":"DOWN"}"#, false),
        (r#"{"host":"h","port":1,"status":"UP","disabled":true}"#, false),
        (r#"{"host":"h","port":1,"disabled":false,"enabled":false}"#, true),
        (r#"{"host":"h","port":1,"enabled":"false"}"#, false),
        (r#"{"host":"h","port":1,"enabled":true,"status":"starting"}"#, false),
    ] {
        assert_eq!(json(data).unwrap().enabled, enabled, "{data}");
    }
    assert_eq!(json(r#"{"ip":null,"hostname":"h:7"}"#).unwrap().address.to_string(), "h:7");
    assert_eq!(json(r#"{"ip":"","host":"::1","port":7}"#).unwrap().address.to_string(), "[::1]:7");
    assert_eq!(json(r#"{"host":"h","port":1,"labels":{"rack":"r"}}"#).unwrap().zone.as_deref(), Some("r"));
    assert_eq!(json(r#"{"host":"h","port":1,"version":"2"}"#).unwrap().metadata["version"], "2".into());
    assert_eq!(json(r#"{"host":"h","port":1,"https":true}"#).unwrap().tls, Some(true));
    assert_eq!(code(json(r#"{"host":7,"port":1}"#)), RejectReason::BadHost);
    assert_eq!(code(json(r#"{"port":1}"#)), RejectReason::MissingHost);
    assert_eq!(code(json("[1]")), RejectReason::Syntax);
}

#[test]
fn curator_reads_ports_and_flags_as_jackson_does() {
    let curator = |rest: &str| {
        read(
            FormatName::Curator,
            "n",
            &format!(r#"{{"name":"s","id":"i","address":"h",{rest},"uriSpec":null}}"#),
        )
    };
    assert!(!curator(r#""port":1,"enabled":null"#).unwrap().enabled);
    assert!(!curator(r#""port":1,"enabled":"false""#).unwrap().enabled);
    assert!(curator(r#""port":1,"enabled":"true""#).unwrap().enabled);
    assert_eq!(curator(r#""port":1,"sslPort":-1"#).unwrap().tls, Some(false));
    assert_eq!(curator(r#""port":1,"sslPort":"443""#).unwrap().address.port, 443);
    assert_eq!(code(curator(r#""port":1,"sslPort":70000"#)), RejectReason::BadPort);
    let nested =
        curator(r#""port":1,"payload":{"@class":"X","id":"a","metadata":{"weight":"3","az":"z"}}"#).unwrap();
    assert_eq!((nested.weight, nested.zone.as_deref()), (3.0, Some("z")));
    assert!(!nested.metadata.contains_key("@class"));
}

#[test]
fn spring_applications_out_of_service_get_no_traffic_in_any_of_curators_formats() {
    let spring = vectors().into_iter().filter(|vector| vector.file == "spring_cloud.json");
    let mut disabled = 0;
    for vector in spring {
        for format in [FormatName::Curator, FormatName::Spring] {
            if let Ok(Decoded::Instances(found)) = decode(format, &vector.node(), vector.options()) {
                let expected = &vector.expected()["instances"][0]["enabled"];
                assert_eq!(Value::from(found[0].enabled), *expected, "{}", vector.path);
                disabled += usize::from(!found[0].enabled);
            }
        }
    }
    assert!(disabled > 1);
}

#[test]
fn name_addr_prefers_complete_data_and_nothing_less() {
    let named = |name: &str, data: &str| read(FormatName::NameAddr, name, data);
    assert_eq!(named("a:1", "b:2").unwrap().address.to_string(), "b:2");
    assert_eq!(named("a:1", "192.0.2.9").unwrap().address.to_string(), "a:1");
    assert_eq!(named("[::1]:1-0000000007", "{}").unwrap().address.to_string(), "[::1]:1");
    assert_eq!(code(named("a", "")), RejectReason::MissingPort);
    assert_eq!(code(named("a:0", "")), RejectReason::BadPort);
}

#[test]
fn what_is_larger_or_deeper_than_read_is_refused() {
    let big = "x".repeat(super::MAX_DATA + 1);
    for format in FormatName::ALL {
        assert_eq!(code(read(*format, "n", &big)), RejectReason::TooLarge);
    }
    assert_eq!(code(read(FormatName::Json, "n", &"{\"a\":".repeat(100_000))), RejectReason::Syntax);
}

fn instances() -> impl Strategy<Value = Instance> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|ip| crate::model::Host::Ip(ip.into())),
        any::<std::net::Ipv6Addr>().prop_map(|ip| crate::model::Host::Ip(ip.into())),
        "[a-z][a-z0-9-]{0,10}\\.[a-z]{1,5}".prop_map(|name| crate::model::Host::Name(name.into())),
    ];
    let metadata = proptest::collection::btree_map("[a-m]{1,6}", ".{0,8}", 0..4);
    let zone = proptest::option::of("[a-z0-9-]{1,8}");
    (host, 1..=u16::MAX, 0u32..500, any::<Option<bool>>(), zone, metadata, any::<bool>()).prop_map(
        |(host, port, weight, tls, zone, metadata, enabled)| {
            let node = Node { path: "/s/n", incarnation: Incarnation::default(), data: b"" };
            let mut instance = node.instance(Address { host, port });
            instance.weight = weight.into();
            instance.tls = tls;
            instance.zone = zone.map(Into::into);
            instance.enabled = enabled;
            let reserved = ["az", "ip", "id", "ssl", "tls", "host", "addr", "path"];
            let kept = metadata.into_iter().filter(|(key, _)| !reserved.contains(&key.as_str()));
            instance.metadata = kept.map(|(key, value)| (key.into(), value.into())).collect();
            instance
        },
    )
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        data in proptest::collection::vec(any::<u8>(), 0..300),
        place in prop::sample::select(&PLACES[..]),
        name in ".{0,40}",
    ) {
        try_everything(&format!("{place}{name}"), &data);
    }

    #[test]
    fn mutated_vectors_never_panic(
        pick in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..12),
    ) {
        let all = vectors();
        let vector = pick.get(&all);
        let mut data = vector.data.clone();
        for (at, byte, kind) in edits {
            let at = at.index(data.len() + 1);
            match kind {
                0 => data.insert(at, byte),
                1 if at < data.len() => data[at] = byte,
                _ => data.truncate(at),
            }
        }
        try_everything(&vector.path, &data);
        // The name says as much in some formats, and can be as broken.
        let cut: String = vector.path.chars().take(vector.path.chars().count().saturating_sub(data.len() % 9)).collect();
        try_everything(&cut, &data);
        try_everything(&cut.replace("%2", "%").replace(':', "_"), &data);
    }

    /// Controls of any kind beside instances of any kind: weights stay sound, and the primary is one of them.
    #[test]
    fn folding_keeps_instances_sound(picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..12)) {
        let all = vectors();
        let (mut instances, mut controls) = (Vec::new(), Vec::new());
        for vector in picks.iter().map(|pick| pick.get(&all)) {
            for format in FormatName::ALL {
                match decode(*format, &vector.node(), vector.options()) {
                    Ok(Decoded::Instances(list)) => instances.extend(list.into_iter().map(std::sync::Arc::new)),
                    Ok(Decoded::Control(control)) => controls.push(control),
                    Err(_) => {}
                }
            }
        }
        let controls: Vec<&Control> = controls.iter().collect();
        for format in FormatName::ALL {
            let mut folded = instances.clone();
            let primary = fold(*format, &mut folded, &controls);
            prop_assert_eq!(folded.len(), instances.len());
            for (before, after) in instances.iter().zip(&folded) {
                prop_assert!(after.weight.is_finite() && after.weight >= 0.0);
                prop_assert_eq!((&after.id, &after.address), (&before.id, &before.address));
            }
            prop_assert!(primary.is_none_or(|id| folded.iter().any(|instance| instance.id.name == id)));
        }
    }

    #[test]
    fn what_is_encoded_is_read_back(instance in instances()) {
        for format in FormatName::WRITABLE {
            let name = match format {
                FormatName::NameAddr => instance.address.to_string(),
                FormatName::ServerSet => "member_0000000001".into(),
                FormatName::Nerve => "n_0000000001".into(),
                FormatName::Numbered => "7".into(),
                _ => "n".into(),
            };
            let data = encode(*format, "orders", &instance).expect("it is writable");
            let path = format!("/services/orders/{name}");
            let node = Node { path: &path, incarnation: Incarnation::default(), data: &data };
            if *format != FormatName::Numbered {
                prop_assert_eq!(detect(&node), Some(*format), "{}", String::from_utf8_lossy(&data));
            }
            let back = match decode(*format, &node, Options::default()) {
                Ok(Decoded::Instances(mut list)) => list.remove(0),
                other => return Err(TestCaseError::fail(format!("{format}: {other:?}"))),
            };
            prop_assert_eq!(&back.address, &instance.address);
            if !matches!(format, FormatName::NameAddr | FormatName::ServerSet | FormatName::Numbered) {
                prop_assert_eq!(back.weight, instance.weight);
            }
            if !matches!(format, FormatName::Plain | FormatName::NameAddr | FormatName::Numbered) {
                prop_assert_eq!(&back.zone, &instance.zone);
                prop_assert_eq!(back.enabled, instance.enabled);
                for (key, value) in &instance.metadata {
                    prop_assert_eq!(back.metadata.get(key), Some(value), "{}", format);
                }
            }
        }
    }
}

#[test]
fn formats_that_are_only_read_refuse_to_write() {
    let instance = Instance::new("n".into(), "192.0.2.1:80".parse().unwrap());
    for format in FormatName::ALL {
        let written = encode(*format, "s", &instance).is_some();
        assert_eq!(written, FormatName::WRITABLE.contains(format), "{format}");
    }
}

/// Folders that mean something to a format, and beginnings of names that do.
const PLACES: [&str; 12] = [
    "/services/orders/",
    "/dubbo/I/providers/dubbo%3A%2F%2F",
    "/dubbo/I/configurators/override%3A%2F%2F",
    "/sofa-rpc/I/providers/bolt%3A%2F%2F",
    "/ledgers/available/",
    "/live_nodes/",
    "/hbase/rs/h,1",
    "/hive/serverUri=",
    "/nerve/base64_4_",
    "/rpcx/tcp@",
    "/s/member_0000000001",
    "/t/replicas/r/host",
];

fn try_everything(path: &str, data: &[u8]) {
    let node = Node { path, incarnation: Incarnation::default(), data };
    let _ = detect(&node);
    for format in FormatName::ALL {
        for options in [
            Options::default(),
            Options { default_port: Some(80), tls: TlsChoice::Never, ..Options::default() },
            Options { endpoint: Some("http"), protocol: Some("tri"), ..Options::default() },
        ] {
            if let Ok(Decoded::Instances(found)) = decode(*format, &node, options) {
                for instance in found {
                    assert!(instance.weight.is_finite() && instance.weight >= 0.0, "{instance:?}");
                    assert_ne!(instance.address.port, 0);
                    assert!(options.tls != TlsChoice::Never || instance.tls != Some(true), "{instance:?}");
                }
            }
        }
    }
}
