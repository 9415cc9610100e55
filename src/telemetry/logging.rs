//! The program's own log: `tracing` events as text or JSON lines on standard error, through a [`LineSink`].

use std::time::Duration;
use std::{fmt, io};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

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
pub struct Logs {
    sink: LineSink,
    shape: Box<dyn Fn(LevelFilter, LogFormat) + Send + Sync>,
}

impl Logs {
    /// Log lines that a stalled standard error cost.
    pub fn sink(&self) -> &LineSink {
        &self.sink
    }

    /// Writes from now on what is as severe as this, in this shape.
    pub fn set(&self, level: LevelFilter, format: LogFormat) {
        (self.shape)(level, format);
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").field("sink", &self.sink).finish_non_exhaustive()
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
    let (writer, lines) = reload::Layer::new(writer(&sink, format));
    let (filter, levels) = reload::Layer::new(filter(level));
    // A test or an embedding program may have set its own subscriber: theirs stays.
    let _ = tracing_subscriber::registry().with(writer).with(filter).try_init();
    let own = sink.clone();
    let shape = move |level, format| {
        // An error tells that theirs did stay.
        let _ = lines.reload(self::writer(&own, format));
        let _ = levels.reload(self::filter(level));
    };
    Ok(Logs { sink, shape: Box::new(shape) })
}

/// What makes lines of events.
fn writer(sink: &LineSink, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let writer = layer().with_writer(Lines(sink.clone())).with_target(false).with_ansi(false);
    match format {
        LogFormat::Text => writer.boxed(),
        LogFormat::Json => writer.json().flatten_event(true).boxed(),
    }
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
