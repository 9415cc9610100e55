//! A reverse-proxy gateway for services that announce themselves in Apache ZooKeeper, as a library.
//!
//! The program `zoogate` is a thin shell around this crate. A gateway inside a program of your own is a configuration
//! and three calls:
//!
//! ```no_run
//! use zoogate::{Gateway, Plan};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan: Plan = r#"
//!     [registries.main]
//!     kind = "zookeeper"
//!     connect = "127.0.0.1:2181"
//!     [services.orders]
//!     path = "/services/orders"
//!     [[listeners]]
//!     name = "public"
//!     listen = "127.0.0.1:8080"
//!     [[routes]]
//!     service = "orders"
//! "#
//! .parse()?;
//! let gateway = Gateway::new(plan).start().await?;
//! gateway.ready().await;
//! println!("serving on {:?}", gateway.address("public"));
//!
//! tokio::signal::ctrl_c().await?;
//! gateway.drain(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What to look at
//!
//! | to | see |
//! | --- | --- |
//! | read a file, or make a [`Plan`] by hand | [`config`] |
//! | start a gateway, look into it, reload and drain it | [`Gateway`], [`Running`] |
//! | put code of your own around every request | [`Filters`]: each is a `tower::Layer` |
//! | choose instances by a rule of your own | [`balance::BalancerFactory`], [`Gateway::balancer`] |
//! | register an instance, and keep it registered while it is well | [`registration`] |
//! | watch a registry without a gateway | [`registry`] |
//! | elect a leader, hold a lock, wait at a barrier, share a queue or a counter | [`recipes`] |
//! | see what the gateway knows, or ask it where a request goes | [`table`], [`Running::table`] |
//!
//! The repository's `examples/` hold a whole program for each.
//!
//! # How it works
//!
//! **An event's journey.** A registry tells that a node came, changed or went ([`registry`]); the node becomes an
//! instance of a service's snapshot ([`model`]); the gateway's pump applies the snapshot to the [`table`]'s writer,
//! which swaps one pointer. The next request on any worker sees it.
//!
//! **A request's journey.** A worker accepts a connection and checks what comes, runs the filters, finds route,
//! service and instance in the table, and forwards over a connection of its own. Nothing on that way waits for a
//! registry or shares a lock with it.

pub mod balance;
pub mod config;
pub mod gateway;
mod http2;
pub mod model;
pub mod registration;
pub mod registry;
pub mod table;

// Public for the program and the tests; what an embedding program needs of them stands below.
#[doc(hidden)]
pub mod admin;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod proxy;
#[doc(hidden)]
pub mod telemetry;
#[doc(hidden)]
pub mod transport;

pub use admin::ListenerView;
pub use config::{ConfigErrors, Plan};
pub use gateway::{Gateway, Running, StartError};
pub use proxy::{Body, BoxError, FilterFuture, FilterService, Filters, ProxyError};
pub use registry::zookeeper::recipes;
pub use telemetry::Metrics;
