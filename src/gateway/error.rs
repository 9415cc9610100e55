//! Why a gateway does not start.

use super::sockets::BindError;

/// Why a gateway does not start, or a plan is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket.
    #[error("{what}: {source}")]
    Bind {
        /// `listener "public"`, `admin`.
        what: String,
        /// The address and why.
        source: BindError,
    },
    /// The access log's file.
    #[error("cannot write the access log {path}: {source}; create its folder or give permission")]
    AccessLog {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The event log's file.
    #[error("cannot write the event log {path}: {source}; create its folder or give permission")]
    EventLog {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Taken over from a gateway that serves, but not ready in its place.
    #[error(
        "not ready within 60 s, so the gateway that serves goes on; no listing of: {0}; see zoogate services"
    )]
    NotReady(String),
    /// A thread or a runtime.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
