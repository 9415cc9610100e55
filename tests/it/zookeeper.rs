//! Discovery from a real server that behaves.

use std::time::Duration;

use zoogate::model::ServiceName;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::seen::{Seen, catalog, options, service};
use crate::support::zk::{self, EPHEMERAL, OPEN};

async fn put(client: &Client, path: &str) {
    client.create(path, b"127.0.0.1:8001", &EPHEMERAL).await.unwrap();
}

#[tokio::test]
async fn deleted_node_is_removed_by_its_event_alone() {
    let connect = zk::chroot("deleted").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    put(&client, "/orders/b").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), ["a", "b"]);

    client.delete("/orders/a", None).await.unwrap();
    seen.until_ids("orders", &["b"]).await;
    let counters = seen.discovery.counters();
    assert_eq!((counters.removed_by_event, counters.removed_by_listing, counters.listings), (1, 0, 1));
}

#[tokio::test]
async fn node_created_again_is_another_incarnation() {
    let connect = zk::chroot("again").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_live("orders").await;
    let before = seen.services["orders"].instances[0].id.incarnation;

    let mut both = client.new_multi_writer();
    both.add_delete("/orders/a", None).unwrap();
    both.add_create("/orders/a", b"127.0.0.1:8001", &EPHEMERAL).unwrap();
    both.commit().await.unwrap();
    let (_, stat) = client.get_data("/orders/a").await.unwrap();
    seen.until("another incarnation", |seen| {
        let now = seen.services["orders"].instances.first().map(|instance| instance.id.incarnation);
        now.is_some_and(|now| now != before && now.0 == stat.czxid as u64)
    })
    .await;
}

#[tokio::test]
async fn churn_ends_equal_to_the_directory() {
    let connect = zk::chroot("churn").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..1500 {
        let path = format!("/orders/n{}", rng.u8(..12));
        let data = format!("127.0.0.1:{}", 1000 + round);
        // Refusals (it exists, it does not) are part of the churn.
        let _ = match rng.u8(..3) {
            0 => client.create(&path, data.as_bytes(), &EPHEMERAL).await.map(drop),
            1 => client.set_data(&path, data.as_bytes(), None).await.map(drop),
            _ => client.delete(&path, None).await,
        };
    }
    put(&client, "/orders/last").await;
    let mut truth = Vec::new();
    for name in client.list_children("/orders").await.unwrap() {
        let (data, stat) = client.get_data(&format!("/orders/{name}")).await.unwrap();
        truth.push((name, stat.czxid as u64, String::from_utf8(data).unwrap()));
    }
    truth.sort();
    seen.until(&format!("equal to the directory, seed {seed}"), |seen| {
        let Some(snapshot) = seen.services.get("orders") else { return false };
        let told: Vec<_> = snapshot
            .instances
            .iter()
            .map(|i| (i.id.name.to_string(), i.id.incarnation.0, i.address.to_string()))
            .collect();
        told == truth
    })
    .await;
    assert_eq!(seen.discovery.counters().drift, 0);
}

#[tokio::test]
async fn missing_path_is_live_and_empty_and_watched() {
    let connect = zk::chroot("missing").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/not/yet/orders")]);
    seen.until_live("orders").await;
    assert_eq!(seen.ids("orders"), [""; 0]);
    assert!(seen.services.contains_key("orders"), "an empty service is told too");

    let client = zk::client(&connect).await;
    client.mkdir("/not/yet/orders", &OPEN).await.unwrap();
    put(&client, "/not/yet/orders/a").await;
    seen.until_ids("orders", &["a"]).await;
}

#[tokio::test]
async fn last_child_empties_the_service_and_a_new_base_fills_it() {
    let connect = zk::chroot("last").await;
    let client = zk::client(&connect).await;
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders")]);
    seen.until_ids("orders", &["a"]).await;

    client.delete("/orders/a", None).await.unwrap();
    seen.until_ids("orders", &[]).await;
    client.delete("/orders", None).await.unwrap();
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/b").await;
    seen.until_ids("orders", &["b"]).await;
    seen.until_live("orders").await;
}

#[tokio::test]
async fn children_of_a_catalog_are_services() {
    let connect = zk::chroot("catalog").await;
    let client = zk::client(&connect).await;
    client.mkdir("/services/orders", &OPEN).await.unwrap();
    put(&client, "/services/orders/a").await;
    client.mkdir("/services/empty", &OPEN).await.unwrap();
    let mut seen = Seen::start(&connect, vec![catalog("apps", "/services")]);
    seen.until_live("apps").await;
    assert_eq!(seen.ids("apps/orders"), ["a"]);
    assert!(seen.services.contains_key("apps/empty"));

    client.mkdir("/services/users", &OPEN).await.unwrap();
    put(&client, "/services/users/u").await;
    seen.until_ids("apps/users", &["u"]).await;
    // Deeper nodes are nobody's instances.
    client.mkdir("/services/orders/config/deep", &OPEN).await.unwrap();
    client.delete("/services/users/u", None).await.unwrap();
    client.delete("/services/users", None).await.unwrap();
    seen.until("the service is gone", |seen| !seen.services.contains_key("apps/users")).await;
    seen.until("the directory is no instance", |s| {
        s.rejected("apps/orders").iter().map(|(node, _)| *node).eq(["config"])
    })
    .await;
    assert_eq!(seen.ids("apps/orders"), ["a"]);
}

#[tokio::test]
async fn forbidden_directory_is_stale_not_empty_and_recovers() {
    let connect = zk::chroot("forbidden").await;
    let client = zk::client(&connect).await;
    let closed = [Acl::new(Permission::ALL, AuthId::new("digest", "nobody:AAAAAAAAAAAAAAAAAAAAAAAAAAA="))];
    client.create("/orders", b"", &OPEN).await.unwrap();
    put(&client, "/orders/a").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/orders"), service("late", "/late")]);
    seen.until_live("orders").await;

    let shut = [
        Acl::new(Permission::ADMIN | Permission::CREATE | Permission::DELETE, AuthId::anyone()),
        closed[0].clone(),
    ];
    client.set_acl("/orders", &shut, None).await.unwrap();
    let shut_from_start = CreateMode::Persistent.with_acls(Acls::new(&shut));
    client.create("/locked", b"", &shut_from_start).await.unwrap();
    seen.discovery.add(service("locked", "/locked"));
    seen.until_stale("locked", "forbidden: /locked").await;
    assert!(!seen.services.contains_key("locked"), "what may not be read is not empty");
    assert_eq!(seen.ids("orders"), ["a"]);

    client.set_acl("/locked", &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    seen.until_live("locked").await;
}

#[tokio::test]
async fn unreadable_node_is_rejected_alone() {
    let connect = zk::chroot("unreadable").await;
    let client = zk::client(&connect).await;
    client.mkdir("/services/orders", &OPEN).await.unwrap();
    client.mkdir("/services/open", &OPEN).await.unwrap();
    put(&client, "/services/orders/a").await;
    let writable = [Acl::new(Permission::WRITE | Permission::DELETE | Permission::CREATE, AuthId::anyone())];
    let hidden = CreateMode::Persistent.with_acls(Acls::new(&writable));
    client.create("/services/orders/hidden", b"127.0.0.1:1", &hidden).await.unwrap();
    client.create("/services/vault", b"", &hidden).await.unwrap();

    let bases = vec![service("orders", "/services/orders"), catalog("apps", "/services")];
    let mut seen = Seen::start(&connect, bases);
    seen.until_live("orders").await;
    seen.until_live("apps").await;
    for name in ["orders", "apps/orders"] {
        assert_eq!(seen.ids(name), ["a"]);
        assert_eq!(seen.rejected(name), [("hidden", "forbidden")]);
    }
    assert_eq!(seen.rejected("apps/vault"), [(".", "forbidden")]);
}

#[tokio::test]
async fn digest_credentials_open_what_they_may() {
    let connect = zk::chroot("digest").await;
    let owner = zk::client(&connect).await;
    owner.auth("digest", b"gate:secret").await.unwrap();
    let private = CreateMode::Persistent.with_acls(Acls::creator_all());
    owner.create("/orders", b"", &private).await.unwrap();
    owner.create("/orders/a", b"127.0.0.1:8001", &private).await.unwrap();

    let with = |secret: &[u8]| {
        let mut options = options(&connect);
        options.auth.push(("digest".to_owned(), secret.to_vec()));
        Seen::start_with(options, vec![service("orders", "/orders")])
    };
    let mut right = with(b"gate:secret");
    right.until_live("orders").await;
    assert_eq!(right.ids("orders"), ["a"]);
    let mut wrong = with(b"gate:guess");
    wrong.until_stale("orders", "forbidden").await;
    assert!(!wrong.services.contains_key("orders"));
}

#[tokio::test]
async fn missing_chroot_is_told_apart_from_an_empty_service() {
    let connect = zk::chroot("chroot").await;
    let mut seen = Seen::start(&format!("{connect}/prod"), vec![service("orders", "/orders")]);
    seen.until_stale("orders", "no_chroot").await;
    assert!(!seen.services.contains_key("orders"));

    let client = zk::client(&connect).await;
    client.mkdir("/prod/orders", &OPEN).await.unwrap();
    put(&client, "/prod/orders/a").await;
    seen.until_live("orders").await;
    seen.until_ids("orders", &["a"]).await;
}

#[tokio::test]
async fn base_that_was_removed_tells_nothing_and_can_come_back_elsewhere() {
    let connect = zk::chroot("reload").await;
    let client = zk::client(&connect).await;
    for path in ["/old", "/new"] {
        client.create(path, b"", &OPEN).await.unwrap();
    }
    put(&client, "/old/a").await;
    put(&client, "/new/b").await;
    let mut seen = Seen::start(&connect, vec![service("orders", "/old"), service("other", "/old")]);
    seen.until_live("orders").await;
    seen.until_live("other").await;

    // This change may be on its way when the base goes.
    put(&client, "/old/c").await;
    seen.discovery.remove([ServiceName::new("orders").unwrap()].iter()).await;
    seen.discovery.add(service("orders", "/new"));
    seen.history.clear();
    seen.until_ids("orders", &["b"]).await;
    seen.until_ids("other", &["a", "c"]).await;
    let of_old = seen.history.iter().find(|(name, ids)| name == "orders" && *ids != ["b"]);
    assert_eq!(of_old, None, "the old base was heard again");
}

#[tokio::test]
async fn a_hundred_thousand_children_are_listed() {
    let server = zk::Standalone::start();
    let connect = server.server.address();
    let client = zk::client(&connect).await;
    client.create("/big", b"", &OPEN).await.unwrap();
    for thousand in 0..100 {
        let mut batch = client.new_multi_writer();
        for i in 0..1000 {
            let path = format!("/big/node-{:06}", thousand * 1000 + i);
            batch.add_create(&path, b"10.0.0.1:8080", &OPEN).unwrap();
        }
        batch.commit().await.unwrap();
    }
    let started = std::time::Instant::now();
    let mut seen = Seen::start(&connect, vec![service("big", "/big")]);
    seen.until_live("big").await;
    println!("listed in {:?}", started.elapsed());
    assert_eq!(seen.services["big"].instances.len(), 100_000);

    // One more is one too many: the last table stays, and says why it is not current.
    client.delete("/big/node-000000", None).await.unwrap();
    seen.until("one less", |seen| seen.services["big"].instances.len() == 99_999).await;
    for name in ["/big/x", "/big/y"] {
        client.create(name, b"10.0.0.1:8080", &OPEN).await.unwrap();
    }
    seen.until_stale("big", "too_large").await;
    assert_eq!(seen.services["big"].instances.len(), 100_000);
    client.delete("/big/node-000001", None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), seen.until_live("big")).await.unwrap();
}
