//! The socket of an HTTP/2 connection with its buffers: what all streams of it share.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::super::conn::ConnState;
use super::super::outlet::ToClient;
use super::super::socket::Socket;
use crate::http2::connection::{Begun, Bounds, Close, Connection, Fatal, Side};
use crate::http2::frame::Reason;
use crate::http2::stream::{Over, Stream};
use crate::transport::{Common, Mux, READS, Sender};

/// Streams of one client connection.
const STREAMS: usize = 256;
/// Bytes of a request's body that may be here before they are read, and of all requests' bodies.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;
/// Beyond our own limit of a head, so that what is over that gets an answer of ours.
const SPARE: usize = 32 * 1024;

/// What we allow a client, whose heads may be so large.
pub(super) fn bounds(max_head: usize) -> Bounds {
    let head = max_head.saturating_add(SPARE);
    Bounds { streams: STREAMS, stream_window: STREAM_WINDOW, window: WINDOW, head }
}

/// A client's connection.
pub(super) struct Wire {
    state: Rc<ConnState>,
    common: Rc<Common>,
    inner: RefCell<Inner>,
}

struct Inner {
    socket: Socket,
    mux: Mux,
    /// The connection ends when all is sent.
    ending: bool,
    /// Streams that have begun in this turn.
    begun: Vec<Begun>,
}

/// What reading has come to.
pub(super) enum Read {
    /// There is nothing more for now, or no room for what would come of it.
    Waits,
    /// The connection is over, or must be.
    Over,
}

impl Wire {
    /// A connection whose preface was read, with what came behind it.
    pub(super) fn new(
        socket: Socket,
        input: BytesMut,
        max_head: usize,
        state: &Rc<ConnState>,
        common: &Rc<Common>,
    ) -> Rc<Self> {
        let mux = Mux::new(input, &[], common, |out| {
            Connection::new(Side::Server, bounds(max_head), state.now(), out)
        });
        let inner = Inner { socket, mux, ending: false, begun: Vec::new() };
        Rc::new(Self { state: Rc::clone(state), common: Rc::clone(common), inner: RefCell::new(inner) })
    }

    // The connection's task.

    /// Sends what found no room before. An error, or the end where nothing more will come.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        let mut client = ToClient { socket: &mut inner.socket, last: false, state: &self.state };
        let (out, spare) = (&mut inner.mux.out, &self.common.buffers);
        let polled = if inner.ending {
            out.poll_flush(cx, &mut client, spare, true)
        } else {
            out.poll_blocked(cx, &mut client, spare)
        };
        self.state.waits_to_send(!out.is_empty());
        if polled.is_ready() {
            inner.mux.emptied();
        }
        polled
    }

    /// Reads what the client has sent; `begins` gets the streams that begin.
    pub(super) fn read(&self, cx: &mut Context<'_>, mut begins: impl FnMut(Begun)) -> Read {
        for _ in 0..READS {
            let mut borrowed = self.inner.borrow_mut();
            let inner = &mut *borrowed;
            let fed = inner.mux.feed(self.state.now(), &self.common, &mut inner.begun);
            let mut begun = std::mem::take(&mut inner.begun);
            drop(borrowed);
            for begun in begun.drain(..) {
                // One that was taken back at once has no task.
                if begun.stream.over().is_none() {
                    begins(begun);
                }
            }
            let inner = &mut *self.inner.borrow_mut();
            inner.begun = begun;
            if let Err(Fatal(reason, why)) = fed {
                tracing::debug!(?reason, why, "a client broke the rules of HTTP/2");
                let (connection, out) = inner.mux.buffer(&self.common);
                connection.goaway(reason, out);
                return Read::Over;
            }
            if inner.mux.connection.is_over() || self.state.input_ended() {
                return Read::Over;
            }
            if inner.mux.may_read() && !self.state.is_choked() {
                match inner.poll_fill(cx, &self.state, &self.common) {
                    Poll::Ready(Ok(1..)) => continue,
                    Poll::Ready(Ok(0) | Err(_)) => return Read::Over,
                    Poll::Pending => {}
                }
            }
            inner.mux.compact(&self.common);
            return Read::Waits;
        }
        cx.waker().wake_by_ref();
        Read::Waits
    }

    /// Announces the end.
    pub(super) fn leave(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let (connection, out) = inner.mux.buffer(&self.common);
        connection.leave(out);
    }

    /// Says GOAWAY for good.
    pub(super) fn goaway(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let (connection, out) = inner.mux.buffer(&self.common);
        connection.goaway(Reason::NO_ERROR, out);
    }

    /// Ends all streams. What is to be sent goes out with [`Wire::poll_write`], which then is ready when it has.
    pub(super) fn end(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.mux.connection.end_all(Over::Lost);
        inner.ending = true;
    }

    /// What is left of the connection.
    pub(super) fn take_socket(&self) -> Socket {
        let inner = &mut *self.inner.borrow_mut();
        inner.mux.out.clear(&self.common.buffers);
        inner.mux.input.clear();
        inner.mux.release_input(&self.common);
        std::mem::replace(&mut inner.socket, Socket::lost())
    }

    /// Lets what is written go out with the others' sends.
    pub(super) fn send(self: &Rc<Self>) {
        if self.inner.borrow_mut().mux.enlist(&self.common) {
            self.state.waits_to_send(true);
            self.common.sends.put(Rc::clone(self) as Rc<dyn Sender>);
        }
    }

    // Streams.

    /// See [`Mux::poll_head`].
    pub(super) fn poll_head(
        &self,
        cx: &Context<'_>,
        stream: &Rc<Stream>,
        ends: bool,
        fields: impl FnOnce(&mut BytesMut),
    ) -> Poll<()> {
        self.inner.borrow_mut().mux.poll_head(cx, &self.common, stream, ends, fields)
    }

    /// See [`Mux::poll_data`].
    pub(super) fn poll_data(
        &self,
        cx: &Context<'_>,
        stream: &Rc<Stream>,
        data: &mut Bytes,
        ends: bool,
    ) -> Poll<()> {
        self.inner.borrow_mut().mux.poll_data(cx, &self.common, stream, data, ends)
    }

    /// These bytes of a stream's body were read.
    pub(super) fn took(&self, stream: &Stream, bytes: usize) {
        self.inner.borrow_mut().mux.took(&self.common, stream, bytes);
    }

    /// Nobody reads the rest of a stream's body.
    pub(super) fn abandon(&self, stream: &Stream) {
        self.inner.borrow_mut().mux.abandon(&self.common, stream);
    }

    /// A stream's task is done with it.
    pub(super) fn close(&self, stream: &Rc<Stream>, close: Close) {
        let inner = &mut *self.inner.borrow_mut();
        inner.mux.close(&self.common, stream, close);
        if inner.mux.connection.is_over() {
            self.state.wake();
        }
    }
}

impl Inner {
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        state: &ConnState,
        common: &Common,
    ) -> Poll<io::Result<usize>> {
        let socket = &mut self.socket;
        let polled = self.mux.poll_fill(|input| socket.poll_fill(cx, input, &common.buffers));
        match polled {
            Poll::Ready(Ok(0)) => state.end_of_input(),
            Poll::Ready(Ok(read)) => state.received(read),
            _ => {}
        }
        polled
    }
}

impl Sender for Wire {
    fn send_now(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let mut client = ToClient { socket: &mut inner.socket, last: false, state: &self.state };
        let wake = inner.mux.send_listed(&mut client, &self.common);
        self.state.waits_to_send(!inner.mux.out.is_empty());
        if wake {
            self.state.wake();
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}
