//! A client's connection from accept to close.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::call::Call;
use super::clock::Registered;
use super::conn::{ConnState, Reading, Timeouts};
use super::context::{ListenerState, OpenConnection, ProxyContext, Resting};
use super::h1;
use super::h2;
use super::headers::Peer;
use super::memory::Pressure;
use super::opening::{Opening, Protocol, poll_open};
use super::socket::Socket;
use super::tcp;
use super::tunnel::{self, End};
use crate::config::plan::{Limits, ListenerKind};
use crate::table::Settings;
use crate::telemetry::Outcome;

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
            let early = BytesMut::new();
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
    early: BytesMut,
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
                    let opening = ready!(http.poll_open(cx, socket));
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
    fn poll_open(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<Opening> {
        let common = self.context.transport.common();
        poll_open(cx, socket, &mut self.early, (&self.state, common), self.client.is_some())
    }

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
async fn speak(client: Rc<Client>, socket: Socket, bytes: BytesMut, protocol: Protocol) -> Option<Socket> {
    if protocol == Protocol::Http2 {
        // Boxed: HTTP/1 should not carry it about.
        let left = Box::pin(h2::run(socket, bytes, &client)).await;
        client.context.released();
        Box::pin(tunnel::linger(left, false)).await;
        return None;
    }
    let end = h1::run(socket, bytes, &client).await;
    client.context.released();
    match end {
        h1::End::Spent => {}
        h1::End::Rest(socket) => return Some(socket),
        h1::End::Over(socket) => Box::pin(tunnel::linger(socket, false)).await,
        h1::End::Tunnel(call, socket, early) => Box::pin(run_tunnel(socket, early, call, &client)).await,
    }
    None
}

/// The connection after 101, until both sides have said all.
async fn run_tunnel(socket: Socket, early: BytesMut, mut call: Box<Call>, client: &Client) {
    let Some(mut upstream) = call.tunnel.take() else { return };
    let Ok(mut stream) = socket.into_stream() else { return };
    let kind = tunnel::Kind { stream: call.enter(), websocket: call.websocket };
    client.state.set_reading(Reading::Opaque);
    let end = {
        let record = &mut call;
        tunnel::run(&mut stream, &early, &mut upstream, (&client.state, &kind), |received, sent| {
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
