//! What protects a service from its clients and from its own instances.

use std::time::Duration;

use http::StatusCode;

use crate::model::HashKey;

/// What takes an instance out of rotation beside a failed connect, and how many of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct EjectionPlan {
    /// So many failures in a row.
    pub failures: u32,
    /// Answers that count as failures.
    pub statuses: Box<[StatusCode]>,
    /// At most this part of a service's instances is ejected.
    pub max_ejected: f64,
    /// Ejection is ignored where less than this part is usable.
    pub panic_threshold: f64,
}

impl Default for EjectionPlan {
    fn default() -> Self {
        Self {
            failures: 5,
            statuses: Box::new([
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ]),
            max_ejected: 0.5,
            panic_threshold: 0.3,
        }
    }
}

/// How many requests a service may have at a time, and what becomes of those over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadLimits {
    /// Over all its instances and workers; where `adaptive` is set, the most that it may come to.
    pub max_requests: Option<u32>,
    /// On each instance.
    pub max_requests_per_instance: Option<u32>,
    /// The limit over all instances follows their latency.
    pub adaptive: bool,
    /// Where requests wait.
    pub queue: QueuePlan,
}

impl LoadLimits {
    /// The most that an adaptive limit comes to where `max_requests` says nothing.
    pub const ADAPTIVE_CEILING: u32 = 1_000;
}

/// Where requests over a limit wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePlan {
    /// For so many of a service, over all workers.
    pub length: u32,
    /// For this long.
    pub timeout: Duration,
}

impl Default for QueuePlan {
    fn default() -> Self {
        Self { length: 100, timeout: Duration::from_secs(1) }
    }
}

/// How many requests of one key pass in a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RatePlan {
    /// So many,
    pub rate: u32,
    /// in each such time.
    pub per: Duration,
    /// So many at once.
    pub burst: u32,
    /// What is counted apart; `None`: the whole route is one.
    pub key: Option<HashKey>,
}

impl RatePlan {
    /// The `per` of a limit that names none.
    pub const DEFAULT_PER: Duration = Duration::from_secs(1);
}

/// Instances that vanish in a mass are held for a while, as long as they answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VanishGuard {
    /// It engages where this part of a service or more vanishes ...
    pub share: f64,
    /// ... within this time.
    pub window: Duration,
    /// Who is held goes after this time, whether it answers or not.
    pub hold: Duration,
}

impl Default for VanishGuard {
    fn default() -> Self {
        Self { share: 0.5, window: Duration::from_secs(10), hold: Duration::from_secs(300) }
    }
}
