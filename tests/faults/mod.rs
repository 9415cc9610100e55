//! Faults under load: what clients notice, and whether anything is lost or done twice.
//!
//! Each row runs the real binary with recording instances, and holds what clients sent against what instances saw
//! (`support/load.rs`). Long runs of the same kind, beside other proxies, are `bench/faults.sh`.
//!
//! `ZOOGATE_TEST_LONG=1` runs each as often, or for as long, as the row asks for. What is random comes from a seed, which is
//! printed; `ZOOGATE_TEST_SEED` sets it.
//!
//! | row | file |
//! | --- | --- |
//! | SIGKILL to one of three, again and again, while it stays registered | `kill.rs` |
//! | one of three stopped, or behind a network that resets, half-closes, stalls, drips | `network.rs` |
//! | all three restarted one after the other, with GET, POST and gRPC | `restart.rs` |
//! | no ensemble for a minute, an instance killed meanwhile | `outage.rs` |
//! | faults of the ensemble by chance, with registrations that come and go; leaders killed | `ensemble.rs` |
//! | half of the instances vanish, or all, with the guard and without | `vanish_guard.rs` |
//! | half of the sessions expire, and later their instances die | `expiry.rs` |
//! | a registration that comes and goes twenty times a second | `flapping.rs` |
//! | reloads by the hundred, by signal and by request, beside a registry of a hundred events a second | `reload_storm.rs` |
//! | four workers instead of one, then two, then one | `resize.rs` |
//! | one process after another on the same sockets, with five hundred streams open | `swap.rs` |
//! | three times what a service bears | `overload.rs` |
//! | every instance answers 503 | `unavailable.rs` |

mod ensemble;
mod expiry;
mod flapping;
mod held;
mod kill;
mod killed;
mod network;
mod outage;
mod overload;
mod reload_storm;
mod resize;
mod restart;
mod swap;
mod unavailable;
mod vanish_guard;
mod world;

/// Whether runs are to be as long as their rows ask for.
fn long() -> bool {
    std::env::var_os("ZOOGATE_TEST_LONG").is_some()
}

/// What is random in a run: from the seed that is set, or from one that is printed.
fn random() -> fastrand::Rng {
    let set = std::env::var("ZOOGATE_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed = set.unwrap_or_else(|| fastrand::u64(..));
    println!("ZOOGATE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// No test: other tests run it in a process of its own, to have an instance that signals reach.
#[test]
#[ignore = "run by other tests"]
fn an_instance_of_its_own() {
    crate::support::forked::serve();
}
