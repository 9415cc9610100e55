//! Accepting connections on one worker's sockets.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::spread::{Handover, Place, Spread};
use crate::config::plan::ListenerPlan;
use crate::proxy::{ListenerState, ProxyContext, serve};

/// Pause after an accept that failed for lack of descriptors or memory: what is open must first close.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections accepted in one go.
const BATCH: usize = 64;

/// The listeners of one worker.
#[derive(Debug)]
pub(super) struct Accepting {
    listeners: Vec<Open>,
    spread: Rc<RefCell<Spread>>,
}

#[derive(Debug)]
struct Open {
    socket: Rc<AsyncFd<TcpListener>>,
    serving: Rc<Settings>,
    task: AbortHandle,
}

/// By what a listener's new connections are served.
#[derive(Debug)]
struct Settings {
    now: RefCell<(Arc<ListenerPlan>, Rc<ListenerState>)>,
    context: Rc<ProxyContext>,
    spread: Rc<RefCell<Spread>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Accepting {
    /// The listeners of a worker that has none yet.
    pub(super) fn new(spread: Spread) -> Self {
        Self { listeners: Vec::new(), spread: Rc::new(RefCell::new(spread)) }
    }

    /// Shares new connections with others than before.
    pub(super) fn spread_among(&self, spread: Spread) {
        self.spread.replace(spread);
    }

    /// Accepts on one more socket.
    pub(super) fn open(&mut self, plan: Arc<ListenerPlan>, socket: TcpListener, context: &Rc<ProxyContext>) {
        #[expect(deprecated, reason = "its successor is unsafe to call; a listener keeps its descriptor")]
        let socket = match AsyncFd::with_interest(socket, Interest::READABLE) {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                tracing::error!(listener = &*plan.name, %error, "cannot accept");
                return;
            }
        };
        let state = Rc::new(ListenerState::new(Arc::clone(&plan), context));
        let serving = Rc::new(Settings {
            now: RefCell::new((plan, state)),
            context: Rc::clone(context),
            spread: Rc::clone(&self.spread),
        });
        let task = tokio::task::spawn_local(accept(Rc::clone(&socket), Rc::clone(&serving)));
        self.listeners.push(Open { socket, serving, task: task.abort_handle() });
    }

    /// New connections of this listener are served by these settings.
    pub(super) fn update(&mut self, plan: &Arc<ListenerPlan>) {
        for open in self.listeners.iter().filter(|open| open.is(&plan.name)) {
            let state = Rc::new(ListenerState::new(Arc::clone(plan), &open.serving.context));
            *open.serving.now.borrow_mut() = (Arc::clone(plan), state);
        }
    }

    /// Serves a connection that another worker has accepted.
    pub(super) fn take_over(&self, handover: Handover, context: &Rc<ProxyContext>) {
        let Handover { stream, peer, plan, place } = handover;
        let known = self.listeners.iter().find(|open| open.is(&plan.name)).and_then(|open| {
            let (known, state) = &*open.serving.now.borrow();
            Arc::ptr_eq(known, &plan).then(|| Rc::clone(state))
        });
        // In the middle of a reload the settings are those under which it was accepted.
        let listener = known.unwrap_or_else(|| Rc::new(ListenerState::new(plan, context)));
        start(stream, peer, listener, context, place);
    }

    /// Serves what waits in the listener's queue, then closes it.
    pub(super) fn close(&mut self, name: &str) {
        self.listeners.retain(|open| {
            let stays = !open.is(name);
            if !stays {
                open.empty_queue();
            }
            stays
        });
    }

    /// Serves what waits in every queue, then closes them all.
    pub(super) fn close_all(&mut self) {
        for open in self.listeners.drain(..) {
            open.empty_queue();
        }
    }
}

impl Open {
    fn is(&self, name: &str) -> bool {
        *self.serving.now.borrow().0.name == *name
    }

    /// A connection that the kernel has completed must not be reset by closing the socket under it.
    ///
    /// Asks the kernel itself: the runtime would tell only what it had already seen.
    fn empty_queue(&self) {
        self.task.abort();
        while let Ok((stream, peer)) = take(self.socket.get_ref()) {
            self.serving.settle(stream, peer);
        }
    }
}

async fn accept(socket: Rc<AsyncFd<TcpListener>>, serving: Rc<Settings>) {
    let mut failing = false;
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        // Connections that were accepted get their turn before a long queue is through.
        for _ in 0..BATCH {
            match ready.try_io(|socket| take(socket.get_ref())) {
                Err(_would_block) => break,
                Ok(Ok((stream, peer))) => {
                    failing = false;
                    serving.settle(stream, peer);
                }
                Ok(Err(error)) if is_about_one_connection(&error) => {}
                Ok(Err(error)) => {
                    if !failing {
                        failing = true;
                        let name = Arc::clone(&serving.now.borrow().0.name);
                        tracing::warn!(listener = &*name, %error, "accept fails; waiting for descriptors");
                        serving.context.metrics().connection_refused(&name, "descriptors");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The next connection of the queue, non-blocking, in one system call and unknown to the runtime.
#[cfg(target_os = "linux")]
fn take(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    use rustix::net::{SocketFlags, acceptfrom_with};

    let (stream, peer) = acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), peer.try_into()?))
}

/// The next connection of the queue, non-blocking and unknown to the runtime.
#[cfg(not(target_os = "linux"))]
fn take(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = socket.accept()?;
    stream.set_nonblocking(true)?;
    Ok((stream, peer))
}

impl Settings {
    /// Serves a connection here or has another worker do so.
    fn settle(&self, stream: TcpStream, peer: SocketAddr) {
        let (plan, listener) = &*self.now.borrow();
        let settled = self.spread.borrow().settle(stream, peer, plan);
        if let Some((stream, place)) = settled {
            start(stream, peer, Rc::clone(listener), &self.context, place);
        }
    }
}

fn start(
    stream: TcpStream,
    peer: SocketAddr,
    listener: Rc<ListenerState>,
    context: &Rc<ProxyContext>,
    place: Place,
) {
    let serving = serve(stream, peer, listener, Rc::clone(context));
    tokio::task::spawn_local(Connection { serving, _place: place });
}

/// A connection in its place. Not an async block, which would hold it twice.
struct Connection {
    serving: crate::proxy::Serving,
    // Dropped last: a drain waits for it.
    _place: Place,
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.serving).poll(cx)
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
