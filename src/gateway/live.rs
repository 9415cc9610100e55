//! What the table knows, as metrics, at the moment of a scrape.

use std::collections::BTreeMap;

use crate::table::{Shed, TableReader};
use crate::telemetry::{LiveSink, LiveSource};

/// Reads the table in force.
#[derive(Debug)]
pub(super) struct TableSource(pub(super) TableReader);

impl LiveSource for TableSource {
    fn collect(&self, sink: &mut LiveSink) {
        let table = self.0.load();
        // Routes may share a barrier.
        let mut barriers = BTreeMap::new();
        for (gate, _) in table.routes().iter().filter_map(|route| route.gate.as_ref()) {
            barriers.insert((gate.node().registry.as_str(), gate.node().path.as_str()), gate);
        }
        for ((registry, path), gate) in barriers {
            sink.barrier_closed(registry, path, gate.is_closed());
            sink.barrier_held(registry, path, gate.held());
        }
        for upstream in table.sorted_upstreams() {
            let service = upstream.name().as_str();
            for (state, count) in upstream.count_by_state() {
                sink.instances(service, state.as_str(), count);
            }
            sink.in_flight(service, upstream.in_flight());
            sink.rejected(service, upstream.snapshot().rejected.len());
            sink.fingerprint(service, upstream.fingerprint().value());
            if let Some((plan, limiter)) = upstream.limits() {
                let limit = limiter.limit(plan);
                if limit != u32::MAX {
                    sink.concurrency_limit(service, limit);
                }
                sink.queue_length(service, limiter.waiting());
                for reason in Shed::ALL {
                    sink.shed(service, reason.as_str(), limiter.shed_count(reason));
                }
            }
            for endpoint in upstream.endpoints() {
                sink.outcomes(service, &endpoint.id, endpoint.outcomes());
            }
        }
        for route in table.routes() {
            if let Some(rate) = &route.rate {
                sink.rate_limited(&route.name, rate.limited());
                sink.rate_limit_keys(&route.name, rate.keys());
            }
        }
    }
}
