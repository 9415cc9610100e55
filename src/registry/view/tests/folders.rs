//! Whole folders: what control nodes do to the instances beside them, which formats live side by side.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::model::{Owner, Reading, Role};
use crate::registry::format::vectors::{options, same_instance};

const NUMBERED: FormatChoice = FormatChoice::Fixed(FormatName::Numbered);

fn at(path: &str, format: FormatChoice, reading: Reading) -> BaseView {
    let base = Base { path: path.into(), reading: Arc::new(reading), ..base(format, false) };
    BaseView::new(&base)
}

fn numbered() -> BaseView {
    at("/data/kv", NUMBERED, Reading::default())
}

fn roles(snapshot: &ServiceSnapshot) -> String {
    let role =
        |i: &Arc<crate::model::Instance>| format!("{}:{}", i.id.name, i.role.map_or("none", Role::as_str));
    snapshot.instances.iter().map(role).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_folder_of_the_vectors_comes_out_as_it_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tree.json");
    let trees: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(trees.len() >= 4);
    for tree in &trees {
        let (name, root) = (&tree["name"], tree["root"].as_str().unwrap());
        let format: FormatName = tree["format"].as_str().unwrap().parse().unwrap();
        let options = options(&tree["options"]);
        let reading = Reading {
            default_port: options.default_port,
            endpoint: options.endpoint.map(Into::into),
            scheme: options.protocol.map(Into::into),
            tls: options.tls,
            ..Reading::default()
        };
        let mut choices = vec![FormatChoice::Fixed(format)];
        choices.extend((format != FormatName::Numbered).then_some(FormatChoice::Auto));
        for choice in choices {
            let mut view = at(root, choice, reading.clone());
            for node in tree["nodes"].as_array().unwrap() {
                let below =
                    node["path"].as_str().unwrap().strip_prefix(root).unwrap().trim_start_matches('/');
                view.says(below, node["data"].as_str().unwrap());
            }
            let now = view.now();
            assert_eq!(now.primary.as_deref(), tree["expect"]["primary"].as_str(), "{name}");
            assert_eq!(now.format, Some(format), "{name}");
            let mut expected = tree["expect"]["instances"].as_array().unwrap().clone();
            expected.sort_by_key(|instance| instance["id"].as_str().unwrap().to_owned());
            assert_eq!(now.instances.len(), expected.len(), "{name}: {}", members(&now));
            for (expected, found) in expected.iter().zip(&now.instances) {
                same_instance(expected, found).unwrap_or_else(|why| panic!("{name}: {why} in {found:?}"));
            }
            assert!(now.rejected.is_empty(), "{name}: {:?}", now.rejected);
        }
    }
}

#[test]
fn a_primary_is_the_live_child_of_that_number_and_moves_with_the_pointer_in_one_snapshot() {
    let mut view = numbered();
    view.says("1", "h:1");
    view.says("0000000002", "h:2");
    view.says("primary", "2");
    view.says("top", "3");
    view.says("lock", "");
    view.says("notes", "h:9");
    let first = view.now();
    assert_eq!(
        (first.primary.as_deref(), roles(&first).as_str()),
        (Some("0000000002"), "0000000002:primary 1:replica")
    );
    assert!(first.rejected.is_empty());
    view.says("3", "h:3");
    view.says("primary", " 3\n");
    view.remove(None, "0000000002");
    let second = view.now();
    assert_eq!((second.primary.as_deref(), roles(&second).as_str()), (Some("3"), "1:replica 3:primary"));
    assert!(Arc::ptr_eq(&first.instances[1], &second.instances[0]), "what did not change is shared");
    for none in ["9", "none", "", "99999999999999999999"] {
        view.says("primary", none);
        let now = view.now();
        assert_eq!((now.primary.as_deref(), roles(&now).as_str()), (None, "1:replica 3:replica"), "{none:?}");
        view.says("primary", "3");
        assert_eq!(view.now().primary.as_deref(), Some("3"));
    }
    view.remove(None, "primary");
    assert_eq!(view.now().primary, None);
}

#[test]
fn a_pointer_that_can_not_be_read_any_more_names_no_primary() {
    let mut view = numbered();
    view.says("1", "h:1");
    view.says("primary", "1");
    assert_eq!(view.now().primary.as_deref(), Some("1"));
    view.reject(None, "primary", RejectReason::Forbidden, "no");
    let now = view.now();
    assert_eq!((now.primary.as_deref(), rejected(&now)), (None, vec!["primary forbidden".to_owned()]));
}

#[test]
fn a_primary_whose_data_turns_bad_stays_the_primary_with_its_last_good_value() {
    let mut view = numbered();
    view.says("1", "h:1");
    view.says("primary", "1");
    view.says("1", "h:0");
    // One incarnation, never good: no member.
    assert_eq!(view.now().primary, None);
    view.says("1", "h:1");
    assert_eq!(view.now().primary.as_deref(), Some("1"));
    view.says("1", "h:0");
    let now = view.now();
    assert_eq!((now.primary.as_deref(), members(&now).as_str()), (Some("1"), "1=h:1"));
}

#[test]
fn the_servers_of_the_numbered_layout_are_a_master_and_slaves() {
    let mut view = at("/server", NUMBERED, Reading::default());
    view.says("0", "h:1");
    view.says("2", "h:2");
    assert_eq!(roles(&view.now()), "0:master 2:slave");
}

#[test]
fn the_one_enabled_instance_that_calls_itself_the_primary_is_it() {
    let mut view = view();
    view.says("a", r#"{"host":"h","port":1,"role":"Leader"}"#);
    view.says("b", r#"{"host":"h","port":2,"metadata":{"role":"standby"}}"#);
    view.says("c", r#"{"host":"h","port":3,"role":"gardener"}"#);
    let now = view.now();
    assert_eq!((now.primary.as_deref(), roles(&now).as_str()), (Some("a"), "a:primary b:replica c:none"));
    view.says("b", r#"{"host":"h","port":2,"role":"primary"}"#);
    assert_eq!(view.now().primary, None, "two are none");
    view.says("a", r#"{"host":"h","port":1,"role":"primary","enabled":false}"#);
    assert_eq!(view.now().primary.as_deref(), Some("b"));
}

#[test]
fn serverset_weights_come_and_go_with_their_vectors() {
    let mut view = view();
    view.says("member_0000000001", r#"{"serviceEndpoint":{"host":"h","port":1},"status":"ALIVE","shard":1}"#);
    view.says("vector_0000000001", r#"{"vector":[{"select":"shard=1","weight":4}]}"#);
    let now = view.now();
    assert_eq!((now.instances.len(), now.instances[0].weight.to_string()), (1, "4".to_owned()));
    // A vector that can no longer be read keeps its say, as an instance does.
    view.says("vector_0000000001", "{");
    let now = view.now();
    assert_eq!((now.instances[0].weight.to_string(), now.rejected.len()), ("4".to_owned(), 1));
    view.says("vector_0000000001", r#"{"vector":[{"select":"shard=1","weight":-1}]}"#);
    assert!(!view.now().instances[0].enabled);
    view.remove(None, "vector_0000000001");
    let now = view.now();
    assert_eq!((now.instances[0].weight.to_string(), now.instances[0].enabled), ("1".to_owned(), true));
}

#[test]
fn what_a_filter_does_not_ask_for_is_neither_member_nor_rejected() {
    let filtered = |key: &str, value: &str| {
        let filter = [(Box::from(key), Box::from(value))].into();
        at("/services/orders", FormatChoice::Auto, Reading { filter, ..Reading::default() })
    };
    let feed = |view: &mut BaseView| {
        view.says("a", r#"{"host":"192.0.2.1","port":1,"version":"1"}"#);
        view.says("b", r#"{"host":"192.0.2.2","port":1,"version":"2","role":"primary"}"#);
        view.says("c", r#"{"host":"169.254.1.1","port":1,"version":"3"}"#);
        view.says("d", r#"{"host":"192.0.2.4","port":1}"#);
        view.now()
    };
    let now = feed(&mut filtered("version", "1"));
    assert_eq!(
        (members(&now).as_str(), now.rejected.len(), now.primary.as_deref()),
        ("a=192.0.2.1:1", 0, None)
    );
    let now = feed(&mut filtered("version", "2"));
    assert_eq!((members(&now).as_str(), now.primary.as_deref()), ("b=192.0.2.2:1", Some("b")));
    assert_eq!(rejected(&feed(&mut filtered("version", "3"))), ["c denied_address"]);
    assert_eq!(members(&feed(&mut filtered("version", ""))), "d=192.0.2.4:1");
    // Roles that a folder gives are there to be filtered by, and denied addresses stay denied.
    let filter = [(Box::from("role"), Box::from("replica"))].into();
    let mut view = at("/data/kv", NUMBERED, Reading { filter, ..Reading::default() });
    view.says("1", "h:1");
    view.says("2", "h:2");
    view.says("3", "169.254.1.1:80");
    view.says("primary", "1");
    let now = view.now();
    assert_eq!((members(&now).as_str(), now.primary.as_deref()), ("2=h:2", None));
    assert_eq!(rejected(&now), ["3 denied_address"]);
}

#[test]
fn two_registrations_of_one_dubbo_provider_are_one_instance_the_younger() {
    let mut view = at("/dubbo/I/providers", FormatChoice::Auto, Reading::default());
    let url = |weight: u32| format!("dubbo%3A%2F%2F192.0.2.1%3A20880%2FI%3Fweight%3D{weight}");
    view.put(None, &url(900), ONE, NodeFacts::default(), b"");
    view.put(None, &url(100), TWO, NodeFacts::default(), b"");
    let now = view.now();
    assert_eq!((now.instances.len(), now.instances[0].weight.to_string()), (1, "100".to_owned()));
    assert_eq!(now.instances[0].id.incarnation, TWO);
}

/// A rule of Dubbo's, as its node is named.
fn rule(text: &str) -> String {
    format!(
        "../configurators/{}",
        text.replace(':', "%3A")
            .replace('/', "%2F")
            .replace('?', "%3F")
            .replace('=', "%3D")
            .replace('&', "%26")
    )
}

/// Weights of the enabled.
fn weights(snapshot: &ServiceSnapshot) -> String {
    let enabled = snapshot.instances.iter().filter(|instance| instance.enabled);
    enabled.map(|i| format!("{}={}", i.id.name, i.weight)).collect::<Vec<_>>().join(" ")
}

#[test]
fn dubbos_rules_beside_the_providers_come_and_go() {
    let mut view = at("/dubbo/I/providers", FormatChoice::Auto, Reading::default());
    let provider = |view: &mut BaseView, host: u8, params: &str| {
        view.says(&format!("dubbo%3A%2F%2F192.0.2.{host}%3A20880%2FI%3F{params}"), "");
    };
    provider(&mut view, 1, "weight%3D50%26application%3Da");
    provider(&mut view, 2, "timestamp%3D1720200000001%26application%3Db");
    let before = view.now();
    assert_eq!(weights(&before), "192.0.2.1:20880=50 192.0.2.2:20880=100");
    let steps = [
        ("override://0.0.0.0/I?weight=400", "192.0.2.1:20880=400 192.0.2.2:20880=400"),
        ("override://192.0.2.1/I?weight=7", "192.0.2.1:20880=7 192.0.2.2:20880=400"),
        ("override://192.0.2.1:20880/I?disabled=true", "192.0.2.2:20880=400"),
        ("override://192.0.2.2/I?weight=0.5&priority=1", "192.0.2.2:20880=0.5"),
        ("override://192.0.2.2/I?weight=9", "192.0.2.2:20880=0.5"),
        ("override://192.0.2.2:20881/I?weight=8", "192.0.2.2:20880=0.5"),
        ("override://0.0.0.0/I?application=a&disabled=true", "192.0.2.2:20880=0.5"),
        ("override://0.0.0.0/I?disabled=true&enabled=false", "192.0.2.2:20880=0.5"),
        ("absent://0.0.0.0/I?weight=3&zone=z1&warmup=1000", "192.0.2.2:20880=0.5"),
        ("other://192.0.2.9:1/I", "192.0.2.2:20880=0.5"),
    ];
    let mut now = before;
    for (text, expected) in steps {
        view.says(&rule(text), "");
        if let [Change::Updated { snapshot, .. }] =
            view.take_changes(Instant::now(), Source::Event).as_slice()
        {
            now = Arc::clone(snapshot);
        }
        assert_eq!(weights(&now), expected, "{text}");
        assert!(now.rejected.is_empty() && now.instances.len() == 2, "{text}");
    }
    let (first, second) = (&now.instances[0], &now.instances[1]);
    assert_eq!((first.zone.as_deref(), second.zone.as_deref()), (Some("z1"), Some("z1")));
    assert_eq!((first.warmup_ms, second.warmup_ms), (None, Some(1000)));
    view.says(&rule("override://bad host"), "");
    assert_eq!(view.now().rejected[0].reason, RejectReason::BadHost);
    for text in steps.iter().map(|(text, _)| *text).chain(["override://bad host"]) {
        view.remove(None, &rule(text));
    }
    let after = view.now();
    assert_eq!(weights(&after), "192.0.2.1:20880=50 192.0.2.2:20880=100");
    assert_eq!((after.instances[1].warmup_ms, after.rejected.len()), (Some(600_000), 0));
}

#[test]
fn what_is_offline_stays_so_under_any_rule() {
    let mut view = at("/sofa-rpc/I/providers", FormatChoice::Auto, Reading::default());
    view.put(None, "bolt%3A%2F%2F192.0.2.1%3A12200%3Fweight%3D5", ONE, NodeFacts::default(), &[0]);
    view.put(None, "bolt%3A%2F%2F192.0.2.2%3A12200%3Fdisabled%3Dtrue", ONE, NodeFacts::default(), &[1]);
    assert_eq!(weights(&view.now()), "");
    view.says(&rule("override://0.0.0.0/I?weight=6&disabled=false"), "");
    assert_eq!(weights(&view.now()), "192.0.2.2:12200=6");
}

#[test]
fn rules_of_a_catalogs_service_wait_for_it_and_outlive_it() {
    let base = Base { path: "/dubbo/*/providers".into(), ..base(FormatChoice::Auto, true) };
    let mut view = BaseView::new(&base);
    let now = |view: &mut BaseView| match view.take_changes(Instant::now(), Source::Event).as_slice() {
        [] => "nothing".to_owned(),
        [Change::Updated { snapshot, .. }] => weights(snapshot),
        [Change::Gone { .. }] => "gone".to_owned(),
        other => panic!("{other:?}"),
    };
    let child = Some("I/providers");
    let half = rule("override://0.0.0.0/I?weight=50");
    let provider = "dubbo%3A%2F%2F192.0.2.1%3A20880%2FI";
    view.put(child, &half, ONE, NodeFacts::default(), b"");
    assert_eq!(now(&mut view), "nothing", "a rule makes no service");
    for _ in 0..2 {
        view.put(child, provider, ONE, NodeFacts::default(), b"");
        assert_eq!(now(&mut view), "192.0.2.1:20880=50");
        view.remove_service("I/providers");
        assert_eq!(now(&mut view), "gone");
    }
    view.remove(child, &half);
    view.reject(child, &rule("override://secret"), RejectReason::Forbidden, "no");
    view.put(child, provider, ONE, NodeFacts::default(), b"");
    assert_eq!(now(&mut view), "192.0.2.1:20880=100");
}

#[test]
fn replicas_are_in_use_while_they_are_active() {
    let mut view = at("/t/hits/replicas", FormatChoice::Auto, Reading::default());
    let host = |n: u8| format!("host: 192.0.2.{n}\nport: 9009\ntcp_port: 9000\ndatabase: default\n");
    for (name, n) in [("r1", 1), ("r2", 2)] {
        view.says(name, "");
        view.says(&format!("{name}/host"), &host(n));
    }
    view.says("r1/is_active", "UUID_1");
    let now = view.now();
    assert_eq!(
        (members(&now).as_str(), weights(&now).as_str()),
        ("r1=192.0.2.1:9000,r2=192.0.2.2:9000", "r1=1")
    );
    assert!(now.rejected.is_empty());
    view.says("r2/is_active", "");
    assert_eq!(weights(&view.now()), "r1=1 r2=1");
    view.remove(None, "r1/is_active");
    assert_eq!(weights(&view.now()), "r2=1");
    // The folder of one replica: whoever looks at that alone has its address.
    let mut view = at("/t/hits/replicas/r1", FormatChoice::Auto, Reading::default());
    view.says("host", &host(1));
    view.says("is_active", "");
    view.says("queue", "");
    let now = view.now();
    assert_eq!((weights(&now).as_str(), now.rejected.len()), ("r1=1", 0));
}

#[test]
fn read_only_bookies_are_beside_the_others_and_can_be_told_from_them() {
    for (filter, expected) in [("", "192.0.2.1:3181"), ("true", "192.0.2.2:3181")] {
        let filter = [(Box::from("readonly"), Box::from(filter))].into();
        let mut view = at("/ledgers/available", FormatChoice::Auto, Reading { filter, ..Reading::default() });
        for node in ["192.0.2.1:3181", "readonly", "readonly/192.0.2.2:3181"] {
            view.says(node, "");
        }
        let now = view.now();
        assert_eq!((members(&now), now.rejected.len()), (format!("{expected}={expected}"), 0));
    }
}

#[test]
fn bad_data_costs_an_instance_where_a_service_says_so() {
    let mut view = at("/data/kv", NUMBERED, Reading { drop_bad: true, ..Reading::default() });
    view.says("1", "h:1");
    view.says("2", "h:2");
    view.says("primary", "2");
    assert_eq!(view.now().primary.as_deref(), Some("2"));
    view.says("2", "h:x");
    let now = view.now();
    assert_eq!((members(&now).as_str(), now.primary.as_deref()), ("1=h:1", None));
    assert_eq!(rejected(&now), ["2 bad_port"]);
    view.says("2", "h:3");
    assert_eq!(members(&view.now()), "1=h:1,2=h:3");
}

#[test]
fn spring_and_dubbo_registrations_of_one_application_do_not_mix() {
    let curator = |id: &str, class: &str| {
        format!(
            r#"{{"name":"app","id":"{id}","address":"h","port":1,"payload":{{"@class":"{class}","id":"{id}","name":"app",
            "metadata":{{"dubbo.metadata.revision":"1"}}}},"registrationTimeUTC":1,"serviceType":"DYNAMIC"}}"#
        )
    };
    let spring = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance";
    let dubbo = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance";
    let mut view = view();
    view.says("a", &curator("a", spring));
    view.says("b", &curator("b", spring));
    view.says("h:1", &curator("h:1", dubbo));
    view.says(
        "c",
        r#"{"name":"app","id":"c","address":"h","port":2,"payload":null,"serviceType":"DYNAMIC"}"#,
    );
    let now = view.now();
    assert_eq!(now.format, Some(FormatName::Spring));
    assert_eq!(members(&now), "a=h:1,b=h:1,c=h:2");
    assert!(now.rejected[0].detail.contains("looks like dubbo_app"), "{}", now.rejected[0]);
}

#[test]
fn instances_carry_what_the_registry_knows_of_their_nodes() {
    let mut view = view();
    let facts =
        NodeFacts { created_ms: Some(1_720_000_000_000), owner: Owner::Session(0x1234), limbo: false };
    view.put(None, "a", ONE, facts, b"h:1");
    assert_eq!(view.now().instances[0].facts, facts);
}
