//! What operators see from outside: metrics in one struct that is handed in, and log lines that never block.

mod clock;
mod lines;
mod live;
mod logging;
mod metrics;
mod outcome;

pub use clock::{civil, parse_rfc3339, rfc3339_micros};
pub use lines::{LineSink, LineTarget};
pub use live::{LiveSink, LiveSource};
pub use logging::{LogFormat, Logs, init_logging};
pub use metrics::{ConnectionSeries, Metrics, RequestSeries, SecondsSeries};
pub use outcome::{Outcome, OutcomeCounters};
