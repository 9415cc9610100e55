//! Connections toward instances: dialling, HTTP/1.1 and HTTP/2 clients, one pool a worker.
//!
//! Everything here lives on one worker thread and is shared by `Rc`: no lock, no channel, no task
//! of its own for HTTP/1.1. An exchange is polled by the request that owns it: until the answer's
//! head in [`Connection::send`], afterwards by polling [`UpstreamBody`], which moves the rest of
//! the request's body along too. Only an HTTP/2 connection, which many requests share, has a task.
//!
//! There is no timer here except while dialling. Deadlines are the caller's: dropping a future or
//! a body closes an HTTP/1.1 connection, and resets an HTTP/2 stream.

mod body;
mod buffers;
pub mod check;
mod client;
pub mod codec;
mod connect;
mod error;
pub(crate) mod h1;
mod h2;
mod maps;
mod mux;
mod outbox;
mod outgoing;
mod pool;
mod resolve;
mod sends;
mod target;
#[cfg(test)]
mod tests;
mod upgraded;

pub use body::UpstreamBody;
pub(crate) use buffers::Buffers;
pub use client::{Connection, Transport, TransportOptions};
pub use error::{BoxError, ConnectError, ProtocolError, Reset, SendError, UpstreamBodyError, is_shortage};
pub(crate) use mux::{Mux, READS, fill};
pub(crate) use outbox::{Outbox, Outlet};
pub use outgoing::{Outgoing, RequestBody};
pub(crate) use pool::Common;
pub(crate) use sends::{Sender, send};
pub use target::Target;
pub use upgraded::Upgraded;
