//! Connections of one target, the streams on them, and when a new one is due.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ::h2::client::{Builder, SendRequest};
use ::h2::{Ping, PingPong, Reason};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use crate::transport::connect::{dial, label};
use crate::transport::pool::Common;
use crate::transport::resolve::Resolver;
use crate::transport::{ConnectError, Target, TransportOptions};

/// What a connection gives as its limit of streams until the peer's settings arrive. No peer can
/// say this number: its own has 32 bits, and silence means `usize::MAX`.
const UNSETTLED: usize = usize::MAX - 1;

/// Request data that may wait inside a connection, for each stream.
const SEND_BUFFER: usize = 256 * 1024;

/// One connection. Its task ends with the last handle to it.
pub(crate) struct Channel {
    send: RefCell<SendRequest<Bytes>>,
    pings: RefCell<Option<Pings>>,
    pub(super) common: Rc<Common>,
    open: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Instant>,
    born: Instant,
    ended: Rc<Cell<bool>>,
    task: AbortHandle,
}

struct Pings {
    handle: PingPong,
    /// When the ping went out that has no answer yet; before that, when the last one was answered.
    at: Instant,
    waiting: bool,
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
    let options = &common.options;
    let deadline = Instant::now() + target.connect_timeout;
    let stream = dial(target, resolver).await?;
    let window = options.stream_window;
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(window)
        .initial_connection_window_size(
            window.saturating_mul(options.max_streams.min(1 << 14) as u32).min((1 << 31) - 1),
        )
        .max_header_list_size(common.head_limits().max_header_size as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(UNSETTLED);
    let handshake = async {
        let (send, mut connection) = builder.handshake::<_, Bytes>(stream).await?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(::h2::Error::from(Reason::NO_ERROR))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if connection.max_concurrent_send_streams() == UNSETTLED => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        Ok::<_, ::h2::Error>((send, connection))
    };
    let (send, mut connection) = match timeout_at(deadline.into(), handshake).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => {
            let cause = Arc::new(io::Error::other(error));
            return Err(ConnectError::Unreachable { address: label(target, None), cause });
        }
        Err(_) => {
            let within = target.connect_timeout;
            return Err(ConnectError::Timeout { address: label(target, None), within });
        }
    };
    let now = common.now.get();
    let pings = connection.ping_pong().map(|handle| Pings { handle, at: now, waiting: false });
    let ended = Rc::new(Cell::new(false));
    let told = Rc::clone(&ended);
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an http/2 connection ended");
        }
        told.set(true);
    });
    Ok(Rc::new(Channel {
        send: RefCell::new(send),
        pings: RefCell::new(pings),
        common: Rc::clone(common),
        open: Cell::new(0),
        served: Cell::new(0),
        idle_since: Cell::new(now),
        born: now,
        ended,
        task: task.abort_handle(),
    }))
}

impl Channel {
    /// Whether it takes one more stream: `None` where it will never take another.
    fn has_room(&self, max_streams: usize) -> Option<bool> {
        if self.ended.get() {
            return None;
        }
        let mut send = self.send.borrow_mut();
        // Ready unless the connection failed, was told to go away, or has a stream in its queue.
        match send.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                let limit = max_streams.max(1).min(send.current_max_send_streams());
                Some(self.open.get() < limit)
            }
            Poll::Ready(Err(_)) => None,
            Poll::Pending => Some(false),
        }
    }

    /// Whether it should stay in the pool.
    fn tick(&self, now: Instant, options: &TransportOptions) -> bool {
        let idle = self.open.get() == 0;
        let too_idle = idle && now.saturating_duration_since(self.idle_since.get()) > options.idle_timeout;
        let too_old = now.saturating_duration_since(self.born) > options.max_age;
        if too_idle || too_old || self.has_room(usize::MAX).is_none() {
            return false;
        }
        if !idle && !self.answers_pings(now, options) {
            tracing::debug!("an http/2 connection does not answer pings");
            self.task.abort();
            return false;
        }
        true
    }

    fn answers_pings(&self, now: Instant, options: &TransportOptions) -> bool {
        let mut pings = self.pings.borrow_mut();
        let Some(pings) = pings.as_mut() else { return true };
        let mut cx = Context::from_waker(Waker::noop());
        if pings.waiting && pings.handle.poll_pong(&mut cx).is_ready() {
            pings.waiting = false;
        }
        if now.saturating_duration_since(pings.at) < options.ping_interval {
            return true;
        }
        if pings.waiting {
            return false;
        }
        pings.waiting = pings.handle.send_ping(Ping::opaque()).is_ok();
        pings.at = now;
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

    /// The connection's sender, if it still takes requests.
    pub(super) fn sender(&self) -> Option<std::cell::RefMut<'_, SendRequest<Bytes>>> {
        self.channel.has_room(usize::MAX)?;
        Some(self.channel.send.borrow_mut())
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
