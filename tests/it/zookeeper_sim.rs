//! The mirror against a simulated directory, link and server.

use std::collections::BTreeMap;

use crate::support::sim::Sim;

const SEEDS: u64 = 256;

#[test]
fn mirror_is_the_truth_after_any_order_of_events_answers_and_losses() {
    // SEED=n runs one; without it, a new range every day would hide failures: always the same seeds.
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect::<Vec<_>>(),
    };
    let (mut losses, mut stale, mut by_event, mut by_listing) = (0, 0, 0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let mut sim = Sim::new(seed);
        for _ in 0..2000 {
            sim.step();
        }
        sim.settle();
        let (truth, folders) = sim.truth();
        let nodes: BTreeMap<_, _> = truth.iter().map(|(place, node)| (place.clone(), node.czxid)).collect();
        assert_eq!(sim.mirror.nodes(), nodes, "seed {seed}: the mirror's own nodes");
        let told: BTreeMap<_, _> =
            sim.state.iter().map(|(place, node)| (place, (node.czxid, &node.data))).collect();
        let real: BTreeMap<_, _> =
            truth.iter().map(|(place, node)| (place, (node.czxid, &node.data))).collect();
        assert_eq!(told, real, "seed {seed}: what the deltas add up to");
        assert_eq!(sim.mirror.unread().count(), 0, "seed {seed}: everything is read");
        assert_eq!(&sim.folders, folders, "seed {seed}: the services");
        let counters = sim.mirror.counters();
        if sim.is_in_order() {
            assert_eq!(counters.drift, 0, "seed {seed}: an audit found what events had told");
        }
        losses += sim.losses;
        stale += counters.stale_replies;
        by_event += counters.removed_by_event;
        by_listing += counters.removed_by_listing;
    }
    println!(
        "{losses} losses, {stale} stale answers, removed {by_event} by event and {by_listing} by listing"
    );
    assert!(losses > 0 || std::env::var("SEED").is_ok(), "a simulation without losses shows nothing");
}
