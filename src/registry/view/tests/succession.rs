//! Changes of a primary, as far as its successor has been read.

use std::time::Duration;

use super::*;

fn lowest() -> BaseView {
    BaseView::new(&Base { primary: PrimaryRule::LowestSequence, ..base(FormatChoice::Auto, false) })
}

impl BaseView {
    fn reads(&mut self, nodes: &[&str]) {
        self.set_unread(nodes.iter().map(|node| (None, *node)));
    }

    /// Who leads and who is there, where that is news by then.
    fn news(&mut self, at: Instant) -> Option<News> {
        match self.take_changes(at, Source::Event).as_slice() {
            [] => None,
            [Change::Updated { snapshot, .. }] => {
                Some((snapshot.primary.as_deref().unwrap_or("-").to_owned(), members(snapshot)))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Who leads and who is there.
type News = (String, String);

fn news(primary: &str, members: &str) -> News {
    (primary.to_owned(), members.to_owned())
}

#[test]
fn a_primary_stays_until_its_successor_is_read_and_goes_in_the_same_change() {
    let (mut view, now) = (lowest(), Instant::now());
    for (node, data) in [("a-0000000001", "h:1"), ("b-0000000002", "h:2"), ("c-0000000004", "h:4")] {
        view.says(node, data);
    }
    assert_eq!(view.news(now).unwrap().0, "a-0000000001");
    // The next two are gone as well, and the one that follows was just made.
    view.remove(None, "a-0000000001");
    view.remove(None, "b-0000000002");
    view.reads(&["d-0000000003"]);
    assert_eq!(view.news(now), Some(news("a-0000000001", "a-0000000001=h:1,c-0000000004=h:4")));
    view.reads(&["d-0000000003"]);
    assert_eq!(view.news(now), None);
    view.says("d-0000000003", "h:3");
    view.reads(&[]);
    assert_eq!(view.news(now), Some(news("d-0000000003", "c-0000000004=h:4,d-0000000003=h:3")));
}

#[test]
fn a_primary_goes_at_once_where_its_successor_is_known_or_nobody_follows() {
    let (mut view, now) = (lowest(), Instant::now());
    view.says("a-0000000001", "h:1");
    view.says("b-0000000002", "h:2");
    view.news(now);
    // One that is read again has an older value, and one that stands behind does not matter.
    view.reads(&["b-0000000002", "c-0000000003", "notes"]);
    view.remove(None, "a-0000000001");
    assert_eq!(view.news(now), Some(news("b-0000000002", "b-0000000002=h:2")));
    view.reads(&["notes"]);
    view.remove(None, "b-0000000002");
    assert_eq!(view.news(now), Some(news("-", "")));
}

#[test]
fn nobody_leads_before_one_that_is_yet_to_be_read() {
    let (mut view, now) = (lowest(), Instant::now());
    view.says("b-0000000002", "h:2");
    view.reads(&["a-0000000001"]);
    assert_eq!(view.news(now), Some(news("-", "b-0000000002=h:2")));
    view.says("a-0000000001", "h:1");
    view.reads(&[]);
    assert_eq!(view.news(now), Some(news("a-0000000001", "a-0000000001=h:1,b-0000000002=h:2")));
}

#[test]
fn a_successor_that_says_nothing_or_never_comes_holds_a_primary_for_no_longer() {
    let (mut view, now) = (lowest(), Instant::now());
    view.says("a-0000000001", "h:1");
    view.news(now);
    view.remove(None, "a-0000000001");
    view.reads(&["b-0000000002"]);
    assert_eq!(view.news(now), None);
    view.reads(&["b-0000000002"]);
    assert_eq!(view.news(now + Duration::from_millis(1001)), Some(news("-", "")));

    view.says("b-0000000002", "h:2");
    view.reads(&[]);
    view.news(now);
    view.remove(None, "b-0000000002");
    view.reads(&["c-0000000003"]);
    assert_eq!(view.news(now), None);
    view.reject(None, "c-0000000003", RejectReason::Forbidden, "no");
    view.reads(&[]);
    assert_eq!(view.news(now), Some(news("-", "")));
}

#[test]
fn a_pointer_and_what_it_points_to_change_the_primary_in_one_step() {
    let base = Base { format: FormatChoice::Fixed(FormatName::Numbered), ..base(FormatChoice::Auto, false) };
    let (mut view, now) = (BaseView::new(&base), Instant::now());
    view.says("1", "h:1");
    view.says("primary", "1");
    assert_eq!(view.news(now), Some(news("1", "1=h:1")));
    // One transaction: 1 goes, 2 comes, the pointer moves.
    view.remove(None, "1");
    view.reads(&["2", "primary"]);
    assert_eq!(view.news(now), None);
    view.says("primary", "2");
    view.reads(&["2"]);
    assert_eq!(view.news(now), None);
    view.says("2", "h:2");
    view.reads(&["3"]);
    assert_eq!(view.news(now), Some(news("2", "2=h:2")));
    // A node that nobody points to holds nothing.
    view.remove(None, "2");
    assert_eq!(view.news(now), Some(news("-", "")));
}

#[test]
fn who_calls_itself_the_primary_follows_another_in_one_step() {
    let (mut view, now) = (view(), Instant::now());
    let says = |view: &mut BaseView, node: &str, role: &str| {
        view.says(node, &format!(r#"{{"host":"h","port":1,"role":"{role}"}}"#));
    };
    says(&mut view, "a", "primary");
    says(&mut view, "b", "replica");
    assert_eq!(view.news(now).unwrap().0, "a");
    view.remove(None, "a");
    view.reads(&["b"]);
    assert_eq!(view.news(now), None);
    says(&mut view, "b", "primary");
    view.reads(&[]);
    assert_eq!(view.news(now), Some(news("b", "b=h:1")));
}

#[test]
fn an_elections_leader_goes_on_until_a_candidate_before_the_next_is_read() {
    let (mut view, now) =
        (BaseView::new(&Base::of_election(&ServiceName::new("orders").unwrap(), "/e")), Instant::now());
    let mut leads = |act: &dyn Fn(&mut BaseView)| {
        act(&mut view);
        match view.take_changes(now, Source::Event).as_slice() {
            [] => "no news".to_owned(),
            [Change::Leader { leader, .. }] => leader.as_deref().unwrap_or("-").to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let put = |view: &mut BaseView, node: &str| {
        view.put(None, node, ONE, NodeFacts::default(), node.as_bytes());
    };
    assert_eq!(leads(&|view| put(view, "n-0000000001")), "n-0000000001");
    assert_eq!(leads(&|view| put(view, "n-0000000003")), "no news");
    let both_gone = |view: &mut BaseView| {
        view.remove(None, "n-0000000001");
        view.reads(&["n-0000000002", "n-0000000004"]);
    };
    assert_eq!(leads(&both_gone), "no news");
    assert_eq!(leads(&|view| view.reads(&["n-0000000004"])), "n-0000000003");
}
