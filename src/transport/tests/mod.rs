//! The transport against raw servers in the same process, on ports of the system's choice.

mod differential;
mod h1;
mod h2;
mod hostile;
mod stale;
pub(crate) mod support;
