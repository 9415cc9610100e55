//! The assembly.
pub mod sockets;
