//! What a killed instance may cost: the POSTs that were in flight on it at that moment, of which nobody knows whether they
//! were carried out.

use std::collections::HashMap;
use std::time::Instant;

use crate::support::forked::Forked;
use crate::support::gateway::{Gateway, wait_for};
use crate::support::load::Sent;

/// Who was killed, and the moments between which it died.
pub struct Killed {
    name: String,
    from: Instant,
    to: Instant,
}

impl Killed {
    pub fn by_kill(instance: &mut Forked) -> Self {
        let from = Instant::now();
        instance.kill();
        Self { name: instance.name.clone(), from, to: Instant::now() }
    }

    /// Whether this is a POST that was sent to it, and waited when it died.
    fn had(&self, post: &Sent, places: &HashMap<String, String>) -> bool {
        let there = places.get(&post.id).is_some_and(|place| *place == self.name);
        post.method == "POST" && post.at <= self.to && post.at + post.took >= self.from && there
    }
}

/// Where the gateway sent each request last, by id: its access log says so.
fn places(gateway: &Gateway, requests: usize) -> HashMap<String, String> {
    let lines = wait_for("every request's line", || {
        let lines = gateway.out.all();
        (lines.len() >= requests).then_some(lines)
    });
    let place = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = line["path"].as_str()?.strip_prefix("/load?id=")?.to_owned();
        Some((id, line["instance"].as_str()?.to_owned()))
    };
    lines.iter().filter_map(place).collect()
}

/// Holds failures to have been such POSTs. Returns how many of those there were, failed or not.
pub fn only_in_flight(gateway: &Gateway, sent: &[Sent], failures: &[Sent], killed: &[Killed]) -> usize {
    let places = places(gateway, sent.len());
    let in_flight = |sent: &Sent| killed.iter().any(|kill| kill.had(sent, &places));
    for failure in failures {
        assert_eq!((failure.method, failure.status), ("POST", 502), "{failure:?}");
        let place = places.get(&failure.id);
        assert!(in_flight(failure), "{failure:?}, sent to {place:?}, was not in flight on one that died");
    }
    sent.iter().filter(|sent| in_flight(sent)).count()
}
