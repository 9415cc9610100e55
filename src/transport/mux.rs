//! An HTTP/2 connection between its rules and a socket: what is on its way in and out, and the room for it.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Common;
use super::buffers::Buffers;
use super::outbox::{Outbox, Outlet};
use crate::http2::connection::{Begun, Close, Connection, Fatal};
use crate::http2::stream::Stream;

/// With so much to send no head and no data are written behind it.
const ROOM: usize = 48 * 1024;
/// With so much nothing is read, either: it is answers to what was read. Below that reading goes on, as the other side may
/// take nothing before it has got rid of what it sends.
const FULL: usize = 4 * ROOM;
/// Reads in a row, before others have their turn.
pub(crate) const READS: usize = 8;

/// A connection without its socket. Whoever has that feeds and empties it.
#[derive(Debug)]
pub(crate) struct Mux {
    pub(crate) connection: Connection,
    pub(crate) input: BytesMut,
    /// `input` is one of the worker's buffers.
    borrowed: bool,
    pub(crate) out: Outbox,
}

impl Mux {
    /// A connection that begins with `input`, and with what `connection` writes at first, behind `preface`.
    pub(crate) fn new(
        input: BytesMut,
        preface: &[u8],
        common: &Common,
        connection: impl FnOnce(&mut BytesMut) -> Connection,
    ) -> Self {
        let mut out = Outbox::default();
        let first = out.buffer(&common.buffers);
        first.extend_from_slice(preface);
        let connection = connection(first);
        Self { connection, borrowed: input.capacity() > 0, input, out }
    }

    /// Follows what has come; `begun` gets the streams that a client begins.
    pub(crate) fn feed(
        &mut self,
        now: Instant,
        common: &Common,
        begun: &mut Vec<Begun>,
    ) -> Result<(), Fatal> {
        if self.input.is_empty() {
            return Ok(());
        }
        let out = self.out.buffer(&common.buffers);
        let fed = self.connection.feed(&mut self.input, now, out, begun, || common.maps.take());
        self.release_input(common);
        self.emptied();
        fed
    }

    /// Where control frames are written to.
    pub(crate) fn buffer(&mut self, common: &Common) -> (&mut Connection, &mut BytesMut) {
        (&mut self.connection, self.out.buffer(&common.buffers))
    }

    /// Whether more may be written before what there is has been sent.
    fn has_room(&self) -> bool {
        self.out.len() < ROOM
    }

    /// Whether more may be read before what there is has been sent. Where it must not, the task is woken when it is.
    pub(crate) fn may_read(&mut self) -> bool {
        let may = self.out.len() < FULL;
        if !may {
            self.out.await_sent();
        }
        may
    }

    /// There may be room, or window: whoever waits for that goes on.
    pub(crate) fn emptied(&self) {
        if self.has_room() {
            self.connection.wake_parked();
        }
    }

    /// Writes a head, or trailers, once there is room. Ready also where the stream is over.
    pub(crate) fn poll_head(
        &mut self,
        cx: &Context<'_>,
        common: &Common,
        stream: &Rc<Stream>,
        ends: bool,
        fields: impl FnOnce(&mut BytesMut),
    ) -> Poll<()> {
        if stream.over().is_some() {
            return Poll::Ready(());
        }
        if !self.has_room() {
            self.park(cx, stream, false);
            return Poll::Pending;
        }
        self.connection.unpark(stream);
        self.connection.head(stream, ends, self.out.buffer(&common.buffers), fields);
        Poll::Ready(())
    }

    /// Writes data as far as there is window and room for it. Ready when all of it is written, or the stream is over.
    /// `ends`: nothing follows.
    pub(crate) fn poll_data(
        &mut self,
        cx: &Context<'_>,
        common: &Common,
        stream: &Rc<Stream>,
        data: &mut Bytes,
        ends: bool,
    ) -> Poll<()> {
        loop {
            if stream.over().is_some() {
                return Poll::Ready(());
            }
            if !self.has_room() {
                self.park(cx, stream, !data.is_empty());
                return Poll::Pending;
            }
            let out = self.out.buffer_for(data.len(), &common.buffers);
            let written = self.connection.send_data(stream, data, ends, out);
            if written == 0 && !data.is_empty() {
                if stream.send_window.get() > 0 {
                    self.park(cx, stream, true);
                } else {
                    // It is woken when its own window opens.
                    self.connection.unpark(stream);
                    stream.park(cx);
                    self.connection.wake_parked();
                }
                return Poll::Pending;
            }
            data.advance(written);
            if stream.parked.get() {
                // The next has its turn, and this one goes behind everybody.
                self.connection.unpark(stream);
                self.connection.wake_parked();
            }
            if data.is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn park(&mut self, cx: &Context<'_>, stream: &Rc<Stream>, weighs: bool) {
        stream.park(cx);
        self.connection.park(stream, weighs);
    }

    /// These bytes of a stream's body were read.
    pub(crate) fn took(&mut self, common: &Common, stream: &Stream, bytes: usize) {
        self.connection.take(stream, bytes as u32, self.out.buffer(&common.buffers));
    }

    /// Nobody reads the rest of a stream's body.
    pub(crate) fn abandon(&mut self, common: &Common, stream: &Stream) {
        if stream.over().is_none() {
            self.connection.abandon(stream, self.out.buffer(&common.buffers));
        }
    }

    /// We are done with a stream.
    pub(crate) fn close(&mut self, common: &Common, stream: &Rc<Stream>, close: Close) {
        self.connection.close(stream, close, self.out.buffer(&common.buffers));
        self.emptied();
    }

    /// Reads what `fill` has into the input, which is borrowed for that where it is empty.
    pub(crate) fn poll_fill(
        &mut self,
        fill: impl FnOnce(&mut BytesMut) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let empty = self.input.is_empty();
        let polled = fill(&mut self.input);
        if let Poll::Ready(Ok(1..)) = polled {
            self.borrowed |= empty;
        }
        polled
    }

    /// Whether it is to be put on the list of sends. Nothing is borrowed for what was not written.
    pub(crate) fn enlist(&mut self, common: &Common) -> bool {
        self.out.release(&common.buffers);
        self.out.enlist()
    }

    /// Sends what stands on the list of sends. True where the connection's task has to go on.
    pub(crate) fn send_listed(&mut self, outlet: &mut impl Outlet, common: &Common) -> bool {
        let wake = self.out.send_listed(outlet, &common.buffers);
        self.emptied();
        wake
    }

    /// Gives the buffer back where nothing is in it.
    pub(crate) fn release_input(&mut self, common: &Common) {
        if self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            if std::mem::take(&mut self.borrowed) {
                common.buffers.give(input);
            }
        }
    }

    /// A frame that is cut waits in a buffer of its size.
    pub(crate) fn compact(&mut self, common: &Common) {
        if std::mem::take(&mut self.borrowed) {
            let small = BytesMut::from(&self.input[..]);
            common.buffers.give(std::mem::replace(&mut self.input, small));
        }
    }
}

/// Reads what is there behind what `buffer` has, by one of the worker's buffers; where that is empty they change places.
/// Nothing is borrowed to wait.
pub(crate) fn fill(
    mut stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    spare: &Buffers,
) -> Poll<io::Result<usize>> {
    ready!(stream.poll_read_ready(cx))?;
    let mut room = spare.take();
    let read = pin!(stream.read_buf(&mut room)).poll(cx);
    if buffer.is_empty() && !room.is_empty() {
        std::mem::swap(buffer, &mut room);
    } else {
        buffer.extend_from_slice(&room);
    }
    spare.give(room);
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::connection::{Bounds, Side};
    use crate::http2::frame;
    use crate::transport::TransportOptions;

    #[test]
    fn who_has_nothing_to_say_borrows_no_buffer() {
        let common = Common::new(TransportOptions::default());
        let bounds = Bounds { streams: 0, stream_window: 1 << 16, window: 1 << 20, head: 1 << 16 };
        let mut mux = Mux::new(BytesMut::new(), b"", &common, |out| {
            Connection::new(Side::Client, bounds, common.now.get(), out)
        });
        mux.out.clear(&common.buffers);
        let spare = common.buffers.take_small();
        let storage = spare.as_ptr();
        common.buffers.give_small(spare);
        let stream = mux.connection.open(true, false, &mut BytesMut::new(), |_| {});
        frame::settings(&[], &mut mux.input);
        mux.feed(common.now.get(), &common, &mut Vec::new()).unwrap();
        mux.out.clear(&common.buffers);
        frame::window_update(1, 1, &mut mux.input);
        mux.feed(common.now.get(), &common, &mut Vec::new()).unwrap();
        mux.took(&common, &stream, 0);
        assert!(!mux.enlist(&common), "an update asks for no answer");
        assert_eq!(common.buffers.take_small().as_ptr(), storage);
    }
}
