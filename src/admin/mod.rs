//! The admin listener: metrics, health and read-only views of what the gateway knows.

mod events;
pub mod http;
mod page;
mod server;

pub use events::{Event, EventLog, MemberChange};
pub use server::{Admin, ListenerView, ReloadOrder};
