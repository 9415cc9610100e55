//! A socket with what is on its way in and out of it.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::transport::buffers::BUFFER;
use crate::transport::outbox::{Outbox, Outlet};
use crate::transport::pool::{Common, TargetPool};
use crate::transport::sends::{Sender, send};

/// A read is not worth its cost with less room than this.
const MIN_ROOM: usize = 8 * 1024;

/// A connection between exchanges: nothing is on its way. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Conn {
    line: Rc<Line>,
    pub(crate) born: Instant,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// It has done so since the worker's last tick, to an instance that is known to keep its connections for
    /// longer: what the runtime knows of it will do.
    pub(crate) warm: bool,
}

/// What the worker's sends need of a connection.
struct Line {
    common: Rc<Common>,
    inner: RefCell<Inner>,
}

struct Inner {
    stream: TcpStream,
    out: Outbox,
    /// At least one byte of the request has gone out.
    written: bool,
    /// Whose request it is.
    waker: Option<Waker>,
}

impl Conn {
    pub(crate) fn new(stream: TcpStream, born: Instant, common: &Rc<Common>) -> Self {
        let inner = Inner { stream, out: Outbox::default(), written: false, waker: None };
        let line = Rc::new(Line { common: Rc::clone(common), inner: RefCell::new(inner) });
        Self { line, born, reused: false, warm: true }
    }

    /// Whether nothing arrived while it was idle: neither bytes, which would be an answer to
    /// nothing, nor the end. Costs no system call unless the socket became readable.
    pub(crate) fn is_quiet(&self) -> bool {
        let unread = self.line.inner.borrow().stream.try_read(&mut [0]);
        matches!(unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Like [`Conn::is_quiet`], but asks the kernel, which may know more than the last look at all
    /// sockets did. Costs a system call.
    pub(crate) fn is_quiet_now(&self) -> bool {
        let unread = SockRef::from(&self.line.inner.borrow().stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Conn {
    /// What stands on the list of sends does not go out any more.
    fn drop(&mut self) {
        let inner = &mut *self.line.inner.borrow_mut();
        inner.out.clear(&self.line.common.buffers);
        inner.waker = None;
    }
}

/// The stream, and whether anything of a request went into it.
struct Stream<'a>(&'a mut TcpStream, &'a mut bool);

impl Outlet for Stream<'_> {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = send(&*self.0, pieces, SendFlags::empty());
        *self.1 |= sent.is_ok();
        sent
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut *self.0).poll_write_vectored(cx, pieces);
        *self.1 |= matches!(sent, Poll::Ready(Ok(_)));
        sent
    }
}

impl Sender for Line {
    fn send_now(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let mut stream = Stream(&mut inner.stream, &mut inner.written);
        if inner.out.send_listed(&mut stream, &self.common.buffers)
            && let Some(waker) = &inner.waker
        {
            waker.wake_by_ref();
        }
    }
}

/// A connection during an exchange. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Io {
    conn: Conn,
    pool: Rc<TargetPool>,
    /// Bytes read and not yet decoded.
    pub(crate) input: BytesMut,
}

impl Io {
    pub(crate) fn new(conn: Conn, pool: Rc<TargetPool>) -> Self {
        Self { conn, pool, input: BytesMut::new() }
    }

    pub(crate) fn common(&self) -> &Common {
        self.pool.common()
    }

    pub(crate) fn reused(&self) -> bool {
        self.conn.reused
    }

    /// Whether at least one byte has gone out.
    pub(crate) fn written(&self) -> bool {
        self.conn.line.inner.borrow().written
    }

    /// Writes heads and framing.
    pub(crate) fn write(&self, write: impl FnOnce(&mut BytesMut)) {
        write(self.conn.line.inner.borrow_mut().out.buffer(&self.common().buffers));
    }

    /// Queues data, then `tail`, and says where the data stands.
    pub(crate) fn put(&self, data: Bytes, tail: &'static [u8]) -> Range<usize> {
        self.conn.line.inner.borrow_mut().out.put(data, tail, &self.common().buffers)
    }

    /// Data that was queued, while nothing at all has been sent.
    pub(crate) fn unsent(&self, place: Range<usize>) -> Bytes {
        self.conn.line.inner.borrow().out.unsent(place)
    }

    /// Whether more may be queued before a flush.
    pub(crate) fn has_room(&self) -> bool {
        self.conn.line.inner.borrow().out.has_room()
    }

    /// Writes everything that is queued; the request's beginning with the worker's next sends. With `wait` the task
    /// is woken when that is done.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, wait: bool) -> Poll<io::Result<()>> {
        let inner = &mut *self.conn.line.inner.borrow_mut();
        if !inner.written {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            if inner.out.enlist() {
                self.common().sends.put(Rc::clone(&self.conn.line) as Rc<dyn Sender>);
            }
        }
        let mut stream = Stream(&mut inner.stream, &mut inner.written);
        inner.out.poll_flush(cx, &mut stream, &self.common().buffers, wait)
    }

    /// The request's beginning waits to be sent: makes sure that the task is woken for what comes back.
    pub(crate) fn await_answer(&self, cx: &mut Context<'_>) {
        let inner = &mut *self.conn.line.inner.borrow_mut();
        if inner.stream.poll_read_ready(cx).is_ready() {
            // What is there already is looked at when the request is out.
            inner.out.await_sent();
        }
    }

    /// Forgets what is queued.
    pub(crate) fn discard_output(&self) {
        self.conn.line.inner.borrow_mut().out.clear(&self.common().buffers);
    }

    /// Reads what there is behind `input`. `Ok(0)` is the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let inner = &mut *self.conn.line.inner.borrow_mut();
        // Who has to wait borrows no buffer for it.
        ready!(inner.stream.poll_read_ready(cx))?;
        let spare = &self.pool.common().buffers;
        if self.input.is_empty() {
            // Also where some room is left: a fresh buffer takes more in one read.
            spare.give(std::mem::replace(&mut self.input, BytesMut::new()));
            self.input = spare.take();
        } else if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(BUFFER);
        }
        let polled = std::pin::pin!(inner.stream.read_buf(&mut self.input)).poll(cx);
        if self.input.is_empty() {
            spare.give(std::mem::take(&mut self.input));
        }
        polled
    }

    /// Lends the input buffer on if there is nothing in it.
    pub(crate) fn release_input(&mut self) {
        if self.input.is_empty() {
            self.pool.common().buffers.give(std::mem::take(&mut self.input));
        }
    }

    /// Ends the exchange. With `reusable`, and if nothing came behind the answer, the connection
    /// goes back to the pool; otherwise it is closed.
    pub(crate) fn finish(mut self, reusable: bool) {
        let clean = {
            let inner = &mut *self.conn.line.inner.borrow_mut();
            inner.waker = None;
            inner.written = false;
            reusable && self.input.is_empty() && inner.out.is_empty()
        };
        self.pool.common().buffers.give(std::mem::take(&mut self.input));
        if clean {
            self.conn.reused = true;
            self.pool.put(self.conn);
        }
    }

    /// The socket itself, and what was read from it: `None` while something is still to be sent.
    pub(crate) fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        let early = Bytes::copy_from_slice(&self.input);
        let line = Rc::clone(&self.conn.line);
        drop(self);
        Some((Rc::into_inner(line)?.inner.into_inner().stream, early))
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("stream", &self.inner.borrow().stream).finish_non_exhaustive()
    }
}
