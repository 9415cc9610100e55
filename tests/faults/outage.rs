//! No ensemble for a minute (ten with `ZOOGATE_TEST_LONG=1`), and an instance killed meanwhile: the last table serves on, and
//! is the truth soon after the ensemble is back, with another directory than the one that is known.

use std::time::{Duration, Instant};

use super::killed::{Killed, only_in_flight};
use super::world::World;
use super::{long, random};
use crate::support::forked::Forked;
use crate::support::gateway::{Scratch, wait_for};
use crate::support::load::{Load, Witness, check};

/// From the ensemble's first answer to a gateway that is current, and from a change to a table with it.
const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn an_outage_of_the_ensemble_costs_no_request_and_one_that_is_back_is_believed() {
    let (outage, mut random) = (Duration::from_secs(if long() { 600 } else { 60 }), random());
    let mut world = World::start("outage", &["a", "b", "c"]);
    let folder = Scratch::new("outage");
    let mut dying = Forked::start("d", folder.path(), Duration::from_millis(5));
    let session = world.ephemeral("d", &dying.address.to_string());
    world.gateway.instances("orders", &["a", "b", "c", "d"]);
    let load = Load::start(world.gateway.listener("public"), 4, Duration::from_millis(40));
    wait_for("all to serve", || (dying.count() > 10).then_some(()));

    world.down(&[0, 1, 2]);
    let since = Instant::now();
    let past = |part: f64| std::thread::sleep(outage.mul_f64(part).saturating_sub(since.elapsed()));
    past(0.1 + 0.3 * random.f64());
    // It cannot say goodbye, so its node is there when the ensemble is back, until its session has expired.
    drop(session);
    let killed = Killed::by_kill(&mut dying);
    world.gateway.state("orders", "d", "ejected");
    past(1.0);
    world.gateway.instances("orders", &["a", "b", "c", "d"]);
    assert_eq!(world.gateway.json("/api/services/orders")["stale"], true);

    let (current, changed) = world.back(&[0, 1, 2], |world| {
        world.delete("b");
        world.add("e");
    });
    world.gateway.instances("orders", &["a", "c", "e"]);
    wait_for("the new one to serve", || (world.instances["e"].count() > 10).then_some(()));
    let sent = load.stop();
    let instances: Vec<&dyn Witness> =
        world.instances.values().chain(&world.past).map(|instance| instance as &dyn Witness).collect();
    let history = check(&sent, instances.into_iter().chain([&dying as &dyn Witness]));
    println!(
        "no ensemble for {outage:?}: {} requests, the longest {:?}, {} failed; current {current:?} after its first answer, \
         the table true {changed:?} after the last change",
        history.requests,
        history.longest,
        history.failures.len()
    );
    only_in_flight(&world.gateway, &sent, &history.failures, &[killed]);
    assert!(current < LIMIT && changed < LIMIT, "{current:?} {changed:?}");
    assert_eq!(world.drift(), Some(0.0));
}
