//! A client's connection from accept to close.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::call::Call;
use super::conn::{ConnState, Reading, Timeouts};
use super::context::{ListenerState, ProxyContext};
use super::error::Fault;
use super::headers::Peer;
use super::io::{Io, Leftover, Opening};
use super::stack;
use super::tcp;
use super::tunnel::{self, End};
use super::watch::HeadLimits;
use crate::config::plan::{Limits, ListenerKind};
use crate::table::Settings;
use crate::telemetry::Outcome;

/// Streams of one client connection.
const MAX_STREAMS: u32 = 256;
/// Windows of HTTP/2 uploads: a stream's, and the connection's over all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Answer bytes that one HTTP/2 stream may hold back for a slow client.
const SEND_BUFFER: usize = 64 * 1024;
/// Resets that a client may have outstanding, and ones that it may provoke, before GOAWAY.
const PENDING_RESETS: usize = 20;
const PROVOKED_RESETS: usize = 1024;
/// hyper's read buffer may grow to this, whatever the limit for heads: heads are limited before it.
const READ_BUFFER: usize = 408 * 1024;
/// hyper's own count of header lines is only its stack space: up to this it costs no allocation.
const INLINE_HEADERS: usize = 100;
/// What a client is told for which there is no place.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nx-zoogate-error: overloaded\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// A client's connection, as its requests see it.
pub(super) struct Client {
    pub(super) context: Rc<ProxyContext>,
    pub(super) listener: Rc<ListenerState>,
    pub(super) peer: Peer,
    pub(super) state: Rc<ConnState>,
    pub(super) http2: bool,
    settings: Arc<Settings>,
    /// The request whose answer made this connection a tunnel.
    pub(super) tunnel: RefCell<Option<Box<Call>>>,
}

impl Client {
    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// The fault of a refused head, where this request stands for one.
    pub(super) fn refused_head(&self) -> Option<Fault> {
        if self.http2 { None } else { self.state.take_fault() }
    }
}

/// Serves one accepted connection to its end, by what its listener is.
pub async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Rc<ListenerState>,
    context: Rc<ProxyContext>,
) {
    let settings = context.with_table(|table, _| Arc::clone(table.settings()));
    let Some(_open) = context.open_connection(settings.limits.max_connections) else {
        context.metrics().connection_refused(listener.name(), "max_connections");
        return refuse(stream, &listener, &context).await;
    };
    let series = listener.connections.clone();
    series.opened();
    let _closed = OnDrop(|| series.closed());
    let _ = stream.set_nodelay(true);
    match listener.kind() {
        ListenerKind::Http => serve_http(stream, peer, listener, context, settings).await,
        ListenerKind::Tcp { service } => tcp::serve(stream, peer, &listener, &context, service).await,
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Turns a connection away. It reads nothing, so that a flood costs little.
async fn refuse(mut stream: TcpStream, listener: &ListenerState, context: &ProxyContext) {
    if *listener.kind() == ListenerKind::Http {
        context.count(listener, None, None, 503, std::time::Duration::ZERO);
        // A fresh socket has room for these bytes.
        let _ = stream.try_write(FULL);
        tunnel::linger(stream, false).await;
    } else {
        let _ = stream.shutdown().await;
    }
}

async fn serve_http(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Rc<ListenerState>,
    context: Rc<ProxyContext>,
    settings: Arc<Settings>,
) {
    let limits = &settings.limits;
    let head = HeadLimits { size: limits.max_header_size, headers: limits.max_headers };
    let timeouts = Timeouts { idle: limits.idle_timeout, header: limits.header_timeout };
    let state = ConnState::new(&context.clock, timeouts);
    let _ticks = context.clock.register(Rc::clone(&state));
    let Some((io, opening)) = Io::open(stream, Rc::clone(&state), head).await else { return };
    let client = Rc::new(Client {
        peer: Peer::new(peer, &listener.plan().trusted),
        http2: opening == Opening::Http2,
        state: Rc::clone(&state),
        tunnel: RefCell::new(None),
        settings,
        listener,
        context,
    });
    match opening {
        Opening::Http1 => run_http1(io, &client).await,
        Opening::Http2 => run_http2(io, &client).await,
    }
    // hyper is gone, and with it the wrapper: what it left behind is the socket.
    let Some(leftover) = state.leftover.borrow_mut().take() else { return };
    let call = client.tunnel.borrow_mut().take();
    match call {
        Some(call) => run_tunnel(leftover, call, &client).await,
        // A client that promised to send no more, and whose last request is read whole, sends nothing that
        // could turn a close into a reset.
        None if state.last_request.get() && leftover.is_spent(&state) => {}
        None => tunnel::linger(leftover.stream, leftover.shut).await,
    }
}

async fn run_http1(io: Io, client: &Rc<Client>) {
    let limits = client.limits();
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(READ_BUFFER.max(limits.max_header_size * 2));
    if limits.max_headers > INLINE_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    let requests = Rc::clone(client);
    let service = service_fn(move |request| stack::serve(Rc::clone(&requests), request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let state = &client.state;
    let mut leaving = false;
    let ended = std::future::poll_fn(|cx| {
        state.park(cx);
        if state.verdict().is_some() {
            return Poll::Ready(None);
        }
        if !leaving && state.is_leaving() {
            leaving = true;
            // Sends what is still to be sent first.
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await;
    match ended {
        Some(Err(error)) if error.is_parse() => count_unparsed(client, &error),
        Some(Err(error)) => tracing::debug!(%error, "client connection ended"),
        Some(Ok(())) => {}
        None => tracing::debug!(verdict = ?state.verdict(), "client connection cut"),
    }
}

/// A head that passed our own look but not hyper's parser, which has answered it: counted and logged all
/// the same.
fn count_unparsed(client: &Rc<Client>, error: &hyper::Error) {
    let status = if error.is_parse_too_large() { 431 } else { 400 };
    let (parts, ()) = http::Request::new(()).into_parts();
    let mut call = Call::new(client, &parts, false);
    call.is_no_request();
    let reason = if status == 431 { Fault::HeadTooLarge } else { Fault::Malformed };
    call.fails(&reason.into());
    call.answers(http::StatusCode::from_u16(status).unwrap_or_default());
    call.ends(Outcome::Ok);
}

async fn run_http2(io: Io, client: &Rc<Client>) {
    let limits = client.limits();
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        // Larger than our own limit, so that what is over that gets an answer of ours.
        .max_header_list_size(
            u32::try_from(limits.max_header_size).unwrap_or(u32::MAX).saturating_add(32 * 1024),
        )
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(PROVOKED_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let requests = Rc::clone(client);
    // Boxed: the future is large, and HTTP/2 moves it about.
    let service = service_fn(move |request| Box::pin(stack::serve(Rc::clone(&requests), request)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let state = &client.state;
    let mut leaving = false;
    let ended = std::future::poll_fn(|cx| {
        state.park(cx);
        if !leaving && (client.context.is_draining() || state.verdict().is_some()) {
            leaving = true;
            connection.as_mut().graceful_shutdown();
        }
        if state.verdict().is_some() {
            // One more poll, so that GOAWAY goes out; streams that are open end with the connection.
            let _ = connection.as_mut().poll(cx);
            return Poll::Ready(None);
        }
        connection.as_mut().poll(cx).map(Some)
    })
    .await;
    match ended {
        Some(Err(error)) => tracing::debug!(%error, "client connection ended"),
        Some(Ok(())) => {}
        None => tracing::debug!(verdict = ?state.verdict(), "client connection cut"),
    }
}

/// The connection after 101, until both sides have said all.
async fn run_tunnel(leftover: Leftover, mut call: Box<Call>, client: &Client) {
    let Some(upstream) = call.tunnel.take() else { return };
    let Leftover { stream, unread, .. } = leftover;
    client.state.set_reading(Reading::Opaque);
    let end = {
        let record = &mut call;
        tunnel::run(stream, &unread, upstream, &client.state, |received, sent| {
            record.received.set(received);
            record.sent = sent;
        })
        .await
    };
    call.ends(match end {
        End::Whole => Outcome::Ok,
        End::Idle => Outcome::Timeout,
        End::Client => Outcome::Cancelled,
        End::Upstream => Outcome::Reset,
    });
}

/// Runs the tasks of HTTP/2 streams on the worker that has the connection.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
