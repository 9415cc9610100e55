//! Why a recipe did not succeed.

use std::time::Duration;

/// Why a recipe did not succeed. Whatever the reason, it leaves nothing behind that could stand in another's way: what it
/// had made is deleted in the background, or goes with its session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// No session could be opened in time.
    #[error("no connection to {address} within {after:?}: {reason}")]
    Unreachable {
        /// The ensemble's hosts.
        address: String,
        /// How long it was tried.
        after: Duration,
        /// What stood in the way last.
        reason: String,
    },
    /// The deadline is over.
    #[error("{path}: not done in time: {reason}")]
    TimedOut {
        /// The node.
        path: String,
        /// What was waited for.
        reason: String,
    },
    /// The session is lost, and with it everything that it held.
    #[error("{path}: the session is lost")]
    SessionLost {
        /// The node.
        path: String,
    },
    /// What was held is not held any more: its node is gone.
    #[error("{path}: the node is gone, and what it stood for is lost")]
    Gone {
        /// The node.
        path: String,
    },
    /// The ensemble, or what it holds, does not allow it.
    #[error("{path}: {reason}")]
    Refused {
        /// The node.
        path: String,
        /// Why.
        reason: String,
    },
}

impl RecipeError {
    /// Whether a new session and a new attempt may succeed.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}
