//! One of three is stopped, or the network before it resets, half-closes, stalls or drips: no GET fails, neither before it is
//! ejected (where one in a thousand might) nor while it is, and none waits for the fault's end.

use std::time::{Duration, Instant};

use super::random;
use crate::support::forked::Forked;
use crate::support::gateway::{Gateway, ORDERS, Scratch, wait_for};
use crate::support::instance::Instance;
use crate::support::load::{Clients, Load, Sent, Witness, check};
use crate::support::network::{Relay, Trouble};

/// Two workers: each sees for itself that an instance fails.
const WORKERS: (&str, &str) = ("workers = 1", "workers = 2");
const GETTERS: usize = 8;
/// These send GETs as well.
const POSTERS: usize = 3;
const SERVICE: Duration = Duration::from_millis(5);
/// What the row grants is 3 s; the rest is for a machine that others use.
const EJECTED: Duration = Duration::from_secs(10);

/// What there is to tell of a run.
struct Run {
    /// All requests, and those that failed.
    sent: Vec<Sent>,
    failed: Vec<Sent>,
    ejected_after: Duration,
    /// From here on it was known to be ejected.
    ejected: Instant,
    /// From here on it was no fault any more.
    mended: Instant,
}

impl Run {
    fn gets(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.method == "GET")
    }

    fn failed_gets(&self) -> Vec<&Sent> {
        self.failed.iter().filter(|sent| sent.method == "GET").collect()
    }

    /// Holds it to its row.
    fn holds(&self, fault: &str) {
        let longest = self.gets().map(|sent| sent.took).max().unwrap();
        let before = self.gets().filter(|sent| sent.at < self.ejected).count();
        let failed = self.failed_gets();
        println!(
            "{fault}: ejected after {:?}, {before} GETs before, {} after; {} failed; the longest {longest:?}; {} POSTs failed",
            self.ejected_after,
            self.gets().count() - before,
            failed.len(),
            self.failed.len() - failed.len(),
        );
        assert!(failed.is_empty(), "{failed:?}; ejected at {:?}", self.ejected);
        assert!(self.ejected_after < EJECTED, "{:?}", self.ejected_after);
        let waited = |sent: &&Sent| sent.at < self.ejected && sent.at + sent.took > self.mended;
        assert_eq!(self.gets().filter(waited).count(), 0, "they waited for the fault's end: {longest:?}");
    }
}

/// Registers all, and sets the fault in `a` under load, until a probe has failed as well; then it is mended.
fn run<W: Witness>(
    name: &str,
    instances: &[W; 3],
    addresses: [std::net::SocketAddr; 3],
    fault: impl FnOnce(),
    mend: impl FnOnce(),
) -> Run {
    let gateway = Gateway::start(name, &ORDERS.replace(WORKERS.0, WORKERS.1));
    for (instance, address) in instances.iter().zip(addresses) {
        gateway.register(&format!("orders/{}", instance.name()), address);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    let public = gateway.listener("public");
    let clients =
        Clients { name: "g", count: GETTERS, pace: Duration::from_millis(20), posts: false, fresh: false };
    let gets = Load::of(public, clients);
    let both = Load::of(public, Clients { name: "p", count: POSTERS, posts: true, ..clients });
    let served = || instances[0].requests().len();
    wait_for("the one to serve", || (served() > 50).then_some(()));
    // Anywhere between two requests.
    std::thread::sleep(Duration::from_micros(random().u64(..20_000)));
    let since = Instant::now();
    fault();
    gateway.state("orders", "a", "ejected");
    let (ejected, ejected_after) = (Instant::now(), since.elapsed());
    wait_for("failed probes", || {
        let view = gateway.json("/api/services/orders");
        (view["instances"][0]["health"]["failed_probes"].as_u64()? >= 2).then_some(())
    });
    let mended = Instant::now();
    mend();
    gateway.state("orders", "a", "up");
    let before = served();
    wait_for("it to serve again", || (served() > before + 10).then_some(()));
    let sent = [gets.stop(), both.stop()].concat();
    let failed = check(&sent, instances).failures;
    Run { sent, failed, ejected_after, ejected, mended }
}

/// The same with a relay before `a`.
fn with(name: &str, trouble: Trouble) -> Run {
    let instances = ["a", "b", "c"].map(Instance::start);
    instances.iter().for_each(|instance| instance.delay(SERVICE));
    let relay = Relay::start(instances[0].address);
    let addresses = [relay.address, instances[1].address, instances[2].address];
    run(name, &instances, addresses, || relay.set(trouble), || relay.set(Trouble::None))
}

#[test]
fn resets_of_every_connection_cost_no_get() {
    with("network-resets", Trouble::Resets).holds("RST");
}

#[test]
fn resets_in_the_head_of_an_answer_cost_no_get() {
    with("network-head", Trouble::ResetsInHead).holds("RST in the head");
}

#[test]
fn half_closed_connections_cost_no_get() {
    with("network-half", Trouble::HalfCloses).holds("half-close");
}

#[test]
fn stalled_connections_cost_no_get() {
    with("network-stall", Trouble::Stalls).holds("stall");
}

#[test]
fn answers_that_drip_cost_no_get() {
    with("network-drip", Trouble::Drips).holds("drip");
}

#[test]
fn a_process_that_is_stopped_costs_no_get() {
    let folder = Scratch::new("network-stop");
    let instances = ["a", "b", "c"].map(|name| Forked::start(name, folder.path(), SERVICE));
    let addresses = instances.each_ref().map(|instance| instance.address);
    let signal = |name: &'static str| {
        let instance = &instances[0];
        move || instance.signal(name)
    };
    run("network-stop", &instances, addresses, signal("STOP"), signal("CONT")).holds("SIGSTOP");
}

#[test]
fn an_answer_that_breaks_off_in_its_body_is_never_taken_for_a_whole_one_and_few_requests_meet_it() {
    let run = with("network-body", Trouble::ResetsInBody);
    let (before, after): (Vec<&Sent>, Vec<&Sent>) = run.failed.iter().partition(|sent| sent.at < run.ejected);
    println!("RST in the body: {} failed before the ejection, {} after it", before.len(), after.len());
    let met = "five failures in a row, and who was under way meanwhile";
    assert!((5..=5 + GETTERS + POSTERS).contains(&before.len()), "{met}: {before:?}");
    assert!(run.failed.iter().all(|sent| sent.status == 0), "seen to break off: {:?}", run.failed);
    // A probe is answered, so now and then one request tries whether it is well.
    assert!(after.len() <= 4 && after.iter().all(|sent| sent.method == "GET"), "{after:?}");
}
