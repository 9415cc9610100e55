//! What protects a service from its clients and from its own instances.

use std::sync::Arc;
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

/// Whose instances are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HealthCheck {
    /// Those whose node is persistent: it stays when its process dies, so nobody else tells. They are asked for a
    /// connection.
    #[default]
    Persistent,
    /// Nobody.
    Off,
    /// All.
    All(Arc<CheckPlan>),
}

/// How an instance is asked how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckPlan {
    /// The question.
    pub kind: CheckKind,
    /// The port that is asked; `None`: the instance's.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// For connection and answer.
    pub timeout: Duration,
    /// So many failures in a row eject it.
    pub unhealthy: u32,
    /// So many answers in a row bring it back.
    pub healthy: u32,
}

/// The question of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A GET over HTTP/1.1.
    Http {
        /// Path and query.
        path: Box<str>,
        /// The `host` that is asked for; `None`: the address.
        host: Option<Box<str>>,
        /// The statuses that are well; none: 2xx.
        statuses: Box<[StatusCode]>,
    },
    /// A connection.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Of which service; empty: of the server.
        service: Box<str>,
    },
}

impl Default for CheckPlan {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy: 2,
            healthy: 1,
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
