//! Why a request goes where it goes: the table's decisions replayed without any effect.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::balance::Slot;
use crate::config::plan::ShardPlan;
use crate::model::{HashKey, InstanceChoice};

use super::affinity;
use super::endpoint::InstanceState;
use super::gate::Gate;
use super::health::Reason;
use super::request::RouteInput;
use super::routing_table::{Matched, NoService, RoutingTable};
use super::upstream::Upstream;
use super::view::service_text;

/// What becomes of a request, and of everything it did not take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The route's name; null: `no_route`.
    pub route: Option<String>,
    /// The service; null where there is none, or chance decides among several.
    pub service: Option<String>,
    /// The value that is hashed; null where the policy hashes none, or the request lacks it. Of a service
    /// that hashes none, but is one of a route's shards: what picked it.
    pub key: Option<String>,
    /// The value that picked the service among a route's shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard_key: Option<String>,
    /// The instance's id, where a key decides; else null.
    pub instance: Option<String>,
    /// Routes in order of precedence, the barrier of the one chosen, then services, then instances.
    pub considered: Vec<Considered>,
}

/// A route, barrier, service or instance that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// `route`, `barrier`, `service` or `instance`.
    pub kind: Cow<'static, str>,
    /// Which.
    pub name: String,
    /// `chosen`; `possible` (chance, turn or load decides); `rejected`.
    pub verdict: Cow<'static, str>,
    /// Why.
    pub reason: String,
}

const CHOSEN: &str = "chosen";
const POSSIBLE: &str = "possible";
const REJECTED: &str = "rejected";

impl RoutingTable {
    /// What would become of this request. Advances no state.
    ///
    /// Without a client's address a service that hashes it has no key.
    pub fn explain(&self, input: &RouteInput<'_>, client: Option<IpAddr>, now: Instant) -> Explanation {
        let mut out = Explanation::default();
        for route in self.routes() {
            let (verdict, reason) = match (route.mismatch(input), &out.route) {
                (Some(mismatch), _) => (REJECTED, mismatch.to_string()),
                (None, Some(winner)) => (REJECTED, format!("it matches, but {winner:?} takes precedence")),
                (None, None) => {
                    out.route = Some(route.name.to_string());
                    (CHOSEN, "the first that matches, in order of precedence".to_owned())
                }
            };
            out.consider("route", &route.name, verdict, reason);
        }
        if let Some(matched) = self.route(input) {
            if let Some((gate, wait)) = &matched.route.gate {
                out.consider_barrier(gate, wait.or(matched.route.timeout));
            }
            match &matched.route.shard {
                Some(shard) => self.explain_shards(shard, &matched, input, client, now, &mut out),
                None => self.explain_services(&matched, input, client, now, &mut out),
            }
        }
        out
    }

    fn explain_shards(
        &self,
        shard: &ShardPlan,
        matched: &Matched,
        input: &RouteInput<'_>,
        client: Option<IpAddr>,
        now: Instant,
        out: &mut Explanation,
    ) {
        let ring = match self.shard_ring(shard) {
            Ok(ring) if !ring.names().is_empty() => ring,
            Ok(_) => {
                return out.consider("catalog", shard.catalog.as_str(), REJECTED, "it has no service".into());
            }
            Err(error) => {
                return out.consider("catalog", shard.catalog.as_str(), REJECTED, error.to_string());
            }
        };
        let Some(key) = hashed(&shard.key, matched, input, client) else {
            for name in ring.names() {
                let reason =
                    format!("the request has no {}: by chance, 1 of {}", shard.key, ring.names().len());
                out.consider("service", name.as_str(), POSSIBLE, reason);
            }
            return;
        };
        let shown = String::from_utf8_lossy(&key).into_owned();
        out.key = Some(shown.clone());
        for (place, name) in ring.order(&key).into_iter().enumerate() {
            let verdict = if place == 0 { CHOSEN } else { REJECTED };
            let reason = format!("number {} for {} = {shown:?} among the shards", place + 1, shard.key);
            out.consider("service", name.as_str(), verdict, reason);
        }
        out.shard_key = Some(shown);
        if let Some(upstream) = ring.find(&key).and_then(|name| self.upstream(name.as_str())) {
            out.service = Some(upstream.name().to_string());
            explain_instances(upstream, matched, input, client, now, out);
        }
    }

    fn explain_services(
        &self,
        matched: &Matched,
        input: &RouteInput<'_>,
        client: Option<IpAddr>,
        now: Instant,
        out: &mut Explanation,
    ) {
        let total = matched.route.total_weight;
        let mut candidates = Vec::new();
        for (service, found) in matched.services(self) {
            let name = matched.service_name(&service.service).0.map(std::borrow::Cow::into_owned);
            let name = name.unwrap_or_else(|| service_text(&service.service));
            let weight = u64::from(service.weight);
            let (verdict, reason) = match found {
                Err(NoService::NotListed) => (REJECTED, "its catalog has not been listed yet".to_owned()),
                Err(NoService::Unknown | NoService::NoShard) => {
                    (REJECTED, "there is no such service".to_owned())
                }
                Ok(_) if weight == 0 && total > 0 => (REJECTED, "its weight is 0".to_owned()),
                Ok(upstream) => {
                    candidates.push(upstream);
                    if weight == total || matched.route.services.len() == 1 {
                        (CHOSEN, "the route's only service".to_owned())
                    } else {
                        (POSSIBLE, format!("by chance, {weight} of {total}"))
                    }
                }
            };
            if verdict == CHOSEN {
                out.service = Some(name.clone());
            }
            out.consider("service", &name, verdict, reason);
        }
        for upstream in candidates {
            explain_instances(upstream, matched, input, client, now, out);
        }
    }
}

fn explain_instances(
    upstream: &Upstream,
    matched: &Matched,
    input: &RouteInput<'_>,
    client: Option<IpAddr>,
    now: Instant,
    out: &mut Explanation,
) {
    let (spec, choice) = (upstream.balance(), matched.route.instances);
    if choice == InstanceChoice::Primary {
        return explain_primary(upstream, out);
    }
    let hashed = spec.key.as_ref().and_then(|key| hashed(key, matched, input, client));
    // Without a service chosen the key and the instance of one of several would mislead.
    let decided = out.service.is_some();
    let chosen = hashed.as_deref().and_then(|key| upstream.place(choice, key, now));
    let order = hashed.as_deref().and_then(|key| upstream.placement(choice, key)).unwrap_or_default();
    if let Some(key) = hashed.as_deref().filter(|_| decided) {
        out.key = Some(String::from_utf8_lossy(key).into_owned());
    }
    let how = match (&spec.key, &hashed) {
        (Some(key), None) => format!("the request has no {key}: by chance"),
        _ => format!("{} decides when the request comes", spec.policy.as_str()),
    };
    let chosen_place = chosen.and_then(|slot| order.iter().position(|s| *s == slot)).map(|place| place + 1);
    let panics = upstream.panics();
    for (instance, slot, state) in upstream.instances() {
        let ejected = upstream.endpoints()[slot].ejected().map(|(reason, ..)| reason);
        let pardoned = panics && state == InstanceState::Ejected && ejected.is_some_and(Reason::is_pardoned);
        let state = if pardoned { InstanceState::Up } else { state };
        let place = order.iter().position(|s| *s == slot).map(|place| place + 1);
        let before = place.zip(chosen_place).is_some_and(|(place, chosen)| place < chosen);
        let primary = upstream.primary() == Some(slot);
        let (verdict, reason) = match verdict((state, ejected), instance.weight, slot, chosen, place, &how) {
            _ if primary && choice == InstanceChoice::Replicas => {
                (REJECTED, "the primary, and this route is for replicas".to_owned())
            }
            (POSSIBLE, _) if upstream.is_local(slot) == Some(false) => {
                (REJECTED, "outside of the preferred zone, which serves alone".to_owned())
            }
            verdict => verdict,
        };
        let reason =
            if before && matches!(state, InstanceState::Up | InstanceState::Limbo) && !upstream.is_full(slot)
            {
                reason + ", but at its load bound"
            } else {
                reason
            };
        let (verdict, reason) = match upstream.cap().filter(|_| upstream.is_full(slot)) {
            Some(cap) if verdict == POSSIBLE => (REJECTED, format!("at its limit of {cap} requests")),
            Some(cap) => (verdict, format!("{reason}, but at its limit of {cap} requests")),
            None => (verdict, reason),
        };
        let (verdict, reason) = match verdict {
            POSSIBLE if upstream.is_doubted(slot) => (
                REJECTED,
                "it leaves requests and a probe waiting: passed over until that has its answer".to_owned(),
            ),
            verdict => (verdict, reason),
        };
        let reason = if pardoned { reason + "; ejected, but too few others are usable" } else { reason };
        let label = &upstream.endpoints()[slot].id;
        if verdict == CHOSEN && decided {
            out.instance = Some(label.to_string());
        }
        let name = &instance.id.name;
        let reason = if label == name { reason } else { format!("{reason} (one endpoint with {label})") };
        out.consider("instance", name, verdict, reason);
    }
}

/// A route to the primary knows its instance without a key.
fn explain_primary(upstream: &Upstream, out: &mut Explanation) {
    let named = upstream.snapshot().primary.as_deref();
    for (instance, slot, state) in upstream.instances() {
        let name = &instance.id.name;
        let (verdict, reason) = match (named == Some(&**name), state) {
            (false, _) if named.is_none() => (REJECTED, "not the primary: the service names none".to_owned()),
            (false, _) => (REJECTED, "not the primary".to_owned()),
            (true, InstanceState::Ejected) => {
                (CHOSEN, "the primary; it is ejected, but there is one only".to_owned())
            }
            (true, _) if upstream.primary_slot() == Some(slot) => (CHOSEN, "the primary".to_owned()),
            (true, _) => (REJECTED, "the primary, but it wants no traffic".to_owned()),
        };
        if verdict == CHOSEN && out.service.is_some() {
            out.instance = Some(upstream.endpoints()[slot].id.to_string());
        }
        out.consider("instance", name, verdict, reason);
    }
}

/// What of the request is hashed. Without a client's address there is none.
fn hashed<'a>(
    key: &HashKey,
    matched: &'a Matched,
    input: &RouteInput<'a>,
    client: Option<IpAddr>,
) -> Option<Cow<'a, [u8]>> {
    let needs_client = *key == HashKey::ClientIp;
    let client = client.or((!needs_client).then_some(IpAddr::from([0, 0, 0, 0])))?;
    affinity::key(key, input, matched, client)
}

fn verdict(
    (state, ejected): (InstanceState, Option<Reason>),
    weight: f64,
    slot: Slot,
    chosen: Option<Slot>,
    place: Option<usize>,
    how: &str,
) -> (&'static str, String) {
    match (state, chosen, place) {
        (InstanceState::Disabled, ..) => {
            (REJECTED, "its registration says that it wants no traffic".to_owned())
        }
        _ if weight <= 0.0 => (REJECTED, "its weight is 0".to_owned()),
        (InstanceState::Ejected, Some(c), _) if c == slot => {
            (CHOSEN, "it is ejected, but nobody else is left".to_owned())
        }
        (InstanceState::Ejected, _, place) => {
            let place = place.map(|place| format!(", number {place} for this key")).unwrap_or_default();
            let why = ejected.unwrap_or(Reason::Connect).describe();
            (REJECTED, format!("ejected: {why}{place}"))
        }
        (_, Some(c), Some(place)) if c == slot => (CHOSEN, format!("number {place} for this key")),
        (_, Some(_), Some(place)) => (REJECTED, format!("number {place} for this key")),
        (_, Some(_), None) => (REJECTED, "it is not placed for this key".to_owned()),
        (_, None, _) => (POSSIBLE, how.to_owned()),
    }
}

impl Explanation {
    fn consider_barrier(&mut self, gate: &Gate, wait: Option<Duration>) {
        let (verdict, reason) = match (gate.is_closed(), wait) {
            (false, _) => (CHOSEN, "there is no such node: requests pass".to_owned()),
            (true, Some(wait)) if wait.is_zero() => (REJECTED, "the node exists: 503 at once".to_owned()),
            (true, wait) => {
                let wait = wait.map(|wait| format!(", {wait:?} at the most")).unwrap_or_default();
                (
                    REJECTED,
                    format!("the node exists: requests wait until it is gone{wait}; {} do", gate.held()),
                )
            }
        };
        self.consider("barrier", &gate.node().path, verdict, reason);
    }

    fn consider(&mut self, kind: &'static str, name: &str, verdict: &'static str, reason: String) {
        self.considered.push(Considered {
            kind: kind.into(),
            name: name.to_owned(),
            verdict: verdict.into(),
            reason,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, input, instance, name, route, service, snapshot};
    use super::super::{PickRequest, TableWriter};
    use super::*;
    use crate::config::plan::{RoutePlan, ServiceRef, WeightedService};
    use crate::model::{BalancePolicy, BalanceSpec, HashKey, Instance};

    fn writer(services: Vec<WeightedService>) -> TableWriter {
        let ring = BalanceSpec {
            policy: BalancePolicy::Ring { virtual_nodes: 160 },
            key: Some(HashKey::PathCapture("user".into())),
            load_bound: None,
        };
        let routes = vec![
            route("/orders/*"),
            RoutePlan { methods: vec![http::Method::PUT], ..route("/users/{user}") },
            RoutePlan { services, ..route("/users/{user}/*") },
            route("/*"),
        ];
        let plans = vec![service("orders", BalanceSpec::default()), service("users", ring)];
        let (mut writer, _) = TableWriter::new(1);
        writer.configure(config(plans, routes));
        let off = Instance { enabled: false, ..instance("off", 9, 9) };
        writer.apply(&name("users"), snapshot((1..=5).map(|i| instance(&i.to_string(), 1, i)).chain([off])));
        writer.publish();
        writer
    }

    fn users(weight: u32) -> WeightedService {
        WeightedService { service: ServiceRef::Named(name("users")), weight }
    }

    #[test]
    fn it_names_the_instance_that_a_pick_then_takes() {
        let writer = writer(vec![users(1)]);
        let table = writer.reader().load();
        let now = Instant::now();
        let explained = |path: &str| input("GET", "h", path, |input| table.explain(input, None, now));
        for i in 0..50 {
            let user = format!("u{i}");
            let found = explained(&format!("/users/{user}"));
            assert_eq!(
                (found.route.as_deref(), found.service.as_deref()),
                (Some("/users/{user}/*"), Some("users"))
            );
            assert_eq!(found.key.as_deref(), Some(&*user));
            let mut rng = fastrand::Rng::new();
            let request =
                PickRequest { rng: &mut rng, worker: 0, key: Some(user.as_bytes()), tried: &[], now };
            let lease = table.upstream("users").unwrap().pick(request).unwrap();
            assert_eq!(found.instance.as_deref(), Some(&*lease.endpoint().id));
        }
        let found = explained("/users/u1");
        let verdicts =
            |kind| found.considered.iter().filter(move |c| c.kind == kind).map(|c| c.verdict.clone());
        assert_eq!(verdicts("route").collect::<Vec<_>>(), [REJECTED, CHOSEN, REJECTED, REJECTED]);
        assert_eq!(verdicts("instance").filter(|v| *v == CHOSEN).count(), 1);
        assert_eq!(found.considered.last().unwrap().name, "off");
    }

    #[test]
    fn chance_is_not_foretold() {
        let orders = WeightedService { service: ServiceRef::Named(name("orders")), weight: 1 };
        let writer = writer(vec![users(9), orders]);
        let table = writer.reader().load();
        let found = input("GET", "h", "/users/u1", |input| table.explain(input, None, Instant::now()));
        assert_eq!((&found.service, &found.key, &found.instance), (&None, &None, &None));
        let lost = input("GET", "h", "/orders/1", |input| table.explain(input, None, Instant::now()));
        assert_eq!((lost.service.as_deref(), lost.instance), (Some("orders"), None));
    }
}
