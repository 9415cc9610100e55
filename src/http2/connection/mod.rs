//! The rules of a connection (RFC 9113): frames in, effects out. No I/O.
//!
//! Whatever comes is either followed, or ends one stream, or ends all of them. Replies are written straight to what is
//! sent; a client's requests are handed up, a server's answers left in their streams, and whoever waits is woken.

mod control;
mod heads;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use http::HeaderMap;

use self::heads::Block;
pub(crate) use self::heads::{Begun, Refusal};
pub(crate) use self::sending::Close;
use super::flood::{Flood, TooMuch};
use super::frame::{
    self, FIRST_WINDOW, HEAD, Head, MAX_PAYLOAD, MAX_WINDOW, Reason, flag, kind, setting, weight,
};
use super::hpack::Decoder;
use super::stream::{Over, Stream};

/// A dynamic table of the other side's.
const TABLE: usize = 4096;
/// Streams that we ended and that the other side may not have heard of yet.
const REMEMBERED: usize = 256;
/// What a client is asked with, after the first GOAWAY, whether it has read that.
const FAREWELL: [u8; 8] = *b"farewell";
/// A GOAWAY that only announces the next.
const SOON: u32 = MAX_WINDOW as u32;

/// Which side of a connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What one side allows the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Streams at a time, where the other side opens them.
    pub(crate) streams: usize,
    /// Bytes of one stream that may be here before they are read, and of all of them.
    pub(crate) stream_window: u32,
    pub(crate) window: u32,
    /// Bytes of a head, by the count of HTTP/2: name, value and 32 for each field.
    pub(crate) head: usize,
}

/// Why the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fatal(pub(crate) Reason, pub(crate) &'static str);

impl From<TooMuch> for Fatal {
    fn from(_: TooMuch) -> Self {
        Self(Reason::ENHANCE_YOUR_CALM, "more frames than anybody needs")
    }
}

/// How far the connection's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Farewell {
    None,
    /// GOAWAY was announced: streams that are on their way still count.
    Announced,
    /// It was said up to the last stream, or by the other side.
    Said,
}

/// One connection's state.
#[derive(Debug)]
pub(crate) struct Connection {
    side: Side,
    bounds: Bounds,
    decoder: Decoder,
    /// Those that are open, in order of their numbers.
    streams: Vec<Rc<Stream>>,
    /// The highest number that was used.
    last: u32,
    ended: VecDeque<u32>,
    block: Option<Block>,
    /// Whether the other side's first settings are here.
    settled: bool,
    /// How many streams it takes at a time.
    max_streams: u32,
    /// What it takes of a new stream at first.
    first_window: i64,
    /// How many bytes it takes now, over all streams.
    send_window: i64,
    /// How many it may still send.
    recv_window: i64,
    owed: u32,
    /// It keeps no table, which must be said once.
    tableless: bool,
    /// Who would send if the connection had room.
    parked: VecDeque<Rc<Stream>>,
    /// Answers to pings of ours.
    pongs: u64,
    flood: Flood,
    farewell: Farewell,
}

impl Connection {
    /// Behind the preface; writes our first frames.
    pub(crate) fn new(side: Side, mut bounds: Bounds, now: Instant, out: &mut BytesMut) -> Self {
        let list = u32::try_from(bounds.head).unwrap_or(u32::MAX);
        let first = match side {
            Side::Server => (setting::MAX_CONCURRENT_STREAMS, bounds.streams as u32),
            Side::Client => (setting::ENABLE_PUSH, 0),
        };
        let settings = [
            first,
            (setting::INITIAL_WINDOW_SIZE, bounds.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, list),
        ];
        frame::settings(&settings, out);
        // It can only be opened from what it is.
        bounds.window = bounds.window.max(FIRST_WINDOW as u32);
        if bounds.window > FIRST_WINDOW as u32 {
            frame::window_update(0, bounds.window - FIRST_WINDOW as u32, out);
        }
        Self {
            side,
            bounds,
            decoder: Decoder::new(TABLE),
            streams: Vec::new(),
            last: 0,
            ended: VecDeque::new(),
            block: None,
            settled: false,
            max_streams: u32::MAX,
            first_window: FIRST_WINDOW,
            send_window: FIRST_WINDOW,
            recv_window: i64::from(bounds.window),
            owed: 0,
            tableless: false,
            parked: VecDeque::new(),
            pongs: 0,
            flood: Flood::new(now),
            farewell: Farewell::None,
        }
    }

    /// Takes the frames off `input` that are whole. `spare` lends maps for heads.
    ///
    /// Where it fails the connection must end; what came before the failure has its effects.
    pub(crate) fn feed(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        mut spare: impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        self.flood.tick(now);
        let mut at = 0;
        let result = loop {
            let rest = &input[at..];
            let Some(head) = Head::parse(rest) else { break Ok(()) };
            if head.len > MAX_PAYLOAD {
                break Err(Fatal(Reason::FRAME_SIZE_ERROR, "a frame that is too long"));
            }
            let Some(payload) = rest.get(HEAD..HEAD + head.len) else { break Ok(()) };
            at += HEAD + head.len;
            if let Err(fatal) = self.frame(head, payload, out, begun, &mut spare) {
                break Err(fatal);
            }
            // Streams that were taken back at once have nobody who closes them.
            self.settle(out);
        };
        input.advance(at);
        result
    }

    fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        spare: &mut impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        if !self.settled {
            if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                return Err(Fatal(Reason::PROTOCOL_ERROR, "the first frame is not SETTINGS"));
            }
            self.settled = true;
        }
        if self.block.is_some() {
            if head.kind != kind::CONTINUATION {
                return Err(Fatal(Reason::PROTOCOL_ERROR, "a frame in the middle of a head"));
            }
            return self.continuation(head, payload, out, begun, spare);
        }
        match head.kind {
            kind::DATA => return self.data(head, payload, out),
            kind::HEADERS => return self.headers(head, payload, out, begun, spare),
            kind::RST_STREAM => return self.reset(head, payload),
            _ => self.flood.control()?,
        }
        match head.kind {
            kind::SETTINGS => self.settings(head, payload, out),
            kind::WINDOW_UPDATE => self.window_update(head, payload, out),
            kind::PING => self.pinged(head, payload, out),
            kind::PRIORITY => self.priority(head, payload, out),
            kind::GOAWAY if head.stream != 0 => Err(Fatal(Reason::PROTOCOL_ERROR, "a GOAWAY on a stream")),
            kind::GOAWAY if payload.len() < 8 => Err(Fatal(Reason::FRAME_SIZE_ERROR, "a GOAWAY that is cut")),
            kind::GOAWAY => {
                self.goes_away(payload, out);
                Ok(())
            }
            kind::CONTINUATION => Err(Fatal(Reason::PROTOCOL_ERROR, "a CONTINUATION of nothing")),
            kind::PUSH_PROMISE => Err(Fatal(Reason::PROTOCOL_ERROR, "a push that nobody allowed")),
            // Extensions are to be overlooked.
            _ => Ok(()),
        }
    }

    // Streams.

    fn find(&self, id: u32) -> Option<&Rc<Stream>> {
        let at = self.streams.binary_search_by_key(&id, |stream| stream.id).ok()?;
        self.streams.get(at)
    }

    fn is_idle(&self, id: u32) -> bool {
        id > self.last || id.is_multiple_of(2)
    }

    fn data(&mut self, head: Head, payload: &[u8], out: &mut BytesMut) -> Result<(), Fatal> {
        if head.stream == 0 || self.is_idle(head.stream) && self.farewell != Farewell::Said {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "DATA on a stream that has not begun"));
        }
        let ends = head.has(flag::END_STREAM);
        let malformed = Fatal(Reason::PROTOCOL_ERROR, "a padding longer than its frame");
        let data = frame::unpadded(head, payload).ok_or(malformed)?;
        if data.is_empty() && !ends {
            self.flood.control()?;
        } else {
            self.flood.request();
        }
        // Padding counts too.
        let len = weight(payload.len());
        self.recv_window -= len;
        if self.recv_window < 0 {
            return Err(Fatal(Reason::FLOW_CONTROL_ERROR, "more DATA than the connection's window"));
        }
        let Some(stream) = self.find(head.stream).cloned() else {
            self.read(payload.len() as u32, out);
            // What is on its way while we end a stream is nobody's fault.
            if self.ended.contains(&head.stream) || self.farewell == Farewell::Said {
                return Ok(());
            }
            return self.refuse(head.stream, Reason::STREAM_CLOSED, out);
        };
        if stream.ended.get() {
            self.read(payload.len() as u32, out);
            return self.break_stream(&stream, Reason::STREAM_CLOSED, "DATA behind the end", out);
        }
        if self.side == Side::Client && !stream.answered.get() {
            self.read(payload.len() as u32, out);
            return self.break_stream(&stream, Reason::PROTOCOL_ERROR, "DATA before the head", out);
        }
        stream.recv_window.set(stream.recv_window.get() - len);
        let short = stream.length.get().map(|left| left.checked_sub(data.len() as u64));
        let broken = match short {
            _ if stream.recv_window.get() < 0 => {
                Some((Reason::FLOW_CONTROL_ERROR, "more DATA than a stream's window"))
            }
            Some(None) => Some((Reason::PROTOCOL_ERROR, "more DATA than the head said")),
            Some(Some(left)) if ends && left > 0 => {
                Some((Reason::PROTOCOL_ERROR, "less DATA than the head said"))
            }
            _ => None,
        };
        if let Some((reason, why)) = broken {
            self.read(payload.len() as u32, out);
            return self.break_stream(&stream, reason, why, out);
        }
        stream.length.set(short.flatten());
        let mut taken = payload.len() - data.len();
        if stream.abandoned.get() {
            taken = payload.len();
        } else if !data.is_empty() {
            stream.push(data);
        }
        if ends {
            stream.finish(None);
        }
        if taken > 0 {
            self.take(&stream, taken as u32, out);
        }
        Ok(())
    }

    fn reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Fatal> {
        if payload.len() != 4 {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR, "a RST_STREAM of the wrong size"));
        }
        if head.stream == 0 || self.is_idle(head.stream) && self.farewell != Farewell::Said {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a RST_STREAM on a stream that has not begun"));
        }
        let Some(stream) = self.find(head.stream).cloned() else { return Ok(self.flood.control()?) };
        let reason = Reason(frame::number(payload).unwrap_or_default());
        let refused = self.side == Side::Client && reason == Reason::REFUSED_STREAM;
        stream.end(if refused { Over::Unprocessed(reason) } else { Over::Reset(reason) });
        self.remove(&stream);
        if !stream.sent.get() {
            self.wasted()?;
        }
        Ok(())
    }

    /// Ends a stream over what the other side did on it.
    fn break_stream(
        &mut self,
        stream: &Rc<Stream>,
        reason: Reason,
        why: &'static str,
        out: &mut BytesMut,
    ) -> Result<(), Fatal> {
        stream.end(Over::Broken(why));
        self.remove(stream);
        self.refuse(stream.id, reason, out)
    }

    fn refuse(&mut self, id: u32, reason: Reason, out: &mut BytesMut) -> Result<(), Fatal> {
        frame::reset(id, reason, out);
        self.remember(id);
        self.wasted()
    }

    /// Work for nothing: a client must not make us do much of that. An instance has what we ask of it.
    fn wasted(&mut self) -> Result<(), Fatal> {
        match self.side {
            Side::Server => Ok(self.flood.reset()?),
            Side::Client => Ok(()),
        }
    }

    fn remember(&mut self, id: u32) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
    }

    /// Takes a stream out, and what of its body nobody has read: the room for that is the connection's.
    fn remove(&mut self, stream: &Rc<Stream>) {
        if let Ok(at) = self.streams.binary_search_by_key(&stream.id, |stream| stream.id) {
            self.streams.remove(at);
        }
        self.unpark(stream);
        // Nobody reads a request that was taken back; an answer that was broken off is good for as far as it goes.
        if self.side == Side::Server {
            self.owed += stream.discard();
        }
    }
}
