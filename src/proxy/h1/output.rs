//! What is on its way to a client: bytes that wait for the worker's sends, or for the client.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::super::conn::ConnState;
use super::super::socket::Socket;
use crate::transport::Common;

/// Data up to this size is copied behind what is already to be written, into one send.
const GATHER: usize = 16 * 1024;

/// Bytes to send, and what they wait for.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: BytesMut,
    /// A large piece of data that goes out after `bytes` without being copied, and what ends it.
    chunk: Bytes,
    tail: &'static [u8],
    way: Way,
    /// The task goes on when all is sent.
    awaited: bool,
}

#[derive(Debug, Default)]
enum Way {
    /// Nothing was asked for.
    #[default]
    Still,
    /// On the list of the worker's sends.
    Listed,
    /// The client takes no more for now: the task writes on when it does.
    Blocked,
    /// The client takes nothing any more.
    Failed(io::Error),
}

impl Output {
    /// Where heads and framing are written to.
    pub(super) fn buffer(&mut self, common: &Common) -> &mut BytesMut {
        if self.bytes.capacity() == 0 {
            self.bytes = common.buffers.take();
        }
        &mut self.bytes
    }

    /// Queues data, then `tail`.
    pub(super) fn put(&mut self, data: Bytes, tail: &'static [u8], common: &Common) {
        if data.len() <= GATHER {
            let bytes = self.buffer(common);
            bytes.extend_from_slice(&data);
            bytes.extend_from_slice(tail);
        } else {
            (self.chunk, self.tail) = (data, tail);
        }
    }

    /// Whether more may be queued before what there is has been sent.
    pub(super) fn has_room(&self) -> bool {
        self.chunk.is_empty() && self.tail.is_empty() && self.bytes.len() < GATHER
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.chunk.is_empty() && self.tail.is_empty()
    }

    /// Whether it is to be put on the list of sends; from now on it stands there.
    pub(super) fn enlist(&mut self, state: &ConnState) -> bool {
        let now = matches!(self.way, Way::Still) && !self.is_empty();
        if now {
            self.way = Way::Listed;
            state.waits_to_send(true);
        }
        now
    }

    /// The worker's sends have come to this one: the task is woken where it has to go on.
    pub(super) fn send_listed(&mut self, socket: &Socket, last: bool, state: &ConnState, common: &Common) {
        if !matches!(self.way, Way::Listed) {
            return;
        }
        self.way = Way::Still;
        match self.send_at_once(socket, last, state, common) {
            Ok(true) if !self.awaited => {}
            Ok(true) => state.wake(),
            Ok(false) => {
                self.way = Way::Blocked;
                state.wake();
            }
            Err(error) => {
                self.way = Way::Failed(error);
                state.wake();
            }
        }
    }

    /// Sends what the client takes now. True where that is all.
    fn send_at_once(
        &mut self,
        socket: &Socket,
        last: bool,
        state: &ConnState,
        common: &Common,
    ) -> io::Result<bool> {
        while !self.is_empty() {
            let pieces = [IoSlice::new(&self.bytes), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
            let pieces =
                if self.chunk.is_empty() && self.tail.is_empty() { &pieces[..1] } else { &pieces[..] };
            match socket.send(pieces, last) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.sent(len, state),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.wants_room();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.all_sent(state, common);
        Ok(true)
    }

    fn sent(&mut self, len: usize, state: &ConnState) {
        state.sent(len);
        state.judge_download();
        let from_bytes = len.min(self.bytes.len());
        self.bytes.advance(from_bytes);
        let from_chunk = (len - from_bytes).min(self.chunk.len());
        self.chunk.advance(from_chunk);
        self.tail = &self.tail[len - from_bytes - from_chunk..];
    }

    fn all_sent(&mut self, state: &ConnState, common: &Common) {
        common.buffers.give(std::mem::take(&mut self.bytes));
        self.chunk = Bytes::new();
        state.waits_to_send(false);
    }

    /// Writes on where the client had no room. Ready when nothing waits for it.
    pub(super) fn poll_blocked(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        state: &ConnState,
        common: &Common,
    ) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Still | Way::Listed => return Poll::Ready(Ok(())),
            Way::Failed(error) => {
                let error = std::mem::replace(error, io::ErrorKind::BrokenPipe.into());
                return Poll::Ready(Err(error));
            }
            Way::Blocked => {}
        }
        while !self.is_empty() {
            let pieces = [IoSlice::new(&self.bytes), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
            match socket.poll_write_pieces(cx, &pieces) {
                Poll::Pending => {
                    state.wants_room();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => self.sent(len, state),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        self.way = Way::Still;
        self.all_sent(state, common);
        Poll::Ready(Ok(()))
    }

    /// Sends everything: at once what does not stand on the list.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        last: bool,
        state: &ConnState,
        common: &Common,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.way {
                Way::Listed => {
                    self.awaited = true;
                    return Poll::Pending;
                }
                Way::Still if self.is_empty() => {
                    self.awaited = false;
                    return Poll::Ready(Ok(()));
                }
                Way::Still => {
                    state.waits_to_send(true);
                    if !self.send_at_once(socket, last, state, common)? {
                        self.way = Way::Blocked;
                    }
                }
                Way::Blocked | Way::Failed(_) => ready!(self.poll_blocked(cx, socket, state, common))?,
            }
        }
    }

    /// The task waits until all is sent, for something else than the client.
    pub(super) fn await_sent(&mut self) {
        self.awaited = true;
    }
}
