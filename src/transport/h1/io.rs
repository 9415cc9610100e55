//! A socket with what is on its way in and out of it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use crate::transport::Turn;
use crate::transport::buffers::BUFFER;
use crate::transport::pool::{Common, TargetPool};

/// Data up to this size is copied behind what is already to be written, into one send.
const GATHER: usize = 16 * 1024;

/// A read is not worth its cost with less room than this.
const MIN_ROOM: usize = 8 * 1024;

/// A connection between exchanges: nothing is on its way.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) born: Instant,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// It has done so since the worker's last tick, to an instance that is known to keep its connections for
    /// longer: what the runtime knows of it will do.
    pub(crate) warm: bool,
}

impl Conn {
    /// Whether nothing arrived while it was idle: neither bytes, which would be an answer to
    /// nothing, nor the end. Costs no system call unless the socket became readable.
    pub(crate) fn is_quiet(&self) -> bool {
        let unread = self.stream.try_read(&mut [0]);
        matches!(unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Like [`Conn::is_quiet`], but asks the kernel, which may know more than the last look at all
    /// sockets did. Costs a system call.
    pub(crate) fn is_quiet_now(&self) -> bool {
        let unread = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(unread, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A connection during an exchange. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Io {
    conn: Conn,
    pool: Rc<TargetPool>,
    /// Bytes read and not yet decoded.
    pub(crate) input: BytesMut,
    out: BytesMut,
    /// A large piece of data that goes out after `out` without being copied, and what ends it.
    chunk: Bytes,
    tail: &'static [u8],
    /// At least one byte has gone out.
    pub(crate) written: bool,
    turn: Turn,
}

impl Io {
    pub(crate) fn new(conn: Conn, pool: Rc<TargetPool>) -> Self {
        let out = pool.common().buffers.take();
        Self {
            conn,
            pool,
            input: BytesMut::new(),
            out,
            chunk: Bytes::new(),
            tail: b"",
            written: false,
            turn: Turn::default(),
        }
    }

    pub(crate) fn common(&self) -> &Common {
        self.pool.common()
    }

    pub(crate) fn reused(&self) -> bool {
        self.conn.reused
    }

    /// Where heads and framing are written to.
    pub(crate) fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = self.pool.common().buffers.take();
        }
        &mut self.out
    }

    /// Queues data, then `tail`.
    pub(crate) fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= GATHER {
            let out = self.out();
            out.extend_from_slice(&data);
            out.extend_from_slice(tail);
        } else {
            (self.chunk, self.tail) = (data, tail);
        }
    }

    /// Whether more may be queued before a flush.
    pub(crate) fn has_room(&self) -> bool {
        self.chunk.is_empty() && self.tail.is_empty() && self.out.len() < GATHER
    }

    /// Writes everything that is queued; the request's head in its [`Turn`].
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.written {
            ready!(self.turn.poll(cx));
        }
        loop {
            let stream = Pin::new(&mut self.conn.stream);
            let polled = if self.chunk.is_empty() && self.tail.is_empty() {
                if self.out.is_empty() {
                    self.pool.common().buffers.give(std::mem::take(&mut self.out));
                    return Poll::Ready(Ok(()));
                }
                stream.poll_write(cx, &self.out)
            } else {
                let pieces = [IoSlice::new(&self.out), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
                stream.poll_write_vectored(cx, &pieces)
            };
            match polled {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => self.sent(len),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn sent(&mut self, len: usize) {
        self.written = true;
        let from_out = len.min(self.out.len());
        self.out.advance(from_out);
        let from_chunk = (len - from_out).min(self.chunk.len());
        self.chunk.advance(from_chunk);
        self.tail = &self.tail[len - from_out - from_chunk..];
    }

    /// Forgets what is queued.
    pub(crate) fn discard_output(&mut self) {
        self.pool.common().buffers.give(std::mem::take(&mut self.out));
        (self.chunk, self.tail) = (Bytes::new(), b"");
    }

    /// Reads what there is behind `input`. `Ok(0)` is the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Who has to wait borrows no buffer for it.
        ready!(self.conn.stream.poll_read_ready(cx))?;
        if self.input.is_empty() {
            // Also where some room is left: a fresh buffer takes more in one read.
            self.release_input();
            self.input = self.pool.common().buffers.take();
        } else if self.input.capacity() - self.input.len() < MIN_ROOM {
            self.input.reserve(BUFFER);
        }
        let read = self.conn.stream.read_buf(&mut self.input);
        let polled = std::pin::pin!(read).poll(cx);
        if self.input.is_empty() {
            self.release_input();
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
        let clean = reusable && self.input.is_empty() && self.has_room() && self.out.is_empty();
        self.pool.common().buffers.give(std::mem::take(&mut self.input));
        self.pool.common().buffers.give(std::mem::take(&mut self.out));
        if clean {
            self.conn.reused = true;
            self.pool.put(self.conn);
        }
    }

    /// The socket itself, and what was read from it.
    pub(crate) fn into_stream(self) -> (TcpStream, Bytes) {
        let early = Bytes::copy_from_slice(&self.input);
        (self.conn.stream, early)
    }
}
