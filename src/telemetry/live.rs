//! Series that are read from the table at scrape time instead of being kept beside it.
//!
//! An instance's series exist exactly while the table holds it: nothing has to be deleted, and a request that
//! ends late revives nothing.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Outcome, OutcomeCounters};

/// Something that can tell its present numbers.
pub trait LiveSource: Send + Sync {
    /// Writes every sample that exists now.
    fn collect(&self, sink: &mut LiveSink);
}

/// Takes samples of the live series.
#[derive(Debug, Default)]
pub struct LiveSink {
    families: BTreeMap<&'static str, MetricFamily>,
}

impl LiveSink {
    /// `zoogate_service_instances{service,state}`.
    pub fn instances(&mut self, service: &str, state: &str, count: usize) {
        let labels = [("service", service), ("state", state)];
        self.gauge("zoogate_service_instances", "Instances of a service by state.", &labels, count as f64);
    }

    /// `zoogate_requests_in_flight{service}`.
    pub fn in_flight(&mut self, service: &str, count: u64) {
        let labels = [("service", service)];
        self.gauge("zoogate_requests_in_flight", "Requests being answered.", &labels, count as f64);
    }

    /// `zoogate_rejected_nodes{service}`.
    pub fn rejected(&mut self, service: &str, count: usize) {
        let labels = [("service", service)];
        let help = "Nodes whose payload is no usable instance.";
        self.gauge("zoogate_rejected_nodes", help, &labels, count as f64);
    }

    /// `zoogate_service_fingerprint{service}`: the 48-bit fingerprint as a number.
    pub fn fingerprint(&mut self, service: &str, value: u64) {
        let labels = [("service", service)];
        let help = "What decides balancing, as a 48-bit number: equal on gateways that balance alike.";
        self.gauge("zoogate_service_fingerprint", help, &labels, value as f64);
    }

    /// `zoogate_registry_connected{registry}`.
    pub fn registry_connected(&mut self, registry: &str, connected: bool) {
        let labels = [("registry", registry)];
        let help = "1 while the registry answers.";
        self.gauge("zoogate_registry_connected", help, &labels, f64::from(u8::from(connected)));
    }

    /// `zoogate_registry_stale_seconds{registry}`.
    pub fn registry_stale(&mut self, registry: &str, seconds: f64) {
        let labels = [("registry", registry)];
        let help = "How long the table has not been known to be current; 0 while it is.";
        self.gauge("zoogate_registry_stale_seconds", help, &labels, seconds);
    }

    /// `zoogate_registry_session_losses_total{registry}`.
    pub fn session_losses(&mut self, registry: &str, count: u64) {
        let labels = [("registry", registry)];
        let help = "Sessions that expired.";
        self.counter("zoogate_registry_session_losses_total", help, &labels, count);
    }

    /// `zoogate_registry_drift_total{registry}`.
    pub fn drift(&mut self, registry: &str, count: u64) {
        let labels = [("registry", registry)];
        let help = "Nodes that an audit found otherwise than events had told: 0, unless something is wrong.";
        self.counter("zoogate_registry_drift_total", help, &labels, count);
    }

    /// `zoogate_barrier_closed{registry,path}`.
    pub fn barrier_closed(&mut self, registry: &str, path: &str, closed: bool) {
        let labels = [("registry", registry), ("path", path)];
        let help = "1 while the barrier's node exists, and its routes' requests wait.";
        self.gauge("zoogate_barrier_closed", help, &labels, f64::from(u8::from(closed)));
    }

    /// `zoogate_barrier_held_requests{registry,path}`.
    pub fn barrier_held(&mut self, registry: &str, path: &str, requests: usize) {
        let labels = [("registry", registry), ("path", path)];
        let help = "Requests that a barrier holds back now.";
        self.gauge("zoogate_barrier_held_requests", help, &labels, requests as f64);
    }

    /// `zoogate_memory_limit_bytes` and `zoogate_memory_pressure`.
    pub fn memory(&mut self, limit: u64, level: u8) {
        let help = "Memory that the process may take before it turns work away; 0: any.";
        self.gauge("zoogate_memory_limit_bytes", help, &[], limit as f64);
        let help = "0 while memory suffices, 1 while most new requests are turned away, 2 at the limit.";
        self.gauge("zoogate_memory_pressure", help, &[], f64::from(level));
    }

    /// `zoogate_worker_connections{worker}`.
    pub fn worker_connections(&mut self, worker: usize, count: usize) {
        let worker = worker.to_string();
        let help = "Downstream connections open now, by the worker that serves them.";
        self.gauge("zoogate_worker_connections", help, &[("worker", &worker)], count as f64);
    }

    /// `zoogate_upstream_requests_total{service,instance,outcome}`, every outcome that happened.
    pub fn outcomes(&mut self, service: &str, instance: &str, counters: &OutcomeCounters) {
        for outcome in Outcome::ALL {
            let count = counters.get(outcome);
            if count > 0 {
                let labels = [("service", service), ("instance", instance), ("outcome", outcome.as_str())];
                let help = "Attempts on instances by how they ended.";
                self.counter("zoogate_upstream_requests_total", help, &labels, count);
            }
        }
    }

    /// `zoogate_concurrency_limit{service}`.
    pub fn concurrency_limit(&mut self, service: &str, limit: u32) {
        let help = "Requests that a service may have in flight now.";
        self.gauge("zoogate_concurrency_limit", help, &[("service", service)], f64::from(limit));
    }

    /// `zoogate_queue_length{service}`.
    pub fn queue_length(&mut self, service: &str, waiting: u32) {
        let help = "Requests that wait for a slot of a service at its limit.";
        self.gauge("zoogate_queue_length", help, &[("service", service)], f64::from(waiting));
    }

    /// `zoogate_shed_total{service,reason}`.
    pub fn shed(&mut self, service: &str, reason: &str, count: u64) {
        let help = "Requests turned away because a service is at its limit, by why.";
        self.counter("zoogate_shed_total", help, &[("service", service), ("reason", reason)], count);
    }

    /// `zoogate_rate_limited_total{route}`.
    pub fn rate_limited(&mut self, route: &str, count: u64) {
        let help = "Requests over their route's rate limit.";
        self.counter("zoogate_rate_limited_total", help, &[("route", route)], count);
    }

    /// `zoogate_rate_limit_keys{route}`.
    pub fn rate_limit_keys(&mut self, route: &str, count: usize) {
        let help = "Keys of a route's rate limit whose bucket is not full.";
        self.gauge("zoogate_rate_limit_keys", help, &[("route", route)], count as f64);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, metric);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, metric);
    }

    fn push(&mut self, name: &'static str, help: &'static str, kind: MetricType, metric: Metric) {
        let family = self.families.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.families.into_values().collect()
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let mut pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    pairs
}
