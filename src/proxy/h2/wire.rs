//! The socket of an HTTP/2 connection with its buffers: what all streams of it share.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::super::conn::ConnState;
use super::super::outlet::ToClient;
use super::super::socket::Socket;
use super::connection::{Begun, Close, Connection, Fatal};
use super::stream::Stream;
use crate::http2::frame::Reason;
use crate::transport::{Common, Outbox, Sender};

/// With so much to send nothing is written behind it, and nothing is read.
const ROOM: usize = 48 * 1024;

/// A client's connection.
pub(super) struct Wire {
    state: Rc<ConnState>,
    common: Rc<Common>,
    inner: RefCell<Inner>,
}

struct Inner {
    socket: Socket,
    input: BytesMut,
    /// `input` is one of the worker's buffers.
    borrowed: bool,
    connection: Connection,
    out: Outbox,
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
        let mut out = Outbox::default();
        let connection = Connection::new(max_head, state.now(), out.buffer(&common.buffers));
        let inner = Inner {
            socket,
            borrowed: input.capacity() > 0,
            input,
            connection,
            out,
            ending: false,
            begun: Vec::new(),
        };
        Rc::new(Self { state: Rc::clone(state), common: Rc::clone(common), inner: RefCell::new(inner) })
    }

    // The connection's task.

    /// Sends what found no room before. An error, or the end where nothing more will come.
    pub(super) fn poll_write(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        let Inner { out, socket, connection, .. } = inner;
        let mut client = ToClient { socket, last: false, state: &self.state };
        let polled = if inner.ending {
            out.poll_flush(cx, &mut client, &self.common.buffers, true)
        } else {
            out.poll_blocked(cx, &mut client, &self.common.buffers)
        };
        self.state.waits_to_send(!out.is_empty());
        if polled.is_ready() && out.len() < ROOM {
            connection.wake_parked();
        }
        polled
    }

    /// Reads what the client has sent; `begins` gets the streams that begin.
    pub(super) fn read(self: &Rc<Self>, cx: &mut Context<'_>, mut begins: impl FnMut(Begun)) -> Read {
        loop {
            let mut inner = self.inner.borrow_mut();
            let fed = inner.feed(&self.state, &self.common);
            let mut begun = std::mem::take(&mut inner.begun);
            drop(inner);
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
                inner.connection.goaway(reason, inner.out.buffer(&self.common.buffers));
                return Read::Over;
            }
            inner.connection.wake_parked();
            if inner.connection.is_over() || self.state.input_ended() {
                return Read::Over;
            }
            if inner.out.len() >= ROOM {
                inner.out.await_sent();
            } else if !self.state.is_choked() {
                match inner.poll_fill(cx, &self.state, &self.common) {
                    Poll::Ready(Ok(1..)) => continue,
                    Poll::Ready(Ok(0) | Err(_)) => return Read::Over,
                    Poll::Pending => {}
                }
            }
            inner.compact(&self.common);
            return Read::Waits;
        }
    }

    /// Announces the end.
    pub(super) fn leave(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.connection.leave(inner.out.buffer(&self.common.buffers));
    }

    /// Says GOAWAY for good.
    pub(super) fn goaway(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.connection.goaway(Reason::NO_ERROR, inner.out.buffer(&self.common.buffers));
    }

    /// Ends all streams. What is to be sent goes out with [`Wire::poll_write`], which then is ready when it has.
    pub(super) fn end(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.connection.end_all();
        inner.ending = true;
    }

    /// What is left of the connection.
    pub(super) fn take_socket(&self) -> Socket {
        let inner = &mut *self.inner.borrow_mut();
        inner.out.clear(&self.common.buffers);
        inner.release_input(&self.common);
        std::mem::replace(&mut inner.socket, Socket::lost())
    }

    /// Lets what is written go out with the others' sends.
    pub(super) fn send(self: &Rc<Self>) {
        if self.inner.borrow_mut().out.enlist() {
            self.state.waits_to_send(true);
            self.common.sends.put(Rc::clone(self) as Rc<dyn Sender>);
        }
    }

    // Streams.

    /// Writes a head, or trailers, once there is room.
    pub(super) fn poll_head(
        self: &Rc<Self>,
        cx: &Context<'_>,
        stream: &Rc<Stream>,
        ends: bool,
        fields: impl FnOnce(&mut BytesMut),
    ) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        if stream.over().is_some() {
            return Poll::Ready(());
        }
        if inner.out.len() >= ROOM {
            inner.park(cx, stream);
            return Poll::Pending;
        }
        inner.connection.unpark(stream);
        let out = inner.out.buffer(&self.common.buffers);
        inner.connection.head(stream, ends, out, fields);
        Poll::Ready(())
    }

    /// Writes data as far as there is window and room for it. Ready when all of it is written, or the stream is over.
    /// `ends`: nothing follows.
    pub(super) fn poll_data(
        self: &Rc<Self>,
        cx: &Context<'_>,
        stream: &Rc<Stream>,
        data: &mut Bytes,
        ends: bool,
    ) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            if stream.over().is_some() {
                return Poll::Ready(());
            }
            if inner.out.len() >= ROOM {
                inner.park(cx, stream);
                return Poll::Pending;
            }
            let out = inner.out.buffer_for(data.len(), &self.common.buffers);
            let written = inner.connection.answer_data(stream, data, ends, out);
            if written == 0 && !data.is_empty() {
                if stream.send_window.get() > 0 {
                    inner.park(cx, stream);
                } else {
                    // It is woken when its own window opens.
                    inner.connection.unpark(stream);
                    stream.park(cx);
                    inner.connection.wake_parked();
                }
                return Poll::Pending;
            }
            data.advance(written);
            if stream.parked.get() {
                // The next has its turn, and this one goes behind everybody.
                inner.connection.unpark(stream);
                inner.connection.wake_parked();
            }
            if data.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// These bytes of a stream's body were read.
    pub(super) fn took(self: &Rc<Self>, stream: &Stream, bytes: usize) {
        let inner = &mut *self.inner.borrow_mut();
        inner.connection.take(stream, bytes as u32, inner.out.buffer(&self.common.buffers));
    }

    /// A stream's task is done with it.
    pub(super) fn close(self: &Rc<Self>, stream: &Rc<Stream>, close: Close) {
        let inner = &mut *self.inner.borrow_mut();
        inner.connection.close(stream, close, inner.out.buffer(&self.common.buffers));
        if inner.out.len() < ROOM {
            inner.connection.wake_parked();
        }
        if inner.connection.is_over() {
            self.state.wake();
        }
    }
}

impl Inner {
    fn feed(&mut self, state: &ConnState, common: &Common) -> Result<(), Fatal> {
        if self.input.is_empty() {
            return Ok(());
        }
        let out = self.out.buffer(&common.buffers);
        let fed =
            self.connection.feed(&mut self.input, state.now(), out, &mut self.begun, || common.maps.take());
        self.release_input(common);
        fed
    }

    fn park(&mut self, cx: &Context<'_>, stream: &Rc<Stream>) {
        stream.park(cx);
        self.connection.park(stream);
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        state: &ConnState,
        common: &Common,
    ) -> Poll<io::Result<usize>> {
        let empty = self.input.is_empty();
        let polled = self.socket.poll_fill(cx, &mut self.input, &common.buffers);
        if let Poll::Ready(Ok(read)) = polled {
            if read == 0 {
                state.end_of_input();
            } else {
                self.borrowed |= empty;
                state.received(read);
            }
        }
        polled
    }

    /// Gives the buffer back where nothing is in it.
    fn release_input(&mut self, common: &Common) {
        if self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            if std::mem::take(&mut self.borrowed) {
                common.buffers.give(input);
            }
        }
    }

    /// A frame that is cut waits in a buffer of its size.
    fn compact(&mut self, common: &Common) {
        if std::mem::take(&mut self.borrowed) {
            let small = BytesMut::from(&self.input[..]);
            common.buffers.give(std::mem::replace(&mut self.input, small));
        }
    }
}

impl Sender for Wire {
    fn send_now(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let Inner { out, socket, connection, .. } = inner;
        let mut client = ToClient { socket, last: false, state: &self.state };
        let wake = out.send_listed(&mut client, &self.common.buffers);
        self.state.waits_to_send(!out.is_empty());
        if out.len() < ROOM {
            connection.wake_parked();
        }
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
