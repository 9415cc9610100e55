//! The worker's way to instances: connections out of the pool or new, and requests over them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use tokio::net::TcpStream;

use super::connect::dial;
use super::h1::{self, Conn, HeadLimits};
use super::h2::{self, Seat};
use super::pool::{Common, TargetPool};
use super::resolve::Resolver;
use super::{ConnectError, Outgoing, RequestBody, SendError, Target, UpstreamBody};
use crate::model::Protocol;

/// Limits of a worker's connections.
#[derive(Debug, Clone)]
pub struct TransportOptions {
    /// Header lines of an answer, and of its trailers.
    pub max_headers: usize,
    /// Bytes of an answer's head, and of its trailers.
    pub max_header_size: usize,
    /// A pooled connection that idles longer is closed at a tick.
    pub idle_timeout: Duration,
    /// A connection older than this takes no new request.
    pub max_age: Duration,
    /// Idle HTTP/1.1 connections kept for one target.
    pub max_idle_per_target: usize,
    /// Idle HTTP/1.1 connections kept by the worker.
    pub max_idle: usize,
    /// Streams opened on one HTTP/2 connection, if the peer allows as many, before the next is dialled.
    pub max_streams: usize,
    /// Bytes of one HTTP/2 answer that may arrive before they are read. The connection's window is
    /// this times `max_streams`, so that no slow reader holds up its neighbours.
    pub stream_window: u32,
    /// An HTTP/2 connection with open streams is asked this often whether it lives, and given up
    /// when it has not answered by the next time.
    pub ping_interval: Duration,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            max_headers: 100,
            max_header_size: 64 * 1024,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(3600),
            max_idle_per_target: 256,
            max_idle: 4096,
            max_streams: 100,
            stream_window: 256 * 1024,
            ping_interval: Duration::from_secs(20),
        }
    }
}

/// One worker's connections to every instance. Cloning shares them.
///
/// `B` is the body of the requests. Must live inside a `LocalRuntime`: HTTP/2 connections and name
/// resolution spawn local tasks.
pub struct Transport<B> {
    inner: Rc<Inner>,
    body: PhantomData<fn(B)>,
}

#[derive(Debug)]
struct Inner {
    common: Rc<Common>,
    resolver: Resolver,
    pools: RefCell<HashMap<u64, Rc<TargetPool>, BuildHasherDefault<IdHasher>>>,
}

impl<B> Transport<B> {
    /// No connection yet.
    pub fn new(options: TransportOptions) -> Self {
        let inner = Inner {
            common: Rc::new(Common::new(options)),
            resolver: Resolver::default(),
            pools: RefCell::default(),
        };
        Self { inner: Rc::new(inner), body: PhantomData }
    }

    /// Limits the heads of answers from now on; over HTTP/2 the number of fields at once, the size on new connections.
    pub fn limit_heads(&self, max_headers: usize, max_header_size: usize) {
        self.inner.common.set_head_limits(HeadLimits::of_answers(max_headers, max_header_size));
    }

    /// An idle connection to `target`, or a new one.
    ///
    /// Nothing of a request is touched: a failure is always safe to take to another instance.
    /// Dropping the connection unsent closes it (HTTP/1.1) or frees its stream (HTTP/2).
    pub async fn connect(&self, target: &Arc<Target>) -> Result<Connection<B>, ConnectError> {
        self.connection(target, false).await
    }

    /// The same, but over HTTP/1.1 never one that was open before: for a request that found a dead one.
    pub async fn connect_anew(&self, target: &Arc<Target>) -> Result<Connection<B>, ConnectError> {
        self.connection(target, true).await
    }

    async fn connection(&self, target: &Arc<Target>, anew: bool) -> Result<Connection<B>, ConnectError> {
        let pool = self.pool(target);
        let (kind, dialled) = if target.protocol == Protocol::H2 {
            let (seat, dialled) = self.seat(target, &pool).await?;
            (Kind::H2(seat), dialled)
        } else if let Some(conn) = if anew { None } else { pool.checkout() } {
            (Kind::H1(conn, pool), None)
        } else {
            let started = Instant::now();
            // Boxed: the common case finds a connection and should not carry this about.
            let stream = Box::pin(dial(target, &self.inner.resolver)).await?;
            let conn = Conn::new(stream, started, &self.inner.common);
            (Kind::H1(conn, pool), Some(started.elapsed()))
        };
        Ok(Connection { kind, dialled, body: PhantomData })
    }

    /// What all connections of the worker share, those of its clients too.
    pub(crate) fn common(&self) -> &Rc<Common> {
        &self.inner.common
    }

    /// A bare TCP connection: for tcp listeners and probes. Resolution, deny list and deadline are
    /// those of [`Transport::connect`]; nothing is pooled.
    pub async fn dial(&self, target: &Target) -> Result<TcpStream, ConnectError> {
        dial(target, &self.inner.resolver).await
    }

    /// Enforces limits of time, and closes the idle connections of targets that are gone. Exchanges in
    /// flight on them finish; their connections are not kept afterwards. Call it at least once a second; all
    /// clocks here stand still between. It costs what is pooled, however many targets there are.
    pub fn tick(&self, now: Instant) {
        let last = self.inner.common.now.replace(now);
        self.inner.pools.borrow_mut().retain(|_, pool| {
            if pool.is_gone() {
                pool.close();
                return false;
            }
            pool.tick(last, now);
            !pool.is_unused()
        });
    }

    fn pool(&self, target: &Target) -> Rc<TargetPool> {
        let mut pools = self.inner.pools.borrow_mut();
        let common = &self.inner.common;
        let new = || Rc::new(TargetPool::new(Rc::clone(common), Arc::clone(&target.gone)));
        Rc::clone(pools.entry(target.id).or_insert_with(new))
    }

    /// Room for one stream: on a connection that has some, or after a dial that all who wait share.
    async fn seat(
        &self,
        target: &Arc<Target>,
        pool: &Rc<TargetPool>,
    ) -> Result<(Seat, Option<Duration>), ConnectError> {
        let options = &self.inner.common.options;
        loop {
            if let Some(seat) = pool.channels.seat(options.max_streams) {
                return Ok((seat, None));
            }
            if let Some(flight) = pool.channels.in_flight() {
                if let Some(error) = flight.landed().await {
                    return Err(error);
                }
                continue;
            }
            let flight = pool.channels.begin();
            let started = Instant::now();
            let opened = Box::pin(h2::open(target, &self.inner.resolver, &self.inner.common)).await;
            return match opened {
                Ok(channel) => {
                    let seat = Seat::new(&channel);
                    if !pool.is_closed() {
                        pool.channels.add(channel);
                    }
                    Ok((seat, Some(started.elapsed())))
                }
                Err(error) => {
                    flight.fail(error.clone());
                    Err(error)
                }
            };
        }
    }

    /// Idle HTTP/1.1 connections of a target.
    #[cfg(test)]
    pub(crate) fn idle_len(&self, id: u64) -> usize {
        self.inner.pools.borrow().get(&id).map_or(0, |pool| pool.idle_len())
    }

    /// HTTP/2 connections of a target.
    #[cfg(test)]
    pub(crate) fn channels_len(&self, id: u64) -> usize {
        self.inner.pools.borrow().get(&id).map_or(0, |pool| pool.channels.len())
    }
}

impl<B> Clone for Transport<B> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner), body: PhantomData }
    }
}

impl<B> fmt::Debug for Transport<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("targets", &self.inner.pools.borrow().len()).finish_non_exhaustive()
    }
}

/// A connection that is ready for one request.
#[must_use = "a connection that is not used is closed"]
pub struct Connection<B> {
    kind: Kind,
    dialled: Option<Duration>,
    body: PhantomData<fn(B)>,
}

enum Kind {
    H1(Conn, Rc<TargetPool>),
    H2(Seat),
}

impl<B> Connection<B> {
    /// How long dialling took; nothing where an open connection serves again.
    pub fn dialled(&self) -> Option<Duration> {
        self.dialled
    }
}

impl<B: RequestBody> Connection<B> {
    /// Sends a request that is whole and waits for the answer's head.
    ///
    /// After `Ok` the exchange, with what is left of the request's body, moves on by polling the
    /// answer's body. Interim answers are read and dropped. Dropping the future gives up.
    pub async fn send(self, request: &mut Outgoing<B>) -> Result<Response<UpstreamBody>, SendError> {
        match self.kind {
            Kind::H1(conn, pool) => h1::send(conn, pool, request).await,
            // Boxed: it would make the future of every HTTP/1.1 request larger.
            Kind::H2(seat) => Box::pin(h2::send(seat, request)).await,
        }
    }

    /// Sends a request that nobody wants back.
    #[cfg(test)]
    pub(crate) async fn send_once(
        self,
        request: http::Request<B>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.send(&mut request.into()).await
    }
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.kind {
            Kind::H1(..) => Protocol::Http1,
            Kind::H2(_) => Protocol::H2,
        };
        f.debug_struct("Connection")
            .field("protocol", &protocol)
            .field("dialled", &self.dialled)
            .finish_non_exhaustive()
    }
}

/// Spreads ids that count up. They are ours, so nobody can aim at one bucket.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
