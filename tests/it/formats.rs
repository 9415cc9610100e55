//! What frameworks leave in a registry, as the commands and the gateway show it.

use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::commands::text;
use crate::support::gateway::{Gateway, Scratch, binary, wait_for};
use crate::support::http;
use crate::support::instance::Instance;
use crate::support::script::finish;
use crate::support::zk::{self, EPHEMERAL, OPEN};

const LISTENER: &str = "[[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n";

/// A Dubbo provider's URL as a node's name.
const DUBBO: &str =
    "tri%3A%2F%2F192.0.2.71%3A50052%2Forg.example.Demo%3Fgroup%3Dblue%26version%3D1.2.0%26weight%3D250";

async fn folders(client: &Client, path: &str) {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    for end in ends {
        // A folder that is there already will do.
        let _ = client.create(&path[..end], b"", &OPEN).await;
    }
}

async fn ephemeral(client: &Client, path: &str, data: &str) {
    client.create(path, data.as_bytes(), &EPHEMERAL).await.unwrap();
}

async fn persistent(client: &Client, path: &str, data: &str) {
    client.create(path, data.as_bytes(), &OPEN).await.unwrap();
}

fn config(scratch: &Scratch, registry: &str, rest: &str) -> String {
    let file = scratch.write("zoogate.toml", &format!("[registries.main]\n{registry}\n{LISTENER}{rest}"));
    file.to_str().unwrap().to_owned()
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = finish(binary().args(arguments));
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn curator(id: &str, port: u16, kind: &str) -> String {
    format!(
        r#"{{"name":"orders","id":"{id}","address":"192.0.2.10","port":{port},"sslPort":null,"payload":null,"registrationTimeUTC":1,"serviceType":"{kind}","uriSpec":null}}"#
    )
}

#[tokio::test]
async fn services_tells_format_age_owner_and_primary_of_what_is_registered_in_zookeeper() {
    let connect = zk::chroot("formats-services").await;
    let client = zk::client(&connect).await;
    for folder in ["/services/orders", "/dubbo/org.example.Demo/providers", "/data/kv"] {
        folders(&client, folder).await;
    }
    ephemeral(&client, "/services/orders/o-1", &curator("o-1", 8080, "DYNAMIC")).await;
    persistent(&client, "/services/orders/o-2", &curator("o-2", 8081, "STATIC")).await;
    persistent(&client, "/services/orders/o-3", &curator("o-3", 0, "DYNAMIC")).await;
    ephemeral(&client, &format!("/dubbo/org.example.Demo/providers/{DUBBO}"), "192.0.2.71").await;
    ephemeral(&client, "/data/kv/1", "192.0.2.1").await;
    ephemeral(&client, "/data/kv/2", "192.0.2.2:7000").await;
    persistent(&client, "/data/kv/primary", "2").await;
    persistent(&client, "/data/kv/top", "3").await;
    let scratch = Scratch::new("formats-services");
    let file = config(
        &scratch,
        &format!("kind = \"zookeeper\"\nconnect = \"{connect}\""),
        "[services.orders]\npath = \"/services/orders\"\n\
         [services.demo]\npath = \"/dubbo/org.example.Demo/providers\"\nfilter = { group = \"blue\" }\n\
         [services.other]\npath = \"/dubbo/org.example.Demo/providers\"\nfilter = { group = \"green\" }\n\
         [services.kv]\npath = \"/data/kv\"\nformat = \"numbered\"\ndefault_port = 7999\n",
    );
    let session = format!("{:#x}", client.session_id().0);
    let (json, table) = tokio::task::spawn_blocking(move || {
        let (code, json, errors) = run(&["services", "--config", &file, "--json"]);
        assert_eq!(code, Some(0), "{errors}");
        (json, run(&["services", "--config", &file]).1)
    })
    .await
    .unwrap();

    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let service = |name: &str| {
        json["services"].as_array().unwrap().iter().find(|service| service["name"] == name).unwrap().clone()
    };
    let (orders, demo, kv) = (service("orders"), service("demo"), service("kv"));
    assert_eq!(orders["format"], "curator");
    assert_eq!(orders["instances"][0]["owner"], *session);
    assert_eq!(orders["instances"][1]["owner"], "persistent");
    assert!(orders["instances"][0]["created_ms"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(orders["rejected"][0]["reason"].as_str().unwrap().starts_with("bad_port: "));
    assert_eq!((&demo["format"], &demo["instances"][0]["id"]), (&"dubbo".into(), &"192.0.2.71:50052".into()));
    assert_eq!(demo["instances"][0]["weight"], 250.0);
    assert_eq!(
        (service("other")["instances"].as_array().unwrap().len(), &service("other")["rejected"]),
        (0, &serde_json::json!([]))
    );
    assert_eq!((&kv["primary"], &kv["rejected"]), (&"2".into(), &serde_json::json!([])));
    let roles: Vec<_> =
        kv["instances"].as_array().unwrap().iter().map(|i| i["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["replica", "primary"]);
    assert_eq!(kv["instances"][0]["address"], "192.0.2.1:7999");

    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0],
        ["SERVICE", "NODE", "FORMAT", "ADDRESS", "WEIGHT", "STATE", "ZONE", "AGE", "OWNER", "REASON"]
    );
    let row =
        |node: &str| rows.iter().find(|row| row[1] == node).unwrap_or_else(|| panic!("{node} in {table}"));
    assert_eq!(row("o-1")[..7], ["orders", "o-1", "curator", "192.0.2.10:8080", "1", "up", "-"]);
    assert_eq!(row("o-1")[8], session);
    assert!(row("o-1")[7].ends_with('s'), "{table}");
    assert_eq!(row("o-2")[8], "persistent");
    assert_eq!((row("o-3")[5], row("o-3")[9]), ("rejected", "bad_port:"));
    assert_eq!(rows.iter().find(|row| row[0] == "other").unwrap()[5], "empty");
}

#[tokio::test]
async fn a_live_check_names_everything_that_is_wrong_one_finding_a_line() {
    let connect = zk::chroot("formats-check").await;
    let client = zk::client(&connect).await;
    for folder in ["/orders", "/empty", "/static", "/tls"] {
        folders(&client, folder).await;
    }
    ephemeral(&client, "/orders/a", "192.0.2.1:80").await;
    ephemeral(&client, "/orders/b", "192.0.2.1:80").await;
    persistent(&client, "/orders/c", "192.0.2.3:80").await;
    ephemeral(&client, "/orders/d", "192.0.2.4:808O").await;
    persistent(&client, "/static/o-2", &curator("o-2", 8081, "STATIC")).await;
    ephemeral(&client, "/tls/t", "https://192.0.2.9:8443").await;
    let nobody = AuthId::new("digest", "nobody:AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let closed = [Acl::new(Permission::ALL, nobody)];
    let shut = CreateMode::Persistent.with_acls(Acls::new(&closed));
    client.create("/shut", b"", &shut).await.unwrap();
    client.create("/orders/e", b"192.0.2.5:80", &shut).await.unwrap();
    let scratch = Scratch::new("formats-check");
    let services = ["orders", "empty", "shut", "static", "tls"];
    let services: String = services.map(|name| format!("[services.{name}]\npath = \"/{name}\"\n")).concat();
    let registry = format!("kind = \"zookeeper\"\nconnect = \"{connect}\"");
    let file = config(&scratch, &registry, &format!("{services}[catalogs.none]\npath = \"/none\"\n"));
    let sound = Scratch::new("formats-check-sound");
    let sound = config(
        &sound,
        &registry,
        "[services.static]\npath = \"/static\"\n[services.tls]\npath = \"/tls\"\nprotocol = \"tcp\"\n",
    );
    let (found, fine, file_only) = tokio::task::spawn_blocking(move || {
        (
            run(&["check", "--live", "--config", &file]),
            run(&["check", "--live", "--config", &sound]),
            run(&["check", "--config", &file]),
        )
    })
    .await
    .unwrap();

    let (code, notes, problems) = found;
    assert_eq!(code, Some(1), "{problems}");
    let begin: Vec<String> =
        problems.lines().map(|line| line.split(": ").take(3).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        begin,
        [
            "empty: /empty: empty",
            "none: /none: empty",
            "orders: /orders/b: duplicate",
            "orders: /orders/c: persistent",
            "orders: /orders/d: bad_port",
            "orders: /orders/e: forbidden",
            "shut: /shut: forbidden",
        ],
        "{problems}"
    );
    assert!(problems.lines().last().unwrap().contains("ACL"), "{problems}");
    let notes: Vec<&str> = notes.lines().map(|line| line.split(": ").nth(2).unwrap()).collect();
    assert_eq!(notes, ["static", "tls"]);

    let (code, told, problems) = fine;
    assert_eq!((code, problems.as_str()), (Some(0), ""));
    assert!(told.starts_with("static: /static/o-2: static: "), "{told}");
    assert!(told.lines().last().unwrap().ends_with("; live: 2 services, 2 instances"), "{told}");
    assert_eq!(
        (file_only.0, file_only.1.lines().count()),
        (Some(0), 1),
        "without --live no registry is asked"
    );
}

#[test]
fn a_live_check_of_a_directory_is_sound_until_a_file_is_not() {
    let scratch = Scratch::new("formats-directory");
    let root = format!("kind = \"directory\"\npath = {:?}", scratch.path().join("tree"));
    let file = config(&scratch, &root, "[services.orders]\npath = \"/orders\"\n");
    scratch.write("tree/orders/a", "192.0.2.1:80");
    let (code, told, problems) = run(&["check", "--live", "--config", &file]);
    assert_eq!((code, problems.as_str()), (Some(0), ""), "a directory's files are no leftovers");
    assert!(told.ends_with("; live: 1 service, 1 instance\n"), "{told}");
    scratch.write("tree/orders/b", "{");
    let (code, told, problems) = run(&["check", "--live", "--config", &file]);
    assert_eq!((code, told.as_str()), (Some(1), ""));
    assert!(problems.starts_with("orders: /orders/b: ") && problems.lines().count() == 1, "{problems}");
}

#[test]
fn one_folder_feeds_two_services_by_what_their_instances_say_of_themselves() {
    let (blue, green) = (Instance::start("blue"), Instance::start("green"));
    let service = |name: &str| {
        format!(
            "[services.{name}]\npath = \"/services/orders\"\nfilter = {{ group = \"{name}\" }}\n\
             [[routes]]\npath = \"/{name}\"\nservice = \"{name}\"\n"
        )
    };
    let scratch = Scratch::new("formats-filter");
    for instance in [&blue, &green] {
        let (name, address) = (&instance.name, instance.address);
        let data = format!(
            r#"{{"host":"{}","port":{},"metadata":{{"group":"{name}"}}}}"#,
            address.ip(),
            address.port()
        );
        scratch.write(&format!("services/orders/{name}"), &data);
    }
    let registry = format!("[registries.main]\nkind = \"directory\"\npath = {:?}\n", scratch.path());
    let gateway = Gateway::start(
        "formats-filter",
        &format!("{registry}{}{}{LISTENER}", service("blue"), service("green")),
    );
    gateway.instances("blue", &["blue"]);
    gateway.instances("green", &["green"]);
    let listener = gateway.listener("public");
    for _ in 0..4 {
        assert_eq!(http::get(listener, "/blue").body, "blue");
        assert_eq!(http::get(listener, "/green").body, "green");
    }
    // An instance that changes its group changes its service.
    scratch.write(
        "services/orders/green",
        &format!(
            r#"{{"host":"{}","port":{},"metadata":{{"group":"blue"}}}}"#,
            green.address.ip(),
            green.address.port()
        ),
    );
    gateway.instances("blue", &["blue", "green"]);
    wait_for("the other service to be without instances", || {
        (http::get(listener, "/green").status == 503).then_some(())
    });
}
