//! The socket of a connection to an instance, which many requests share, and the task that reads it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use rustix::net::SendFlags;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::http2::connection::{Bounds, Close, Connection, Fatal, Side};
use crate::http2::frame::{self, Reason};
use crate::http2::stream::{Over, Stream};
use crate::transport::mux::{Mux, READS, fill};
use crate::transport::outbox::Outlet;
use crate::transport::pool::Common;
use crate::transport::sends::{Sender, send};

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection.
pub(crate) struct Line {
    common: Rc<Common>,
    inner: RefCell<Inner>,
    /// It takes nothing more.
    ended: Cell<bool>,
}

struct Inner {
    /// Until the end.
    stream: Option<TcpStream>,
    mux: Mux,
    /// The task that reads.
    task: Option<Waker>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the connection was closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer broke the rules of HTTP/2: {0}")]
    Broken(&'static str),
}

impl Line {
    /// A connection that begins: what is said first goes out with the first poll.
    pub(super) fn new(stream: TcpStream, common: &Rc<Common>) -> Rc<Self> {
        let options = &common.options;
        let window = options.stream_window;
        let bounds = Bounds {
            streams: 0,
            stream_window: window,
            // So much that no slow reader holds up its neighbours.
            window: window.saturating_mul(options.max_streams.clamp(1, 1 << 14) as u32).min((1 << 31) - 1),
            head: common.head_limits().max_header_size,
        };
        let mux = Mux::new(BytesMut::new(), PREFACE, common, |out| {
            Connection::new(Side::Client, bounds, common.now.get(), out)
        });
        let inner = Inner { stream: Some(stream), mux, task: None };
        Rc::new(Self { common: Rc::clone(common), inner: RefCell::new(inner), ended: Cell::new(false) })
    }

    /// Reads and writes. Ready when the connection has ended; streams that were open are over then.
    pub(super) fn poll(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = match self.poll_inner(cx) {
            Poll::Ready(ended) => ended,
            Poll::Pending if self.ended.get() => Ended::Closed,
            Poll::Pending => {
                self.send();
                return Poll::Pending;
            }
        };
        self.end(match ended {
            Ended::Broken(why) => Over::Broken(why),
            _ => Over::Lost,
        });
        Poll::Ready(ended)
    }

    fn poll_inner(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        let inner = &mut *self.inner.borrow_mut();
        match &mut inner.task {
            Some(task) => task.clone_from(cx.waker()),
            task => *task = Some(cx.waker().clone()),
        }
        let spare = &self.common.buffers;
        // Who takes nothing any more may have said why: that is read first.
        let written = inner.mux.out.poll_blocked(cx, &mut ToPeer(&mut inner.stream), spare);
        let failed = match written {
            Poll::Ready(Err(error)) => Poll::Ready(error.into()),
            _ => Poll::Pending,
        };
        inner.mux.emptied();
        for _ in 0..READS {
            // What an instance begins is nobody's request.
            if let Err(Fatal(reason, why)) =
                inner.mux.feed(self.common.now.get(), &self.common, &mut Vec::new())
            {
                let (connection, out) = inner.mux.buffer(&self.common);
                connection.goaway(reason, out);
                // The last word, if there is room for it.
                let _ = inner.mux.out.poll_flush(cx, &mut ToPeer(&mut inner.stream), spare, false);
                return Poll::Ready(Ended::Broken(why));
            }
            if inner.mux.connection.is_over() {
                return Poll::Ready(Ended::Closed);
            }
            if !inner.mux.may_read() {
                inner.mux.compact(&self.common);
                return failed;
            }
            let Some(stream) = &mut inner.stream else { return Poll::Ready(Ended::Closed) };
            match inner.mux.poll_fill(|input| fill(Pin::new(stream), cx, input, spare)) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => return Poll::Ready(Ended::Closed),
                Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
                Poll::Pending => {
                    inner.mux.compact(&self.common);
                    return failed;
                }
            }
        }
        cx.waker().wake_by_ref();
        failed
    }

    /// Lets what is written go out with the worker's other sends.
    pub(super) fn send(self: &Rc<Self>) {
        if self.inner.borrow_mut().mux.enlist(&self.common) {
            self.common.sends.put(Rc::clone(self) as Rc<dyn Sender>);
        }
    }

    /// Ends the connection for everybody.
    pub(super) fn end(&self, over: Over) {
        if !self.ended.replace(true) {
            let inner = &mut *self.inner.borrow_mut();
            inner.mux.connection.end_all(over);
            inner.mux.out.clear(&self.common.buffers);
            inner.stream = None;
            if let Some(task) = &inner.task {
                task.wake_by_ref();
            }
        }
    }

    /// Whether the peer's first settings are here.
    pub(super) fn is_settled(&self) -> bool {
        self.inner.borrow().mux.connection.is_settled()
    }

    /// How many streams the peer takes at a time: `None` where it never takes another.
    pub(super) fn room(&self) -> Option<usize> {
        if self.ended.get() { None } else { self.inner.borrow().mux.connection.room() }
    }

    /// Begins a stream with its head.
    pub(super) fn open(
        self: &Rc<Self>,
        ends: bool,
        bodiless: bool,
        fields: impl FnOnce(&mut BytesMut),
    ) -> Option<Rc<Stream>> {
        self.room()?;
        let inner = &mut *self.inner.borrow_mut();
        let (connection, out) = inner.mux.buffer(&self.common);
        Some(connection.open(ends, bodiless, out, fields))
    }

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

    /// These bytes of a stream's answer were read.
    pub(super) fn took(&self, stream: &Stream, bytes: usize) {
        self.inner.borrow_mut().mux.took(&self.common, stream, bytes);
    }

    /// Whoever had a stream is done with it.
    pub(super) fn close(&self, stream: &Rc<Stream>, reason: Reason) {
        let inner = &mut *self.inner.borrow_mut();
        inner.mux.close(&self.common, stream, Close::Done(reason));
        if inner.mux.connection.is_over()
            && let Some(task) = &inner.task
        {
            task.wake_by_ref();
        }
    }

    /// Asks whether the peer is there; [`Line::pongs`] tells.
    pub(super) fn ping(self: &Rc<Self>) {
        let inner = &mut *self.inner.borrow_mut();
        frame::ping(*b"anybody?", false, inner.mux.buffer(&self.common).1);
    }

    /// How many pings were answered.
    pub(super) fn pongs(&self) -> u64 {
        self.inner.borrow().mux.connection.pongs()
    }
}

/// The socket, as what is sent goes into it.
struct ToPeer<'a>(&'a mut Option<TcpStream>);

impl Outlet for ToPeer<'_> {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.0 {
            Some(stream) => send(&*stream, pieces, SendFlags::empty()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.0 {
            Some(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Sender for Line {
    fn send_now(&self) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.mux.send_listed(&mut ToPeer(&mut inner.stream), &self.common)
            && let Some(task) = &inner.task
        {
            task.wake_by_ref();
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("ended", &self.ended.get()).finish_non_exhaustive()
    }
}
