use super::*;
use crate::model::{FormatChoice, FormatName, NodeFacts, PrimaryRule, ServiceName, Source};

pub(in crate::registry) fn base(format: FormatChoice, catalog: bool) -> Base {
    Base {
        name: ServiceName::new("orders").unwrap(),
        catalog,
        path: "/services/orders".into(),
        format,
        reading: Arc::default(),
        deny: Arc::new(crate::model::DenyList::new(vec!["169.254.0.0/16".parse().unwrap()], vec![])),
        primary: PrimaryRule::Registered,
        election: false,
    }
}

fn view() -> BaseView {
    BaseView::new(&base(FormatChoice::Auto, false))
}

fn catalog() -> BaseView {
    BaseView::new(&base(FormatChoice::Auto, true))
}

const ONE: Incarnation = Incarnation(1, 0);
const TWO: Incarnation = Incarnation(2, 0);

impl BaseView {
    fn says(&mut self, node: &str, data: &str) {
        self.put(None, node, ONE, NodeFacts::default(), data.as_bytes());
    }

    fn now(&mut self) -> Arc<ServiceSnapshot> {
        match self.take_changes(Instant::now(), Source::Event).as_slice() {
            [Change::Updated { snapshot, .. }] => Arc::clone(snapshot),
            other => panic!("{other:?}"),
        }
    }

    fn told(&mut self) -> Vec<String> {
        self.take_changes(Instant::now(), Source::Event)
            .into_iter()
            .map(|change| match change {
                Change::Updated { service, snapshot, .. } => format!("{service} {}", members(&snapshot)),
                Change::Gone { service, .. } => format!("{service} gone"),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn members(snapshot: &ServiceSnapshot) -> String {
    let members: Vec<_> = snapshot.instances.iter().map(|i| format!("{}={}", i.id.name, i.address)).collect();
    members.join(",")
}

fn rejected(snapshot: &ServiceSnapshot) -> Vec<String> {
    snapshot.rejected.iter().map(|r| format!("{} {}", r.node, r.reason.code())).collect()
}

#[test]
fn a_service_is_told_once_even_when_it_is_empty_and_then_only_when_it_differs() {
    let mut view = view();
    assert_eq!(*view.now(), ServiceSnapshot::default());
    assert!(view.take_changes(Instant::now(), Source::Event).is_empty());
    view.says("b", "h:2");
    view.says("a", "h:1");
    let first = view.now();
    assert_eq!(members(&first), "a=h:1,b=h:2");
    view.says("a", " h:1\n");
    view.remove(None, "c");
    assert!(view.take_changes(Instant::now(), Source::Event).is_empty());
    view.says("b", "h:3");
    let second = view.now();
    assert_eq!(members(&second), "a=h:1,b=h:3");
    assert!(Arc::ptr_eq(&first.instances[0], &second.instances[0]), "what did not change is shared");
    view.remove(None, "a");
    view.remove(None, "b");
    assert_eq!(members(&view.now()), "");
}

#[test]
fn bad_data_keeps_the_last_good_value_and_is_listed_too() {
    let mut view = view();
    view.says("a", "h:1");
    view.says("b", "h:2");
    view.now();
    view.says("a", "h:99999");
    let now = view.now();
    assert_eq!((members(&now).as_str(), rejected(&now)), ("a=h:1,b=h:2", vec!["a bad_port".to_owned()]));
    view.reject(None, "b", RejectReason::Forbidden, "no\nread");
    let now = view.now();
    assert_eq!(rejected(&now), ["a bad_port", "b forbidden"]);
    assert_eq!(now.rejected[1].to_string(), "forbidden: no\\nread");
    view.says("a", "h:3");
    view.says("b", "h:2");
    let now = view.now();
    assert_eq!((members(&now).as_str(), rejected(&now)), ("a=h:3,b=h:2", vec![]));
}

#[test]
fn a_node_created_again_has_no_last_good_value() {
    let mut view = view();
    view.says("a", "h:1");
    view.says("b", "h:2");
    view.now();
    view.put(None, "a", TWO, NodeFacts::default(), b"h:0");
    let now = view.now();
    assert_eq!((members(&now).as_str(), rejected(&now)), ("b=h:2", vec!["a bad_port".to_owned()]));
    view.put(None, "a", TWO, NodeFacts::default(), b"h:1");
    assert_eq!(view.now().instances[0].id.incarnation, TWO);
}

#[test]
fn the_majority_decides_a_folders_format_and_the_rest_is_rejected_with_its_reason() {
    let mut view = view();
    view.says("a", "h:1");
    view.says("b", r#"{"host":"h","port":2}"#);
    view.says("c", "h:3");
    let now = view.now();
    assert_eq!((now.format, members(&now).as_str()), (Some(FormatName::Plain), "a=h:1,c=h:3"));
    assert!(now.rejected[0].detail.contains("looks like json"), "{}", now.rejected[0]);

    // What was decided holds as long as one child can be read …
    view.says("d", r#"{"host":"h","port":4}"#);
    view.remove(None, "a");
    assert_eq!(view.now().format, Some(FormatName::Plain));
    // … and is decided anew when none can.
    view.remove(None, "c");
    let now = view.now();
    assert_eq!((now.format, members(&now).as_str()), (Some(FormatName::Json), "b=h:2,d=h:4"));
    assert!(now.rejected.is_empty());
}

#[test]
fn what_looks_like_nothing_is_unknown_until_a_child_can_be_read() {
    let mut view = view();
    view.says("a", "{");
    view.says("b", r#"{"name":"no address"}"#);
    let now = view.now();
    assert_eq!(now.format, None);
    assert_eq!(rejected(&now), ["a unknown_format", "b unknown_format"]);
    view.says("b", "http://h:2");
    let now = view.now();
    assert_eq!((now.format, members(&now).as_str()), (Some(FormatName::Url), "b=h:2"));
}

#[test]
fn a_configured_format_holds_whatever_the_nodes_look_like() {
    let mut view = BaseView::new(&base(FormatChoice::Fixed(FormatName::Json), false));
    view.says("a", "h:1");
    let now = view.now();
    assert_eq!((now.format, rejected(&now)), (Some(FormatName::Json), vec!["a syntax".to_owned()]));
    view.says("a", r#"{"host":"h","port":1}"#);
    assert_eq!(members(&view.now()), "a=h:1");
}

#[test]
fn denied_ranges_hold_for_literals_mapped_ones_included() {
    let mut view = view();
    view.says("a", "169.254.169.254:80");
    view.says("b", "[::ffff:169.254.169.254]:80");
    view.says("c", "169.253.0.1:80");
    let now = view.now();
    assert_eq!(
        (members(&now).as_str(), rejected(&now)),
        ("c=169.253.0.1:80", vec!["a denied_address".to_owned(), "b denied_address".to_owned()])
    );
}

#[test]
fn control_nodes_are_neither_instances_nor_rejected() {
    let mut base = base(FormatChoice::Auto, false);
    base.path = "/motan/g/S/client".into();
    let mut view = BaseView::new(&base);
    view.says("a", "motan://192.0.2.1:0/S");
    let now = view.now();
    assert_eq!((now.instances.len(), now.rejected.len(), now.format), (0, 0, Some(FormatName::Url)));
}

#[test]
fn a_catalogs_children_are_services_from_their_first_to_their_last_moment() {
    let mut view = catalog();
    assert!(view.told().is_empty());
    view.put_service("a");
    view.put(Some("b"), "n", ONE, NodeFacts::default(), b"h:1");
    assert_eq!(view.told(), ["orders/a ", "orders/b n=h:1"]);
    view.put(Some("a"), "n", ONE, NodeFacts::default(), b"h:2");
    assert_eq!(view.told(), ["orders/a n=h:2"]);
    view.remove_service("a");
    assert_eq!(view.told(), ["orders/a gone"]);
    view.remove_service("b");
    view.put(Some("b"), "n", TWO, NodeFacts::default(), b"h:1");
    assert_eq!(view.told(), ["orders/b n=h:1"], "gone and back is another incarnation");
    view.put_service("c");
    view.remove_service("c");
    assert!(view.told().is_empty(), "what was never told is not gone");
}

#[test]
fn unsafe_names_are_no_services_and_no_instances() {
    let mut view = catalog();
    for name in ["..", "a\nb", ""] {
        view.put_service(name);
        view.put(Some(name), "n", ONE, NodeFacts::default(), b"h:1");
    }
    view.put(Some("ok"), "a\u{7}b", ONE, NodeFacts::default(), b"h:1");
    let changes = view.take_changes(Instant::now(), Source::Event);
    let [Change::Refused { catalog, rejected: refused }, Change::Updated { snapshot: now, .. }] =
        &changes[..]
    else {
        panic!("{changes:?}")
    };
    let refused: Vec<_> = refused.iter().map(|r| format!("{} {}", r.node, r.reason.code())).collect();
    assert_eq!(
        (catalog.as_str(), refused.join(",").as_str()),
        ("orders", " bad_name,.. bad_name,a\\nb bad_name")
    );
    assert_eq!((members(now).as_str(), rejected(now)), ("", vec!["a\\u{7}b bad_name".to_owned()]));
    view.remove_service("a\nb");
    let changes = view.take_changes(Instant::now(), Source::Event);
    let [Change::Refused { rejected, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(rejected.len(), 2);
}

#[test]
fn the_lock_of_numbered_groups_is_no_group() {
    let format = FormatChoice::Fixed(FormatName::Numbered);
    let mut view = BaseView::new(&base(format, true));
    for child in ["lock", "locks", "kv"] {
        view.put_service(child);
        view.put(Some(child), "1", ONE, NodeFacts::default(), b"h:1");
    }
    let mut told = view.told();
    told.sort();
    assert_eq!(told, ["orders/kv 1=h:1", "orders/locks 1=h:1"]);
    view.remove_service("lock");
    assert!(view.told().is_empty());
    let mut others = catalog();
    others.put_service("lock");
    assert_eq!(others.told(), ["orders/lock "], "a service may be called so");
}

#[test]
fn a_pattern_names_services_by_what_its_stars_took() {
    let base = Base { path: "/dubbo/*/providers".into(), ..base(FormatChoice::Auto, true) };
    let mut view = BaseView::new(&base);
    view.put(Some("com.foo.Bar/providers"), "n", ONE, NodeFacts::default(), b"h:1");
    assert_eq!(view.told(), ["orders/com.foo.Bar n=h:1"]);
    view.remove_service("com.foo.Bar/providers");
    assert_eq!(view.told(), ["orders/com.foo.Bar gone"]);
}

#[test]
fn the_lowest_number_leads_an_election_and_a_service_that_asks_for_it() {
    let mut view = BaseView::new(&Base::of_election(&ServiceName::new("orders").unwrap(), "/election"));
    let mut leads = |act: &dyn Fn(&mut BaseView)| {
        act(&mut view);
        match view.take_changes(Instant::now(), Source::Event).as_slice() {
            [] => "no news".to_owned(),
            [Change::Leader { leader, .. }] => leader.as_deref().unwrap_or("-").to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((leads(&|_| ()), leads(&|_| ())), ("-".to_owned(), "no news".to_owned()));
    let latch = |n: u32| format!("_c_{}-latch-{n:010}", 9 - n);
    assert_eq!(leads(&|view| view.put(None, &latch(3), ONE, NodeFacts::default(), b" n3\n")), "n3");
    assert_eq!(leads(&|view| view.put(None, &latch(5), ONE, NodeFacts::default(), b"n5")), "no news");
    assert_eq!(leads(&|view| view.put(None, "config", ONE, NodeFacts::default(), b"n9")), "no news");
    assert_eq!(
        leads(&|view| view.put(None, &latch(2), ONE, NodeFacts::default(), b"\xff")),
        "",
        "who leads says nothing"
    );
    assert_eq!(leads(&|view| view.remove(None, &latch(2))), "n3");
    assert_eq!(leads(&|view| view.remove(None, &latch(3))), "n5");
    assert_eq!(leads(&|view| view.remove(None, &latch(5))), "-");

    let base = Base { primary: PrimaryRule::LowestSequence, ..base(FormatChoice::Auto, false) };
    let mut view = BaseView::new(&base);
    view.says("b-0000000001", "h:1");
    view.says("a-0000000002", "h:2");
    assert_eq!(view.now().primary.as_deref(), Some("b-0000000001"));
    view.remove(None, "b-0000000001");
    assert_eq!(view.now().primary.as_deref(), Some("a-0000000002"));
}

#[test]
fn beyond_the_cap_what_stands_is_kept_and_the_rest_rejected() {
    let mut view = view();
    view.services.get_mut("").unwrap().set_cap(2);
    view.says("b", "h:2");
    view.says("c", "h:3");
    view.says("a", "h:1");
    let now = view.now();
    assert_eq!((members(&now).as_str(), rejected(&now)), ("b=h:2,c=h:3", vec!["a too_large".to_owned()]));
    view.remove(None, "b");
    view.says("a", "h:1");
    let now = view.now();
    assert_eq!((members(&now).as_str(), rejected(&now)), ("a=h:1,c=h:3", vec![]));
}

#[test]
fn random_histories_end_where_a_fresh_view_of_the_same_nodes_does() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let good = ["h:1", "h:2", "192.0.2.1:80:5", "[::1]:8 3"];
    let mut view = view();
    let mut truth = std::collections::BTreeMap::new();
    for step in 0..2000u64 {
        let node = format!("n{}", rng.u8(..12));
        if rng.u8(..4) == 0 {
            truth.remove(&node);
            view.remove(None, &node);
        } else {
            let data = good[rng.usize(..good.len())];
            let incarnation = truth.get(&node).map_or(Incarnation(step, 0), |(incarnation, _)| *incarnation);
            truth.insert(node.clone(), (incarnation, data));
            view.put(None, &node, incarnation, NodeFacts::default(), data.as_bytes());
        }
        if rng.u8(..5) == 0 {
            view.take_changes(Instant::now(), Source::Event);
        }
    }
    view.take_changes(Instant::now(), Source::Event);
    let mut fresh = self::view();
    for (node, (incarnation, data)) in &truth {
        fresh.put(None, node, *incarnation, NodeFacts::default(), data.as_bytes());
    }
    fresh.take_changes(Instant::now(), Source::Event);
    assert_eq!(view.told[""], fresh.told[""]);
}

mod folders;
mod succession;
