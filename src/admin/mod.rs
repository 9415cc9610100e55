//! The admin listener: metrics, health and read-only views of what the gateway knows.

pub mod http;
mod page;
mod server;

pub use server::{Admin, ListenerView};
