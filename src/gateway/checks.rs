//! Health checks have a thread of their own: a worker that is busy, or stuck, neither delays them nor fails them.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;

use crate::proxy::{Checks, TICK};
use crate::table::TableReader;
use crate::telemetry::Metrics;

/// Begins to check; ends with the sender that is returned.
pub(super) fn start(
    table: TableReader,
    metrics: Arc<Metrics>,
) -> std::io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
    let (stop, mut stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("checks".into()).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no runtime for health checks"),
        };
        runtime.block_on(async {
            let mut checks = Checks::new(&table, metrics);
            let mut tick = tokio::time::interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    _ = tick.tick() => checks.tick(),
                }
            }
        });
    })?;
    Ok((stop, thread))
}
