//! One generation of everything that a request needs to know.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::{ServiceRef, ShardPlan, WeightedService};
use crate::model::{Rejected, ServiceName, Trust};

use super::config::{ServiceSpec, Settings};
use super::matcher::Matcher;
use super::request::RouteInput;
use super::route::{Captures, Route};
use super::shard::{ShardRing, ShardRings};
use super::upstream::Upstream;
use super::upstream_map::ShardedMap;

/// The table: settings, routes, services. Immutable; the next one shares what did not change.
#[derive(Debug)]
pub struct RoutingTable {
    pub(super) generation: u64,
    pub(super) settings: Arc<Settings>,
    pub(super) matcher: Arc<Matcher>,
    pub(super) upstreams: ShardedMap<Arc<Upstream>>,
    pub(super) bases: ShardedMap<BaseState>,
    pub(super) shards: ShardRings,
    /// What is configured of each catalog.
    pub(super) catalogs: Arc<HashMap<ServiceName, Arc<ServiceSpec>>>,
}

/// What is known of a configured service, or of a catalog with all its children.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseState {
    /// Whether it has been listed once, from the registry or from a snapshot.
    pub listed: bool,
    /// Whether what stands here is what the registry holds.
    pub trust: Trust,
    /// Why not, where somebody said so.
    pub reason: Option<Arc<str>>,
    /// Whether it is a catalog.
    pub catalog: bool,
    /// Directories of a catalog that are no services.
    pub rejected: Arc<[Rejected]>,
}

/// The route of a request.
#[derive(Debug, Clone)]
pub struct Matched {
    /// Which.
    pub route: Arc<Route>,
    /// What its captures took.
    pub captures: Captures,
}

/// A route whose service is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoService {
    /// The catalog has no such child: `no_route`.
    #[error("no such service")]
    Unknown,
    /// The catalog has not been listed yet, so nobody knows: `no_instances`.
    #[error("the catalog has not been listed yet")]
    NotListed,
    /// The catalog that is sharded is empty: `no_instances`.
    #[error("the catalog has no service")]
    NoShard,
}

impl RoutingTable {
    /// Counts published tables.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Limits and listeners.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// A service by name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// All services, in no order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().map(|(_, upstream)| upstream)
    }

    /// All services by name.
    pub fn sorted_upstreams(&self) -> Vec<&Arc<Upstream>> {
        let mut all: Vec<_> = self.upstreams().collect();
        all.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// All routes in order of precedence.
    pub fn routes(&self) -> &[Arc<Route>] {
        self.matcher.routes()
    }

    /// The route of a request.
    pub fn route(&self, input: &RouteInput<'_>) -> Option<Matched> {
        let route = self.matcher.find(input)?;
        Some(Matched { captures: route.captures_of(input.host, input.path), route: Arc::clone(route) })
    }

    /// Configured services and catalogs in no order, with what is known of each.
    pub fn bases(&self) -> impl Iterator<Item = (&ServiceName, &BaseState)> {
        self.bases.iter()
    }

    /// What is known of a service's base: its catalog's state covers a child.
    pub fn base_of(&self, upstream: &Upstream) -> Option<&BaseState> {
        self.bases.get(upstream.spec().base.as_str())
    }

    /// The ring of a catalog's services. Not before it was listed: of half a ring's services each would be
    /// asked for keys that are not its own.
    pub(super) fn shard_ring(&self, shard: &ShardPlan) -> Result<&ShardRing, NoService> {
        match self.bases.get(shard.catalog.as_str()) {
            Some(BaseState { listed: false, .. }) => Err(NoService::NotListed),
            _ => self.shards.get(shard).ok_or(NoService::Unknown),
        }
    }

    /// Configured services and catalogs that have not been listed yet.
    pub fn unlisted(&self) -> Vec<ServiceName> {
        let mut names: Vec<_> =
            self.bases.iter().filter(|(_, state)| !state.listed).map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Whether this configured service or catalog has been listed.
    pub fn base_is_listed(&self, base: &ServiceName) -> bool {
        self.bases.get(base.as_str()).is_some_and(|state| state.listed)
    }

    /// Whether every configured service and catalog has been listed.
    pub fn is_listed(&self) -> bool {
        self.bases.iter().all(|(_, state)| state.listed)
    }
}

impl Matched {
    /// The path as it goes to the instance; `path` is the request's.
    pub fn forward_path<'a>(&self, path: &'a str) -> Cow<'a, str> {
        self.route.forward_path(path)
    }

    /// One of the route's services by its weight.
    pub fn choose_service<'t>(
        &self,
        table: &'t RoutingTable,
        rng: &mut fastrand::Rng,
    ) -> Result<&'t Arc<Upstream>, NoService> {
        match &self.route.services[..] {
            [only] => self.resolve(table, &only.service),
            many => {
                let mut left = rng.u64(..self.route.total_weight.max(1));
                let chosen = many.iter().find(|s| {
                    let weight = u64::from(s.weight);
                    let found = left < weight;
                    left = left.saturating_sub(weight);
                    found
                });
                self.resolve(table, &chosen.ok_or(NoService::Unknown)?.service)
            }
        }
    }

    /// The service that a key belongs to, or without one any, on a route that shards a catalog.
    pub fn choose_shard<'t>(
        &self,
        table: &'t RoutingTable,
        shard: &ShardPlan,
        key: Option<&[u8]>,
        rng: &mut fastrand::Rng,
    ) -> Result<&'t Arc<Upstream>, NoService> {
        let shards = table.shard_ring(shard)?;
        let name = match key {
            Some(key) => shards.find(key),
            None => shards.any(rng),
        };
        name.and_then(|name| table.upstream(name.as_str())).ok_or(NoService::NoShard)
    }

    /// Each of the route's services with its weight and what it comes to.
    pub(super) fn services<'s, 't>(
        &'s self,
        table: &'t RoutingTable,
    ) -> impl Iterator<Item = (&'s WeightedService, Result<&'t Arc<Upstream>, NoService>)> {
        self.route.services.iter().map(move |s| (s, self.resolve(table, &s.service)))
    }

    fn resolve<'t>(
        &self,
        table: &'t RoutingTable,
        service: &ServiceRef,
    ) -> Result<&'t Arc<Upstream>, NoService> {
        let (name, base) = self.service_name(service);
        let (name, base) = (name.ok_or(NoService::Unknown)?, base);
        table.upstream(&name).ok_or_else(|| match table.bases.get(base) {
            Some(BaseState { listed: false, .. }) => NoService::NotListed,
            _ => NoService::Unknown,
        })
    }

    /// The name that a reference comes to here, and its base.
    pub(super) fn service_name<'s>(&'s self, service: &'s ServiceRef) -> (Option<Cow<'s, str>>, &'s str) {
        match service {
            ServiceRef::Named(name) => {
                let name = name.as_str();
                (Some(Cow::Borrowed(name)), name.split_once('/').map_or(name, |(base, _)| base))
            }
            ServiceRef::Captured { catalog, capture } => {
                let child = self.captures.get(capture);
                (child.map(|child| Cow::Owned(format!("{catalog}/{child}"))), catalog.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{defaults, input, instance, name, route, service, snapshot};
    use super::super::{TableConfig, TableWriter};
    use super::*;
    use crate::config::plan::{CatalogPlan, RoutePlan};
    use crate::model::{BalanceSpec, RegistryName};

    fn captured(capture: &str) -> WeightedService {
        let service = ServiceRef::Captured { catalog: name("apps"), capture: capture.into() };
        WeightedService { service, weight: 1 }
    }

    fn weighted(service: &str, weight: u32) -> WeightedService {
        WeightedService { service: ServiceRef::Named(name(service)), weight }
    }

    fn writer(routes: Vec<RoutePlan>) -> TableWriter {
        let catalog = CatalogPlan {
            name: name("apps"),
            registry: RegistryName::new("main").unwrap(),
            path: "/services".parse().unwrap(),
            defaults: defaults(BalanceSpec::default()),
        };
        let services = ["orders", "canary"].map(|s| service(s, BalanceSpec::default())).into();
        let (mut writer, _) = TableWriter::new(1);
        writer.configure(TableConfig {
            catalogs: vec![catalog],
            ..super::super::testing::config(services, routes)
        });
        writer.publish();
        writer
    }

    #[test]
    fn a_capture_names_the_service_of_a_catalog() {
        let mut writer = writer(vec![RoutePlan { services: vec![captured("s")], ..route("/apps/{s}/*") }]);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut choose = |table: &RoutingTable, path| {
            let matched = input("GET", "h", path, |input| table.route(input).unwrap());
            matched.choose_service(table, &mut rng).map(|u| u.name().to_string())
        };
        let table = writer.reader().load();
        assert_eq!(
            choose(&table, "/apps/a/x"),
            Err(NoService::NotListed),
            "who knows what the catalog holds"
        );
        writer.apply(&name("apps/a b"), snapshot([instance("1", 1, 1)]));
        writer.trust(&name("apps"), Trust::Live, None);
        writer.publish();
        let table = writer.reader().load();
        assert_eq!(choose(&table, "/apps/a%20b/x").as_deref(), Ok("apps/a b"));
        assert_eq!(choose(&table, "/apps/a/x"), Err(NoService::Unknown));
        assert_eq!(table.upstream("apps/a b").unwrap().spec().path, "/services/a b");
        writer.gone(&name("apps/a b"));
        writer.publish();
        assert_eq!(choose(&writer.reader().load(), "/apps/a%20b"), Err(NoService::Unknown));
    }

    #[test]
    fn services_of_a_route_are_chosen_by_weight() {
        let services = vec![weighted("orders", 90), weighted("apps/off", 0), weighted("canary", 10)];
        let writer = writer(vec![RoutePlan { services, ..route("/*") }]);
        let table = writer.reader().load();
        let matched = input("GET", "h", "/", |input| table.route(input).unwrap());
        let mut rng = fastrand::Rng::with_seed(2);
        let mut canary = 0;
        for _ in 0..10_000 {
            let chosen = matched.choose_service(&table, &mut rng).unwrap();
            canary += u32::from(chosen.name().as_str() == "canary");
        }
        assert!(canary.abs_diff(1_000) < 150, "{canary}");
    }
}
