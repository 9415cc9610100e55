//! What goes to the other side: heads, data within the windows, and who is next.

use std::rc::Rc;

use bytes::BytesMut;

use super::{Connection, FAREWELL, Farewell, SOON, Side};
use crate::http2::frame::{self, MAX_WEIGHT, Reason, flag, kind, weight};
use crate::http2::hpack;
use crate::http2::stream::{Over, Stream};

/// The highest number of a stream that a client may open.
const LAST: u32 = (1 << 31) - 1;

/// How we leave a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// We are done; where one side has not said all, it is reset with this.
    Done(Reason),
    /// It is reset with this whatever was said: what its client sent was no request.
    Broken(Reason),
}

impl Connection {
    /// How many streams of ours the other side takes at a time: `None` where it never takes another.
    pub(crate) fn room(&self) -> Option<usize> {
        let never = self.farewell == Farewell::Said || self.last >= LAST - 1;
        (!never).then_some(self.max_streams as usize)
    }

    /// Begins a stream of ours with its head. `ends`: nothing follows. `bodiless`: it asks for a head alone.
    pub(crate) fn open(
        &mut self,
        ends: bool,
        bodiless: bool,
        out: &mut BytesMut,
        fields: impl FnOnce(&mut BytesMut),
    ) -> Rc<Stream> {
        let id = if self.last == 0 { 1 } else { self.last + 2 };
        self.last = id;
        let stream = Rc::new(Stream::new(id, self.first_window, self.bounds.stream_window));
        stream.bodiless.set(bodiless);
        self.streams.push(Rc::clone(&stream));
        self.head(&stream, ends, out, fields);
        stream
    }

    /// Writes an answer's head, or trailers.
    pub(crate) fn head(
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
    pub(crate) fn send_data(
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
        if ends && !stream.sent.replace(true) {
            self.flood.answered();
        }
    }

    /// We are done with a stream.
    pub(crate) fn close(&mut self, stream: &Rc<Stream>, close: Close, out: &mut BytesMut) {
        let reset = match close {
            Close::Broken(reason) => Some(reason),
            _ if stream.sent.get() && stream.ended.get() => None,
            // The answer is whole, and no more of the request is wanted.
            _ if stream.sent.get() && self.side == Side::Server => Some(Reason::NO_ERROR),
            Close::Done(reason) => Some(reason),
        };
        if let (Some(reason), None) = (reset, stream.over()) {
            frame::reset(stream.id, reason, out);
            self.remember(stream.id);
        }
        // Whatever is left of its body finds it over.
        stream.end(Over::Ours(reset.unwrap_or(Reason::NO_ERROR)));
        self.remove(stream);
        self.owed += stream.discard();
        self.settle(out);
    }

    /// Nobody reads the rest of a stream's body: what is here of it, and what comes, is taken as read.
    pub(crate) fn abandon(&mut self, stream: &Stream, out: &mut BytesMut) {
        stream.abandoned.set(true);
        let left = stream.take_body().len() as u32;
        self.take(stream, left, out);
    }

    /// Bytes of a stream's body were read.
    pub(crate) fn take(&mut self, stream: &Stream, bytes: u32, out: &mut BytesMut) {
        if let Some(by) = stream.read(bytes).filter(|_| stream.over().is_none()) {
            frame::window_update(stream.id, by, out);
        }
        self.read(bytes, out);
    }

    pub(super) fn read(&mut self, bytes: u32, out: &mut BytesMut) {
        self.owed += bytes;
        self.settle(out);
    }

    /// Opens the connection's window by what was read, once it is worth a frame.
    pub(super) fn settle(&mut self, out: &mut BytesMut) {
        if self.owed >= self.bounds.window / 2 {
            frame::window_update(0, self.owed, out);
            self.recv_window += i64::from(self.owed);
            self.owed = 0;
        }
    }

    /// Puts a stream behind all others that wait for the connection's window, or for room alone where nothing `weighs`.
    pub(crate) fn park(&mut self, stream: &Rc<Stream>, weighs: bool) {
        stream.weighs.set(weighs);
        if !stream.parked.replace(true) {
            self.parked.push_back(Rc::clone(stream));
        }
    }

    /// It does not wait for that any more.
    pub(crate) fn unpark(&mut self, stream: &Rc<Stream>) {
        if stream.parked.replace(false) {
            self.parked.retain(|other| !Rc::ptr_eq(other, stream));
        }
    }

    /// Wakes as many of those who wait as there is window for, the first first. They stay in their places until they
    /// have sent something. Heads need none.
    pub(crate) fn wake_parked(&self) {
        let mut window = self.send_window;
        for stream in &self.parked {
            if !stream.weighs.get() {
                stream.wake();
            } else if window > 0 {
                stream.wake();
                // An upload goes on only while its answer is taken: nobody may have to wait for the one before.
                if self.side == Side::Server {
                    window -= stream.send_window.get().clamp(0, MAX_WEIGHT);
                }
            }
        }
    }

    /// Tells the client that the connection ends, once.
    pub(crate) fn leave(&mut self, out: &mut BytesMut) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Announced;
            frame::goaway(SOON, Reason::NO_ERROR, out);
            frame::ping(FAREWELL, false, out);
        }
    }

    /// Says GOAWAY for good.
    pub(crate) fn goaway(&mut self, reason: Reason, out: &mut BytesMut) {
        self.farewell = Farewell::Said;
        frame::goaway(self.last, reason, out);
    }

    /// Whether nothing is under way, and nothing will be.
    pub(crate) fn is_over(&self) -> bool {
        self.farewell == Farewell::Said && self.streams.is_empty()
    }

    /// How many pings were answered.
    pub(crate) fn pongs(&self) -> u64 {
        self.pongs
    }

    /// Whether the other side's settings are here.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Ends whatever is open: the connection is no more.
    pub(crate) fn end_all(&mut self, over: Over) {
        self.farewell = Farewell::Said;
        self.parked.clear();
        for stream in self.streams.drain(..) {
            stream.end(over);
        }
    }
}
