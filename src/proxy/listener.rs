//! A client's connection from accept to close.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::call::Call;
use super::clock::Registered;
use super::conn::{ConnState, Reading, Timeouts};
use super::context::{ListenerState, OpenConnection, ProxyContext, Resting};
use super::error::Fault;
use super::headers::Peer;
use super::http2;
use super::io::{self, Io, Leftover, Opening, Protocol};
use super::memory::Pressure;
use super::socket::Socket;
use super::stack;
use super::tcp;
use super::tunnel::{self, End};
use super::watch::HeadLimits;
use crate::config::plan::{Limits, ListenerKind};
use crate::table::Settings;
use crate::telemetry::Outcome;

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

/// Serves one accepted connection, whose socket does not block, to its end, by what its listener is.
pub fn serve(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    listener: Rc<ListenerState>,
    context: Rc<ProxyContext>,
) -> Serving {
    let socket = Socket::new(stream);
    let settings = context.with_table(|table, _| Arc::clone(table.settings()));
    let place = if context.clock.pressure() == Pressure::None {
        context.open_connection(settings.limits.max_connections).ok_or("max_connections")
    } else {
        context.metrics().shed_for_memory("connection", 1);
        Err("memory")
    };
    let open = match place {
        Ok(open) => open,
        Err(reason) => {
            context.metrics().connection_refused(listener.name(), reason);
            return Serving {
                stage: Stage::Ending(Box::pin(refuse(socket, listener, context))),
                http: None,
                _counted: None,
            };
        }
    };
    let counted = Some(Counted::new(open, &listener));
    match listener.kind() {
        ListenerKind::Http => {
            let limits = &settings.limits;
            let timeouts = Timeouts { idle: limits.idle_timeout, header: limits.header_timeout };
            let state = ConnState::new(&context.clock, timeouts);
            let ticks = context.clock.register(Rc::clone(&state));
            let early = Vec::new();
            let http = Http { early, peer, listener, context, settings, state, _ticks: ticks, client: None };
            Serving { stage: Stage::Waiting(socket, None), http: Some(http), _counted: counted }
        }
        ListenerKind::Tcp { .. } => {
            let tunnel = Box::pin(async move {
                if let (Ok(stream), ListenerKind::Tcp { service }) = (socket.into_stream(), listener.kind()) {
                    tcp::serve(stream, peer, &listener, &context, service).await;
                }
            });
            Serving { stage: Stage::Ending(tunnel), http: None, _counted: counted }
        }
    }
}

/// A client's connection from accept to close: see [`serve`].
///
/// It is small, and while the client says nothing it holds nothing but the socket and its deadlines. What
/// speaks HTTP is made when bytes come, and is gone again when they have not come for a while.
#[must_use = "futures do nothing unless polled"]
pub struct Serving {
    stage: Stage,
    http: Option<Http>,
    // Dropped last: whoever sees no connection counted finds none open.
    _counted: Option<Counted>,
}

enum Stage {
    /// For the client's bytes: its first, or the next after a rest.
    Waiting(Socket, Option<Resting>),
    /// HTTP, until the connection is over or comes to rest: then its socket comes back.
    Speaking(Pin<Box<dyn Future<Output = Option<Socket>>>>),
    /// Whatever ends with the connection.
    Ending(Pin<Box<dyn Future<Output = ()>>>),
}

/// What outlives the requests of an HTTP connection.
struct Http {
    /// The beginning of what may be an HTTP/2 preface.
    early: Vec<u8>,
    peer: SocketAddr,
    listener: Rc<ListenerState>,
    context: Rc<ProxyContext>,
    settings: Arc<Settings>,
    state: Rc<ConnState>,
    _ticks: Registered,
    /// Since its first request.
    client: Option<Rc<Client>>,
}

/// A connection's place in the counters.
struct Counted {
    _open: OpenConnection,
    listener: Rc<ListenerState>,
}

impl Counted {
    fn new(open: OpenConnection, listener: &Rc<ListenerState>) -> Self {
        listener.connections.opened();
        Self { _open: open, listener: Rc::clone(listener) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.listener.connections.closed();
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stage, http, .. } = &mut *self;
        loop {
            *stage = match (&mut *stage, &mut *http) {
                (Stage::Ending(ending), _) => return ending.as_mut().poll(cx),
                (Stage::Speaking(speaking), _) => match ready!(speaking.as_mut().poll(cx)) {
                    Some(socket) => Stage::Waiting(socket, http.as_ref().map(|http| http.context.rest())),
                    None => return Poll::Ready(()),
                },
                (Stage::Waiting(..), None) => return Poll::Ready(()),
                (Stage::Waiting(socket, resting), Some(http)) => {
                    http.state.park(cx);
                    let used = http.client.is_some();
                    let opening = ready!(io::poll_open(cx, socket, &mut http.early, &http.state, used));
                    *resting = None;
                    let socket = std::mem::replace(socket, Socket::lost());
                    match opening {
                        Opening::Begun(protocol) => {
                            let bytes = std::mem::take(&mut http.early);
                            Stage::Speaking(Box::pin(speak(http.client(protocol), socket, bytes, protocol)))
                        }
                        Opening::Cut if used => Stage::Ending(Box::pin(tunnel::linger(socket, false))),
                        Opening::Cut | Opening::Gone => return Poll::Ready(()),
                    }
                }
            };
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl Http {
    fn client(&mut self, protocol: Protocol) -> Rc<Client> {
        let client = self.client.get_or_insert_with(|| {
            Rc::new(Client {
                peer: Peer::new(self.peer, &self.listener.plan().trusted),
                http2: protocol == Protocol::Http2,
                state: Rc::clone(&self.state),
                tunnel: RefCell::new(None),
                settings: Arc::clone(&self.settings),
                listener: Rc::clone(&self.listener),
                context: Rc::clone(&self.context),
            })
        });
        Rc::clone(client)
    }
}

/// Turns a connection away. It reads nothing, so that a flood costs little.
async fn refuse(mut socket: Socket, listener: Rc<ListenerState>, context: Rc<ProxyContext>) {
    if *listener.kind() == ListenerKind::Http {
        context.count(&listener, None, None, 503, std::time::Duration::ZERO);
        // A fresh socket has room for these bytes.
        let _ = socket.try_write(FULL);
        tunnel::linger(socket, false).await;
    } else {
        let _ = socket.shutdown().await;
    }
}

/// Speaks HTTP until the connection is over, or comes to rest: then its socket comes back.
async fn speak(client: Rc<Client>, socket: Socket, bytes: Vec<u8>, protocol: Protocol) -> Option<Socket> {
    let (limits, state) = (client.limits(), &client.state);
    let head = HeadLimits { size: limits.max_header_size, headers: limits.max_headers };
    let io = Io::new(socket, bytes, protocol, Rc::clone(state), head);
    match protocol {
        Protocol::Http1 => {
            let resting = run_http1(io, &client).await;
            client.context.released();
            if resting.is_some() {
                return resting;
            }
        }
        // Boxed: HTTP/1 should not carry it about.
        Protocol::Http2 => Box::pin(http2::run(io, &client)).await,
    }
    // hyper is gone, and with it the wrapper: what it left behind is the socket.
    let leftover = state.leftover.borrow_mut().take()?;
    let call = client.tunnel.borrow_mut().take();
    match call {
        Some(call) => Box::pin(run_tunnel(leftover, call, &client)).await,
        None if leftover.is_spent(state) => {}
        None => Box::pin(tunnel::linger(leftover.stream, leftover.shut)).await,
    }
    None
}

/// Speaks HTTP/1 to the end, or until nothing has been asked for in a while: then the socket comes back.
async fn run_http1(io: Io, client: &Rc<Client>) -> Option<Socket> {
    let limits = client.limits();
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(READ_BUFFER.max(limits.max_header_size * 2));
    if limits.max_headers > INLINE_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    let requests = Rc::clone(client);
    let service = service_fn(move |request| stack::serve(Rc::clone(&requests), request));
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let state = &client.state;
    state.awake.set(true);
    let mut leaving = false;
    let ended = std::future::poll_fn(|cx| {
        state.park(cx);
        if state.verdict().is_some() {
            return Poll::Ready(Ended::Cut);
        }
        let mut connection = Pin::new(&mut connection);
        if !leaving && state.is_leaving() {
            leaving = true;
            // Sends what is still to be sent first.
            connection.as_mut().graceful_shutdown();
        }
        match connection.poll(cx) {
            Poll::Ready(result) => Poll::Ready(Ended::Over(result)),
            // Looked at after the poll, which has read what there was.
            Poll::Pending if !leaving && state.may_rest() => Poll::Ready(Ended::Resting),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    state.awake.set(false);
    match ended {
        Ended::Over(Err(error)) if error.is_parse() => count_unparsed(client, &error),
        Ended::Over(Err(error)) => tracing::debug!(%error, "client connection ended"),
        Ended::Over(Ok(())) => {}
        Ended::Cut => tracing::debug!(verdict = ?state.verdict(), "client connection cut"),
        Ended::Resting => {
            let parts = connection.into_parts();
            // Bytes that hyper holds back now belong to no request: such a connection is closed.
            return parts.io.into_inner().into_idle().filter(|_| parts.read_buf.is_empty());
        }
    }
    None
}

/// How hyper's part of an HTTP/1 connection ended.
enum Ended {
    Over(hyper::Result<()>),
    Cut,
    Resting,
}

/// A head that passed our own look but not hyper's parser, which has answered it: counted and logged all
/// the same.
fn count_unparsed(client: &Rc<Client>, error: &hyper::Error) {
    let status = if error.is_parse_too_large() { 431 } else { 400 };
    let mut call = Call::new(client, &http::Request::new(()), false);
    call.is_no_request();
    let reason = if status == 431 { Fault::HeadTooLarge } else { Fault::Malformed };
    call.fails(&reason.into());
    call.answers(http::StatusCode::from_u16(status).unwrap_or_default());
    call.ends(Outcome::Ok);
}

/// The connection after 101, until both sides have said all.
async fn run_tunnel(leftover: Leftover, mut call: Box<Call>, client: &Client) {
    let Some(mut upstream) = call.tunnel.take() else { return };
    let Leftover { stream, unread, .. } = leftover;
    let Ok(mut stream) = stream.into_stream() else { return };
    let kind = tunnel::Kind { stream: call.enter(), websocket: call.websocket };
    client.state.set_reading(Reading::Opaque);
    let end = {
        let record = &mut call;
        tunnel::run(&mut stream, &unread, &mut upstream, (&client.state, &kind), |received, sent| {
            record.received.set(received);
            record.sent = sent;
        })
        .await
    };
    if let End::Left(leave) = end {
        call.fails(&leave.into());
    }
    call.ends(match end {
        End::Whole => Outcome::Ok,
        End::Idle => Outcome::Timeout,
        End::Client | End::Left(_) => Outcome::Cancelled,
        End::Upstream => Outcome::Reset,
    });
    if let End::Left(_) = end {
        tunnel::close(stream, upstream).await;
    }
}
