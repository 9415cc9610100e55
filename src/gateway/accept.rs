//! Accepting connections on one worker's sockets.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::config::plan::ListenerPlan;
use crate::proxy::{ListenerState, ProxyContext, serve};

/// Pause after an accept that failed for lack of descriptors or memory: what is open must first close.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections accepted in one go.
const BATCH: usize = 64;

/// The listeners of one worker.
#[derive(Debug, Default)]
pub(super) struct Accepting(Vec<Open>);

#[derive(Debug)]
struct Open {
    name: Arc<str>,
    state: Rc<RefCell<Rc<ListenerState>>>,
    socket: Rc<AsyncFd<TcpListener>>,
    task: AbortHandle,
    context: Rc<ProxyContext>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Accepting {
    /// Accepts on one more socket.
    pub(super) fn open(&mut self, plan: Arc<ListenerPlan>, socket: TcpListener, context: &Rc<ProxyContext>) {
        let name = Arc::clone(&plan.name);
        #[expect(deprecated, reason = "its successor is unsafe to call; a listener keeps its descriptor")]
        let socket = match AsyncFd::with_interest(socket, Interest::READABLE) {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                tracing::error!(listener = &*name, %error, "cannot accept");
                return;
            }
        };
        let state = Rc::new(RefCell::new(Rc::new(ListenerState::new(plan, context))));
        let task =
            tokio::task::spawn_local(accept(Rc::clone(&socket), Rc::clone(&state), Rc::clone(context)));
        let task = task.abort_handle();
        self.0.push(Open { name, state, socket, task, context: Rc::clone(context) });
    }

    /// New connections of this listener are served by these settings.
    pub(super) fn update(&mut self, plan: &Arc<ListenerPlan>) {
        for open in self.0.iter().filter(|open| open.name == plan.name) {
            *open.state.borrow_mut() = Rc::new(ListenerState::new(Arc::clone(plan), &open.context));
        }
    }

    /// Serves what waits in the listener's queue, then closes it.
    pub(super) fn close(&mut self, name: &str) {
        self.0.retain(|open| {
            let stays = &*open.name != name;
            if !stays {
                open.empty_queue();
            }
            stays
        });
    }

    /// Serves what waits in every queue, then closes them all.
    pub(super) fn close_all(&mut self) {
        for open in self.0.drain(..) {
            open.empty_queue();
        }
    }
}

impl Open {
    /// A connection that the kernel has completed must not be reset by closing the socket under it.
    ///
    /// Asks the kernel itself: the runtime would tell only what it had already seen.
    fn empty_queue(&self) {
        self.task.abort();
        while let Ok((stream, peer)) = take(self.socket.get_ref()) {
            start(stream, peer, &self.state, &self.context);
        }
    }
}

async fn accept(
    socket: Rc<AsyncFd<TcpListener>>,
    state: Rc<RefCell<Rc<ListenerState>>>,
    context: Rc<ProxyContext>,
) {
    let mut failing = false;
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        // Connections that were accepted get their turn before a long queue is through.
        for _ in 0..BATCH {
            match ready.try_io(|socket| take(socket.get_ref())) {
                Err(_would_block) => break,
                Ok(Ok((stream, peer))) => {
                    failing = false;
                    start(stream, peer, &state, &context);
                }
                Ok(Err(error)) if is_about_one_connection(&error) => {}
                Ok(Err(error)) => {
                    if !failing {
                        failing = true;
                        let name = state.borrow().name().to_owned();
                        tracing::warn!(listener = name, %error, "accept fails; waiting for descriptors");
                        context.metrics().connection_refused(&name, "descriptors");
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

fn start(
    stream: TcpStream,
    peer: SocketAddr,
    state: &RefCell<Rc<ListenerState>>,
    context: &Rc<ProxyContext>,
) {
    let listener = Rc::clone(&state.borrow());
    tokio::task::spawn_local(serve(stream, peer, listener, Rc::clone(context)));
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
