//! The assembly: discovery pumps changes into the table, workers serve from it, the admin shows it.

mod accept;
mod assembly;
mod barriers;
mod checks;
mod descriptors;
mod drain_lock;
mod elections;
mod error;
mod fleet;
mod guard;
mod handover;
mod journal;
mod limbo;
mod live;
mod pump;
mod registries;
mod snapshots;
mod sockets;
mod spread;
mod status;
mod survey;
mod workers;

pub use assembly::{Gateway, Running};
pub use error::StartError;
pub use handover::{Inherited, Successor};
pub use sockets::BindError;
pub use survey::{Survey, survey};
