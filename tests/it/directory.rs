//! The directory registry on a real file system.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zoogate::model::{FormatChoice, Incarnation, PrimaryRule, ServiceName, ServiceSnapshot, Trust};
use zoogate::registry::directory::{Directory, DirectoryDiscovery, register_in_directory};
use zoogate::registry::{Base, Change, Discovery};

/// Longer than any machine needs: a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of a test's own, deleted with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("registry-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    fn write(&self, below: &str, data: &str) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn base(name: &str, path: &str, catalog: bool) -> Base {
    Base {
        name: ServiceName::new(name).unwrap(),
        catalog,
        path: path.into(),
        format: FormatChoice::Auto,
        reading: std::sync::Arc::default(),
        deny: Arc::default(),
        primary: PrimaryRule::Registered,
        election: false,
    }
}

fn orders() -> Base {
    base("orders", "/services/orders", false)
}

/// A discovery and everything that it has told.
struct Seen {
    discovery: DirectoryDiscovery,
    services: BTreeMap<String, Arc<ServiceSnapshot>>,
    trust: BTreeMap<String, (Trust, String)>,
    log: Vec<String>,
}

impl Seen {
    fn start(root: &Path, bases: Vec<Base>) -> Self {
        let discovery = Directory::start(root.to_owned(), bases);
        Self { discovery, services: BTreeMap::new(), trust: BTreeMap::new(), log: Vec::new() }
    }

    /// Takes changes in until it is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        while !so(self) {
            let change = tokio::time::timeout(DEADLINE, self.discovery.changed()).await;
            match change.unwrap_or_else(|_| panic!("never {what}; now {:?}; {:#?}", self.trust, self.log)) {
                Change::Updated { service, snapshot, .. } => {
                    self.log.push(format!("{service}: {} !{}", members(&snapshot), rejected(&snapshot)));
                    self.services.insert(service.to_string(), snapshot);
                }
                Change::Gone { service, .. } => {
                    self.log.push(format!("{service}: gone"));
                    self.services.remove(service.as_str());
                }
                Change::Trust { base, trust, reason } => {
                    self.log.push(format!("{base}: {trust:?} {reason:?}"));
                    let reason = reason.as_deref().unwrap_or_default().to_owned();
                    self.trust.insert(base.to_string(), (trust, reason));
                }
                Change::Leader { .. }
                | Change::Refused { .. }
                | Change::Drift { .. }
                | Change::Link { .. } => {}
            }
        }
    }

    async fn live(&mut self, base: &str) {
        self.until("live", |seen| seen.is(base, Trust::Live)).await;
    }

    /// Waits until a service has exactly these members: `a=h:1,b=h:2`.
    async fn holds(&mut self, service: &str, expected: &str) {
        self.until(expected, |seen| seen.members(service).as_deref() == Some(expected)).await;
    }

    fn is(&self, base: &str, trust: Trust) -> bool {
        self.trust.get(base).is_some_and(|(now, _)| *now == trust)
    }

    fn members(&self, service: &str) -> Option<String> {
        self.services.get(service).map(|snapshot| members(snapshot))
    }

    fn rejected(&self, service: &str) -> String {
        self.services.get(service).map_or_else(String::new, |snapshot| rejected(snapshot))
    }

    fn incarnation(&self, service: &str, id: &str) -> Incarnation {
        let found = self.services[service].instances.iter().find(|instance| &*instance.id.name == id);
        found.unwrap().id.incarnation
    }
}

fn members(snapshot: &ServiceSnapshot) -> String {
    let all: Vec<_> = snapshot.instances.iter().map(|i| format!("{}={}", i.id.name, i.address)).collect();
    all.join(",")
}

fn rejected(snapshot: &ServiceSnapshot) -> String {
    let all: Vec<_> = snapshot.rejected.iter().map(|r| format!("{}={}", r.node, r.reason.code())).collect();
    all.join(",")
}

#[tokio::test]
async fn a_pattern_finds_its_directories_at_any_depth_and_loses_them() {
    let scratch = Scratch::new();
    scratch.write("dubbo/com.foo.Bar/providers/a", "h:1");
    scratch.write("dubbo/com.foo.Bar/consumers/c", "h:9");
    let bases = vec![base("rpc", "/dubbo/*/providers", true), base("two", "/apps/*/*", true)];
    let mut seen = Seen::start(&scratch.0, bases);
    seen.live("rpc").await;
    seen.live("two").await;
    seen.holds("rpc/com.foo.Bar", "a=h:1").await;
    assert_eq!(seen.services.len(), 1, "{:?}", seen.services.keys());
    // Deeper than what exists, one level at a time and all at once.
    fs::create_dir(scratch.path("dubbo/com.foo.Baz")).unwrap();
    scratch.write("dubbo/com.foo.Baz/providers/b", "h:2");
    seen.holds("rpc/com.foo.Baz", "b=h:2").await;
    scratch.write("apps/shop/orders/c", "h:3");
    seen.holds("two/shop.orders", "c=h:3").await;
    scratch.write("apps/shop/users/d", "h:4");
    seen.holds("two/shop.users", "d=h:4").await;
    scratch.write("apps/shop/orders/e", "h:5");
    seen.holds("two/shop.orders", "c=h:3,e=h:5").await;
    fs::remove_file(scratch.path("apps/shop/orders/c")).unwrap();
    seen.holds("two/shop.orders", "e=h:5").await;
    fs::remove_dir_all(scratch.path("dubbo/com.foo.Bar/providers")).unwrap();
    seen.until("gone", |seen| !seen.services.contains_key("rpc/com.foo.Bar")).await;
    fs::rename(scratch.path("apps/shop"), scratch.path("elsewhere")).unwrap();
    seen.until("all gone", |seen| !seen.services.keys().any(|name| name.starts_with("two/"))).await;
    fs::rename(scratch.path("elsewhere"), scratch.path("apps/store")).unwrap();
    seen.holds("two/store.users", "d=h:4").await;
    scratch.write("apps/store/users/f", "h:6");
    seen.holds("two/store.users", "d=h:4,f=h:6").await;
}

#[tokio::test]
async fn files_are_instances_and_a_base_is_live_after_them() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    scratch.write("services/orders/b", "h:2\n");
    scratch.write("services/users/c", "h:3");
    let mut seen = Seen::start(&scratch.0, vec![orders(), base("users", "/services/users", false)]);
    seen.live("orders").await;
    seen.live("users").await;
    assert_eq!(seen.members("orders").unwrap(), "a=h:1,b=h:2");
    assert_eq!(seen.members("users").unwrap(), "c=h:3");
    let place = |line: &str| seen.log.iter().position(|entry| entry.starts_with(line)).unwrap();
    assert!(place("orders: a=") < place("orders: Live"));
}

#[tokio::test]
async fn a_deleted_file_is_removed_and_the_last_one_empties_the_service() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    scratch.write("services/orders/b", "h:2");
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.holds("orders", "a=h:1,b=h:2").await;
    fs::remove_file(scratch.path("services/orders/a")).unwrap();
    seen.holds("orders", "b=h:2").await;
    fs::rename(scratch.path("services/orders/b"), scratch.path("elsewhere")).unwrap();
    seen.holds("orders", "").await;
    assert!(seen.is("orders", Trust::Live));
}

#[tokio::test]
async fn a_file_is_read_when_it_is_closed_and_not_before() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.holds("orders", "a=h:1").await;
    let mut slow = fs::File::create(scratch.path("services/orders/slow")).unwrap();
    slow.write_all(b"h:8").unwrap();
    slow.sync_all().unwrap();
    // Events come in order: when the later file is known, the growing one would be too.
    scratch.write("services/orders/z", "h:2");
    seen.holds("orders", "a=h:1,z=h:2").await;
    slow.write_all(b"0").unwrap();
    drop(slow);
    seen.holds("orders", "a=h:1,slow=h:80,z=h:2").await;
    assert_eq!(seen.rejected("orders"), "");
}

#[tokio::test]
async fn written_in_place_it_is_the_same_node_and_replaced_another() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.holds("orders", "a=h:1").await;
    let first = seen.incarnation("orders", "a");
    scratch.write("services/orders/a", "h:2");
    seen.holds("orders", "a=h:2").await;
    assert_eq!(seen.incarnation("orders", "a"), first);

    scratch.write("services/orders/a", "h:0");
    seen.until("rejected", |seen| seen.rejected("orders") == "a=bad_port").await;
    assert_eq!(seen.members("orders").unwrap(), "a=h:2", "the last good value stays");

    scratch.write("services/orders/.a.new", "h:3");
    fs::rename(scratch.path("services/orders/.a.new"), scratch.path("services/orders/a")).unwrap();
    seen.holds("orders", "a=h:3").await;
    assert_ne!(seen.incarnation("orders", "a"), first);
    assert_eq!(seen.rejected("orders"), "");
}

#[tokio::test]
async fn hidden_and_temporary_files_and_directories_are_no_instances() {
    let scratch = Scratch::new();
    for name in [".hidden", "a~", "a.tmp", ".a.swp", "b.swp"] {
        scratch.write(&format!("services/orders/{name}"), "h:1");
    }
    scratch.write("services/orders/folder/inner", "h:1");
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.live("orders").await;
    for name in [".late", "c~", "c.tmp", "c.swp"] {
        scratch.write(&format!("services/orders/{name}"), "h:1");
    }
    scratch.write("services/orders/late/inner", "h:1");
    scratch.write("services/orders/z", "h:2");
    seen.holds("orders", "z=h:2").await;
    assert_eq!(seen.log.len(), 3, "{:#?}", seen.log);
}

#[tokio::test]
async fn what_does_not_exist_yet_is_empty_and_live_and_seen_when_it_does() {
    let scratch = Scratch::new();
    let root = scratch.path("not/yet/there");
    let mut seen = Seen::start(&root, vec![orders()]);
    seen.live("orders").await;
    assert_eq!(seen.members("orders").unwrap(), "");
    scratch.write("not/yet/there/services/orders/a", "h:1");
    seen.holds("orders", "a=h:1").await;
}

#[tokio::test]
async fn a_directory_that_is_deleted_and_made_again_recovers_every_time() {
    let scratch = Scratch::new();
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.live("orders").await;
    for round in 1..=30 {
        scratch.write("services/orders/a", &format!("h:{round}"));
        seen.holds("orders", &format!("a=h:{round}")).await;
        match round % 3 {
            0 => fs::remove_dir_all(scratch.path("services")).unwrap(),
            1 => fs::remove_dir_all(scratch.path("services/orders")).unwrap(),
            _ => fs::rename(scratch.path("services"), scratch.path(&format!("old{round}"))).unwrap(),
        }
        seen.holds("orders", "").await;
        assert!(seen.is("orders", Trust::Live));
    }
}

#[tokio::test]
async fn a_catalogs_directories_are_services_as_long_as_they_exist() {
    let scratch = Scratch::new();
    scratch.write("services/a/n", "h:1");
    scratch.write("services/.hidden/n", "h:1");
    scratch.write("services/file", "h:1");
    let mut seen = Seen::start(&scratch.0, vec![base("apps", "/services", true)]);
    seen.live("apps").await;
    assert_eq!(seen.services.keys().collect::<Vec<_>>(), ["apps/a"]);
    // Made and filled at once: what is written before the watch is set must not be lost.
    for child in 0..100 {
        scratch.write(&format!("services/s{child}/n"), "h:2");
    }
    for child in 0..100 {
        seen.holds(&format!("apps/s{child}"), "n=h:2").await;
    }
    fs::remove_file(scratch.path("services/s1/n")).unwrap();
    seen.holds("apps/s1", "").await;
    fs::remove_dir_all(scratch.path("services/s2")).unwrap();
    seen.until("gone", |seen| !seen.services.contains_key("apps/s2")).await;
    fs::rename(scratch.path("services/s3"), scratch.path("services/t3")).unwrap();
    seen.holds("apps/t3", "n=h:2").await;
    seen.until("gone", |seen| !seen.services.contains_key("apps/s3")).await;
    scratch.write("services/t3/m", "h:3");
    seen.holds("apps/t3", "m=h:3,n=h:2").await;
    fs::remove_dir_all(scratch.path("services")).unwrap();
    seen.until("all gone", |seen| seen.services.is_empty()).await;
    scratch.write("services/a/n", "h:4");
    seen.holds("apps/a", "n=h:4").await;
}

#[tokio::test]
async fn a_mounted_volume_is_followed_through_its_swaps() {
    let scratch = Scratch::new();
    let folder = "services/orders";
    scratch.write("services/orders/..v1/a", "h:1");
    symlink("..v1", scratch.path("services/orders/..data")).unwrap();
    symlink("..data/a", scratch.path("services/orders/a")).unwrap();
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.holds("orders", "a=h:1").await;
    let first = seen.incarnation("orders", "a");
    scratch.write("services/orders/..v2/a", "h:2");
    symlink("..v2", scratch.path(&format!("{folder}/..data_new"))).unwrap();
    fs::rename(scratch.path("services/orders/..data_new"), scratch.path("services/orders/..data")).unwrap();
    seen.holds("orders", "a=h:2").await;
    assert_eq!(seen.incarnation("orders", "a"), first, "the link is the node, not what it leads to");
}

#[tokio::test]
async fn links_are_followed_within_the_registry_only() {
    let scratch = Scratch::new();
    scratch.write("secret", "h:1");
    scratch.write("root/shared/node", "h:2");
    fs::create_dir_all(scratch.path("root/services/orders")).unwrap();
    let mut seen = Seen::start(&scratch.path("root"), vec![orders()]);
    seen.live("orders").await;
    symlink(scratch.path("secret"), scratch.path("root/services/orders/out")).unwrap();
    symlink(scratch.path("nowhere"), scratch.path("root/services/orders/dangling")).unwrap();
    symlink("../../shared/node", scratch.path("root/services/orders/in")).unwrap();
    fs::hard_link(scratch.path("root/shared/node"), scratch.path("root/services/orders/hard")).unwrap();
    seen.holds("orders", "hard=h:2,in=h:2").await;
    assert_eq!(seen.rejected("orders"), "dangling=forbidden,out=forbidden");
}

#[tokio::test]
async fn a_root_that_is_a_link_is_followed_when_it_is_swapped() {
    let scratch = Scratch::new();
    scratch.write("v1/services/orders/a", "h:1");
    scratch.write("v2/services/orders/a", "h:2");
    symlink("v1", scratch.path("current")).unwrap();
    let mut seen = Seen::start(&scratch.path("current"), vec![orders()]);
    seen.holds("orders", "a=h:1").await;
    symlink("v2", scratch.path("next")).unwrap();
    fs::rename(scratch.path("next"), scratch.path("current")).unwrap();
    seen.holds("orders", "a=h:2").await;
    fs::remove_file(scratch.path("v2/services/orders/a")).unwrap();
    seen.holds("orders", "").await;
}

#[tokio::test]
async fn what_cannot_be_listed_is_stale_with_its_reason_until_it_can() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    scratch.write("services/users", "a file where a directory should be");
    let mut seen = Seen::start(&scratch.0, vec![orders(), base("users", "/services/users", false)]);
    seen.live("orders").await;
    seen.until("stale", |seen| seen.is("users", Trust::Stale)).await;
    assert!(seen.trust["users"].1.contains("services/users"), "{:?}", seen.trust);
    assert!(!seen.services.contains_key("users"), "unknown is not empty");

    // Replaced by a file, a directory is not known to be empty either.
    fs::rename(scratch.path("services/orders"), scratch.path("old")).unwrap();
    seen.holds("orders", "").await;
    scratch.write("services/orders", "a file");
    seen.until("stale", |seen| seen.is("orders", Trust::Stale)).await;

    fs::remove_file(scratch.path("services/users")).unwrap();
    scratch.write("services/users/b", "h:2");
    seen.holds("users", "b=h:2").await;
    seen.live("users").await;
}

#[tokio::test]
async fn a_file_too_large_costs_itself_alone() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    scratch.write("services/orders/big", &" ".repeat((1 << 20) + 1));
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.live("orders").await;
    assert_eq!(
        (seen.members("orders").unwrap().as_str(), seen.rejected("orders").as_str()),
        ("a=h:1", "big=too_large")
    );
    scratch.write("services/orders/big", "h:2");
    seen.holds("orders", "a=h:1,big=h:2").await;
    assert_eq!(seen.rejected("orders"), "");
}

#[tokio::test]
async fn names_that_are_no_text_are_rejected_and_forgotten_with_their_file() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    let odd = scratch.path("services/orders").join(std::ffi::OsStr::from_bytes(b"x\xFF"));
    fs::write(&odd, "h:2").unwrap();
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.live("orders").await;
    assert_eq!(seen.rejected("orders"), "x\u{FFFD}=bad_name");
    fs::remove_file(&odd).unwrap();
    seen.until("forgotten", |seen| seen.rejected("orders").is_empty()).await;
}

#[tokio::test]
async fn bases_come_and_go_while_it_runs() {
    let scratch = Scratch::new();
    scratch.write("services/orders/a", "h:1");
    scratch.write("other/b", "h:2");
    let mut seen = Seen::start(&scratch.0, Vec::new());
    seen.discovery.add(orders());
    seen.live("orders").await;
    // Another place under the same name.
    seen.discovery.add(base("orders", "/other", false));
    seen.holds("orders", "b=h:2").await;
    scratch.write("services/orders/a", "h:3");
    scratch.write("other/c", "h:4");
    seen.holds("orders", "b=h:2,c=h:4").await;
    assert!(!seen.log.iter().any(|line| line.contains("h:3")), "{:#?}", seen.log);
    seen.discovery.remove(&ServiceName::new("orders").unwrap());
    seen.discovery.add(base("apps", "/services", true));
    fs::remove_file(scratch.path("other/b")).unwrap();
    seen.holds("apps/orders", "a=h:3").await;
    assert_eq!(seen.members("orders").unwrap(), "b=h:2,c=h:4");
}

#[tokio::test]
async fn a_registration_appears_whole_and_leaves_with_its_owner() {
    let scratch = Scratch::new();
    let mut seen = Seen::start(&scratch.0, vec![orders()]);
    seen.live("orders").await;
    let first = register_in_directory(&scratch.0, "/services/orders", "a", b"h:1").unwrap();
    seen.holds("orders", "a=h:1").await;
    let second = register_in_directory(&scratch.0, "/services/orders", "a", b"h:2").unwrap();
    seen.holds("orders", "a=h:2").await;
    first.release().unwrap();
    assert!(second.path().exists(), "the successor's file is not ours to delete");
    drop(second);
    seen.holds("orders", "").await;
    assert_eq!(fs::read_dir(scratch.path("services/orders")).unwrap().count(), 0, "nothing is left behind");
    for (path, id) in [("/a/../b", "x"), ("/a", ""), ("/a", ".x"), ("/a", "x/y"), ("/a", "x~"), ("/a", "x\n")]
    {
        assert!(register_in_directory(&scratch.0, path, id, b"h:1").is_err(), "{path} {id:?}");
    }
}

#[tokio::test]
async fn random_histories_end_in_the_truth() {
    let lot = fastrand::u64(..);
    println!("seed {lot}");
    let mut rng = fastrand::Rng::with_seed(lot);
    let scratch = Scratch::new();
    let mut seen = Seen::start(&scratch.0, vec![base("apps", "/s", true)]);
    let mut truth: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for step in 1..=1500 {
        let child = format!("c{}", rng.u8(..4));
        let node = format!("n{}", rng.u8(..5));
        let path = format!("s/{child}/{node}");
        match rng.u8(..10) {
            0 => {
                let _ = fs::remove_dir_all(scratch.path(&format!("s/{child}")));
                truth.remove(&child);
            }
            1 => {
                let to = format!("c{}", rng.u8(..4));
                if !truth.contains_key(&to) && truth.contains_key(&child) {
                    fs::rename(scratch.path(&format!("s/{child}")), scratch.path(&format!("s/{to}")))
                        .unwrap();
                    let nodes = truth.remove(&child).unwrap();
                    truth.insert(to, nodes);
                }
            }
            2..=3 => {
                let _ = fs::remove_file(scratch.path(&path));
                truth.entry(child).and_modify(|nodes| drop(nodes.remove(&node)));
            }
            4..=5 => {
                let draft = format!("s/{child}/.draft");
                scratch.write(&draft, &format!("h:{step}"));
                fs::rename(scratch.path(&draft), scratch.path(&path)).unwrap();
                truth.entry(child).or_default().insert(node, format!("h:{step}"));
            }
            _ => {
                scratch.write(&path, &format!("h:{step}"));
                truth.entry(child).or_default().insert(node, format!("h:{step}"));
            }
        }
        if rng.u8(..20) == 0 {
            tokio::task::yield_now().await;
        }
    }
    let truth: BTreeMap<String, String> = truth
        .into_iter()
        .map(|(child, nodes)| {
            let nodes: Vec<_> =
                nodes.into_iter().map(|(node, address)| format!("{node}={address}")).collect();
            (format!("apps/{child}"), nodes.join(","))
        })
        .collect();
    seen.until("the truth", |seen| {
        let now: BTreeMap<_, _> =
            seen.services.iter().map(|(name, snapshot)| (name.clone(), members(snapshot))).collect();
        now == truth
    })
    .await;
}
