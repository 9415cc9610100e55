//! Whom an ejection belongs to, how many there may be, and when they are ignored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Reason;
use super::testing::{config, input, instance, name, route, service, snapshot};
use super::{Considered, Endpoint, InstanceState, Lease, NextStep, PickRequest, TableWriter};
use crate::config::plan::EjectionPlan;
use crate::model::{BalanceSpec, Instance, InstanceChoice};

fn writer(plan: Option<EjectionPlan>) -> TableWriter {
    let mut orders = service("orders", BalanceSpec::default());
    orders.defaults.ejection = plan.map(Arc::new);
    let (mut writer, _) = TableWriter::new(1);
    writer.configure(config(vec![orders], vec![route("/*")]));
    writer
}

fn publish(writer: &mut TableWriter, instances: impl IntoIterator<Item = Instance>) {
    writer.apply(&name("orders"), snapshot(instances));
    writer.publish();
}

/// The endpoint of this id.
fn endpoint(writer: &TableWriter, id: &str) -> Arc<Endpoint> {
    let table = writer.reader().load();
    let orders = table.upstream("orders").unwrap();
    Arc::clone(orders.endpoints().iter().find(|endpoint| &*endpoint.id == id).expect("it is there"))
}

fn pick(writer: &TableWriter, trial: bool) -> Option<Lease> {
    let table = writer.reader().load();
    let request =
        PickRequest { rng: &mut fastrand::Rng::new(), worker: 0, key: None, tried: &[], now: Instant::now() };
    table.upstream("orders").unwrap().pick_for(InstanceChoice::Any, trial, request)
}

/// The ids that many picks come to, sorted.
fn picked(writer: &TableWriter) -> Vec<String> {
    let mut ids: Vec<String> =
        (0..60).map(|_| pick(writer, false).unwrap().endpoint().id.to_string()).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn many(count: u8) -> impl Iterator<Item = Instance> {
    (1..=count).map(|i| instance(&format!("n{i}"), 1, i))
}

fn eject(writer: &TableWriter, id: &str, reason: Reason) -> bool {
    endpoint(writer, id).eject(reason, Instant::now()).is_some()
}

#[test]
fn who_fails_its_health_check_stays_out_whatever_probes_and_trials_say() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(4));
    let now = Instant::now();
    // Ejected by requests; then the check fails, which changes nothing for now.
    let failing = endpoint(&writer, "n1");
    assert!(failing.eject(Reason::Failures, now).is_some());
    assert!(failing.check_failed(now).is_none());
    assert!(!failing.probe_answered(now), "it would have been on trial");
    assert_eq!(failing.ejected().map(|(reason, ..)| reason), Some(Reason::Check));
    assert_eq!(failing.due(), None, "it waits for its check");
    assert!(!failing.probe_answered(now) && failing.ejected().is_some());
    assert!(failing.check_passed(now) && failing.ejected().is_none());

    // The check fails while it is on trial.
    let tried = endpoint(&writer, "n2");
    let spell = tried.eject(Reason::Failures, now).unwrap();
    assert!(!tried.probe_answered(now));
    assert!(matches!(tried.next_step(spell), Some(NextStep::EndTrial(_))));
    assert!(tried.check_failed(now).is_none());
    assert!(!tried.end_trial(now));
    assert_eq!(tried.ejected().map(|(reason, ..)| reason), Some(Reason::Check));
    assert!(tried.check_passed(now));

    // Somebody registered there anew: nothing that was said before counts.
    let unconnected = endpoint(&writer, "n3");
    assert!(unconnected.eject(Reason::Connect, now).is_some());
    assert!(unconnected.check_failed(now).is_none());
    assert!(!unconnected.probe_answered(now));
    unconnected.vitals.forgive();
    assert!(unconnected.ejected().is_none());
    assert!(unconnected.eject(Reason::Connect, now).is_some() && unconnected.probe_answered(now));
}

#[test]
fn an_ejection_ends_with_its_node_and_not_before() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(3));
    let old = endpoint(&writer, "n1");
    let spell = old.eject(Reason::Reset, Instant::now()).unwrap();
    publish(&mut writer, many(2));
    assert_eq!(endpoint(&writer, "n1").state(), InstanceState::Ejected, "others come and go");
    // The same name and address in another incarnation.
    publish(&mut writer, [instance("n1", 2, 1), instance("n2", 1, 2)]);
    assert_eq!(endpoint(&writer, "n1").state(), InstanceState::Up);
    assert_eq!((old.next_step(spell), old.is_closed()), (None, true), "nobody probes the old one");
    assert_eq!(picked(&writer), ["n1", "n2"]);
    // Its place among the ejected is free again.
    assert!(eject(&writer, "n2", Reason::Reset));
    publish(&mut writer, [instance("n1", 2, 1)]);
    publish(&mut writer, [instance("n1", 2, 1), instance("n2", 1, 2)]);
    assert_eq!(picked(&writer), ["n1", "n2"], "gone for a moment, it is nobody we know");
}

#[test]
fn who_registers_at_the_address_of_a_node_that_lingers_is_trusted_at_once() {
    let mut writer = writer(Some(EjectionPlan::default()));
    let lingering = instance("n1-0000000001", 1, 1);
    publish(&mut writer, [lingering.clone(), instance("n2", 1, 2)]);
    assert!(eject(&writer, "n1-0000000001", Reason::Connect));
    // The server is back under another name, before its old session has expired.
    let again = instance("n1-0000000002", 2, 1);
    publish(&mut writer, [lingering, again.clone(), instance("n2", 1, 2)]);
    assert_eq!(endpoint(&writer, "n1-0000000001").state(), InstanceState::Up);
    publish(&mut writer, [again, instance("n2", 1, 2)]);
    assert_eq!(picked(&writer), ["n1-0000000002", "n2"]);
}

#[test]
fn two_nodes_with_one_address_are_ejected_together_until_the_last_goes() {
    let mut writer = writer(Some(EjectionPlan::default()));
    let (a, b, other) = (instance("a", 1, 1), instance("b", 1, 1), instance("c", 1, 2));
    publish(&mut writer, [a.clone(), b.clone(), other.clone()]);
    assert!(eject(&writer, "a", Reason::Reset));
    let states = |writer: &TableWriter| {
        let table = writer.reader().load();
        table.upstream("orders").unwrap().instances().map(|(_, _, state)| state).collect::<Vec<_>>()
    };
    assert_eq!(states(&writer), [InstanceState::Ejected, InstanceState::Ejected, InstanceState::Up]);
    publish(&mut writer, [b.clone(), other.clone()]);
    assert_eq!(states(&writer), [InstanceState::Ejected, InstanceState::Up]);
    publish(&mut writer, [Instance { weight: 2.0, ..b.clone() }, other.clone()]);
    assert_eq!(states(&writer)[0], InstanceState::Ejected, "new data is not a new server");
    publish(&mut writer, [other.clone()]);
    publish(&mut writer, [b, other]);
    assert_eq!(states(&writer), [InstanceState::Up, InstanceState::Up]);
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not_let_them() {
    let mut writer = writer(Some(EjectionPlan { failures: 3, ..EjectionPlan::default() }));
    publish(&mut writer, many(2));
    let (endpoint, now) = (endpoint(&writer, "n1"), Instant::now());
    for _ in 0..10 {
        assert_eq!((endpoint.failed(now), endpoint.failed(now)), (None, None));
        endpoint.went_well();
    }
    assert_eq!((endpoint.failed(now), endpoint.failed(now)), (None, None));
    assert!(endpoint.failed(now).is_some());
    assert_eq!(picked(&writer), ["n2"]);
    assert!(!endpoint.is_silent());
}

#[test]
fn no_more_than_the_share_is_ejected_and_the_last_one_never() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(5));
    let ejected =
        |writer: &TableWriter, reason| (1..=5).filter(|i| eject(writer, &format!("n{i}"), reason)).count();
    assert_eq!(ejected(&writer, Reason::Failures), 2, "half of five");
    assert_eq!(picked(&writer), ["n3", "n4", "n5"]);
    assert_eq!(ejected(&writer, Reason::Connect), 3, "who takes no connection serves nobody anyway");
    publish(&mut writer, many(1));
    publish(&mut writer, many(0));
    publish(&mut writer, many(1));
    assert!(!eject(&writer, "n1", Reason::Failures) && !eject(&writer, "n1", Reason::Reset));
    publish(&mut writer, many(2));
    assert!(eject(&writer, "n1", Reason::Reset) && !eject(&writer, "n2", Reason::Reset), "one of two");
    assert!(eject(&writer, "n2", Reason::Silent), "who answers nobody serves nobody, either");
}

#[test]
fn ejection_that_is_off_leaves_only_failed_connects() {
    let mut writer = writer(None);
    publish(&mut writer, many(3));
    let now = Instant::now();
    assert!((0..100).all(|_| endpoint(&writer, "n1").failed(now).is_none()));
    assert!(!eject(&writer, "n1", Reason::Reset) && eject(&writer, "n1", Reason::Connect));
    assert_eq!(picked(&writer), ["n2", "n3"]);
}

#[test]
fn where_too_few_are_left_those_who_answer_are_offered_again() {
    let plan = EjectionPlan { max_ejected: 1.0, panic_threshold: 0.5, ..EjectionPlan::default() };
    let mut writer = writer(Some(plan));
    publish(&mut writer, many(4));
    assert!(eject(&writer, "n1", Reason::Connect) && eject(&writer, "n2", Reason::Failures));
    assert_eq!(picked(&writer), ["n3", "n4"], "half of them is enough");
    assert!(eject(&writer, "n3", Reason::Reset));
    assert_eq!(picked(&writer), ["n2", "n3", "n4"], "not who cannot be connected to");
    assert!(eject(&writer, "n4", Reason::Connect));
    endpoint(&writer, "n2").probe_answered(Instant::now());
    assert_eq!(picked(&writer), ["n2", "n3"]);
    for id in ["n2", "n3"] {
        publish(&mut writer, many(4).filter(|i| &*i.id.name != id));
        publish(&mut writer, many(4));
        assert!(eject(&writer, id, Reason::Connect));
    }
    assert_eq!(picked(&writer), ["n1", "n2", "n3", "n4"], "better than nobody");
}

#[test]
fn one_request_tries_who_failed_and_only_one_that_may() {
    let mut writer = writer(Some(EjectionPlan { failures: 2, ..EjectionPlan::default() }));
    publish(&mut writer, many(2));
    let (out, now) = (endpoint(&writer, "n1"), Instant::now());
    let spell = out.failed(now).or(out.failed(now)).unwrap();
    assert!((0..20).all(|_| !pick(&writer, true).unwrap().is_trial()), "no probe has been answered");
    assert!(!out.probe_answered(now));
    assert!(
        matches!(out.next_step(spell), Some(NextStep::EndTrial(at)) if at <= now + Duration::from_secs(2))
    );
    assert_eq!(picked(&writer), ["n2"], "these may not");
    let leases: Vec<Lease> = (0..20).map(|_| pick(&writer, true).unwrap()).collect();
    let trials = leases.iter().filter(|lease| lease.is_trial()).count();
    assert_eq!((trials, leases.iter().filter(|lease| lease.endpoint().id == out.id).count()), (1, 1));
    assert!(!out.tried(false, now));
    assert!(matches!(out.next_step(spell), Some(NextStep::Probe(_))), "the same ejection goes on");
    assert!(!out.probe_answered(now));
    assert!((0..20).any(|_| pick(&writer, true).unwrap().is_trial()));
    assert!(out.tried(true, now));
    assert_eq!((out.next_step(spell), picked(&writer)), (None, vec!["n1".to_owned(), "n2".to_owned()]));
}

#[test]
fn a_trial_without_a_request_ends_on_probation() {
    let mut writer = writer(Some(EjectionPlan { failures: 4, ..EjectionPlan::default() }));
    publish(&mut writer, many(2));
    let (out, now) = (endpoint(&writer, "n1"), Instant::now());
    assert!((0..3).all(|_| out.failed(now).is_none()) && out.failed(now).is_some());
    assert!(!out.probe_answered(now) && out.end_trial(now));
    assert_eq!(out.state(), InstanceState::Up);
    assert!(out.failed(now).is_some(), "one more was enough");
}

#[test]
fn a_doubt_sends_requests_elsewhere_while_there_are_enough_others() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(4));
    let first = endpoint(&writer, "n1");
    let doubt = first.doubt().expect("it is in rotation");
    assert!(first.doubt().is_none(), "one at a time");
    assert_eq!(
        (picked(&writer), first.state()),
        (vec!["n2".into(), "n3".into(), "n4".into()], InstanceState::Up)
    );
    let table = writer.reader().load();
    let told = input("GET", "h", "/", |input| table.explain(input, None, Instant::now()));
    let passed_over = |c: &&Considered| c.verdict == "rejected" && c.reason.contains("passed over");
    assert_eq!(told.considered.iter().filter(passed_over).map(|c| &*c.name).collect::<Vec<_>>(), ["n1"]);
    // Two of four are the least that ejections and doubts leave.
    let second = endpoint(&writer, "n2").doubt();
    assert_eq!(picked(&writer), ["n3", "n4"]);
    let third = endpoint(&writer, "n3").doubt();
    assert_eq!(picked(&writer).len(), 4, "too few are left: doubts do not count");
    drop((second, third, doubt));
    assert_eq!(picked(&writer).len(), 4);

    // It ends with the judgement, and takes none of the places of the ejected.
    let doubt = first.doubt();
    assert!(eject(&writer, "n2", Reason::Failures) && eject(&writer, "n3", Reason::Failures));
    assert!(first.eject(Reason::Silent, Instant::now()).is_some());
    assert_eq!(picked(&writer), ["n2", "n3", "n4"], "one is left of four, so those that answer are pardoned");
    drop(doubt);
    assert!(first.ejected().is_some());
}

#[test]
fn a_doubt_does_not_cost_the_request_that_has_nobody_else() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(2));
    let only = endpoint(&writer, "n2");
    let _doubt = endpoint(&writer, "n1").doubt();
    assert_eq!(picked(&writer), ["n2"]);
    let table = writer.reader().load();
    let request = PickRequest {
        rng: &mut fastrand::Rng::new(),
        worker: 0,
        key: None,
        tried: &[only.target.id],
        now: Instant::now(),
    };
    let lease = table.upstream("orders").unwrap().pick(request).expect("the other one");
    assert_eq!(&*lease.endpoint().id, "n1");
}

#[test]
fn what_is_too_long_is_measured_by_what_was_usual() {
    let mut writer = writer(Some(EjectionPlan::default()));
    publish(&mut writer, many(1));
    let (only, start) = (endpoint(&writer, "n1"), Instant::now());
    let ms = Duration::from_millis;
    let answered = |after: Duration, took: Duration| {
        let table = writer.reader().load();
        let request = PickRequest {
            rng: &mut fastrand::Rng::new(),
            worker: 0,
            key: None,
            tried: &[],
            now: start + after,
        };
        table
            .upstream("orders")
            .unwrap()
            .pick(request)
            .unwrap()
            .settle(crate::telemetry::Outcome::Ok, Some(took));
    };
    let waits = |since: u64, now: u64| only.keeps_waiting(start + ms(since), start + ms(now));
    assert!(!waits(0, 999) && waits(0, 1_000), "nothing is known of it");
    answered(ms(1_100), ms(40));
    assert!(!waits(2_000, 2_150) && waits(2_000, 2_250), "five times what it took, less what is forgotten");
    assert!(!waits(900, 1_160), "another one was answered meanwhile");
    answered(ms(3_000), ms(2));
    answered(ms(3_000), ms(900));
    assert!(!waits(4_000, 4_900) && waits(4_000, 5_000), "a second is the most");

    // What waited through an ejection tells nothing.
    let patience = only.patience(start + ms(6_000));
    assert!(
        only.eject(Reason::Silent, start + ms(6_000)).is_some() && only.probe_answered(start + ms(9_000))
    );
    answered(ms(5_500), ms(8_000));
    assert!(only.patience(start + ms(9_000)) <= patience, "it is forgotten by and by, and not renewed");
}
