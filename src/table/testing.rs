//! Plans and requests by the line, for the tests of this floor.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use crate::config::plan::{
    Limits, PathMatch, RoutePlan, Segment, ServiceDefaults, ServicePlan, ServiceRef, WeightedService,
};
use crate::model::{
    Address, BalanceSpec, Host, Incarnation, Instance, InstanceId, RegistryName, ServiceName, ServiceSnapshot,
};

use super::config::{Settings, TableConfig};
use super::request::RouteInput;

/// A route of this path to the service `orders`.
pub(crate) fn route(pattern: &str) -> RoutePlan {
    let (path, prefix) = pattern.strip_suffix("/*").map_or((pattern, false), |path| (path, true));
    let segment = |text: &str| match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(name) => Segment::Capture(name.into()),
        None => Segment::Literal(text.into()),
    };
    let segments = path.strip_prefix('/').into_iter().flat_map(|p| p.split('/')).map(segment).collect();
    RoutePlan {
        name: pattern.into(),
        path: PathMatch { segments, prefix },
        services: vec![WeightedService { service: ServiceRef::Named(name("orders")), weight: 1 }],
        timeout: None,
        ..RoutePlan::default()
    }
}

/// Calls back with a request that has no headers and no query.
pub(crate) fn input<T>(method: &str, host: &str, path: &str, then: impl FnOnce(&RouteInput<'_>) -> T) -> T {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    then(&RouteInput { method: &method, host, path, query: None, headers: &HeaderMap::new() })
}

/// `orders`, or `apps/orders`.
pub(crate) fn name(text: &str) -> ServiceName {
    match text.split_once('/') {
        Some((catalog, child)) => ServiceName::in_catalog(catalog, child),
        None => ServiceName::new(text),
    }
    .expect("a name")
}

pub(crate) fn defaults(balance: BalanceSpec) -> ServiceDefaults {
    ServiceDefaults { balance, ..ServiceDefaults::default() }
}

pub(crate) fn service(text: &str, balance: BalanceSpec) -> ServicePlan {
    ServicePlan {
        name: name(text),
        registry: RegistryName::new("main").expect("a name"),
        path: format!("/services/{text}"),
        defaults: defaults(balance),
    }
}

/// Node `id` in its `incarnation`, at 10.0.0.`host`:80.
pub(crate) fn instance(id: &str, incarnation: u64, host: u8) -> Instance {
    Instance {
        id: InstanceId { name: id.into(), incarnation: Incarnation(incarnation, 0) },
        address: Address { host: Host::Ip([10, 0, 0, host].into()), port: 80 },
        scheme: None,
        tls: None,
        weight: 1.0,
        enabled: true,
        zone: None,
        role: None,
        registered_ms: None,
        warmup_ms: None,
        facts: crate::model::NodeFacts::default(),
        metadata: std::collections::BTreeMap::default(),
    }
}

pub(crate) fn snapshot(instances: impl IntoIterator<Item = Instance>) -> Arc<ServiceSnapshot> {
    let mut instances: Vec<Arc<Instance>> = instances.into_iter().map(Arc::new).collect();
    instances.sort_by(|a, b| a.id.name.cmp(&b.id.name));
    Arc::new(ServiceSnapshot { instances, ..ServiceSnapshot::default() })
}

pub(crate) fn config(services: Vec<ServicePlan>, routes: Vec<RoutePlan>) -> TableConfig {
    let limits = Limits {
        max_connections: 1,
        max_headers: 1,
        max_header_size: 1,
        max_body: None,
        max_memory: None,
        idle_timeout: Duration::from_secs(1),
        header_timeout: Duration::from_secs(1),
    };
    TableConfig {
        settings: Settings { limits, listeners: Vec::new(), drain_timeout: std::time::Duration::ZERO },
        services,
        catalogs: Vec::new(),
        routes,
        deny: std::collections::HashMap::new(),
        balancers: std::collections::HashMap::new(),
    }
}
