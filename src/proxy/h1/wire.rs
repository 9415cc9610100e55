//! A client's socket with what is on its way in and out of it: shared by the connection's task, by the body of
//! the request that is being read, and by the worker's sends.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;

use super::super::body::BoxError;
use super::super::conn::{ConnState, Reading};
use super::super::error::Fault;
use super::super::outlet::ToClient;
use super::super::socket::Socket;
use super::head::{Head, HeadLimits, HeadReader};
use crate::transport::h1::{Decoder, Framing, HeadLimits as BodyLimits, Step};
use crate::transport::{Common, Outbox, Sender};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Trailers of a request, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;

/// What comes next on a connection.
pub(super) enum Next {
    Request(Head),
    /// A head that must not go further.
    Refused(Fault),
    /// Nothing has been asked for in a while.
    Rest,
    /// The client has left, or is to leave.
    Over,
}

/// A client's connection that speaks HTTP/1.
pub(super) struct Wire {
    state: Rc<ConnState>,
    common: Rc<Common>,
    limits: HeadLimits,
    inner: RefCell<Inner>,
}

struct Inner {
    socket: Socket,
    /// Read and not used yet.
    input: BytesMut,
    /// That is one of the worker's large buffers.
    borrowed: bool,
    head: HeadReader,
    /// Which request of the connection is being read.
    request: u64,
    body: Decoder,
    /// The client waits to be asked for the body.
    expects: bool,
    /// Who waits for more of the body.
    reader: Option<Waker>,
    out: Outbox,
    /// Nothing follows what is being sent.
    last: bool,
}

impl Wire {
    pub(super) fn new(
        socket: Socket,
        input: BytesMut,
        state: &Rc<ConnState>,
        common: &Rc<Common>,
        limits: HeadLimits,
    ) -> Rc<Self> {
        let inner = Inner {
            socket,
            borrowed: input.capacity() > 0,
            input,
            head: HeadReader::default(),
            request: 0,
            body: Decoder::new(Framing::None, BodyLimits::NONE),
            expects: false,
            reader: None,
            out: Outbox::default(),
            last: false,
        };
        Rc::new(Self {
            state: Rc::clone(state),
            common: Rc::clone(common),
            limits,
            inner: RefCell::new(inner),
        })
    }

    // The connection's task.

    /// Waits for the next head, and for room to answer it.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            match self.poll_room(inner, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Over),
                Poll::Pending => return Poll::Pending,
            }
            if self.state.head_is_late() {
                return Poll::Ready(Next::Refused(Fault::Slow));
            }
            if inner.input.is_empty() {
                self.state.set_reading(Reading::Between);
                if self.state.is_leaving() {
                    return Poll::Ready(Next::Over);
                }
            } else {
                if inner.head.spare.capacity() == 0 {
                    inner.head.spare = self.common.maps.take();
                }
                match inner.head.read(&mut inner.input, self.limits) {
                    Ok(Some(head)) => {
                        self.begin(inner, &head);
                        return Poll::Ready(Next::Request(head));
                    }
                    Ok(None) => self.state.set_reading(Reading::Head),
                    Err(fault) => return Poll::Ready(Next::Refused(fault)),
                }
            }
            if self.state.input_ended() {
                return Poll::Ready(Next::Over);
            }
            match inner.poll_fill(cx, &self.state, &self.common) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Over),
                Poll::Ready(Ok(_)) => {}
                // Looked at after the read, which has taken what there was.
                Poll::Pending if inner.input.is_empty() && self.state.may_rest() => {
                    return Poll::Ready(Next::Rest);
                }
                Poll::Pending => {
                    inner.compact(&self.common);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Room in the output; what is blocked there is written on.
    fn poll_room(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_blocked(inner, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ if inner.out.has_room() => Poll::Ready(Ok(())),
            _ => self.flush(inner, cx),
        }
    }

    /// Writes on where the client had no room.
    fn poll_blocked(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Inner { out, socket, .. } = inner;
        let mut client = ToClient { socket, last: false, state: &self.state };
        let polled = out.poll_blocked(cx, &mut client, &self.common.buffers);
        self.state.waits_to_send(!out.is_empty());
        polled
    }

    fn flush(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let last = inner.may_send_last(&self.state);
        let Inner { out, socket, .. } = inner;
        let mut client = ToClient { socket, last, state: &self.state };
        let polled = out.poll_flush(cx, &mut client, &self.common.buffers, true);
        self.state.waits_to_send(!out.is_empty());
        polled
    }

    fn begin(&self, inner: &mut Inner, head: &Head) {
        inner.request += 1;
        inner.expects = head.expects;
        inner.body = body_decoder(head.framing, self.limits);
        self.state.set_reading(match head.framing {
            Framing::Length(_) => Reading::Sized,
            Framing::Chunked => Reading::Chunked,
            Framing::None | Framing::Close => Reading::Between,
        });
        if head.last {
            self.state.last_request.set(true);
        }
        if inner.input.is_empty() {
            inner.release_input(&self.common);
        }
    }

    /// Looks after the connection while its request waits: writes on what is blocked, and is ready when the client
    /// has left.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        if let Poll::Ready(Err(_)) = self.poll_blocked(inner, cx) {
            return Poll::Ready(());
        }
        if self.state.body_is_late()
            && let Some(reader) = inner.reader.take()
        {
            reader.wake();
        }
        // Who reads the body sees its end; whoever has sent on is there.
        if !inner.body.is_complete() || !inner.input.is_empty() {
            inner.compact(&self.common);
            return Poll::Pending;
        }
        loop {
            if self.state.input_ended() {
                return if self.state.has_left() { Poll::Ready(()) } else { Poll::Pending };
            }
            if self.state.may_look_later() {
                return Poll::Pending;
            }
            match ready!(inner.poll_fill(cx, &self.state, &self.common)) {
                Ok(0) => {}
                Ok(_) => {
                    inner.compact(&self.common);
                    return Poll::Pending;
                }
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Writes into the output.
    pub(super) fn write<T>(&self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        write(self.inner.borrow_mut().out.buffer(&self.common.buffers))
    }

    /// Queues data, then `tail`.
    pub(super) fn put(&self, data: Bytes, tail: &'static [u8]) {
        self.inner.borrow_mut().out.put(data, tail, &self.common.buffers);
    }

    /// Whether more may be queued before what there is has been sent.
    pub(super) fn has_room(&self) -> bool {
        self.inner.borrow().out.has_room()
    }

    /// From now on nothing follows what is queued.
    pub(super) fn is_last(&self) {
        self.inner.borrow_mut().last = true;
    }

    /// The answer's head is written: the client need not be asked for its body any more.
    pub(super) fn answers(&self) {
        self.inner.borrow_mut().expects = false;
    }

    /// Has what is queued sent with the worker's next sends.
    pub(super) fn send(self: &Rc<Self>) {
        if self.inner.borrow_mut().out.enlist() {
            self.state.waits_to_send(true);
            self.common.sends.put(Rc::clone(self) as Rc<dyn Sender>);
        }
    }

    /// The task waits until all is sent, for something else than the client.
    pub(super) fn await_sent(&self) {
        self.inner.borrow_mut().out.await_sent();
    }

    /// Waits until everything is sent.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(&mut self.inner.borrow_mut(), cx)
    }

    /// Drops what is left of the request, as far as it is here already. True where that is all of it.
    pub(super) fn skip_body(&self, cx: &mut Context<'_>) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        inner.expects = false;
        for tried in [false, true] {
            loop {
                match inner.body.decode(&mut inner.input) {
                    Ok(Step::Data(_) | Step::Trailers(_)) => {}
                    Ok(Step::End) => {
                        inner.release_input(&self.common);
                        return true;
                    }
                    Ok(Step::More) => break,
                    Err(_) => return false,
                }
            }
            if tried || self.state.input_ended() {
                return false;
            }
            if !matches!(inner.poll_fill(cx, &self.state, &self.common), Poll::Ready(Ok(1..))) {
                return false;
            }
        }
        false
    }

    /// Whether all was read that the client will ever send, so that the close needs nothing before it.
    pub(super) fn is_spent(&self) -> bool {
        let inner = self.inner.borrow();
        inner.body.is_complete() && inner.input.is_empty() && self.state.expects_nothing()
    }

    /// The socket, and what was read from it for nobody. Bodies that are still about fail from now on.
    pub(super) fn take_socket(&self) -> (Socket, BytesMut) {
        let inner = &mut *self.inner.borrow_mut();
        inner.request += 1;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
        (std::mem::replace(&mut inner.socket, Socket::lost()), std::mem::take(&mut inner.input))
    }

    // The request's body.

    /// The request that is being read.
    pub(super) fn request(&self) -> u64 {
        self.inner.borrow().request
    }

    /// Whether nothing more of this request's body will come out.
    pub(super) fn is_exhausted(&self, request: u64) -> bool {
        let inner = self.inner.borrow();
        inner.request == request && inner.body.is_exhausted()
    }

    /// Reads on in this request's body.
    pub(super) fn poll_body(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        request: u64,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut inner = self.inner.borrow_mut();
        if inner.request != request {
            return Poll::Ready(Some(Err("the connection has gone on without this body".into())));
        }
        if std::mem::take(&mut inner.expects) {
            inner.out.buffer(&self.common.buffers).extend_from_slice(CONTINUE);
            drop(inner);
            self.send();
            inner = self.inner.borrow_mut();
        }
        self.poll_frame(&mut inner, cx)
    }

    fn poll_frame(
        &self,
        inner: &mut Inner,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let fails = |kind: io::ErrorKind| Poll::Ready(Some(Err(io::Error::from(kind).into())));
        loop {
            let step = match inner.body.decode(&mut inner.input) {
                Ok(step) => step,
                Err(error) => {
                    self.state.broken_body.set(true);
                    return Poll::Ready(Some(Err(error.into())));
                }
            };
            if !matches!(step, Step::More) && inner.body.is_complete() {
                self.state.set_reading(Reading::Between);
                inner.release_input(&self.common);
            }
            match step {
                Step::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Step::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Step::End => return Poll::Ready(None),
                Step::More => {}
            }
            if self.state.body_is_late() {
                return fails(io::ErrorKind::TimedOut);
            }
            if self.state.input_ended() {
                return fails(io::ErrorKind::UnexpectedEof);
            }
            if !self.state.is_choked() {
                match inner.poll_fill(cx, &self.state, &self.common) {
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Poll::Pending => self.state.wants_bytes(),
                }
            }
            match &mut inner.reader {
                Some(reader) => reader.clone_from(cx.waker()),
                reader => *reader = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
    }
}

/// What reads a request's body. Extensions of chunks are refused: nobody uses them but to confuse.
pub(in super::super) fn body_decoder(framing: Framing, limits: HeadLimits) -> Decoder {
    let limits = BodyLimits { max_headers: limits.headers, max_header_size: MAX_TRAILERS, extensions: 0 };
    Decoder::new(framing, limits)
}

impl Inner {
    /// Reads what there is behind `input`. `Ok(0)` is the end.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        state: &ConnState,
        common: &Common,
    ) -> Poll<io::Result<usize>> {
        self.release_input(common);
        let empty = self.input.is_empty();
        let read = ready!(self.socket.poll_fill(cx, &mut self.input, &common.buffers))?;
        if read == 0 {
            state.end_of_input();
        } else {
            self.borrowed |= empty;
            state.received(read);
        }
        Poll::Ready(Ok(read))
    }

    /// Lends the input buffer on if there is nothing in it.
    fn release_input(&mut self, common: &Common) {
        if self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            if std::mem::take(&mut self.borrowed) {
                common.buffers.give(input);
            }
        }
    }

    /// Who has to wait keeps no large buffer for a few bytes.
    fn compact(&mut self, common: &Common) {
        if std::mem::take(&mut self.borrowed) {
            let small = BytesMut::from(&self.input[..]);
            common.buffers.give(std::mem::replace(&mut self.input, small));
        }
    }

    /// Whether what is sent now is the last, and the close may follow at once. One look more at what has come: a
    /// client that promised to send nothing, and did, has its answer all the same, and is lingered for.
    fn may_send_last(&self, state: &ConnState) -> bool {
        if !self.last || !self.body.is_complete() || !self.input.is_empty() || !state.expects_nothing() {
            return false;
        }
        let surprised = self.socket.has_unread();
        if surprised {
            state.last_request.set(false);
        }
        !surprised
    }
}

impl Sender for Wire {
    fn send_now(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let last = inner.may_send_last(&self.state);
        let Inner { out, socket, .. } = inner;
        let mut client = ToClient { socket, last, state: &self.state };
        let wake = out.send_listed(&mut client, &self.common.buffers);
        self.state.waits_to_send(!out.is_empty());
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
