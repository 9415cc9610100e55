//! The program's own log: `tracing` events as text or JSON lines on standard error, through a [`LineSink`].

use std::io;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{LineSink, LineTarget};

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log's writer: flushed when dropped.
#[derive(Debug)]
pub struct Logs {
    sink: LineSink,
}

impl Logs {
    /// Log lines that a stalled standard error cost.
    pub fn sink(&self) -> &LineSink {
        &self.sink
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.sink.flush(Duration::from_secs(1));
    }
}

/// Sets up the process's log. A second call in one process changes nothing and still returns a handle.
pub fn init_logging(level: LevelFilter, format: LogFormat) -> io::Result<Logs> {
    let sink = LineSink::open(LineTarget::Stderr)?;
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Lines(sink.clone()))
        .with_target(false)
        .with_ansi(false);
    let filter = filter(level);
    // A test or an embedding program may have set its own subscriber: theirs stays.
    let _ = match format {
        LogFormat::Text => builder.finish().with(filter).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().with(filter).try_init(),
    };
    Ok(Logs { sink })
}

/// What libraries meet is told in our words, once, by whoever uses them. Their own are for `debug`, and every
/// frame of theirs for `trace`.
fn filter(level: LevelFilter) -> Targets {
    let others = match level {
        LevelFilter::TRACE => level,
        LevelFilter::DEBUG => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), level)
}

struct Lines(LineSink);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: &self.0, text: Vec::with_capacity(256) }
    }
}

struct Line<'a> {
    sink: &'a LineSink,
    text: Vec<u8>,
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.sink.line(std::mem::take(&mut self.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_silent_above_debug() {
        let info = filter(LevelFilter::INFO);
        assert!(info.would_enable("zoogate::gateway", &Level::INFO));
        assert!(!info.would_enable("zoogate::gateway", &Level::DEBUG));
        assert!(!info.would_enable("some_client", &Level::ERROR));
        assert!(filter(LevelFilter::DEBUG).would_enable("some_client", &Level::WARN));
        assert!(!filter(LevelFilter::DEBUG).would_enable("some_client", &Level::DEBUG));
        assert!(filter(LevelFilter::TRACE).would_enable("some_client", &Level::TRACE));
    }
}
