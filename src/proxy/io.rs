//! The wrapper under h2: counts control frames as they are read, and reports every byte to the deadlines of the
//! connection.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{ConnState, Reading};
use super::frames::{FrameWatch, POISON};
use super::socket::Socket;
use super::turn::Turn;

/// Writes up to this size are gathered: copying them is cheaper than a vectored write.
const GATHER: usize = 2048;

/// Where the socket is found when h2 has dropped the wrapper.
pub(super) type Left = Rc<RefCell<Option<Socket>>>;

/// A client's socket, as h2 sees it.
#[derive(Debug)]
pub(super) struct Io {
    /// `None` only while it is being dropped.
    stream: Option<Socket>,
    left: Left,
    state: Rc<ConnState>,
    watch: FrameWatch,
    /// Bytes that h2 has not got.
    early: Bytes,
    /// A flood ended the reading.
    flooded: bool,
    turn: Turn,
}

impl Io {
    /// A connection that begins with these bytes.
    pub(super) fn new(socket: Socket, early: Bytes, state: Rc<ConnState>) -> (Self, Left) {
        state.set_reading(Reading::Opaque);
        let left = Left::default();
        let mut io = Self {
            stream: Some(socket),
            left: Rc::clone(&left),
            watch: FrameWatch::new(state.now()),
            state,
            early: Bytes::new(),
            flooded: false,
            turn: Turn::default(),
        };
        let admitted = io.admit(&early);
        io.early = if io.flooded { [&early[..admitted], &POISON].concat().into() } else { early };
        (io, left)
    }

    fn stream(&mut self) -> Pin<&mut Socket> {
        Pin::new(self.stream.as_mut().expect("taken only by drop"))
    }

    /// How many of these bytes h2 may have.
    fn admit(&mut self, bytes: &[u8]) -> usize {
        let now = self.state.now();
        match self.watch.advance(bytes, now) {
            Ok(()) => bytes.len(),
            Err(sound) => {
                tracing::debug!("control frames beyond the limit end an HTTP/2 connection");
                self.flooded = true;
                sound
            }
        }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.turn.end();
        }
        self.state.waits_to_send(written.is_pending());
        match &written {
            Poll::Pending => self.state.wants_room(),
            Poll::Ready(Ok(bytes)) => {
                self.state.sent(*bytes);
                self.state.judge_download();
                self.watch.sent(*bytes);
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// Pending once for each write: others go first.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.turn.poll(cx);
        if polled.is_pending() {
            self.state.waits_to_send(true);
        }
        polled
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        *self.left.borrow_mut() = self.stream.take();
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let io = &mut *self;
        if !io.early.is_empty() {
            let step = io.early.len().min(buf.remaining());
            buf.put_slice(&io.early[..step]);
            io.early.advance(step);
            return Poll::Ready(Ok(()));
        }
        if io.flooded || io.state.input_ended() {
            return Poll::Ready(Ok(()));
        }
        if io.state.is_choked() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(io.stream().poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read == 0 {
            io.state.end_of_input();
            return Poll::Ready(Ok(()));
        }
        io.state.received(read);
        let admitted = io.admit(&buf.filled()[before..]);
        if io.flooded {
            buf.set_filled(before + admitted);
            io.early = Bytes::from_static(&POISON);
            if admitted == 0 {
                return Pin::new(io).poll_read(cx, buf);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let written = self.stream().poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        // Nothing is gathered for a write that only waits for its turn.
        ready!(self.poll_turn(cx));
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total <= GATHER {
            let mut gathered = [0; GATHER];
            let mut at = 0;
            for buf in bufs {
                gathered[at..at + buf.len()].copy_from_slice(buf);
                at += buf.len();
            }
            return self.poll_write(cx, &gathered[..at]);
        }
        let written = self.stream().poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends FIN.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
