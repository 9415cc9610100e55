//! The admin listener: metrics, health and read-only views of what the gateway knows.

mod events;
mod fleet;
pub mod http;
mod page;
mod server;

pub use events::{Event, EventLog, MemberChange};
pub use fleet::{FleetView, GatewayView};
pub use server::{Admin, ListenerView, ReloadOrder};
