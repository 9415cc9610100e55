//! One gateway of a fleet drains at a time.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::registries::connect_options;
use crate::config::plan::Plan;
use crate::registry::zookeeper::recipes::{Lock, LockGuard, RecipeError, Session};

/// How long giving it back may take; its session's end does it otherwise.
const RELEASE: Duration = Duration::from_secs(2);

/// Waits for the plan's lock, for as long as the plan has it. Without it the gateway drains all the same, and says so.
pub(super) async fn take(plan: &Plan) -> Option<LockGuard> {
    let node = plan.gateway.drain_lock.as_ref()?;
    let registry = plan.registries.iter().find(|registry| registry.name == node.registry)?;
    let (options, limit) = (connect_options(&registry.kind)?, plan.gateway.drain_lock_timeout);
    let path = node.path.as_str();
    tracing::info!(path, timeout = ?limit, "waiting for the drain lock");
    let asked = Instant::now();
    let locked: Result<LockGuard, RecipeError> = async {
        let session = Session::connect(&options, limit).await?;
        Lock::new(session, path).acquire(limit.saturating_sub(asked.elapsed())).await
    }
    .await;
    match locked {
        Ok(guard) => {
            tracing::info!(path, after = ?asked.elapsed(), "holding the drain lock");
            Some(guard)
        }
        Err(error) => {
            tracing::warn!(path, %error, "draining without the drain lock");
            None
        }
    }
}

/// Lets the next one drain.
pub(super) async fn release(lock: Option<LockGuard>) {
    let Some(lock) = lock else { return };
    match timeout(RELEASE, lock.release()).await {
        Ok(Ok(())) => tracing::info!("drain lock released"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot release the drain lock; it goes with its session"),
        Err(_) => tracing::warn!("cannot release the drain lock in time; it goes with its session"),
    }
}
