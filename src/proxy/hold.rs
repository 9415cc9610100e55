//! Holding a request back while its route's barrier stands.

use std::pin::pin;
use std::time::Instant;

use super::context::ProxyContext;
use super::error::ProxyError;
use crate::config::plan::RoutePlan;
use crate::table::Gate;

/// Waits until the gate is open, until `at` at the latest.
pub(super) async fn hold(context: &ProxyContext, gate: &Gate, at: Option<Instant>) -> Result<(), ProxyError> {
    let held = gate.hold().ok_or(ProxyError::HeldBack)?;
    // A route without a deadline must not hold for ever.
    let at = at.or_else(|| Instant::now().checked_add(RoutePlan::DEFAULT_TIMEOUT));
    let opened = pin!(held.opened());
    context.clock.within(at, opened).await.map_err(|_| ProxyError::HeldBack)
}
