//! The wrapper under hyper: reads a client's bytes, shows HTTP/1 heads to [`watch`](super::watch) before
//! hyper gets them, counts HTTP/2 control frames, and reports every byte to the deadlines of the connection.
//!
//! A head is given to hyper only when it is whole and sound. In place of one that is refused hyper reads a
//! stand-in, which comes out as a request that the service knows for what it is: so the refusal is
//! answered in turn, counted and logged like any other. When hyper drops the wrapper, the socket and what
//! was read but not used go to the connection's state, for a tunnel or a lingering close.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{ConnState, Hold, Reading};
use super::error::Fault;
use super::frames::{FrameWatch, POISON, PREFACE};
use super::socket::Socket;
use super::watch::{BodyState, Framing, Head, HeadLimits, scan_head};
use crate::transport::Turn;

/// What hyper reads in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
/// Writes up to this size are gathered: copying them is cheaper than a vectored write.
const GATHER: usize = 2048;

/// What is left of a connection that hyper is done with.
#[derive(Debug)]
pub(super) struct Leftover {
    /// The socket.
    pub(super) stream: Socket,
    /// Read from it, used by nobody.
    pub(super) unread: Vec<u8>,
    /// Our FIN has gone out.
    pub(super) shut: bool,
}

impl Leftover {
    /// Whether our FIN is out, or goes out with the close, and nothing that could turn the close into a reset
    /// is to come: the client said so, or has sent its own FIN, and all before that was read.
    pub(super) fn is_spent(&self, state: &ConnState) -> bool {
        self.shut && self.unread.is_empty() && state.expects_nothing()
    }
}

/// What the bytes are.
#[derive(Debug)]
enum Mode {
    /// HTTP/1, at a head.
    Head,
    /// HTTP/1, in a body.
    Body(BodyState),
    /// HTTP/1, behind an Upgrade header whose answer is not known.
    Held,
    /// Nothing more is read: a head was refused.
    Refused,
    /// Nothing more is read: a body broke its framing.
    Broken,
    /// HTTP/2.
    Frames(Box<FrameWatch>),
    /// HTTP/2, flooded.
    Flooded,
}

/// The protocol that a connection opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What waiting for a client's bytes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Bytes came that begin a connection of this protocol or, on one that is used, a request.
    Begun(Protocol),
    /// The client left.
    Gone,
    /// It dallied for too long, or the worker drains.
    Cut,
}

/// Waits for the bytes that tell what is next, and reads them into `bytes`. While there are none nothing is
/// held but the socket.
pub(super) fn poll_open(
    cx: &mut Context<'_>,
    socket: &mut Socket,
    bytes: &mut Vec<u8>,
    state: &ConnState,
    used: bool,
) -> Poll<Opening> {
    loop {
        if state.verdict().is_some() || state.is_leaving() {
            return Poll::Ready(Opening::Cut);
        }
        let seen = bytes.len().min(PREFACE.len());
        if bytes[..seen] != PREFACE[..seen] || used && seen > 0 || state.head_is_late() {
            return Poll::Ready(Opening::Begun(Protocol::Http1));
        } else if seen == PREFACE.len() {
            return Poll::Ready(Opening::Begun(Protocol::Http2));
        }
        match ready!(socket.poll_first(cx, bytes)) {
            Ok(len) if len > 0 => {
                state.received(len);
                state.set_reading(Reading::Head);
            }
            _ => return Poll::Ready(Opening::Gone),
        }
    }
}

/// A client's socket, as hyper sees it.
#[derive(Debug)]
pub(super) struct Io {
    /// `None` only while it is being dropped.
    stream: Option<Socket>,
    state: Rc<ConnState>,
    limits: HeadLimits,
    mode: Mode,
    /// Bytes that hyper has not got: up to `ready` it may, from `taken` on it has not.
    stash: Vec<u8>,
    taken: usize,
    ready: usize,
    shut: bool,
    turn: Turn,
}

impl Io {
    /// A connection that begins, or goes on, with these bytes.
    pub(super) fn new(
        socket: Socket,
        bytes: Vec<u8>,
        protocol: Protocol,
        state: Rc<ConnState>,
        limits: HeadLimits,
    ) -> Self {
        let mode = match protocol {
            Protocol::Http1 => Mode::Head,
            Protocol::Http2 => {
                state.set_reading(Reading::Opaque);
                Mode::Frames(Box::new(FrameWatch::new(state.now())))
            }
        };
        let mut io = Self {
            stream: Some(socket),
            state,
            limits,
            mode,
            stash: bytes,
            taken: 0,
            ready: 0,
            shut: false,
            turn: Turn::default(),
        };
        io.admit_stash();
        io
    }

    /// The socket of a connection between requests; `None` where there is more to it than that.
    pub(super) fn into_idle(mut self) -> Option<Socket> {
        let idle = matches!(self.mode, Mode::Head) && self.stash.is_empty() && !self.shut;
        if idle { self.stream.take() } else { None }
    }

    /// Whether a close sends all that a FIN before it would.
    fn may_close_at_once(&self) -> bool {
        matches!(self.mode, Mode::Head) && self.stash.is_empty() && self.state.expects_nothing()
    }

    /// Whether what is written now is the last, and the close may follow at once. One look more at what has
    /// come: a client that promised to send nothing, and did, has its answer all the same, and is lingered for.
    fn writes_last(&self) -> bool {
        if !self.may_close_at_once() || !self.state.owes_nothing() {
            return false;
        }
        let surprised = self.stream.as_ref().is_some_and(Socket::has_unread);
        if surprised {
            self.state.last_request.set(false);
        }
        !surprised
    }

    fn stream(&mut self) -> Pin<&mut Socket> {
        Pin::new(self.stream.as_mut().expect("taken only by drop"))
    }

    /// How many bytes at the front of `bytes`, which follow those admitted before, hyper may have.
    fn admit(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            match &mut self.mode {
                Mode::Head if at == bytes.len() => {
                    self.state.set_reading(Reading::Between);
                    return at;
                }
                Mode::Head => match scan_head(&bytes[at..], self.limits) {
                    Head::Partial => {
                        self.state.set_reading(Reading::Head);
                        return at;
                    }
                    Head::Refused(fault) => {
                        self.refuse(fault);
                        return at;
                    }
                    Head::Whole { len, framing, upgrade } => {
                        at += len;
                        self.state.head_passed();
                        self.state.set_reading(match framing {
                            Framing::Length(0) => Reading::Between,
                            Framing::Length(_) => Reading::Sized,
                            Framing::Chunked => Reading::Chunked,
                        });
                        if upgrade {
                            self.state.hold.set(Hold::Undecided);
                            self.mode = Mode::Held;
                            return at;
                        } else if framing != Framing::Length(0) {
                            self.mode = Mode::Body(BodyState::after(framing));
                        }
                    }
                },
                Mode::Body(body) => match body.advance(&bytes[at..]) {
                    Ok(step) => {
                        at += step;
                        if *body != BodyState::Done {
                            return at;
                        }
                        self.mode = Mode::Head;
                    }
                    Err(sound) => {
                        self.mode = Mode::Broken;
                        self.state.broken_body.set(true);
                        return at + sound;
                    }
                },
                Mode::Frames(watch) => {
                    let now = self.state.now();
                    return match watch.advance(&bytes[at..], now) {
                        Ok(()) => bytes.len(),
                        Err(sound) => {
                            tracing::debug!("control frames beyond the limit end an HTTP/2 connection");
                            self.mode = Mode::Flooded;
                            at + sound
                        }
                    };
                }
                Mode::Held | Mode::Refused | Mode::Broken | Mode::Flooded => return at,
            }
        }
    }

    fn refuse(&mut self, fault: Fault) {
        self.mode = Mode::Refused;
        self.state.refuse_head(fault);
        self.state.set_reading(Reading::Between);
    }

    /// Admits what the stash holds beyond `ready`, and puts a stand-in or poison where that ended badly.
    fn admit_stash(&mut self) {
        let stash = std::mem::take(&mut self.stash);
        let step = self.admit(&stash[self.ready..]);
        self.stash = stash;
        self.ready += step;
        self.replace_refused();
    }

    fn replace_refused(&mut self) {
        let substitute: &[u8] = match self.mode {
            Mode::Refused => STAND_IN,
            Mode::Flooded => &POISON,
            _ => return,
        };
        self.stash.truncate(self.ready);
        self.stash.extend_from_slice(substitute);
        self.ready = self.stash.len();
    }

    /// Gives hyper what it may have of the stash. False: nothing.
    fn serve_stash(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.taken == self.ready {
            return false;
        }
        let step = (self.ready - self.taken).min(buf.remaining());
        buf.put_slice(&self.stash[self.taken..self.taken + step]);
        self.taken += step;
        if self.taken == self.stash.len() {
            // Freed, not kept: an idle connection must cost little.
            self.stash = Vec::new();
            (self.taken, self.ready) = (0, 0);
        }
        true
    }

    /// Leaves `Held` when the answer is known.
    fn settle_hold(&mut self) {
        match self.state.hold.get() {
            // With a tunnel hyper is about to be dropped: what is stashed goes there.
            Hold::Undecided | Hold::Tunnel => {}
            Hold::Http | Hold::None => {
                self.state.hold.set(Hold::None);
                self.mode = Mode::Head;
                self.admit_stash();
            }
        }
    }

    fn poll_read_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if matches!(self.mode, Mode::Held) {
                self.settle_hold();
            }
            if self.serve_stash(buf) {
                return Poll::Ready(Ok(()));
            }
            match self.mode {
                Mode::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Mode::Flooded => return Poll::Ready(Ok(())),
                Mode::Refused => return Poll::Pending,
                // Whoever settles the hold wakes the connection.
                Mode::Held if self.stash.len() > self.ready => return Poll::Pending,
                Mode::Head if self.state.head_is_late() => {
                    self.refuse(Fault::Slow);
                    self.replace_refused();
                    continue;
                }
                Mode::Body(_) if self.state.body_is_late() => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                _ => {}
            }
            if self.state.input_ended() {
                return if self.state.end_of_input() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            if self.state.may_look_later() && self.stream().is_fresh() {
                return Poll::Pending;
            }
            if matches!(self.mode, Mode::Body(_) | Mode::Frames(_)) && self.state.is_choked() {
                return Poll::Pending;
            }
            let before = buf.filled().len();
            match self.stream().poll_read(cx, buf) {
                Poll::Pending => {
                    self.state.wants_bytes();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            let read = buf.filled().len() - before;
            if read == 0 {
                return if self.state.end_of_input() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.state.received(read);
            if self.stash.is_empty() {
                let admitted = self.admit(&buf.filled()[before..]);
                if admitted < read {
                    self.stash.extend_from_slice(&buf.filled()[before + admitted..]);
                    buf.set_filled(before + admitted);
                    self.replace_refused();
                }
                if admitted > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.stash.extend_from_slice(&buf.filled()[before..]);
                buf.set_filled(before);
                self.admit_stash();
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
                if let Mode::Frames(watch) = &mut self.mode {
                    watch.sent(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            let unread = match self.mode {
                Mode::Refused | Mode::Flooded => Vec::new(),
                _ => self.stash.split_off(self.taken),
            };
            *self.state.leftover.borrow_mut() = Some(Leftover { stream, unread, shut: self.shut });
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_inner(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.turn.poll(cx).is_pending() {
            self.state.waits_to_send(true);
            return Poll::Pending;
        }
        let written = if self.writes_last() {
            self.stream().poll_write_last(cx, &[io::IoSlice::new(buf)])
        } else {
            self.stream().poll_write(cx, buf)
        };
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
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total <= GATHER {
            // Nothing is gathered for a write that only waits for its turn.
            if self.turn.poll(cx).is_pending() {
                self.state.waits_to_send(true);
                return Poll::Pending;
            }
            let mut gathered = [0; GATHER];
            let mut at = 0;
            for buf in bufs {
                gathered[at..at + buf.len()].copy_from_slice(buf);
                at += buf.len();
            }
            return self.poll_write(cx, &gathered[..at]);
        }
        let written = if self.writes_last() {
            self.stream().poll_write_last(cx, bufs)
        } else {
            self.stream().poll_write_vectored(cx, bufs)
        };
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends FIN, where the close does not follow at once. The rest of a close is for who gets the leftover.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.may_close_at_once() {
            self.shut = true;
            return Poll::Ready(Ok(()));
        }
        let shut = ready!(self.stream().poll_shutdown(cx));
        self.shut = shut.is_ok();
        Poll::Ready(shut)
    }
}
