//! The whole file: every kind of error as users read it, and the schema against code, examples and docs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

use super::plan::{
    AccessLog, CatalogPlan, CheckKind, CheckPlan, Credential, GatewayPlan, HealthCheck, Limits, ListenerKind,
    LogPlan, RegistryKind, RegistryPlan, Rewrite, RoutePlan, ServiceDefaults, ServiceRef, ShardPlan,
    VanishGuard, ZonePreference,
};
use super::schema::{Fallback, SECTIONS};
use super::{ConfigErrors, Plan, load, parse};
use crate::model::{
    BalancePolicy, BalanceSpec, FormatChoice, FormatName, HashKey, InstanceChoice, PrimaryRule, Protocol,
    Reading, RetrySpec, ServiceName, TlsChoice,
};

const EXAMPLE: &str = include_str!("../../../config/zoogate.toml");
const MINIMAL: &str = include_str!("../../../config/minimal.toml");
const REFERENCE: &str = include_str!("../../../docs/configuration.md");
const ERRORS: &str = include_str!("errors.txt");

/// What the snippets stand on.
const BASE: &str = "[registries.main]\nkind = \"zookeeper\"\nconnect = \"zk1\"\n\
                    [services.orders]\nregistry = \"main\"\npath = \"/orders\"\n\
                    [services.db]\nregistry = \"main\"\npath = \"/db\"\nprotocol = \"tcp\"\n\
                    [catalogs.apps]\nregistry = \"main\"\npath = \"/\"\n\
                    [[listeners]]\nlisten = \"0.0.0.0:80\"\n";

fn env(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("zk9".to_owned()),
        "SECRET" => Some("u:hunter2".to_owned()),
        "QUOTED" => Some("x\" = 1\n[log]".to_owned()),
        _ => None,
    }
}

fn parse_text(text: &str) -> Result<Plan, ConfigErrors> {
    parse(text, Path::new("/etc/zoogate"), env, "f")
}

/// The plan of a snippet behind the base.
fn plan_of(snippet: &str) -> Plan {
    parse_text(&format!("{BASE}{snippet}")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors of a snippet behind the base, its own lines counted from 1.
fn errors_of(snippet: &str) -> Vec<String> {
    let above = BASE.matches('\n').count();
    let errors = parse_text(&format!("{BASE}{snippet}")).err().map(|e| e.errors).unwrap_or_default();
    let show = |e: super::ConfigError| format!("{}:{}: {}: {}", e.line - above, e.col, e.key, e.message);
    errors.into_iter().map(show).collect()
}

#[test]
fn every_error_is_told_where_it_stands() {
    let mut cases = 0;
    for case in ERRORS.split("\n\n").skip(1).filter(|case| !case.trim().is_empty()) {
        let (snippet, errors) = case.split_once("\n=> ").expect("a snippet and its errors");
        let expected: Vec<&str> = errors.trim_end().split("\n=> ").collect();
        assert_eq!(errors_of(snippet), expected, "{snippet}");
        cases += 1;
    }
    assert!(cases > 100, "only {cases} cases were read");
}

#[test]
fn no_error_holds_a_secret() {
    for case in ERRORS.split("\n\n").filter(|case| case.contains("hunter2") || case.contains("SECRET")) {
        let errors = case.split_once("\n=> ").map_or("", |(_, errors)| errors);
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    let auth = "auth = [{ scheme = \"digest\", credentials = \"${SECRET}\" }]";
    let plan = parse_text(&BASE.replace("connect = \"zk1\"", &format!("connect = \"zk1\"\n{auth}"))).unwrap();
    assert!(!format!("{plan:?}").contains("hunter2"));
    let RegistryKind::ZooKeeper { auth, .. } = &plan.registries[0].kind else { panic!("{plan:?}") };
    assert_eq!(*auth, [Credential { scheme: "digest".to_owned(), secret: "u:hunter2".to_owned() }]);
}

#[test]
fn all_errors_of_a_file_come_at_once_and_in_its_order() {
    let text = "[gateway]\nworkers = many\ndrain_delay = 3\n[services.a]\nregistry = \"x\"\nfromat = \"plain\"\n\
                [services.a]\n[[routes]]\npath = \"a\"\nservice = \"b\"\n";
    let errors = parse_text(text).unwrap_err();
    let places: Vec<(usize, usize, &str)> =
        errors.errors.iter().map(|e| (e.line, e.col, e.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, 1, "listeners"),
            (2, 11, "gateway.workers"),
            (3, 15, "gateway.drain_delay"),
            (5, 12, "services.a.registry"),
            (6, 1, "services.a.fromat"),
            (7, 1, "services.a.path"),
            (7, 11, "services.a"),
            (9, 8, "routes[0].path"),
            (10, 11, "routes[0].service"),
        ],
        "{errors}"
    );
    assert_eq!(errors.to_string().lines().count(), places.len());
}

#[test]
fn a_file_that_cannot_be_read_is_one_honest_error() {
    let folder = std::env::temp_dir().join(format!("zoogate-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = load(&folder.join("none.toml")).unwrap_err();
    assert!(missing.to_string().contains("none.toml:1:1: file: cannot be read: No such file"), "{missing}");
    let file = folder.join("latin1.toml");
    std::fs::write(&file, b"[log]\nlevel = \"\xe9\"\n").unwrap();
    let latin1 = load(&file).unwrap_err();
    assert!(
        latin1.to_string().ends_with(
            "latin1.toml:2:10: file: this is no UTF-8; accepted: a TOML file, which is UTF-8 text"
        ),
        "{latin1}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_left_out_has_its_default() {
    let plan = plan_of("[[routes]]\nservice = \"orders\"\n");
    assert_eq!(plan.gateway, GatewayPlan::default());
    assert_eq!(plan.log, LogPlan::default());
    assert_eq!(plan.limits, Limits::default());
    assert_eq!(plan.admin.listen.to_string(), "127.0.0.1:9901");
    assert_eq!(plan.registries[0].deny, RegistryPlan::default_deny());
    assert_eq!(plan.services[1].defaults, ServiceDefaults::default());
    assert_eq!(plan.listeners[0].name.as_ref(), "0.0.0.0:80");
    assert_eq!(plan.listeners[0].kind, ListenerKind::Http);
    let route = &plan.routes[0];
    assert_eq!((route.name.as_ref(), route.timeout), ("/*", Some(RoutePlan::DEFAULT_TIMEOUT)));
    assert_eq!((&route.host, &route.rewrite, route.services[0].weight), (&None, &None, 1));
}

/// Every default that the schema tells, written out, gives what leaving it out gives.
#[test]
fn the_defaults_of_the_schema_are_those_of_the_code() {
    let sections = |path: &str| {
        let section = SECTIONS.iter().find(|s| s.path == path.split('.').collect::<Vec<_>>()).unwrap();
        section.keys.iter().filter_map(|key| match key.fallback {
            Fallback::Value(value) => Some(format!("{} = {value}", key.name)),
            Fallback::Required | Fallback::Words(_) => None,
        })
    };
    let section = |path: &str| sections(path).map(|line| line + "\n").collect::<String>();
    let inline = |path: &str| sections(path).collect::<Vec<_>>();
    let ring = |keys: &str| format!("{{ policy = \"ring\", key = \"host\"{keys} }}");
    let nodes = &inline("services.*.balance")[0];
    let weight = &inline("routes.*.services.*")[0];
    let text = |full: bool| {
        let all = |path: &str| if full { section(path) } else { String::new() };
        let (nodes, weight) =
            if full { (format!(", {nodes}"), format!(", {weight}")) } else { Default::default() };
        format!(
            "[gateway]\n{}[log]\n{}[admin]\n{}[limits]\n{}[registries.a]\nkind = \"zookeeper\"\nconnect = \"a\"\n{}\
             [services.a]\npath = \"/a\"\n{}[services.b]\npath = \"/b\"\nbalance = {}\n[catalogs.c]\npath = \"/c\"\n{}\
             [[listeners]]\nlisten = \"0.0.0.0:80\"\n{}[[routes]]\nservices = [{{ name = \"a\"{weight} }}]\n{}",
            all("gateway"),
            all("log"),
            all("admin"),
            all("limits"),
            all("registries.*"),
            all("services.*"),
            ring(&nodes),
            all("catalogs.*"),
            all("listeners.*"),
            all("routes.*"),
        )
    };
    let full = parse_text(&text(true)).unwrap_or_else(|errors| panic!("{errors}\n{}", text(true)));
    assert_eq!(full, parse_text(&text(false)).unwrap());
    assert_eq!(inline("services.*.balance")[1], "table_size = 65537");
    let maglev = plan_of(
        "[services.m]\nregistry = \"main\"\npath = \"/m\"\nbalance = { policy = \"maglev\", key = \"host\" }\n",
    );
    assert_eq!(maglev.services[1].defaults.balance.policy, BalancePolicy::Maglev { table_size: 65_537 });
}

#[test]
fn values_reach_the_plan() {
    let plan = plan_of(
        r#"
[gateway]
access_log = "log/access.json"
zone = "eu-1"
[log]
level = "debug"
format = "json"
[limits]
max_body = "1MiB"
[registries.files]
kind = "directory"
path = "tree"
deny = ["127.0.0.1", "fe80::/10"]
[services.users]
registry = "files"
path = "/users"
format = "json"
protocol = "h2"
balance = { policy = "ring", key = "header:X-User-Id", virtual_nodes = 10, load_bound = 1.5 }
connect_timeout = "250ms"
dns_ttl = "0s"
zone = { spill_below = 0.25 }
slow_start = "30s"
retry_budget = 0.5
vanish_guard = { share = 0.25, hold = "1m" }
ejection = { failures = 3, statuses = [500], max_ejected = 0.25, panic_threshold = 0 }
drain_timeout = "5s"
rehome = true
rehome_window = "10s"
health_check = { kind = "http", path = "/healthz", statuses = [204], interval = "2s", port = 81 }
[[listeners]]
name = "db"
listen = "[::1]:0"
protocol = "tcp"
service = "db"
trusted = ["10.0.0.1"]
[[routes]]
host = "*.Example.com"
path = "/apps/{app}/*"
methods = ["GET", "PUT"]
headers = { X-Canary = "true" }
query = { beta = "1" }
service = "apps/{app}"
timeout = "0s"
rewrite = "/*"
[[routes]]
host = "*.Example.com"
path = "/apps/{app}/*"
methods = ["GET", "PUT"]
headers = { X-Canary = "true" }
query = { beta = "1" }
services = [{ name = "users", weight = 9 }, { name = "apps/shop" }]
rewrite = "/x"
"#,
    );
    assert_eq!(plan.gateway.access_log, AccessLog::File(PathBuf::from("/etc/zoogate/log/access.json")));
    assert_eq!((plan.log.json, plan.limits.max_body), (true, Some(1 << 20)));
    assert_eq!(plan.registries[0].kind, RegistryKind::Directory { path: "/etc/zoogate/tree".into() });
    assert_eq!(
        plan.registries[0].deny.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["127.0.0.1/32", "fe80::/10"]
    );
    let users = &plan.services[2];
    assert_eq!(users.registry.as_str(), "files");
    assert_eq!(
        users.defaults,
        ServiceDefaults {
            format: FormatChoice::Fixed(FormatName::Json),
            reading: std::sync::Arc::default(),
            protocol: Protocol::H2,
            balance: BalanceSpec {
                policy: BalancePolicy::Ring { virtual_nodes: 10 },
                key: Some(HashKey::Header("x-user-id".into())),
                load_bound: Some(1.5),
            },
            connect_timeout: Duration::from_millis(250),
            dns_ttl: Duration::ZERO,
            primary: PrimaryRule::Registered,
            zone: Some(ZonePreference { prefer: "eu-1".into(), spill_below: 0.25 }),
            slow_start: Some(Duration::from_secs(30)),
            retry_budget: 0.5,
            load: None,
            vanish_guard: Some(VanishGuard {
                share: 0.25,
                window: Duration::from_secs(10),
                hold: Duration::from_secs(60),
            }),
            ejection: Some(std::sync::Arc::new(crate::config::plan::EjectionPlan {
                failures: 3,
                statuses: Box::new([http::StatusCode::INTERNAL_SERVER_ERROR]),
                max_ejected: 0.25,
                panic_threshold: 0.0,
            })),
            drain_timeout: Some(Duration::from_secs(5)),
            rehome: Some(Duration::from_secs(10)),
            health_check: HealthCheck::All(std::sync::Arc::new(CheckPlan {
                kind: CheckKind::Http {
                    path: "/healthz".into(),
                    host: None,
                    statuses: Box::new([http::StatusCode::NO_CONTENT]),
                },
                port: Some(81),
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                unhealthy: 2,
                healthy: 1,
            })),
        }
    );
    let CatalogPlan { name, path, .. } = &plan.catalogs[0];
    assert_eq!((name.as_str(), path.to_string().as_str()), ("apps", "/"));
    assert_eq!(plan.listeners[1].kind, ListenerKind::Tcp { service: ServiceName::new("db").unwrap() });
    assert_eq!(plan.listeners[1].trusted[0].to_string(), "10.0.0.1/32");
    let [first, second] = &plan.routes[..] else { panic!("{:?}", plan.routes) };
    assert_eq!(first.name.as_ref(), "GET,PUT *.example.com/apps/{app}/*?beta=1 x-canary=true");
    assert_eq!(second.name.as_ref(), "GET,PUT *.example.com/apps/{app}/*?beta=1 x-canary=true #2");
    assert_eq!(first.methods, [Method::GET, Method::PUT]);
    assert_eq!(first.headers, [(HeaderName::from_static("x-canary"), HeaderValue::from_static("true"))]);
    assert_eq!((first.timeout, &first.rewrite), (None, &Some(Rewrite::Prefix("".into()))));
    let catalog = ServiceName::new("apps").unwrap();
    assert_eq!(first.services[0].service, ServiceRef::Captured { catalog, capture: "app".into() });
    let shop = ServiceName::in_catalog("apps", "shop").unwrap();
    assert_eq!((&second.services[1].service, second.services[1].weight), (&ServiceRef::Named(shop), 1));
    assert_eq!(second.rewrite, Some(Rewrite::Exact("/x".into())));
}

#[test]
fn how_nodes_are_read_is_part_of_the_plan() {
    let plan = plan_of(
        "[services.read]\npath = \"/r\"\ndefault_port = 8080\nendpoint = \"http\"\nscheme = \"grpc\"\ntls = \"never\"\n\
         filter = { version = \"2.1\", group = \"\" }\nkeep_last_good = false\n",
    );
    let read = plan.services.iter().find(|service| service.name.as_str() == "read").unwrap();
    let filter = [("version", "2.1"), ("group", "")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(
        *read.defaults.reading,
        Reading {
            default_port: Some(8080),
            endpoint: Some("http".into()),
            scheme: Some("grpc".into()),
            tls: TlsChoice::Never,
            filter: filter.into(),
            drop_bad: true,
        }
    );
}

#[test]
fn roles_shards_elections_and_captured_hosts_reach_the_plan() {
    let plan = plan_of(
        r#"
[services.a]
registry = "main"
path = "/a"
primary = "lowest_sequence"
zone = "eu-2"
slow_start = "0s"
[services.b]
registry = "main"
path = "/b"
primary = { election = "/election/b" }
[catalogs.dubbo]
registry = "main"
path = "/dubbo/*/providers"
[[routes]]
path = "/data/{key}/*"
shard = { catalog = "apps", key = "path:key" }
instances = "primary"
primary_wait = "2s"
[[routes]]
host = "{Service}.Internal"
service = "dubbo/{Service}"
instances = "replicas"
"#,
    );
    let [a, b] = &plan.services[..2] else { panic!("{plan:?}") };
    assert_eq!(
        (&a.defaults.primary, a.defaults.slow_start),
        (&PrimaryRule::LowestSequence, Some(Duration::ZERO))
    );
    assert_eq!(a.defaults.zone, Some(ZonePreference { prefer: "eu-2".into(), spill_below: 0.5 }));
    assert_eq!(b.defaults.primary, PrimaryRule::Election("/election/b".into()));
    assert_eq!(plan.catalogs[1].path.root(), "/dubbo");
    let [shard, host] = &plan.routes[..] else { panic!("{plan:?}") };
    let catalog = ServiceName::new("apps").unwrap();
    let key = HashKey::PathCapture("key".into());
    assert_eq!(shard.shard, Some(ShardPlan { catalog, key, virtual_nodes: 160 }));
    assert_eq!((shard.instances, shard.primary_wait), (InstanceChoice::Primary, Duration::from_secs(2)));
    assert!(shard.services.is_empty());
    assert_eq!(&*host.name, "{Service}.internal/*");
    let catalog = ServiceName::new("dubbo").unwrap();
    assert_eq!(host.services[0].service, ServiceRef::Captured { catalog, capture: "Service".into() });
}

#[test]
fn a_route_says_what_goes_out_again() {
    let plan = plan_of(
        r#"
[[routes]]
service = "orders"
[[routes]]
path = "/off/*"
service = "orders"
retry = "off"
[[routes]]
path = "/own/*"
service = "orders"
retry = { attempts = 1, statuses = [429], methods = ["POST"], per_try_timeout = "2s", buffer = "1MiB" }
hedge = "200ms"
"#,
    );
    let [default, off, own] = &plan.routes[..] else { panic!("{plan:?}") };
    assert_eq!((default.retry, default.hedge), (RetrySpec::default(), None));
    let RetrySpec { attempts, statuses, methods, per_try_timeout, buffer } = default.retry;
    assert_eq!((attempts, per_try_timeout, buffer), (2, None, 64 << 10));
    assert_eq!(statuses.codes().collect::<Vec<_>>(), [502, 503, 504]);
    assert_eq!(methods.names().collect::<Vec<_>>(), ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
    assert_eq!(off.retry, RetrySpec::OFF);
    let RetrySpec { attempts, statuses, methods, per_try_timeout, buffer } = own.retry;
    assert_eq!((attempts, per_try_timeout, buffer), (1, Some(Duration::from_secs(2)), 1 << 20));
    assert_eq!((statuses.codes().collect(), methods.names().collect()), (vec![429], vec!["POST"]));
    assert_eq!(own.hedge, Some(Duration::from_millis(200)));
}

#[test]
fn the_environment_fills_strings_but_no_toml() {
    let text = BASE.replace("zk1", "${HOST}:2182,${NONE:-zk2}/$${x}");
    let plan = parse_text(&text.replace("/$${x}", "")).unwrap();
    let RegistryKind::ZooKeeper { connect, .. } = &plan.registries[0].kind else { panic!("{plan:?}") };
    assert_eq!(connect, "zk9:2182,zk2:2181");
    let quoted = plan_of("[gateway]\naccess_log = \"/${QUOTED}\"\n");
    assert_eq!(quoted.gateway.access_log, AccessLog::File(PathBuf::from("/x\" = 1\n[log]")));
    assert!(parse_text(&format!("# ${{NONE}}\n{BASE}")).is_ok(), "comments are not looked at");
}

/// The example with its commented-out keys ("#key", without a space) put in force.
fn uncommented() -> String {
    let strip = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| strip(line) + "\n").collect()
}

/// Every key that stands below a path, `*` being any name or element.
fn keys_below(value: &DeValue<'_>, path: &[&str], found: &mut BTreeSet<String>) {
    match (value, path) {
        (DeValue::Table(table), []) => found.extend(table.keys().map(|key| key.get_ref().to_string())),
        (DeValue::Table(table), [name, rest @ ..]) => {
            let matching = table.iter().filter(|(key, _)| *name == "*" || key.get_ref() == name);
            matching.for_each(|(_, value)| keys_below(value.get_ref(), rest, found));
        }
        (DeValue::Array(array), ["*", rest @ ..]) => {
            array.iter().for_each(|value| keys_below(value.get_ref(), rest, found));
        }
        _ => {}
    }
}

#[test]
fn the_example_shows_every_key_there_is() {
    let text = uncommented();
    parse_text(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let tree = DeValue::Table(DeTable::parse(&text).unwrap().into_inner());
    for section in SECTIONS {
        let mut found = BTreeSet::new();
        keys_below(&tree, section.path, &mut found);
        let known: BTreeSet<String> = section.keys.iter().map(|key| key.name.to_owned()).collect();
        assert_eq!(found, known, "{}", section.heading);
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let plan = parse(EXAMPLE, Path::new(""), |_| None, "f").unwrap_or_else(|errors| panic!("{errors}"));
    let default = Plan::default();
    assert_eq!(
        (&plan.gateway, &plan.log, &plan.admin, &plan.limits),
        (&default.gateway, &default.log, &default.admin, &default.limits)
    );
    assert_eq!(plan.registries[0].deny, RegistryPlan::default_deny());
    let orders = plan.services.iter().find(|service| service.name.as_str() == "orders").unwrap();
    assert_eq!(orders.defaults, ServiceDefaults::default());
    let read = plan.routes.iter().find(|route| &*route.name == "orders-read").unwrap();
    assert_eq!((read.timeout, read.retry), (Some(RoutePlan::DEFAULT_TIMEOUT), RetrySpec::default()));
    let tree = DeValue::Table(DeTable::parse(EXAMPLE).unwrap().into_inner());
    for section in SECTIONS.iter().filter(|section| matches!(section.path, [_])) {
        let mut shown = BTreeSet::new();
        keys_below(&tree, section.path, &mut shown);
        let with_default = section.keys.iter().filter(|key| matches!(key.fallback, Fallback::Value(_)));
        assert!(with_default.into_iter().all(|key| shown.contains(key.name)), "{}", section.heading);
    }
}

#[test]
fn the_minimal_file_is_ten_lines_and_sound() {
    assert_eq!(MINIMAL.lines().count(), 10);
    let plan = parse(MINIMAL, Path::new(""), |_| None, "f").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((plan.services.len(), plan.listeners.len(), plan.routes.len()), (1, 1, 1));
}

#[test]
fn the_reference_tells_every_key_with_its_default() {
    for section in SECTIONS.iter().filter(|section| !section.path.is_empty()) {
        let heading = format!("# `{}`\n", section.heading);
        let (_, text) = REFERENCE.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading}"));
        let text = text.split("\n#").next().unwrap_or(text);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        for key in section.keys {
            let default = match key.fallback {
                Fallback::Required => "required".to_owned(),
                Fallback::Value(value) => format!("`{value}`"),
                Fallback::Words(words) => words.to_owned(),
            };
            let row = format!("| `{}` | {} | {default} | ", key.name, key.kind);
            assert!(rows.iter().any(|line| line.starts_with(&row)), "{}: no row {row:?}", section.heading);
        }
        let policies = if section.heading.starts_with("balance") { 6 } else { 0 };
        assert_eq!(rows.len(), section.keys.len() + policies, "{}: a row too many", section.heading);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse_text(&text);
    }

    /// Broken from a sound file: what is cut, doubled or overwritten gives a plan or errors inside the text.
    #[test]
    fn no_broken_file_panics(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, "[\\[\\]{}=\"'#,.\n a$é-]{0,4}"), 1..6),
    ) {
        let mut chars: Vec<char> = uncommented().chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(chars.len() + 1);
            chars.splice(at..(at + length).min(chars.len()), put.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse_text(&text) {
            prop_assert!(!errors.errors.is_empty());
            for error in &errors.errors {
                prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "{errors}");
                prop_assert!(!error.key.is_empty() && !error.message.is_empty());
            }
            prop_assert_eq!(errors.to_string().lines().count(), errors.errors.len());
        }
    }
}
