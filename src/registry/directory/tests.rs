use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::base::{BaseState, Mode};
use super::tree::Tree;
use super::*;
use crate::model::{FormatChoice, PrimaryRule, ServiceSnapshot, Source};

const DEADLINE: Duration = Duration::from_secs(20);

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("zoogate-directory-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(path.join("orders")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, data: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, data).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn orders() -> Base {
    Base {
        name: ServiceName::new("orders").unwrap(),
        catalog: false,
        path: "/orders".into(),
        format: FormatChoice::Auto,
        reading: std::sync::Arc::default(),
        deny: Arc::default(),
        primary: PrimaryRule::Registered,
        election: false,
    }
}

fn members(snapshot: &ServiceSnapshot) -> String {
    let all: Vec<_> = snapshot.instances.iter().map(|i| format!("{}={}", i.id.name, i.address)).collect();
    all.join(",")
}

#[test]
fn dropping_a_discovery_ends_its_thread() {
    let discovery = Directory::start(std::env::temp_dir(), Vec::new());
    let inbox = Arc::downgrade(&discovery.inbox);
    drop(discovery);
    let deadline = Instant::now() + DEADLINE;
    while inbox.strong_count() > 0 {
        assert!(Instant::now() < deadline, "the thread still holds its inbox");
        std::thread::yield_now();
    }
}

async fn holds(discovery: &mut DirectoryDiscovery, expected: &str) {
    loop {
        let change = tokio::time::timeout(DEADLINE, discovery.changed()).await;
        if let Change::Updated { snapshot, .. } = change.unwrap_or_else(|_| panic!("never {expected}"))
            && members(&snapshot) == expected
        {
            return;
        }
    }
}

#[tokio::test]
async fn lost_events_are_made_good_by_a_listing() {
    let scratch = Scratch::new();
    // What a link leads to changes without an event where the link is: as good as lost.
    scratch.write("shared/a", "h:1");
    symlink("../shared/a", scratch.0.join("orders/a")).unwrap();
    let mut discovery = Directory::start(scratch.0.clone(), vec![orders()]);
    holds(&mut discovery, "a=h:1").await;
    scratch.write("shared/a", "h:22");
    let rescan = notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan);
    discovery.inbox.report(Ok(rescan));
    holds(&mut discovery, "a=h:22").await;
}

/// A base whose events nobody handles, so that only listings tell.
struct Deaf {
    state: BaseState,
    tree: Tree,
    outbox: Outbox,
}

impl Deaf {
    fn new(root: &Path) -> Self {
        let tree = Tree::new(root, Arc::default());
        Self { state: BaseState::new(orders(), tree.root()), tree, outbox: Outbox::default() }
    }

    /// Lists, and what that changed.
    async fn list(&mut self, mode: Mode) -> Vec<String> {
        self.state.list(&mut self.tree, mode);
        self.state.flush(&self.outbox, Instant::now(), Source::Event);
        self.outbox.send(Change::Link { connected: true, session_losses: 0 });
        let mut told = Vec::new();
        loop {
            match self.outbox.changed().await {
                Change::Updated { snapshot, .. } => told.push(members(&snapshot)),
                Change::Trust { trust, .. } => told.push(format!("{trust:?}")),
                Change::Gone { service, .. } => told.push(format!("{service} gone")),
                Change::Leader { .. } | Change::Refused { .. } => panic!("neither election nor catalog"),
                Change::Drift { .. } => {}
                Change::Link { .. } => return told,
            }
        }
    }
}

#[tokio::test]
async fn an_audit_finds_what_was_missed_and_nothing_where_nothing_was() {
    let scratch = Scratch::new();
    let old = SystemTime::now() - Duration::from_secs(60);
    let age = |path: PathBuf| File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    scratch.write("orders/a", "h:1");
    scratch.write("orders/b", "h:2");
    let mut deaf = Deaf::new(&scratch.0);
    assert_eq!(deaf.list(Mode::Full).await, ["a=h:1,b=h:2", "Live"]);
    assert!(deaf.list(Mode::Audit).await.is_empty());

    // Written this very second, it may be half of what is to come.
    scratch.write("orders/c", "h:3");
    assert!(deaf.list(Mode::Audit).await.is_empty());
    age(scratch.write("orders/c", "h:33"));
    age(scratch.write("orders/b", "h:22"));
    fs::remove_file(scratch.0.join("orders/a")).unwrap();
    assert_eq!(deaf.list(Mode::Audit).await, ["b=h:22,c=h:33"]);
    assert!(deaf.list(Mode::Audit).await.is_empty());
}

#[tokio::test]
async fn a_listing_that_fails_removes_nothing() {
    let scratch = Scratch::new();
    scratch.write("orders/a", "h:1");
    let mut deaf = Deaf::new(&scratch.0);
    assert_eq!(deaf.list(Mode::Full).await, ["a=h:1", "Live"]);
    fs::rename(scratch.0.join("orders"), scratch.0.join("old")).unwrap();
    scratch.write("orders", "no directory");
    assert_eq!(deaf.list(Mode::Full).await, ["Stale"]);
    fs::remove_file(scratch.0.join("orders")).unwrap();
    fs::rename(scratch.0.join("old"), scratch.0.join("orders")).unwrap();
    assert_eq!(deaf.list(Mode::Retry).await, ["Live"]);
}

/// Ids and weights of the enabled.
fn weights(snapshot: &ServiceSnapshot) -> String {
    let enabled = snapshot.instances.iter().filter(|instance| instance.enabled);
    enabled.map(|i| format!("{}={}", i.id.name, i.weight)).collect::<Vec<_>>().join(" ")
}

async fn weighs(discovery: &mut DirectoryDiscovery, expected: &str) {
    loop {
        let change = tokio::time::timeout(DEADLINE, discovery.changed()).await;
        if let Change::Updated { snapshot, .. } = change.unwrap_or_else(|_| panic!("never {expected}"))
            && weights(&snapshot) == expected
        {
            return;
        }
    }
}

#[tokio::test]
async fn folders_in_services_and_beside_them_are_part_of_them() {
    let scratch = Scratch::new();
    let provider = "dubbo%3A%2F%2F192.0.2.1%3A20880%2FI";
    let rule = |weight: u32| format!("override%3A%2F%2F0.0.0.0%2FI%3Fweight%3D{weight}");
    let remove = |name: String| fs::remove_file(scratch.0.join(name)).unwrap();
    for (path, catalog) in [("/dubbo/I/providers", false), ("/dubbo/*/providers", true), ("/dubbo/I", false)]
    {
        scratch.write(&format!("dubbo/I/providers/{provider}"), "");
        let mut discovery =
            Directory::start(scratch.0.clone(), vec![Base { path: path.into(), catalog, ..orders() }]);
        weighs(&mut discovery, "192.0.2.1:20880=100").await;
        scratch.write(&format!("dubbo/I/configurators/{}", rule(7)), "");
        weighs(&mut discovery, "192.0.2.1:20880=7").await;
        scratch.write(&format!("dubbo/I/configurators/{}", rule(8)), "");
        weighs(&mut discovery, "192.0.2.1:20880=8").await;
        remove(format!("dubbo/I/configurators/{}", rule(8)));
        weighs(&mut discovery, "192.0.2.1:20880=7").await;
        fs::remove_dir_all(scratch.0.join("dubbo/I/providers")).unwrap();
        if !catalog {
            weighs(&mut discovery, "").await;
        }
        scratch.write(&format!("dubbo/I/providers/{provider}"), "");
        weighs(&mut discovery, "192.0.2.1:20880=7").await;
        fs::remove_dir_all(scratch.0.join("dubbo/I/configurators")).unwrap();
        weighs(&mut discovery, "192.0.2.1:20880=100").await;
        fs::remove_dir_all(scratch.0.join("dubbo")).unwrap();
    }

    let host = |n: u8| format!("host: 192.0.2.{n}\ntcp_port: 9000\n");
    scratch.write("hits/replicas/r1/host", &host(1));
    scratch.write("hits/replicas/r1/is_active", "");
    scratch.write("hits/replicas/r1/queue", "");
    let base = Base { path: "/hits/replicas".into(), ..orders() };
    let mut discovery = Directory::start(scratch.0.clone(), vec![base]);
    weighs(&mut discovery, "r1=1").await;
    scratch.write("hits/replicas/r2/host", &host(2));
    scratch.write("hits/replicas/r2/is_active", "");
    weighs(&mut discovery, "r1=1 r2=1").await;
    remove("hits/replicas/r1/is_active".to_owned());
    weighs(&mut discovery, "r2=1").await;

    scratch.write("ledgers/available/192.0.2.1:3181", "");
    let base = Base { path: "/ledgers/available".into(), ..orders() };
    let mut discovery = Directory::start(scratch.0.clone(), vec![base]);
    weighs(&mut discovery, "192.0.2.1:3181=1").await;
    scratch.write("ledgers/available/readonly/192.0.2.2:3181", "");
    weighs(&mut discovery, "192.0.2.1:3181=1 192.0.2.2:3181=1").await;
    fs::remove_dir_all(scratch.0.join("ledgers/available/readonly")).unwrap();
    weighs(&mut discovery, "192.0.2.1:3181=1").await;
}
