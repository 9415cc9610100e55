//! The guards of every service that has one, and the probes of whom they hold. Belongs to the pump, on whose thread
//! the probes run; without a guard nothing here is ever looked at.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::guard::{Engaged, Guard, Question, Tally};
use crate::config::plan::{Plan, VanishGuard};
use crate::model::{Host, Protocol, RegistryName, ServiceName, ServiceSnapshot};
use crate::table::{InstanceState, RoutingTable, ServiceSpec};
use crate::telemetry::Outcome;
use crate::transport::{check, is_shortage};

/// A probe that is not answered by then has failed.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Probes at one moment.
const PROBES: usize = 256;
/// How often requests' failures are looked at while anybody is held.
const LOOK: Duration = Duration::from_millis(100);

/// Every guard.
#[derive(Debug)]
pub(super) struct Limbo {
    /// Of each service and catalog its rule, if it has one, and its place.
    rules: HashMap<ServiceName, (Option<VanishGuard>, Place)>,
    guards: HashMap<ServiceName, Guard>,
    /// Guards that hold somebody.
    engaged: BTreeSet<ServiceName>,
    /// Of those, children of a catalog whose directory is gone.
    orphans: BTreeSet<ServiceName>,
    probes: JoinSet<Probed>,
    slots: Arc<Semaphore>,
    /// Failed connects of each target as they were when it came into limbo.
    failures: HashMap<u64, u64>,
}

/// Registry and path.
type Place = (RegistryName, String);

/// What became of a probe.
#[derive(Debug)]
pub(super) struct Probed {
    service: ServiceName,
    question: Question,
    answers: bool,
}

/// What a service holds from now on.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) service: ServiceName,
    /// `None`: it is a child of a catalog, and the last of it is gone.
    pub(super) snapshot: Option<Arc<ServiceSnapshot>>,
}

impl Default for Limbo {
    fn default() -> Self {
        Self {
            rules: HashMap::new(),
            guards: HashMap::new(),
            engaged: BTreeSet::new(),
            orphans: BTreeSet::new(),
            probes: JoinSet::new(),
            slots: Arc::new(Semaphore::new(PROBES)),
            failures: HashMap::new(),
        }
    }
}

impl Limbo {
    /// Takes a plan over that is published in this table. Returns the services whose guard is no more while it held
    /// somebody, with what their registry holds.
    pub(super) fn configure(&mut self, plan: &Plan, table: &RoutingTable) -> Vec<Turn> {
        let services = plan
            .services
            .iter()
            .map(|s| (&s.name, s.defaults.vanish_guard, (s.registry.clone(), s.path.clone())));
        let catalogs = plan
            .catalogs
            .iter()
            .map(|c| (&c.name, c.defaults.vanish_guard, (c.registry.clone(), c.path.to_string())));
        let rules =
            services.chain(catalogs).map(|(name, rule, place)| (name.clone(), (rule, place))).collect();
        let old = std::mem::replace(&mut self.rules, rules);
        let mut turns = Vec::new();
        for (service, mut guard) in std::mem::take(&mut self.guards) {
            let base = base_of(&service);
            let before = old.get(base).map(|(_, place)| place);
            match self.rules.get(base).filter(|(_, place)| Some(place) == before) {
                Some((Some(rule), _)) => {
                    guard.set_rule(*rule);
                    self.guards.insert(service, guard);
                }
                Some((None, _)) => {
                    if self.engaged.contains(&service) {
                        let snapshot = (!self.orphans.contains(&service)).then(|| Arc::clone(guard.real()));
                        turns.push(Turn { service: service.clone(), snapshot });
                    }
                    self.forget(&service);
                }
                // In another place nobody is who they were.
                None => self.forget(&service),
            }
        }
        for upstream in table.upstreams() {
            if let Some((Some(rule), _)) = self.rules.get(base_of(upstream.name())) {
                let real = || Guard::new(*rule, Arc::clone(upstream.snapshot()));
                self.guards.entry(upstream.name().clone()).or_insert_with(real);
            }
        }
        turns
    }

    /// The registry holds this now. Returns what the table is to hold: the same, where nobody is in limbo.
    pub(super) fn told(
        &mut self,
        service: &ServiceName,
        real: Arc<ServiceSnapshot>,
        now: Instant,
    ) -> Arc<ServiceSnapshot> {
        let Some((Some(rule), _)) = self.rules.get(base_of(service)) else { return real };
        self.orphans.remove(service);
        let Some(guard) = self.guards.get_mut(service) else {
            self.guards.insert(service.clone(), Guard::new(*rule, Arc::clone(&real)));
            return real;
        };
        let engaged = guard.told(real, now);
        let offered = Arc::clone(guard.offered());
        if let Some(Engaged { held, left }) = engaged {
            let VanishGuard { share, window, hold } = rule;
            tracing::warn!(
                %service, held, left, share, ?window, ?hold,
                "vanish guard engaged: too many instances vanished at once; they are kept while they answer"
            );
            self.engaged.insert(service.clone());
        }
        self.settle(service);
        offered
    }

    /// A child of a catalog has no directory any more. Returns what the table is to hold of it: `None`, unless somebody
    /// is in limbo.
    pub(super) fn gone(&mut self, service: &ServiceName, now: Instant) -> Option<Arc<ServiceSnapshot>> {
        if !self.guards.contains_key(service) {
            return None;
        }
        let offered = self.told(service, Arc::default(), now);
        if self.engaged.contains(service) {
            self.orphans.insert(service.clone());
            return Some(offered);
        }
        self.forget(service);
        None
    }

    /// Waits until there is something to do: for ever, while nobody is held. Cancel-safe.
    pub(super) async fn wait(&mut self) -> Option<Probed> {
        let guards = self.engaged.iter().filter_map(|service| self.guards.get(service));
        let Some(first) = guards.filter_map(Guard::wakes_at).min() else {
            return std::future::pending().await;
        };
        let first = first.min(Instant::now() + LOOK);
        tokio::select! {
            Some(probed) = self.probes.join_next(), if !self.probes.is_empty() => probed.ok(),
            () = tokio::time::sleep_until(first.into()) => None,
        }
    }

    /// Does what is to be done: returns what changes by it.
    pub(super) fn turn(&mut self, probed: Option<Probed>, table: &RoutingTable, now: Instant) -> Vec<Turn> {
        let mut changed = BTreeSet::new();
        if let Some(Probed { service, question, answers }) = probed
            && let Some(guard) = self.guards.get_mut(&service)
            && guard.answered(&question, answers, now)
        {
            changed.insert(service);
        }
        for service in self.engaged.clone() {
            let (Some(guard), Some(upstream)) =
                (self.guards.get_mut(&service), table.upstream(service.as_str()))
            else {
                continue;
            };
            for (instance, slot, state) in upstream.instances().filter(|(i, ..)| i.facts.limbo) {
                let endpoint = &upstream.endpoints()[slot];
                let failed = endpoint.outcomes().get(Outcome::ConnectFailed);
                let before = *self.failures.entry(endpoint.target.id).or_insert(failed);
                if (state == InstanceState::Ejected || failed > before) && guard.failed(&instance.id.name) {
                    changed.insert(service.clone());
                }
            }
            if guard.expire(now) {
                changed.insert(service.clone());
            }
            for question in guard.questions(now) {
                let (spec, slots) = (Arc::clone(upstream.spec()), Arc::clone(&self.slots));
                let service = service.clone();
                self.probes.spawn(async move {
                    // Closed by nobody; and without a slot there is no probe.
                    let _slot = slots.acquire_owned().await;
                    let asked = tokio::time::timeout(TIMEOUT, answers(&spec, &question));
                    let answers = asked.await.unwrap_or(false);
                    Probed { service, question, answers }
                });
            }
        }
        let turn = |service: ServiceName| {
            let guard = self.guards.get(&service)?;
            let last = self.orphans.contains(&service) && !guard.is_engaged();
            let snapshot = (!last).then(|| Arc::clone(guard.offered()));
            Some(Turn { service, snapshot })
        };
        let turns = changed.into_iter().filter_map(turn).collect();
        for service in self.engaged.clone() {
            self.settle(&service);
        }
        turns
    }

    /// Where nobody is held any more, says so.
    fn settle(&mut self, service: &ServiceName) {
        let Some(guard) = self.guards.get_mut(service) else { return };
        if let Some(Tally { held, back, dead, expired }) = guard.ended() {
            tracing::warn!(%service, held, back, dead, expired, "vanish guard ended: nobody is in limbo any more");
            self.engaged.remove(service);
            if self.orphans.contains(service) {
                self.forget(service);
            }
        }
        if self.engaged.is_empty() {
            self.failures.clear();
        }
    }

    fn forget(&mut self, service: &ServiceName) {
        self.guards.remove(service);
        self.engaged.remove(service);
        self.orphans.remove(service);
    }
}

/// A service's own name, or its catalog's.
fn base_of(service: &ServiceName) -> &str {
    service.as_str().split('/').next().unwrap_or_default()
}

/// Whether somebody answers in the protocol of the service. That a connection stands proves little: the kernel
/// accepts for a process that hangs.
async fn answers(spec: &ServiceSpec, question: &Question) -> bool {
    // Who cannot be asked has not failed to answer.
    ask(spec, question).await.unwrap_or_else(|error| is_shortage(&error))
}

async fn ask(spec: &ServiceSpec, question: &Question) -> io::Result<bool> {
    Ok(match spec.defaults.protocol {
        Protocol::Tcp => dial(spec, question).await.map(|_| true)?,
        Protocol::H2 => check::answers_http2(dial(spec, question).await?).await,
        Protocol::Http1 => {
            let authority = question.instance.address.to_string();
            check::answers_http1(dial(spec, question).await?, &authority, check::ANYTHING).await
                || check::answers_http1(dial(spec, question).await?, &authority, check::ITS_ROOT).await
        }
    })
}

/// A connection to the first address that takes one.
async fn dial(spec: &ServiceSpec, question: &Question) -> io::Result<TcpStream> {
    let address = &question.instance.address;
    let resolved: Vec<IpAddr> = match &address.host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => tokio::net::lookup_host((&**name, 0)).await?.map(|found| found.ip()).collect(),
    };
    let mut last = io::Error::from(io::ErrorKind::PermissionDenied);
    for ip in resolved.into_iter().filter(|ip| spec.deny.denies(*ip, address.port).is_none()) {
        match TcpStream::connect(SocketAddr::new(ip, address.port)).await {
            Ok(stream) => {
                let own = matches!((stream.local_addr(), stream.peer_addr()),
                    (Ok(local), Ok(peer)) if spec.deny.denies_connected(local, peer));
                if !own {
                    return Ok(stream);
                }
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
