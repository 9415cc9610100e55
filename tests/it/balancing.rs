//! Who gets a request: turns, weights, hashes, routes; and that the table follows the registry.

use std::collections::BTreeMap;

use crate::commands::text;
use crate::support::gateway::{Gateway, LOCAL, ORDERS, binary, wait_for};
use crate::support::http::{self, Client};
use crate::support::instance::Instance;
use crate::support::script::finish;

/// How often each instance answers `count` sequential requests.
fn shares(gateway: &Gateway, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = client.request("GET", path, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        *shares.entry(answer.body).or_default() += 1;
    }
    shares
}

#[test]
fn sequential_requests_give_each_equal_instance_its_exact_share() {
    let gateway = Gateway::start("round-robin", ORDERS);
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    for instance in &instances {
        gateway.register(&format!("orders/{}", instance.name), instance.address);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    let shares = shares(&gateway, "/", 100);
    assert_eq!(shares.len(), 3);
    assert!(shares.values().all(|n| (33..=34).contains(n)), "{shares:?}");
}

#[test]
fn weights_decide_the_shares_and_weight_0_gets_none() {
    let gateway = Gateway::start("weights", ORDERS);
    let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
    for (instance, weight) in instances.iter().zip([3, 1, 0]) {
        let payload = serde_json::json!({
            "host": "127.0.0.1", "port": instance.address.port(), "weight": weight
        });
        gateway.register(&format!("orders/{}", instance.name), payload);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    assert_eq!(shares(&gateway, "/", 40), BTreeMap::from([("a".into(), 30), ("b".into(), 10)]));
    let view = gateway.json("/api/services/orders");
    assert_eq!(view["instances"][2]["state"], "up", "weight 0 is up");
}

#[test]
fn the_table_follows_the_registry_to_the_last_child_and_back() {
    let gateway = Gateway::start("follow", ORDERS);
    gateway.ready();
    assert_eq!(
        gateway.get("/").header("x-zoogate-error"),
        Some("no_instances"),
        "before the directory exists"
    );
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a", a.address);
    gateway.register("orders/b", b.address);
    gateway.register("orders/bad", "127.0.0.1:808O");
    gateway.instances("orders", &["a", "b"]);
    let rejected = wait_for("the rejected node", || {
        let view = gateway.json("/api/services/orders");
        view["rejected"].as_array()?.first().cloned()
    });
    assert_eq!(rejected["node"], "bad");
    assert!(rejected["reason"].as_str().unwrap().starts_with("bad_port: "), "{rejected}");
    assert_eq!(gateway.metric("zoogate_rejected_nodes{service=\"orders\"}"), Some(1.0));

    gateway.withdraw("orders/a");
    gateway.instances("orders", &["b"]);
    let before = a.count();
    assert_eq!(shares(&gateway, "/", 10), BTreeMap::from([("b".into(), 10)]));
    assert_eq!(a.count(), before);

    gateway.withdraw("orders/bad");
    gateway.withdraw("orders/b");
    gateway.instances("orders", &[]);
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.header("x-zoogate-error")), (503, Some("no_instances")));

    std::fs::remove_dir(gateway.folder().join("services/orders")).unwrap();
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    assert_eq!(gateway.get("/").body, "a");
}

#[test]
fn a_disabled_instance_is_listed_and_gets_nothing() {
    let gateway = Gateway::start("disabled", ORDERS);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    for (instance, enabled) in [(&a, true), (&b, false)] {
        let payload = serde_json::json!({
            "host": "127.0.0.1", "port": instance.address.port(), "enabled": enabled
        });
        gateway.register(&format!("orders/{}", instance.name), payload);
    }
    gateway.state("orders", "b", "disabled");
    gateway.state("orders", "a", "up");
    assert_eq!(shares(&gateway, "/", 10), BTreeMap::from([("a".into(), 10)]));
    assert_eq!(b.count(), 0);
}

#[test]
fn data_that_turns_bad_keeps_its_last_good_value_and_is_rejected_too() {
    let gateway = Gateway::start("bad-data", ORDERS);
    let a = Instance::start("a");
    gateway.register("orders/a", a.address);
    gateway.instances("orders", &["a"]);
    std::fs::write(gateway.folder().join("services/orders/a"), "nonsense:port").unwrap();
    wait_for("the rejection", || {
        gateway.json("/api/services/orders")["rejected"]
            .as_array()?
            .iter()
            .find(|r| r["node"] == "a")
            .cloned()
    });
    let view = gateway.json("/api/services/orders");
    assert_eq!(view["instances"][0]["address"], a.address.to_string());
    assert_eq!(gateway.get("/").body, "a");
}

#[test]
fn two_nodes_of_one_address_are_two_instances_and_one_share() {
    let gateway = Gateway::start("twins", ORDERS);
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    gateway.register("orders/a1", a.address);
    gateway.register("orders/a2", a.address);
    gateway.register("orders/b", b.address);
    gateway.instances("orders", &["a1", "a2", "b"]);
    assert_eq!(shares(&gateway, "/", 20), BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
    gateway.withdraw("orders/a1");
    gateway.instances("orders", &["a2", "b"]);
    assert_eq!(shares(&gateway, "/", 20), BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
}

#[test]
fn a_hash_key_stays_with_the_instance_that_explain_names() {
    for policy in ["ring", "maglev"] {
        let config = format!(
            "{LOCAL}[services.users]\npath = \"/users\"\nbalance = {{ policy = \"{policy}\", key = \"header:x-user\" }}\n\
             [[routes]]\nservice = \"users\"\n"
        );
        let gateway = Gateway::start("hash", &config);
        let instances: Vec<_> = ["a", "b", "c"].into_iter().map(Instance::start).collect();
        for instance in &instances {
            gateway.register(&format!("users/{}", instance.name), instance.address);
        }
        gateway.instances("users", &["a", "b", "c"]);
        let address = gateway.listener("public");
        let config = gateway.config.to_str().unwrap();
        let mut met = BTreeMap::new();
        for user in 0..12 {
            let user = format!("user-{user}");
            let serving = http::get_with(address, "/x", &[("x-user", &user)]).body;
            for _ in 0..3 {
                assert_eq!(http::get_with(address, "/x", &[("x-user", &user)]).body, serving);
            }
            let told = gateway.json(&format!("/api/explain?method=GET&url=http://h/x&header=x-user:{user}"));
            assert_eq!((&told["key"], &told["instance"]), (&user.clone().into(), &serving.clone().into()));
            met.insert(serving, user);
        }
        assert!(met.len() > 1, "{policy}: everything went to {met:?}");
        let admin = gateway.admin.to_string();
        for (serving, user) in &met {
            let header = format!("x-user: {user}");
            let offline = ["explain", "--config", config, "GET", "http://h/x", "-H", &header];
            let live = [&offline[..], &["--admin", &admin]].concat();
            for arguments in [&offline[..], &live] {
                let told = text(&finish(binary().args(arguments)).stdout);
                let named = told.lines().find_map(|l| l.strip_prefix("instance  ")).map(str::trim);
                assert_eq!(named, Some(serving.as_str()), "{policy} {arguments:?}: {told}");
            }
        }
        let keyless = shares(&gateway, "/x", 60);
        assert!(keyless.len() > 1, "a request without key goes anywhere: {keyless:?}");
        assert_eq!(gateway.metric("zoogate_keyless_requests_total{service=\"users\"}"), Some(60.0));
    }
}

#[test]
fn a_catalogs_children_are_services_that_captures_name() {
    let config = format!(
        "{LOCAL}[catalogs.apps]\npath = \"/services\"\n[[routes]]\npath = \"/apps/{{service}}/*\"\n\
         service = \"apps/{{service}}\"\nrewrite = \"/*\"\n"
    );
    let gateway = Gateway::start("catalog", &config);
    let (orders, users) = (Instance::start("o"), Instance::start("u"));
    gateway.register("services/orders/o", orders.address);
    gateway.register("services/users/u", users.address);
    gateway.instances("apps/orders", &["o"]);
    gateway.instances("apps/users", &["u"]);
    assert_eq!(gateway.get("/apps/orders/deep/path?q=1").body, "o");
    assert_eq!(orders.last().line, "GET /deep/path?q=1 HTTP/1.1");
    assert_eq!(gateway.get("/apps/users").body, "u");
    assert_eq!(users.last().line, "GET / HTTP/1.1");
    for path in ["/apps/nobody/x", "/apps//x", "/apps/", "/other", "/apps/a%2Fb/x"] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.header("x-zoogate-error")), (404, Some("no_route")), "{path}");
    }
    gateway.withdraw("services/users/u");
    std::fs::remove_dir(gateway.folder().join("services/services/users")).unwrap();
    wait_for("the service to go", || (gateway.admin("/api/services/apps/users").status == 404).then_some(()));
    assert_eq!(gateway.get("/apps/users").status, 404);
    let names: Vec<_> = gateway.json("/api/services")["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["apps/orders"]);
}

#[test]
fn services_of_a_route_share_it_by_weight() {
    let config = format!(
        "{LOCAL}[services.old]\npath = \"/old\"\n[services.new]\npath = \"/new\"\n[[routes]]\n\
         services = [{{ name = \"old\", weight = 80 }}, {{ name = \"new\", weight = 20 }}]\n"
    );
    let gateway = Gateway::start("weighted", &config);
    let (old, new) = (Instance::start("old"), Instance::start("new"));
    gateway.register("old/o", old.address);
    gateway.register("new/n", new.address);
    gateway.instances("old", &["o"]);
    gateway.instances("new", &["n"]);
    let shares = shares(&gateway, "/", 1000);
    // Six standard deviations of a binomial share on either side of 200.
    assert!((124..=276).contains(&shares["new"]), "{shares:?}");
}

#[test]
fn the_most_specific_route_answers() {
    let names = [
        "exact", "prefix", "long", "capture", "literal", "post", "header", "query", "host", "wild",
        "longwild", "any",
    ];
    let mut config = LOCAL.to_owned();
    for name in names {
        config += &format!("[services.{name}]\npath = \"/{name}\"\n");
    }
    let routes = [
        ("any", "path = \"/*\""),
        ("prefix", "path = \"/a/*\""),
        ("long", "path = \"/a/b/*\""),
        ("exact", "path = \"/a/b\""),
        ("capture", "path = \"/c/{x}\""),
        ("literal", "path = \"/c/lit\""),
        ("post", "path = \"/a/*\"\nmethods = [\"POST\"]"),
        ("header", "path = \"/a/*\"\nheaders = { canary = \"1\" }"),
        ("query", "path = \"/a/*\"\nquery = { beta = \"1\" }"),
        ("wild", "host = \"*.example.com\"\npath = \"/*\""),
        ("longwild", "host = \"*.shop.example.com\"\npath = \"/*\""),
        ("host", "host = \"www.example.com\"\npath = \"/*\""),
    ];
    for (service, matches) in routes {
        config += &format!("[[routes]]\nname = \"{service}\"\n{matches}\nservice = \"{service}\"\n");
    }
    let gateway = Gateway::start("precedence", &config);
    let instances: Vec<_> = names.into_iter().map(Instance::start).collect();
    for instance in &instances {
        gateway.register(&format!("{0}/{0}", instance.name), instance.address);
    }
    for name in names {
        gateway.instances(name, &[name]);
    }
    let mut client = Client::connect(gateway.listener("public")).unwrap();
    #[expect(clippy::type_complexity, reason = "a table of cases")]
    let cases: [(&str, &str, &[(&str, &str)], &str); 17] = [
        ("GET", "/", &[], "any"),
        ("GET", "/a", &[], "prefix"),
        ("GET", "/a/", &[], "prefix"),
        ("GET", "/ax", &[], "any"),
        ("GET", "/a/b", &[], "exact"),
        ("GET", "/a/b/c", &[], "long"),
        ("GET", "/a/./x/../b/c", &[], "long"),
        ("GET", "/c/one", &[], "capture"),
        ("GET", "/c/lit", &[], "literal"),
        ("GET", "/c/", &[], "any"),
        ("POST", "/a/x", &[], "post"),
        ("POST", "/a/x", &[("canary", "1")], "post"),
        ("GET", "/a/x", &[("canary", "1")], "header"),
        ("GET", "/a/x?beta=1", &[], "query"),
        ("GET", "/a/b", &[("host", "WWW.Example.com:8080")], "host"),
        ("GET", "/a/b", &[("host", "x.y.example.com")], "wild"),
        ("GET", "/a/b", &[("host", "x.shop.example.com")], "longwild"),
    ];
    for (method, path, headers, wanted) in cases {
        let answer = client.request(method, path, headers, b"").unwrap();
        assert_eq!(answer.body, wanted, "{method} {path} {headers:?}");
    }
    let view = gateway.json("/api/routes");
    let order: Vec<_> =
        view["routes"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    let place = |name| order.iter().position(|n| *n == name).unwrap();
    let precedence =
        ["host", "longwild", "wild", "exact", "long", "post", "header", "query", "prefix", "any"];
    assert!(precedence.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{order:?}");
    assert!(place("literal") < place("capture"), "{order:?}");
}
