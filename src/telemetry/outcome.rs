//! How attempts on an endpoint ended, counted in the endpoint itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// How one attempt on an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It answered, with anything below 500.
    Ok,
    /// It answered 5xx, or a gRPC status that blames the server.
    Error,
    /// The connection broke, or what came was no valid answer.
    Reset,
    /// The deadline passed first.
    Timeout,
    /// No connection could be made.
    ConnectFailed,
    /// The client went away, or nobody waited for the rest.
    Cancelled,
}

impl Outcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::Error, Self::Reset, Self::Timeout, Self::ConnectFailed, Self::Cancelled];

    /// The value of the label `outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::ConnectFailed => "connect_failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One counter an outcome. Lives in its endpoint: when the endpoint leaves the table its series end,
/// and an attempt that ends later counts into an orphan that nobody scrapes.
#[derive(Debug, Default)]
pub struct OutcomeCounters([AtomicU64; 6]);

impl OutcomeCounters {
    /// Counts one attempt.
    pub fn add(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Release);
    }

    /// How many attempts ended at all.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// How many attempts ended so.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}
