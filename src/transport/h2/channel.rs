//! Connections of one target, the streams on them, and when a new one is due.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use super::line::Line;
use crate::http2::stream::Over;
use crate::transport::connect::{dial, label};
use crate::transport::pool::Common;
use crate::transport::resolve::Resolver;
use crate::transport::{ConnectError, Target, TransportOptions};

/// One connection. Its task ends with the last handle to it.
pub(crate) struct Channel {
    pub(super) line: Rc<Line>,
    pings: Cell<Pings>,
    pub(super) common: Rc<Common>,
    open: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Instant>,
    born: Instant,
    task: AbortHandle,
}

#[derive(Debug, Clone, Copy)]
struct Pings {
    /// When the ping went out that has no answer yet; before that, when the last one was answered.
    at: Instant,
    /// How many have gone out.
    sent: u64,
}

/// Dials `target` and starts HTTP/2 on it, up to the peer's settings.
///
/// Waiting for them costs one round trip a connection. It tells how many streams there may be
/// before many are opened, and an instance that accepts but does not speak HTTP/2, or says
/// nothing at all, is found while its requests can still go elsewhere.
pub(crate) async fn open(
    target: &Target,
    resolver: &Resolver,
    common: &Rc<Common>,
) -> Result<Rc<Channel>, ConnectError> {
    let deadline = Instant::now() + target.connect_timeout;
    let line = Line::new(dial(target, resolver).await?, common);
    let settled = poll_fn(|cx| match line.poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Err(ended)),
        Poll::Pending if line.is_settled() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    });
    match timeout_at(deadline.into(), settled).await {
        Ok(Ok(())) => {}
        Ok(Err(ended)) => {
            let cause = Arc::new(io::Error::other(ended));
            return Err(ConnectError::Unreachable { address: label(target, None), cause });
        }
        Err(_) => {
            let within = target.connect_timeout;
            return Err(ConnectError::Timeout { address: label(target, None), within });
        }
    }
    let now = common.now.get();
    let reading = Rc::clone(&line);
    let task = tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| reading.poll(cx)).await;
        tracing::debug!(%ended, "an http/2 connection ended");
    });
    Ok(Rc::new(Channel {
        line,
        pings: Cell::new(Pings { at: now, sent: 0 }),
        common: Rc::clone(common),
        open: Cell::new(0),
        served: Cell::new(0),
        idle_since: Cell::new(now),
        born: now,
        task: task.abort_handle(),
    }))
}

impl Channel {
    /// Whether it takes one more stream: `None` where it will never take another.
    fn has_room(&self, max_streams: usize) -> Option<bool> {
        let limit = max_streams.max(1).min(self.line.room()?);
        Some(self.open.get() < limit)
    }

    /// Whether it should stay in the pool.
    fn tick(&self, now: Instant, options: &TransportOptions) -> bool {
        let idle = self.open.get() == 0;
        let too_idle = idle && now.saturating_duration_since(self.idle_since.get()) > options.idle_timeout;
        let too_old = now.saturating_duration_since(self.born) > options.max_age;
        if too_idle || too_old || self.line.room().is_none() {
            return false;
        }
        if !idle && !self.answers_pings(now, options) {
            tracing::debug!("an http/2 connection does not answer pings");
            self.line.end(Over::Lost);
            return false;
        }
        true
    }

    fn answers_pings(&self, now: Instant, options: &TransportOptions) -> bool {
        let Pings { at, sent } = self.pings.get();
        if now.saturating_duration_since(at) < options.ping_interval {
            return true;
        }
        if self.line.pongs() < sent {
            return false;
        }
        self.line.ping();
        self.line.send();
        self.pings.set(Pings { at: now, sent: sent + 1 });
        true
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("open", &self.open.get()).finish_non_exhaustive()
    }
}

/// Room for one stream on a connection, taken until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) channel: Rc<Channel>,
    /// Another request was sent here before.
    pub(super) reused: bool,
}

impl Seat {
    pub(crate) fn new(channel: &Rc<Channel>) -> Self {
        channel.open.set(channel.open.get() + 1);
        channel.served.set(channel.served.get() + 1);
        Self { channel: Rc::clone(channel), reused: channel.served.get() > 1 }
    }

    /// The connection.
    pub(super) fn line(&self) -> &Rc<Line> {
        &self.channel.line
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let channel = &self.channel;
        channel.open.set(channel.open.get() - 1);
        channel.idle_since.set(channel.common.now.get());
    }
}

/// The HTTP/2 connections of one target.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    live: RefCell<Vec<Rc<Channel>>>,
    flight: RefCell<Option<Rc<Flight>>>,
}

impl Channels {
    /// A place on the first connection that has one: later ones stay idle and time out.
    pub(crate) fn seat(&self, max_streams: usize) -> Option<Seat> {
        let mut seat = None;
        self.live.borrow_mut().retain(|channel| match channel.has_room(max_streams) {
            Some(room) => {
                if room && seat.is_none() {
                    seat = Some(Seat::new(channel));
                }
                true
            }
            None => false,
        });
        seat
    }

    pub(crate) fn add(&self, channel: Rc<Channel>) {
        self.live.borrow_mut().push(channel);
    }

    /// The dial that is under way.
    pub(crate) fn in_flight(&self) -> Option<Rc<Flight>> {
        self.flight.borrow().clone()
    }

    /// Announces a dial. Dropping the guard lets the next one wait no longer.
    pub(crate) fn begin(&self) -> FlightGuard<'_> {
        let flight = Rc::new(Flight::default());
        *self.flight.borrow_mut() = Some(Rc::clone(&flight));
        FlightGuard { channels: self, flight }
    }

    pub(crate) fn tick(&self, now: Instant, options: &TransportOptions) {
        self.live.borrow_mut().retain(|channel| channel.tick(now, options));
    }

    pub(crate) fn close(&self) {
        self.live.borrow_mut().clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.borrow().is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }
}

/// A dial that several requests wait for.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    error: RefCell<Option<ConnectError>>,
    over: Cell<bool>,
    landed: Notify,
}

impl Flight {
    /// Waits for its end. An error is everybody's: the address was tried a moment ago.
    pub(crate) async fn landed(&self) -> Option<ConnectError> {
        let landed = self.landed.notified();
        if !self.over.get() {
            landed.await;
        }
        self.error.borrow().clone()
    }
}

/// Ends a [`Flight`], also where the request that dials is given up.
pub(crate) struct FlightGuard<'a> {
    channels: &'a Channels,
    flight: Rc<Flight>,
}

impl FlightGuard<'_> {
    pub(crate) fn fail(self, error: ConnectError) {
        *self.flight.error.borrow_mut() = Some(error);
    }
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        self.channels.flight.borrow_mut().take();
        self.flight.over.set(true);
        self.flight.landed.notify_waiters();
    }
}
