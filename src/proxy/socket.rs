//! A client's socket, which joins the worker's poll only when it has to wait.
//!
//! A connection that brings its request along, gets its answer and closes costs the kernel no registration
//! then: two system calls of some ten. Reading goes ahead right after the accept, and once more when others had
//! their turn; whoever finds nothing there registers, and from then on the runtime says when there is something.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::transport::{Buffers, fill, send};

/// The first read of a connection that has nothing in memory.
const FIRST_READ: usize = 8 * 1024;

/// More follows: the kernel may keep the rest of a packet for it. What follows is the FIN.
#[cfg(target_os = "linux")]
const LAST: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const LAST: SendFlags = SendFlags::empty();

/// A client's socket.
#[derive(Debug)]
pub(super) struct Socket(Kind);

#[derive(Debug)]
enum Kind {
    /// Accepted, non-blocking, and unknown to the runtime; whether it was read from in vain.
    Fresh(std::net::TcpStream, bool),
    Polled(TcpStream),
    /// Taken, or the runtime would not have it.
    Lost,
}

impl Socket {
    /// For a stream that does not block.
    pub(super) fn new(stream: std::net::TcpStream) -> Self {
        Self(Kind::Fresh(stream, false))
    }

    /// No socket.
    pub(super) fn lost() -> Self {
        Self(Kind::Lost)
    }

    /// Whether nobody would be woken by what comes.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.0, Kind::Fresh(..))
    }

    /// The stream as the runtime knows it, from now on at the latest.
    fn polled(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if self.is_fresh()
            && let Kind::Fresh(stream, _) = std::mem::replace(&mut self.0, Kind::Lost)
        {
            self.0 = Kind::Polled(TcpStream::from_std(stream)?);
        }
        match &mut self.0 {
            Kind::Polled(stream) => Ok(Pin::new(stream)),
            Kind::Fresh(..) | Kind::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The stream by itself.
    pub(super) fn into_stream(mut self) -> io::Result<TcpStream> {
        self.polled()?;
        match self.0 {
            Kind::Polled(stream) => Ok(stream),
            Kind::Fresh(..) | Kind::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The first read of a connection, behind what `buffer` holds. `Ok(0)` is the end.
    pub(super) fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        spare: &Buffers,
    ) -> Poll<io::Result<usize>> {
        if let Kind::Fresh(stream, tried) = &mut self.0 {
            let mut room = [const { MaybeUninit::uninit() }; FIRST_READ];
            match recv(&*stream, &mut room, RecvFlags::empty()) {
                Ok(((read, _), _)) => {
                    if buffer.capacity() == 0 && !read.is_empty() {
                        *buffer = spare.take();
                    }
                    buffer.extend_from_slice(read);
                    return Poll::Ready(Ok(read.len()));
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            if !std::mem::replace(tried, true) {
                // Most requests are right behind their connection: others have their turn first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.poll_fill(cx, buffer, spare)
    }

    /// Reads behind what `buffer` holds; one that is empty is borrowed, when there is something to put there.
    /// `Ok(0)` is the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        spare: &Buffers,
    ) -> Poll<io::Result<usize>> {
        fill(self.polled()?, cx, buffer, spare)
    }

    /// Whether bytes have come that nobody read: a close now would be a reset, and take what was sent along.
    pub(super) fn has_unread(&self) -> bool {
        let descriptor = match &self.0 {
            Kind::Fresh(stream, _) => stream.as_fd(),
            Kind::Polled(stream) => stream.as_fd(),
            Kind::Lost => return false,
        };
        matches!(recv(descriptor, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((_, 1..)))
    }

    /// Sends what fits now. The `last` bytes of a connection that is closed right after them wait for the close, and
    /// go out in one packet with its FIN.
    pub(super) fn send(&self, pieces: &[io::IoSlice<'_>], last: bool) -> io::Result<usize> {
        let flags = if last { LAST } else { SendFlags::empty() };
        match &self.0 {
            Kind::Fresh(stream, _) => send(stream, pieces, flags),
            Kind::Polled(stream) => send(stream, pieces, flags),
            Kind::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes when there is room.
    pub(super) fn poll_write_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.polled()?.poll_write_vectored(cx, pieces)
    }

    /// Writes what fits now.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Fresh(stream, _) => (&*stream).write(bytes),
            Kind::Polled(stream) => stream.try_write(bytes),
            Kind::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// `None` where the attempt must be made again by way of the runtime.
fn at_once(result: io::Result<usize>) -> Option<io::Result<usize>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        result => Some(result),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.polled()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Kind::Fresh(stream, _) = &self.0
            && let Some(written) = at_once((&*stream).write(buf))
        {
            return Poll::Ready(written);
        }
        self.polled()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Kind::Fresh(stream, _) = &self.0
            && let Some(written) = at_once((&*stream).write_vectored(bufs))
        {
            return Poll::Ready(written);
        }
        self.polled()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends FIN.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match &self.0 {
            Kind::Fresh(stream, _) => stream.shutdown(std::net::Shutdown::Write),
            Kind::Polled(stream) => socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write),
            Kind::Lost => Ok(()),
        })
    }
}
