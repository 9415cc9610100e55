//! The side that clients see: connections, the rules of a request, and its way to an instance and back.
//!
//! All of it belongs to one worker thread: futures are not `Send`, and nothing is shared with another worker
//! but the routing table and the metrics. A worker makes one [`ProxyContext`], calls its `tick` each [`TICK`],
//! and spawns [`serve`] for each connection that it accepts.
//!
//! The way of a request: `listener` → `socket` → `opening` → `h1` or `h2` → `stack` →
//! `request` → `filter` → `forward` → `attempts` (with `headers`, `hop_by_hop`, `upgrade`, `grpc`) → the transport; and back through `answer`.

mod access_log;
mod answer;
mod attempts;
mod body;
mod call;
mod checks;
mod clock;
pub mod codec;
mod conn;
mod context;
mod error;
mod filter;
mod forward;
mod grpc;
mod h1;
mod h2;
mod headers;
mod hedge;
mod hold;
mod hop_by_hop;
mod listener;
mod memory;
mod opening;
mod outlet;
mod probe;
mod queue;
mod replay;
mod request;
mod respond;
mod retry;
mod schedule;
mod silence;
mod socket;
mod stack;
mod streams;
mod tcp;
mod tunnel;
mod upgrade;
mod websocket;

pub use body::{Body, BoxError};
pub use checks::Checks;
pub use clock::TICK;
pub use context::{ListenerState, ProxyContext, Shared};
pub use error::{Blame, ProxyError};
pub use filter::{FilterFuture, FilterService, Filters};
pub use listener::{Serving, serve};
