//! HTTP/2 toward instances, with prior knowledge: many requests on a few connections.
//!
//! A connection (`line`) has a task that reads its socket; `channel` pools it. A request is polled by
//! whoever asked, as with HTTP/1.1, so that no task and no channel stands between the two, and a
//! stream that the peer refused gives its request back.

mod body;
mod channel;
mod exchange;
mod line;
mod upload;

pub(crate) use body::H2Body;
pub(crate) use channel::{Channels, Seat, open};
pub(crate) use exchange::send;
