//! Every instance answers 503: what is sent again is at most a fifth of what is asked.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::long;
use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::instance::Instance;
use crate::support::load::{Load, Witness, check};

const WORKERS: usize = 2;
/// A quiet worker may send so many again in a window, whatever its share.
const FLOOR: usize = 10;
/// The budget's window.
const WINDOW: f64 = 10.0;

#[test]
fn instances_that_all_answer_503_get_at_most_a_fifth_more_than_is_asked() {
    let lasts = Duration::from_secs(if long() { 60 } else { 12 });
    let gateway = Gateway::start("unavailable", &ORDERS.replace("workers = 1", "workers = 2"));
    let instances = ["a", "b", "c"].map(Instance::start);
    for instance in &instances {
        instance.says(503);
        gateway.register(&format!("orders/{}", instance.name), instance.address);
    }
    gateway.instances("orders", &["a", "b", "c"]);
    let (began, load) =
        (Instant::now(), Load::start(gateway.listener("public"), 6, Duration::from_millis(12)));
    std::thread::sleep(lasts);
    let sent = load.stop();
    let took = began.elapsed().as_secs_f64();
    let attempts: usize = instances.iter().map(|instance| instance.requests().len()).sum();
    let history = check(&sent, &instances);
    let mut answers: HashMap<(u16, &str), usize> = HashMap::new();
    for failure in &history.failures {
        *answers.entry((failure.status, &failure.answer)).or_default() += 1;
    }
    let trials = gateway.metric("zoogate_retries_total{reason=\"status\",service=\"orders\"}").unwrap_or(0.0);
    println!(
        "{} requests at {:.0}/s, {attempts} at the instances: {:.3} times; {trials} were sent again; {answers:?}",
        sent.len(),
        sent.len() as f64 / took,
        attempts as f64 / sent.len() as f64,
    );
    assert_eq!(history.failures.len(), sent.len());
    assert!(answers.keys().all(|(status, by)| *status == 503 && ["a", "b", "c"].contains(by)), "{answers:?}");
    let windows = (took / WINDOW).ceil() as usize + 1;
    let most = sent.len() * 6 / 5 + WORKERS * FLOOR * windows;
    assert!(attempts <= most, "{attempts} of {} requests; at most {most}", sent.len());
    assert!(attempts > sent.len(), "nothing was sent again: this shows nothing");

    instances.iter().for_each(|instance| instance.says(200));
    for instance in &instances {
        wait_for("it to serve again", || {
            let answer = gateway.get("/back");
            (answer.status == 200 && answer.body == instance.name).then_some(())
        });
    }
}
