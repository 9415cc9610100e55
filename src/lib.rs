//! zoogate: a gateway in front of services that announce themselves in Apache ZooKeeper.
//!
//! **An event's journey.** A registry tells that a node came, changed or went ([`registry`]); the node becomes an
//! instance of a service's snapshot; the gateway's pump applies the snapshot to the [`table`]'s writer, which swaps one
//! pointer. The next request on any worker sees it.
//!
//! **A request's journey.** A worker accepts a connection and checks what comes ([`proxy`]), finds route, service and
//! instance in the table, and forwards over a connection of its own ([`transport`]). Nothing on that way waits for a
//! registry or shares a lock with it.
//!
//! To run a gateway inside a program: read or make a [`config::Plan`], hand it to [`gateway::Gateway`].

pub mod admin;
pub mod balance;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod model;
pub mod proxy;
pub mod registry;
pub mod table;
pub mod telemetry;
pub mod transport;
