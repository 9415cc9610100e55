//! Where a connection goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::model::{Address, DenyList, Protocol};

/// An endpoint as the transport sees it: where it is and how to speak to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Unique in the process, one an endpoint, never reused: connections are pooled under it.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// A connect may take this long in all: resolution and every address of a name.
    pub connect_timeout: Duration,
    /// How long a resolved name is believed.
    pub dns_ttl: Duration,
    /// What is never dialled, whether registered as a literal or resolved to.
    pub deny: Arc<DenyList>,
    /// Set once nobody is to be sent here any more: idle connections to it close at the next tick.
    pub gone: Arc<AtomicBool>,
}
