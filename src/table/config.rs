//! What the table takes from a configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{BalancerFactory, Standard};
use crate::config::plan::{
    CatalogPlan, Limits, ListenerPlan, Plan, RegistryPlan, RoutePlan, ServiceDefaults, ServicePlan,
};
use crate::model::{CatalogPattern, DenyList, RegistryName, ServiceName};

/// What every worker needs to know beside routes and services. One for each configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is refused.
    pub limits: Limits,
    /// Where requests come in.
    pub listeners: Vec<ListenerPlan>,
    /// How long a stream may go on whose instance was removed, where its service says nothing else.
    pub drain_timeout: Duration,
}

impl Settings {
    /// Before the first configuration: no listener, and nothing accepted.
    pub(super) fn nothing() -> Self {
        let limits = Limits {
            max_connections: 0,
            max_headers: 0,
            max_header_size: 0,
            max_body: None,
            max_memory: None,
            idle_timeout: Duration::ZERO,
            header_timeout: Duration::ZERO,
        };
        Self { limits, listeners: Vec::new(), drain_timeout: Duration::ZERO }
    }
}

/// A configuration as the table wants it.
#[derive(Debug, Clone)]
pub struct TableConfig {
    /// For the workers.
    pub settings: Settings,
    /// Services by name.
    pub services: Vec<ServicePlan>,
    /// Catalogs by name.
    pub catalogs: Vec<CatalogPlan>,
    /// Routes in file order.
    pub routes: Vec<RoutePlan>,
    /// For each registry the ranges that a name in it must not resolve into.
    pub deny: HashMap<RegistryName, Arc<DenyList>>,
    /// Balancers of your own, by the name of the service or catalog that uses them.
    pub balancers: HashMap<ServiceName, Arc<dyn BalancerFactory>>,
}

impl TableConfig {
    /// What a plan says. `own` are sockets of ours that no registration may lead to.
    pub fn new(plan: &Plan, own: &[SocketAddr]) -> Self {
        let deny = |r: &RegistryPlan| Arc::new(DenyList::new(r.deny.clone(), own.to_vec()));
        let deny = plan.registries.iter().map(|r| (r.name.clone(), deny(r))).collect();
        Self {
            settings: Settings {
                limits: plan.limits.clone(),
                listeners: plan.listeners.clone(),
                drain_timeout: plan.gateway.drain_timeout,
            },
            services: plan.services.clone(),
            catalogs: plan.catalogs.clone(),
            routes: plan.routes.clone(),
            deny,
            balancers: HashMap::new(),
        }
    }
}

/// What is configured of one service: as written, or as its catalog passes it on.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// The service's own name, or its catalog's: what trust is told of.
    pub base: ServiceName,
    /// Where it is registered.
    pub registry: RegistryName,
    /// The directory there.
    pub path: String,
    /// Format, protocol, balancing, timeouts.
    pub defaults: ServiceDefaults,
    /// Ranges that a name must not resolve into.
    pub deny: Arc<DenyList>,
    /// Builds its balancers.
    pub balancer: Arc<dyn BalancerFactory>,
}

impl PartialEq for ServiceSpec {
    /// Balancers of one's own are compared by what they are, not by what they do.
    fn eq(&self, other: &Self) -> bool {
        let Self { name, base, registry, path, defaults, deny, balancer } = self;
        (name, base, registry, path, defaults, deny)
            == (&other.name, &other.base, &other.registry, &other.path, &other.defaults, &other.deny)
            && Arc::ptr_eq(balancer, &other.balancer)
    }
}

impl ServiceSpec {
    /// Whether it reads the same directory of the same registry.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        (&self.base, &self.registry, &self.path) == (&other.base, &other.registry, &other.path)
    }

    /// Whether its balancers are made in the same way.
    pub(super) fn same_balancing(&self, other: &Self) -> bool {
        self.defaults.balance == other.defaults.balance && Arc::ptr_eq(&self.balancer, &other.balancer)
    }
}

/// The specifications of a configuration: those written, and the pattern of each catalog.
#[derive(Debug, Default)]
pub(super) struct Specs {
    pub(super) services: HashMap<ServiceName, Arc<ServiceSpec>>,
    /// Of each catalog, itself as a service: its children take it over.
    pub(super) catalogs: Arc<HashMap<ServiceName, Arc<ServiceSpec>>>,
    /// Where the children of each catalog are.
    patterns: HashMap<ServiceName, CatalogPattern>,
}

impl Specs {
    /// `standard` is handed in, so that it is the same in each configuration.
    pub(super) fn new(
        services: Vec<ServicePlan>,
        catalogs: Vec<CatalogPlan>,
        deny: &HashMap<RegistryName, Arc<DenyList>>,
        balancers: &HashMap<ServiceName, Arc<dyn BalancerFactory>>,
        standard: &Arc<dyn BalancerFactory>,
    ) -> Self {
        let spec = |name: ServiceName, registry: RegistryName, path, defaults| {
            let deny = deny.get(&registry).cloned().unwrap_or_default();
            let balancer = Arc::clone(balancers.get(&name).unwrap_or(standard));
            let base = name.clone();
            (name.clone(), Arc::new(ServiceSpec { name, base, registry, path, defaults, deny, balancer }))
        };
        let patterns = catalogs.iter().map(|c| (c.name.clone(), c.path.clone())).collect();
        let catalog = |c: CatalogPlan| spec(c.name, c.registry, c.path.to_string(), c.defaults);
        Self {
            services: services.into_iter().map(|s| spec(s.name, s.registry, s.path, s.defaults)).collect(),
            catalogs: Arc::new(catalogs.into_iter().map(catalog).collect()),
            patterns,
        }
    }

    pub(super) fn standard() -> Arc<dyn BalancerFactory> {
        Arc::new(Standard)
    }

    /// The specification of a service, configured or found in a catalog.
    pub(super) fn of(&self, name: &ServiceName) -> Option<Arc<ServiceSpec>> {
        let Some((catalog, child)) = name.as_str().split_once('/') else {
            return self.services.get(name).cloned();
        };
        let (catalog, pattern) = (self.catalogs.get(catalog)?, self.patterns.get(catalog)?);
        let path = pattern.path(child);
        Some(Arc::new(ServiceSpec { name: name.clone(), path, ..ServiceSpec::clone(catalog) }))
    }

    /// Whether a service is configured, or of a catalog that is.
    pub(super) fn knows(&self, name: &ServiceName) -> bool {
        match name.as_str().split_once('/') {
            Some((catalog, _)) => self.catalogs.contains_key(catalog),
            None => self.services.contains_key(name),
        }
    }

    /// Everything that discovery watches: configured services and catalogs.
    pub(super) fn bases(&self) -> impl Iterator<Item = &Arc<ServiceSpec>> {
        self.services.values().chain(self.catalogs.values())
    }
}
