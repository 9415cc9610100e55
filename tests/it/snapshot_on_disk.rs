//! The last known members on disk: written, used at a start without the registry, refused when damaged.

use std::path::Path;
use std::time::{Duration, Instant};

use zookeeper_client::Client;

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;
use crate::support::zk::{self, OPEN, Standalone};

const FILE: &str = "state/main.json";

/// A service and a catalog of an ensemble, with a snapshot beside the configuration.
fn config(connect: &str) -> String {
    format!(
        "[gateway]\nworkers = 1\ndrain_timeout = \"1s\"\n\
         [registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\nsession_timeout = \"4s\"\nsnapshot = \"{FILE}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [services.orders]\npath = \"/orders\"\n\
         [catalogs.apps]\npath = \"/apps\"\n\
         [[routes]]\npath = \"/apps/{{app}}/*\"\nservice = \"apps/{{app}}\"\n\
         [[routes]]\npath = \"/*\"\nservice = \"orders\"\n"
    )
}

fn folder(root: &Path) {
    std::fs::create_dir_all(root.join("state")).unwrap();
}

/// The file once it has what `wanted` looks for, and how long that took.
fn written(gateway: &Gateway, what: &str, wanted: impl Fn(&str) -> bool) -> (String, Duration) {
    let since = Instant::now();
    let text = wait_for(what, || {
        std::fs::read_to_string(gateway.folder().join(FILE)).ok().filter(|text| wanted(text))
    });
    (text, since.elapsed())
}

async fn put(client: &Client, path: &str, data: impl ToString) {
    client.create(path, data.to_string().as_bytes(), &OPEN).await.unwrap();
}

#[tokio::test]
async fn a_start_without_the_ensemble_serves_the_last_known_members_and_reconciles_them() {
    let mut zk = Standalone::start();
    let connect = zk.server.address();
    let client = zk::client(&connect).await;
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    for parent in ["/orders", "/apps", "/apps/shop", "/apps/gone"] {
        put(&client, parent, "").await;
    }
    put(&client, "/orders/a", a.address).await;
    put(&client, "/apps/shop/b", b.address).await;
    put(&client, "/apps/gone/b", b.address).await;

    let mut first = Gateway::start_with("snapshot-first", &config(&connect), folder);
    first.ready();
    first.instances("orders", &["a"]);
    let (_, took) =
        written(&first, "a snapshot", |text| text.contains("\"shop\"") || text.contains("apps/shop"));
    assert!(took < Duration::from_secs(10), "written after {took:?}");
    // What changes last is on disk when it ends.
    put(&client, "/orders/late", a.address).await;
    first.instances("orders", &["a", "late"]);
    first.signal("TERM");
    assert!(first.wait().success());
    let (text, _) = written(&first, "the last change", |text| text.contains("\"late\""));
    drop((first, client));
    zk.server.kill();

    let second = Gateway::start_with("snapshot-second", &config(&connect), |root| {
        folder(root);
        std::fs::write(root.join(FILE), &text).unwrap();
    });
    let since = Instant::now();
    second.ready();
    assert_eq!((second.get("/").status, second.get("/apps/shop/").body.as_str()), (200, "b"));
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "served after {took:?}");
    let view = second.json("/api/services/orders");
    assert_eq!(view["stale"], true);
    assert!(view["stale_reason"].is_string(), "{view}");
    let stale = second.metric("zoogate_registry_stale_seconds{registry=\"main\"}").unwrap();
    assert!(stale > 0.0, "as old as the file at least: {stale}");
    second.log.find("the warning", |line| line.contains("served from the snapshot").then_some(()));

    // The ensemble is back, and says otherwise: the difference is applied.
    zk.server.restart();
    let client = zk::client(&connect).await;
    client.delete("/orders/late", None).await.unwrap();
    client.delete("/apps/gone/b", None).await.unwrap();
    client.delete("/apps/gone", None).await.unwrap();
    second.instances("orders", &["a"]);
    wait_for("the catalog's truth", || (second.get("/apps/gone/").status == 404).then_some(()));
    wait_for("trust", || (second.json("/api/services/orders")["stale"] == false).then_some(()));
    written(&second, "the difference", |text| !text.contains("\"late\"") && !text.contains("apps/gone"));
}

#[test]
fn a_damaged_or_foreign_snapshot_is_set_aside_and_never_used() {
    let nobody = format!("127.0.0.1:{}", zk::free_port());
    for (name, content) in [
        ("damaged", "{\"zoogate_snapshot\":1,\"origin\":\"zookeeper x\",\"written_ms\":1,\"zxid\":1,\"length\":9,\"crc32\":0}\n[]".to_owned()),
        ("nonsense", "nobody wrote this".to_owned()),
        ("foreign", format!(
            "{{\"zoogate_snapshot\":1,\"origin\":\"zookeeper other:2181\",\"written_ms\":1,\"zxid\":1,\"length\":2,\"crc32\":{}}}\n[]",
            crc32fast::hash(b"[]"),
        )),
    ] {
        let gateway = Gateway::start_with(name, &config(&nobody), |root| {
            folder(root);
            std::fs::write(root.join(FILE), content).unwrap();
        });
        gateway.log.find("the refusal", |line| line.contains("snapshot refused and set aside").then_some(()));
        assert!(gateway.folder().join(format!("{FILE}.refused")).exists(), "{name}");
        assert_eq!(gateway.admin("/readyz").status, 503, "{name}");
        assert_eq!(gateway.get("/").status, 503, "{name}");
    }
}

#[test]
fn a_directory_registry_keeps_a_snapshot_within_two_seconds_of_a_change() {
    let config = ORDERS.replace("path = \"services\"\n", "path = \"services\"\nsnapshot = \"local.json\"\n");
    let gateway = Gateway::start("snapshot-directory", &config);
    gateway.register("orders/a", "127.0.0.1:8001");
    gateway.instances("orders", &["a"]);
    wait_for("a snapshot", || {
        let text = std::fs::read_to_string(gateway.folder().join("local.json")).ok()?;
        text.contains("8001").then_some(())
    });
}
