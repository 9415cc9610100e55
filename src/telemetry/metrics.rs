//! Every metric in one struct that is handed in: no global registry, no look-up by label on the request path.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, process_collector::ProcessCollector,
};

use super::{LiveSink, LiveSource};

/// Seconds, from half a millisecond to half a minute.
const REQUEST_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds: a table is published in microseconds, unless something is wrong.
const PUBLISH_BUCKETS: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    live: Mutex<Vec<Box<dyn LiveSource>>>,
    requests: IntCounterVec,
    durations: HistogramVec,
    connects: HistogramVec,
    retries: IntCounterVec,
    exhausted: IntCounterVec,
    ejections: IntCounterVec,
    readmissions: IntCounterVec,
    doubts: IntCounterVec,
    checks: IntCounterVec,
    changes: IntCounterVec,
    publish: Histogram,
    reloads: IntCounterVec,
    keyless: IntCounterVec,
    connections: IntGaugeVec,
    accepted: IntCounterVec,
    refused: IntCounterVec,
    dropped_lines: IntGaugeVec,
    memory_shed: IntCounterVec,
    panics: IntCounter,
    generation: IntGauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A fresh set, with the process's own metrics in it.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let metrics = Self {
            requests: make.counters(
                "zoogate_requests_total",
                "Requests answered, by the status sent.",
                &["listener", "route", "service", "code"],
            ),
            durations: make.histograms(
                "zoogate_request_duration_seconds",
                "From a request's head to the end of its answer.",
                &["listener", "route", "service"],
                REQUEST_BUCKETS,
            ),
            connects: make.histograms(
                "zoogate_upstream_connect_duration_seconds",
                "Time to connect to an instance.",
                &["service"],
                REQUEST_BUCKETS,
            ),
            retries: make.counters(
                "zoogate_retries_total",
                "Attempts after the first, by why.",
                &["service", "reason"],
            ),
            exhausted: make.counters(
                "zoogate_retry_budget_exhausted_total",
                "Attempts not made because the service's retry budget was used up.",
                &["service"],
            ),
            ejections: make.counters(
                "zoogate_ejections_total",
                "Instances taken out of rotation, by why.",
                &["service", "reason"],
            ),
            readmissions: make.counters(
                "zoogate_readmissions_total",
                "Ejected instances that came back.",
                &["service"],
            ),
            doubts: make.counters(
                "zoogate_doubts_total",
                "Instances passed over for a moment.",
                &["service"],
            ),
            checks: make.counters(
                "zoogate_health_checks_total",
                "Health checks that passed or failed.",
                &["service", "result"],
            ),
            changes: make.counters(
                "zoogate_membership_changes_total",
                "Instances that came, went or changed.",
                &["service", "change"],
            ),
            publish: make.histogram(
                "zoogate_membership_publish_seconds",
                "From a registry event received to its table published.",
                PUBLISH_BUCKETS,
            ),
            reloads: make.counters("zoogate_config_reloads_total", "Configurations read again.", &["result"]),
            keyless: make.counters(
                "zoogate_keyless_requests_total",
                "Requests without the hash key of their service, balanced at random.",
                &["service"],
            ),
            connections: make.gauges(
                "zoogate_connections",
                "Downstream connections open now.",
                &["listener"],
            ),
            accepted: make.counters(
                "zoogate_connections_accepted_total",
                "Downstream connections accepted.",
                &["listener"],
            ),
            refused: make.counters(
                "zoogate_connections_refused_total",
                "Downstream connections closed unserved, by why.",
                &["listener", "reason"],
            ),
            dropped_lines: make.gauges(
                "zoogate_log_lines_dropped",
                "Log lines lost since the start because their writer stalled.",
                &["log"],
            ),
            memory_shed: make.counters(
                "zoogate_memory_shed_total",
                "What was turned away or given up because memory was short.",
                &["what"],
            ),
            panics: make.counter("zoogate_panics_total", "Panics caught; each cost one request."),
            generation: make.gauge("zoogate_table_generation", "Generation of the routing table in use."),
            live: Mutex::new(Vec::new()),
            registry: registry.clone(),
        };
        make.register(ProcessCollector::for_self());
        metrics.begin_at_zero();
        Arc::new(metrics)
    }

    /// What is there from the start, so that its first step is seen as one.
    fn begin_at_zero(&self) {
        for what in ["request", "connection", "client", "body"] {
            let _ = self.memory_shed.with_label_values(&[what]);
        }
    }

    /// Adds a source that is asked at every scrape.
    pub fn add_live(&self, source: Box<dyn LiveSource>) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Everything in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut families = self.registry.gather();
        let mut sink = LiveSink::default();
        for source in self.live.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            source.collect(&mut sink);
        }
        families.extend(sink.into_families());
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics do not encode");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Handles for the requests of one (listener, route, service): resolve once a worker, then reuse.
    pub fn request_series(&self, listener: &str, route: &str, service: &str) -> RequestSeries {
        RequestSeries {
            requests: self.requests.clone(),
            labels: [listener.to_owned(), route.to_owned(), service.to_owned()],
            codes: RefCell::new(Vec::new()),
            duration: self.durations.with_label_values(&[listener, route, service]),
        }
    }

    /// A handle for connect times of one service.
    pub fn connect_series(&self, service: &str) -> SecondsSeries {
        SecondsSeries(self.connects.with_label_values(&[service]))
    }

    /// Counts an attempt after a request's first.
    pub fn retry(&self, service: &str, reason: &'static str) {
        self.retries.with_label_values(&[service, reason]).inc();
    }

    /// Counts an attempt for which the service's budget had no room.
    pub fn retry_budget_exhausted(&self, service: &str) {
        self.exhausted.with_label_values(&[service]).inc();
    }

    /// Counts an instance that is taken out of rotation.
    pub fn ejected(&self, service: &str, reason: &'static str) {
        self.ejections.with_label_values(&[service, reason]).inc();
        // There from now on, so that its first step is seen as one.
        let _ = (self.readmissions.with_label_values(&[service]), self.doubts.with_label_values(&[service]));
    }

    /// Counts an instance that new requests go past, until a probe has its answer.
    pub fn doubted(&self, service: &str) {
        self.doubts.with_label_values(&[service]).inc();
    }

    /// Counts an ejected instance that is back.
    pub fn readmitted(&self, service: &str) {
        self.readmissions.with_label_values(&[service]).inc();
    }

    /// Counts a health check.
    pub fn checked(&self, service: &str, passed: bool) {
        let result = if passed { "passed" } else { "failed" };
        self.checks.with_label_values(&[service, result]).inc();
    }

    /// Counts a request without the hash key of its service.
    pub fn keyless(&self, service: &str) {
        self.keyless.with_label_values(&[service]).inc();
    }

    /// Counts members that came (`added`), went (`removed`) or `changed`.
    pub fn membership_change(&self, service: &str, change: &'static str, count: usize) {
        if count > 0 {
            self.changes.with_label_values(&[service, change]).inc_by(count as u64);
        }
    }

    /// Observes the way from a registry event to a published table.
    pub fn membership_published(&self, latency: Duration) {
        self.publish.observe(latency.as_secs_f64());
    }

    /// Tells the table generation in use.
    pub fn table_generation(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Counts a reload: `ok` or `refused`.
    pub fn reload(&self, result: &'static str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Counts an accepted connection and returns the gauge of open ones, to be raised and lowered.
    pub fn connection_series(&self, listener: &str) -> ConnectionSeries {
        ConnectionSeries {
            open: self.connections.with_label_values(&[listener]),
            accepted: self.accepted.with_label_values(&[listener]),
        }
    }

    /// Counts a connection closed unserved: `limit`, `descriptors`.
    pub fn connection_refused(&self, listener: &str, reason: &'static str) {
        self.refused.with_label_values(&[listener, reason]).inc();
    }

    /// Tells how many lines of a log (`access`, `log`) were dropped since the start.
    pub fn dropped_lines(&self, log: &'static str, count: u64) {
        self.dropped_lines.with_label_values(&[log]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts what a shortage of memory cost: a `request` or `connection` turned away, a `client` cut that did not take its
    /// answer, a `body` no longer kept for a retry.
    pub fn shed_for_memory(&self, what: &'static str, count: usize) {
        self.memory_shed.with_label_values(&[what]).inc_by(count as u64);
    }

    /// Counts a panic that cost one request.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

/// The resolved series of one (listener, route, service). Belongs to one worker.
#[derive(Debug)]
pub struct RequestSeries {
    requests: IntCounterVec,
    labels: [String; 3],
    codes: RefCell<Vec<(u16, IntCounter)>>,
    duration: Histogram,
}

impl RequestSeries {
    /// Counts one answered request.
    pub fn finish(&self, code: u16, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
        let mut codes = self.codes.borrow_mut();
        if let Some((_, counter)) = codes.iter().find(|(known, _)| *known == code) {
            counter.inc();
            return;
        }
        let [listener, route, service] = &self.labels;
        let text = format!("{code:03}");
        let counter = self.requests.with_label_values(&[listener, route, service, &text]);
        counter.inc();
        codes.push((code, counter));
    }
}

/// A resolved histogram of seconds.
#[derive(Debug, Clone)]
pub struct SecondsSeries(Histogram);

impl SecondsSeries {
    /// Observes one duration.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// A listener's connection counts.
#[derive(Debug, Clone)]
pub struct ConnectionSeries {
    open: IntGauge,
    accepted: IntCounter,
}

impl ConnectionSeries {
    /// One more is open.
    pub fn opened(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// One fewer is.
    pub fn closed(&self) {
        self.open.dec();
    }
}

/// Makes and registers metrics; their names and labels are literals of this file, so that neither can fail.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register(&self, collector: impl prometheus::core::Collector + 'static) {
        self.0.register(Box::new(collector)).expect("metric names of this file are distinct");
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let made = IntCounter::new(name, help).expect(VALID);
        self.register(made.clone());
        made
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let made = IntGauge::new(name, help).expect(VALID);
        self.register(made.clone());
        made
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
        self.register(made.clone());
        made
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let made = IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID);
        self.register(made.clone());
        made
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let made =
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())).expect(VALID);
        self.register(made.clone());
        made
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let made =
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels).expect(VALID);
        self.register(made.clone());
        made
    }
}

const VALID: &str = "metric names and labels of this file are valid";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Outcome, OutcomeCounters};

    struct Live(Arc<OutcomeCounters>);
    impl LiveSource for Live {
        fn collect(&self, sink: &mut LiveSink) {
            sink.instances("orders", "up", 3);
            sink.outcomes("orders", "node1", &self.0);
        }
    }

    #[test]
    fn a_scrape_holds_what_was_counted_and_what_lives() {
        let metrics = Metrics::new();
        let series = metrics.request_series("public", "r", "orders");
        series.finish(200, Duration::from_millis(3));
        series.finish(200, Duration::from_millis(3));
        series.finish(503, Duration::from_millis(3));
        let counters = Arc::new(OutcomeCounters::default());
        counters.add(Outcome::ConnectFailed);
        metrics.add_live(Box::new(Live(counters)));
        let text = metrics.render();
        for line in [
            r#"zoogate_requests_total{code="200",listener="public",route="r",service="orders"} 2"#,
            r#"zoogate_requests_total{code="503",listener="public",route="r",service="orders"} 1"#,
            r#"zoogate_service_instances{service="orders",state="up"} 3"#,
            r#"zoogate_upstream_requests_total{instance="node1",outcome="connect_failed",service="orders"} 1"#,
            r#"zoogate_request_duration_seconds_count{listener="public",route="r",service="orders"} 3"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("process_open_fds"), "{text}");
    }
}
