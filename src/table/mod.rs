//! The routing table: immutable, swapped whole, shared in its parts.
//!
//! The [`TableWriter`] (there is one) turns configuration and discovery into generations of the
//! [`RoutingTable`], in which a request finds its [`Route`], its [`Upstream`], and with a [`Lease`] an
//! [`Endpoint`]. A generation shares with the one before whatever did not change; what lives longer
//! than a generation (load, latency, health, cursors) is behind the endpoints and shared by all.
//!
//! ```text
//! discovery ──apply──▶ TableWriter ──publish──▶ swap ◀──load── CachedReader (one a worker)
//! ```

pub mod affinity;
mod asked;
mod budget;
mod census;
mod config;
mod ejection;
mod endpoint;
mod explain;
mod gate;
mod gradient;
mod health;
mod lease;
mod limit;
mod limited;
mod matcher;
mod members;
mod path;
mod rate;
mod request;
mod route;
mod routing_table;
mod shard;
mod swap;
mod upstream;
mod upstream_map;
mod view;
mod warm;
mod writer;
mod zone;

#[cfg(test)]
mod burial_tests;
#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod ejection_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod writer_tests;

pub use asked::ExplainedRequest;
pub use config::{ServiceSpec, Settings, TableConfig};
pub use ejection::{NextStep, Spell};
pub use endpoint::{Endpoint, InstanceState};
pub use explain::{Considered, Explanation};
pub use gate::{Gate, Held, MAX_HELD};
pub use health::Reason;
pub use lease::Lease;
pub use limit::{Limiter, Place, Shed};
pub use path::normalise;
pub use rate::{MAX_KEYS, Rate};
pub use request::RouteInput;
pub use route::{Captures, Mismatch, Route};
pub use routing_table::{BaseState, Matched, NoService, RoutingTable};
pub use swap::{CachedReader, TableReader};
pub use upstream::{PickRequest, Upstream};
pub use view::{
    BarrierView, CatalogView, HealthView, InstanceView, LimitsView, RateView, RejectedView, RouteView,
    ServiceView,
};
pub use writer::TableWriter;
