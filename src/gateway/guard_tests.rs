use proptest::prelude::*;

use super::*;
use crate::model::{Incarnation, InstanceId};

const RULE: VanishGuard =
    VanishGuard { share: 0.5, window: Duration::from_secs(10), hold: Duration::from_secs(300) };

fn instance(n: u16, incarnation: u64) -> Arc<Instance> {
    let id = InstanceId { name: format!("n{n:03}").into(), incarnation: Incarnation(incarnation, 0) };
    Arc::new(Instance::new(id, format!("10.0.0.1:{}", 1000 + n).parse().unwrap()))
}

fn of(numbers: impl IntoIterator<Item = u16>) -> Arc<ServiceSnapshot> {
    let instances = numbers.into_iter().map(|n| instance(n, 1)).collect();
    Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() })
}

/// Names of those offered; who is in limbo with a star.
fn offered(guard: &Guard) -> String {
    let name = |i: &Arc<Instance>| format!("{}{}", i.id.name, if i.facts.limbo { "*" } else { "" });
    guard.offered().instances.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[test]
fn a_share_that_vanishes_is_held_and_a_smaller_one_is_gone() {
    let now = Instant::now();
    let mut guard = Guard::new(VanishGuard { share: 0.75, ..RULE }, of(0..4));
    assert_eq!(guard.told(of([2, 3]), now), None, "a half is less than three quarters");
    assert_eq!((offered(&guard).as_str(), guard.is_engaged()), ("n002 n003", false));
    assert!(Arc::ptr_eq(guard.offered(), guard.real()) && guard.wakes_at().is_none());
    // The third within the window: those who went before come back once they answer.
    assert_eq!(guard.told(of([3]), at(now, 9_999)), Some(Engaged { held: 3, left: 1 }));
    assert_eq!(offered(&guard), "n002* n003");
    let questions = guard.questions(at(now, 9_999));
    assert_eq!(questions.len(), 3);
    assert!(guard.questions(at(now, 20_000)).is_empty(), "nobody is asked twice at once");
    assert!(guard.answered(&questions[0], true, at(now, 10_100)));
    assert!(!guard.answered(&questions[1], false, at(now, 10_100)), "it was gone already");
    assert!(!guard.answered(&questions[2], true, at(now, 10_100)));
    assert_eq!(offered(&guard), "n000* n002* n003");
    assert_eq!(guard.wakes_at(), Some(at(now, 11_100)));
    // Registered again: under its own name, and under another at the same address.
    let mut again = Instance::clone(&instance(2, 7));
    again.id.name = "z".into();
    let back = vec![instance(0, 9), instance(3, 1), Arc::new(again)];
    let back = Arc::new(ServiceSnapshot { instances: back, ..ServiceSnapshot::default() });
    assert_eq!(guard.told(back, at(now, 12_000)), None);
    assert_eq!(offered(&guard), "n000 n003 z");
    assert_eq!(guard.ended(), Some(Tally { held: 3, back: 2, dead: 1, expired: 0 }));
    assert_eq!(guard.ended(), None);
}

#[test]
fn what_vanished_slowly_is_not_held() {
    let now = Instant::now();
    let mut guard = Guard::new(RULE, of(0..5));
    for (n, left) in [4, 3, 2].into_iter().enumerate() {
        assert_eq!(guard.told(of(0..left), at(now, n as u64 * 10_000)), None);
    }
    assert_eq!(
        guard.told(of([]), at(now, 60_000)),
        Some(Engaged { held: 2, left: 0 }),
        "all of it is over any share"
    );
    assert_eq!(offered(&guard), "n000* n001*");
}

#[test]
fn the_time_ends_and_a_failed_connect_ends_it_at_once() {
    let now = Instant::now();
    let mut guard = Guard::new(RULE, of(0..3));
    assert!(guard.told(of([]), now).is_some());
    let questions = guard.questions(now);
    assert!(guard.failed("n001") && !guard.failed("n001"));
    assert!(!guard.answered(&questions[1], true, now), "an answer on its way does not bring it back");
    assert_eq!(offered(&guard), "n000* n002*");
    // Who is found dead is not held again by what follows.
    assert_eq!(guard.told(of([]), at(now, 10)), None);
    assert!(!guard.expire(at(now, 299_999)) && guard.expire(at(now, 300_000)));
    assert_eq!(offered(&guard), "");
    assert_eq!(guard.ended(), Some(Tally { held: 3, back: 0, dead: 1, expired: 2 }));
}

#[test]
fn who_wants_no_traffic_is_not_missed() {
    let off = |n| Arc::new(Instance { enabled: false, ..Instance::clone(&instance(n, 1)) });
    let instances = vec![off(0), off(1), off(2), instance(3, 1)];
    let mut guard = Guard::new(RULE, Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() }));
    assert_eq!(guard.told(of([3]), Instant::now()), None);
    assert_eq!(offered(&guard), "n003");
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Told(Vec<bool>),
    /// Everybody who is due is asked; who has `true` answers.
    Probe(Vec<bool>),
    Failed(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..20_000).prop_map(Step::Wait),
        prop::collection::vec(prop::bool::weighted(0.7), 8).prop_map(Step::Told),
        prop::collection::vec(any::<bool>(), 8).prop_map(Step::Told),
        prop::collection::vec(prop::bool::weighted(0.8), 8).prop_map(Step::Probe),
        (0_u16..8).prop_map(Step::Failed),
    ]
}

proptest! {
    /// Against a plain account of who is registered, who vanished when, and who is known to be dead.
    #[test]
    fn who_is_offered_is_registered_or_vanished_in_a_mass_and_answers(
        steps in prop::collection::vec(step(), 1..60),
        share in 0.0_f64..0.99,
        hold in 1_000_u64..40_000,
    ) {
        let rule = VanishGuard { share, hold: Duration::from_millis(hold), ..RULE };
        let start = Instant::now();
        let mut guard = Guard::new(rule, of(0..8));
        let mut now = start;
        let mut registered = [true; 8];
        let mut vanished = [None::<Instant>; 8];
        // When it came into limbo, as far as it may still be there.
        let mut limbo = [None::<Instant>; 8];
        for step in steps {
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Told(next) => {
                    let mut news = Vec::new();
                    for n in 0..8 {
                        if registered[n] && !next[n] {
                            vanished[n] = Some(now);
                            news.push(n);
                        } else if next[n] {
                            vanished[n] = None;
                            limbo[n] = None;
                        }
                        registered[n] = next[n];
                    }
                    let recent = |v: &Option<Instant>| v.is_some_and(|v| now - v < rule.window);
                    let lost = vanished.iter().filter(|v| recent(v)).count();
                    let left = next.iter().filter(|here| **here).count();
                    let over = !news.is_empty() && lost as f64 >= share * (lost + left) as f64;
                    for n in 0..8 {
                        // At once for those of this very moment; for the rest of the window it is allowed.
                        if over && recent(&vanished[n]) && limbo[n].is_none() {
                            limbo[n] = Some(now);
                        }
                    }
                    let real = of((0..8).filter(|n| next[usize::from(*n)]));
                    guard.told(real, now);
                    if over {
                        let text = offered(&guard);
                        for n in news {
                            prop_assert!(text.contains(&format!("n{n:03}*")), "{n} went in a mass: {text}");
                        }
                    }
                }
                Step::Probe(answers) => {
                    for question in guard.questions(now) {
                        let n = usize::from(question.instance.address.port - 1000);
                        guard.answered(&question, answers[n], now);
                        if !answers[n] {
                            limbo[n] = None;
                        }
                        let text = offered(&guard);
                        prop_assert_eq!(text.contains(&format!("n{n:03}*")), answers[n], "{} {}", n, text);
                    }
                }
                Step::Failed(n) => {
                    guard.failed(&format!("n{n:03}"));
                    if !registered[usize::from(n)] {
                        limbo[usize::from(n)] = None;
                    }
                }
            }
            guard.expire(now);
            for since in &mut limbo {
                since.take_if(|since| now - *since >= rule.hold);
            }
            let instances = &guard.offered().instances;
            prop_assert!(instances.is_sorted_by(|a, b| a.id.name < b.id.name));
            for n in 0..8_u16 {
                let found = instances.iter().find(|i| i.address.port == 1000 + n);
                let (here, may) = (registered[usize::from(n)], limbo[usize::from(n)].is_some());
                prop_assert_eq!(here, found.is_some_and(|i| !i.facts.limbo), "{} at {:?}", n, now - start);
                prop_assert!(may || found.is_none_or(|i| !i.facts.limbo), "{} is held", n);
            }
            prop_assert_eq!(guard.wakes_at().is_some(), guard.is_engaged());
            if !guard.is_engaged() {
                prop_assert!(Arc::ptr_eq(guard.offered(), guard.real()));
            }
        }
    }
}
