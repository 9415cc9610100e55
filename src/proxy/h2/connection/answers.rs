//! The rules of a connection for what goes to the client: answers within the windows, and who is next.

use std::rc::Rc;

use bytes::BytesMut;

use super::super::stream::Stream;
use super::{Close, Connection, FAREWELL, Farewell, SOON, WINDOW};
use crate::http2::frame::{self, MAX_WEIGHT, Reason, flag, kind, weight};
use crate::http2::hpack;

impl Connection {
    /// Writes an answer's head, or trailers.
    pub(in super::super) fn head(
        &mut self,
        stream: &Rc<Stream>,
        ends: bool,
        out: &mut BytesMut,
        fields: impl FnOnce(&mut BytesMut),
    ) {
        let tableless = std::mem::take(&mut self.tableless);
        let before = out.len();
        frame::headers(stream.id, ends, out, |out| {
            if tableless {
                hpack::no_table(out);
            }
            fields(out);
        });
        self.flood.sent(out.len() - before);
        self.sent(stream, ends);
    }

    /// Writes as much of `data` as the windows allow into one frame, and says how much that is. `ends`: nothing follows
    /// the whole of it.
    pub(in super::super) fn answer_data(
        &mut self,
        stream: &Rc<Stream>,
        data: &[u8],
        ends: bool,
        out: &mut BytesMut,
    ) -> usize {
        let room = self.send_window.min(stream.send_window.get()).clamp(0, MAX_WEIGHT);
        let len = data.len().min(room as usize);
        if len == 0 && !data.is_empty() {
            return 0;
        }
        let ends = ends && len == data.len();
        let end = if ends { flag::END_STREAM } else { 0 };
        out.extend_from_slice(&frame::head(len, kind::DATA, end, stream.id));
        out.extend_from_slice(&data[..len]);
        self.send_window -= weight(len);
        stream.send_window.set(stream.send_window.get() - weight(len));
        self.flood.sent(len);
        self.sent(stream, ends);
        len
    }

    fn sent(&mut self, stream: &Stream, ends: bool) {
        if ends && !stream.answered.replace(true) {
            self.flood.answered();
        }
    }

    /// The stream's task is done with it.
    pub(in super::super) fn close(&mut self, stream: &Rc<Stream>, close: Close, out: &mut BytesMut) {
        let reset = match close {
            Close::Broken(reason) => Some(reason),
            _ if stream.answered.get() && stream.ended.get() => None,
            // The answer is whole, and no more of the request is wanted.
            _ if stream.answered.get() => Some(Reason::NO_ERROR),
            Close::Done(reason) => Some(reason),
        };
        if let (Some(reason), None) = (reset, stream.over()) {
            frame::reset(stream.id, reason, out);
            self.remember(stream.id);
        }
        // Whatever is left of its body finds it over.
        stream.end(Reason::CANCEL);
        self.remove(stream);
        self.settle(out);
    }

    /// Bytes of a stream's body were read.
    pub(in super::super) fn take(&mut self, stream: &Stream, bytes: u32, out: &mut BytesMut) {
        if let Some(by) = stream.read(bytes) {
            frame::window_update(stream.id, by, out);
        }
        self.read(bytes, out);
    }

    pub(super) fn read(&mut self, bytes: u32, out: &mut BytesMut) {
        self.owed += bytes;
        self.settle(out);
    }

    /// Opens the connection's window by what was read, once it is worth a frame.
    fn settle(&mut self, out: &mut BytesMut) {
        if self.owed >= WINDOW / 2 {
            frame::window_update(0, self.owed, out);
            self.recv_window += i64::from(self.owed);
            self.owed = 0;
        }
    }

    /// Puts a stream behind all others that wait for the connection's window, or for room.
    pub(in super::super) fn park(&mut self, stream: &Rc<Stream>) {
        if !stream.parked.replace(true) {
            self.parked.push_back(Rc::clone(stream));
        }
    }

    /// It does not wait for that any more.
    pub(in super::super) fn unpark(&mut self, stream: &Rc<Stream>) {
        if stream.parked.replace(false) {
            self.parked.retain(|other| !Rc::ptr_eq(other, stream));
        }
    }

    /// Wakes as many of those who wait as there is window for, the first first. They stay in their places until they
    /// have sent something.
    pub(in super::super) fn wake_parked(&self) {
        let mut window = self.send_window;
        for stream in &self.parked {
            if window <= 0 {
                break;
            }
            stream.wake();
            window -= stream.send_window.get().clamp(0, MAX_WEIGHT);
        }
    }

    /// Tells the client that the connection ends, once.
    pub(in super::super) fn leave(&mut self, out: &mut BytesMut) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Announced;
            frame::goaway(SOON, Reason::NO_ERROR, out);
            frame::ping(FAREWELL, false, out);
        }
    }

    /// Says GOAWAY for good.
    pub(in super::super) fn goaway(&mut self, reason: Reason, out: &mut BytesMut) {
        self.farewell = Farewell::Said;
        frame::goaway(self.last, reason, out);
    }

    /// Whether nothing is under way, and nothing will be.
    pub(in super::super) fn is_over(&self) -> bool {
        self.farewell == Farewell::Said && self.streams.is_empty()
    }

    /// Ends whatever is open: the connection is no more.
    pub(in super::super) fn end_all(&mut self) {
        self.parked.clear();
        for stream in self.streams.drain(..) {
            stream.end(Reason::CANCEL);
        }
    }
}
