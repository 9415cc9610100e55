//! Faults of the ensemble, drawn by chance, with registrations that come and go: no request fails, and the table is what
//! ZooKeeper holds within seconds of each.

use std::time::{Duration, Instant};

use super::world::World;
use super::{long, random};
use crate::support::load::{Load, check};

/// These are never deregistered, so that somebody serves.
const ALWAYS: [&str; 3] = ["a", "b", "c"];
/// From the end of a fault, and from the last change, to a table that is the truth.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillLeader,
    KillFollower,
    StopLeader,
    StopFollower,
    NoQuorum,
    AllDown,
}

const FAULTS: [Fault; 10] = [
    Fault::KillLeader,
    Fault::KillLeader,
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::KillFollower,
    Fault::StopLeader,
    Fault::StopLeader,
    Fault::StopFollower,
    Fault::NoQuorum,
    Fault::AllDown,
];

impl World {
    /// Some registrations come, and some go; says which.
    fn churn(&mut self, random: &mut fastrand::Rng, next: &mut usize) -> String {
        let mut told = String::new();
        for _ in 0..random.usize(1..=3) {
            let others: Vec<String> =
                self.instances.keys().filter(|name| !ALWAYS.contains(&name.as_str())).cloned().collect();
            let name = match random.choice(&others) {
                Some(name) if others.len() > 3 || random.bool() => name.clone(),
                _ => {
                    *next += 1;
                    format!("n{next}")
                }
            };
            if others.contains(&name) {
                self.delete(&name);
                told += &format!(" -{name}");
            }
            // Half of those that went are back at once, at another address.
            if !others.contains(&name) || random.bool() {
                self.add(&name);
                told += &format!(" +{name}");
            }
        }
        told
    }

    /// One fault from its begin to its end. Says what happened, and how long it took then to know the truth.
    fn suffer(&mut self, fault: Fault, random: &mut fastrand::Rng, next: &mut usize) -> (String, Duration) {
        self.whole();
        let leader = self.zk.leader();
        let follower = (leader + 1 + random.usize(..2)) % 3;
        let lasts = Duration::from_millis(random.u64(..2_000));
        let mut told = String::new();
        let down = match fault {
            Fault::KillLeader => vec![leader],
            Fault::KillFollower => vec![follower],
            Fault::NoQuorum => vec![leader, follower],
            Fault::AllDown => vec![0, 1, 2],
            Fault::StopLeader | Fault::StopFollower => {
                let stopped = if matches!(fault, Fault::StopLeader) { leader } else { follower };
                self.zk.servers[stopped].pause();
                told += &self.churn(random, next);
                std::thread::sleep(lasts);
                self.zk.servers[stopped].resume();
                told += &self.churn(random, next);
                let took = self.truth(Instant::now());
                return (format!("{fault:?} of {stopped}, {lasts:?}:{told}"), took);
            }
        };
        if down.len() == 1 {
            self.zk.servers[down[0]].kill();
            told += &self.churn(random, next);
        } else {
            self.down(&down);
        }
        std::thread::sleep(lasts);
        let (current, changed) = self.back(&down, |world| told += &world.churn(random, next));
        (format!("{fault:?} of {down:?}, {lasts:?}:{told}"), current.max(changed))
    }
}

#[test]
fn faults_of_the_ensemble_cost_no_request_and_the_table_is_the_truth_after_each() {
    let (faults, mut random) = (if long() { 100 } else { 10 }, random());
    let mut world = World::start("ensemble", &ALWAYS);
    let load = Load::start(world.gateway.listener("public"), 4, Duration::from_millis(30));
    let (mut next, mut worst) = (0, Duration::ZERO);
    for number in 1..=faults {
        let fault = FAULTS[random.usize(..FAULTS.len())];
        println!("{number}: {fault:?}");
        let (told, took) = world.suffer(fault, &mut random, &mut next);
        println!("   {told}; the truth after {took:?}");
        worst = worst.max(took);
    }
    let history = check(&load.stop(), world.instances.values().chain(&world.past));
    println!(
        "{faults} faults, {} requests, the longest {:?}, {} failed; the truth at the latest {worst:?} after a fault",
        history.requests,
        history.longest,
        history.failures.len()
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    assert!(worst < LIMIT, "{worst:?}");
    assert_eq!(world.drift(), Some(0.0));
}

#[test]
fn leaders_that_die_one_after_the_other_cost_no_request() {
    let kills = if long() { 20 } else { 2 };
    let mut world = World::start("leaders", &["a", "b", "c"]);
    let load = Load::start(world.gateway.listener("public"), 4, Duration::from_millis(8));
    let mut worst = Duration::ZERO;
    for kill in 0..kills {
        world.whole();
        let leader = world.zk.leader();
        world.zk.servers[leader].kill();
        // Each kill finds other members than the one before.
        let (goes, comes) = if kill % 2 == 0 { ("a", "d") } else { ("d", "a") };
        world.delete(goes);
        world.add(comes);
        worst = worst.max(world.truth(Instant::now()));
        world.zk.servers[leader].start();
    }
    let history = check(&load.stop(), world.instances.values().chain(&world.past));
    println!(
        "{} requests, {kills} leaders killed; true at the latest {worst:?} after the write",
        history.requests
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    assert!(worst < Duration::from_secs(3), "{worst:?}");
    assert_eq!(world.drift(), Some(0.0));
}
