//! The rules of a connection (RFC 9113): frames in, effects out. No I/O.
//!
//! Whatever comes is either followed, or ends one stream, or ends all of them. Replies are written straight to what is
//! sent; requests are handed up, and whoever waits for a stream is woken.

mod answers;
mod control;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use http::HeaderMap;

use super::flood::{Flood, TooMuch};
use super::head::{Fields, RequestHead};
use super::stream::{self, Stream};
use crate::http2::frame::{
    self, FIRST_WINDOW, HEAD, Head, MAX_PAYLOAD, MAX_WINDOW, Reason, flag, kind, setting, weight,
};
use crate::http2::hpack::Decoder;

/// Streams of one client connection.
const MAX_STREAMS: usize = 256;
/// Bytes of all requests' bodies that may be here before they are read.
const WINDOW: u32 = 1024 * 1024;
/// A dynamic table of the client's.
const TABLE: usize = 4096;
/// Beyond our own limit of a head, so that what is over that gets an answer of ours.
const SPARE: usize = 32 * 1024;
/// Frames that one head may be spread over.
const PIECES: u32 = 64;
/// Streams that we ended and that the client may not have heard of yet.
const REMEMBERED: usize = MAX_STREAMS;
/// What a client is asked with, after the first GOAWAY, whether it has read that.
const FAREWELL: [u8; 8] = *b"farewell";
/// A GOAWAY that only announces the next.
const SOON: u32 = MAX_WINDOW as u32;

/// Why the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fatal(pub(super) Reason, pub(super) &'static str);

impl From<TooMuch> for Fatal {
    fn from(_: TooMuch) -> Self {
        Self(Reason::ENHANCE_YOUR_CALM, "more frames than anybody needs")
    }
}

/// A stream that has begun, or a head that is refused.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) stream: Rc<Stream>,
    pub(super) head: Result<RequestHead, Refusal>,
}

/// Why a head is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed(&'static str),
    TooLarge,
}

/// How a stream's task leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// Both sides have said all; where ours has not, it is reset with this.
    Done(Reason),
    /// It is reset with this whatever was said: what its client sent was no request.
    Broken(Reason),
}

/// How far the connection's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Farewell {
    None,
    /// GOAWAY was announced: streams that are on their way still count.
    Announced,
    /// It was said up to the last stream.
    Said,
}

/// A head whose last frame is yet to come.
#[derive(Debug)]
struct Block {
    head: Head,
    bytes: BytesMut,
    pieces: u32,
}

/// What a head on a stream is.
enum Purpose {
    Request,
    Trailers(Rc<Stream>),
    /// There are streams enough.
    Refused,
    /// The stream is over, and only the table has to be kept in step.
    Ignored,
    /// The client had ended the stream.
    Closed(Rc<Stream>),
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Connection {
    decoder: Decoder,
    max_head: usize,
    /// Those that are open, in order of their numbers.
    streams: Vec<Rc<Stream>>,
    /// The highest number that the client used.
    last: u32,
    ended: VecDeque<u32>,
    block: Option<Block>,
    /// Whether the client's first settings are here.
    settled: bool,
    /// What new streams' clients take at first.
    first_window: i64,
    /// How many bytes the client takes now, over all streams.
    send_window: i64,
    /// How many it may still send.
    recv_window: i64,
    owed: u32,
    /// The client keeps no table, which must be said once.
    tableless: bool,
    /// Who would send if the connection had room.
    parked: VecDeque<Rc<Stream>>,
    flood: Flood,
    farewell: Farewell,
}

impl Connection {
    /// Behind the client's preface; writes ours. Heads of up to `max_head` bytes are answered, if only with a refusal.
    pub(super) fn new(max_head: usize, now: Instant, out: &mut BytesMut) -> Self {
        let max_head = max_head.saturating_add(SPARE);
        let list = u32::try_from(max_head).unwrap_or(u32::MAX);
        frame::settings(
            &[
                (setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS as u32),
                (setting::INITIAL_WINDOW_SIZE, stream::WINDOW),
                (setting::MAX_HEADER_LIST_SIZE, list),
            ],
            out,
        );
        frame::window_update(0, WINDOW - FIRST_WINDOW as u32, out);
        Self {
            decoder: Decoder::new(TABLE),
            max_head,
            streams: Vec::new(),
            last: 0,
            ended: VecDeque::new(),
            block: None,
            settled: false,
            first_window: FIRST_WINDOW,
            send_window: FIRST_WINDOW,
            recv_window: i64::from(WINDOW),
            owed: 0,
            tableless: false,
            parked: VecDeque::new(),
            flood: Flood::new(now),
            farewell: Farewell::None,
        }
    }

    /// Takes the frames off `input` that are whole. `spare` lends maps for heads.
    ///
    /// Where it fails the connection must end; what came before the failure has its effects.
    pub(super) fn feed(
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
            kind::PING => self.ping(head, payload, out),
            kind::PRIORITY => self.priority(head, payload, out),
            kind::GOAWAY if head.stream != 0 => Err(Fatal(Reason::PROTOCOL_ERROR, "a GOAWAY on a stream")),
            kind::GOAWAY if payload.len() < 8 => Err(Fatal(Reason::FRAME_SIZE_ERROR, "a GOAWAY that is cut")),
            kind::GOAWAY => {
                // It will not go on for long, but what the client began, or still begins, is served.
                self.leave(out);
                Ok(())
            }
            kind::CONTINUATION => Err(Fatal(Reason::PROTOCOL_ERROR, "a CONTINUATION of nothing")),
            kind::PUSH_PROMISE => Err(Fatal(Reason::PROTOCOL_ERROR, "a push from a client")),
            // Extensions are to be overlooked.
            _ => Ok(()),
        }
    }

    // Heads.

    fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        spare: &mut impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        self.flood.request();
        if head.stream.is_multiple_of(2) {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a head on a stream that is none of a client's"));
        }
        let malformed = Fatal(Reason::PROTOCOL_ERROR, "a padding longer than its frame");
        let mut block = frame::unpadded(head, payload).ok_or(malformed)?;
        if head.has(flag::PRIORITY) {
            // Behind padding it is not the frame that is too short.
            let padded = head.has(flag::PADDED);
            let cut = Fatal(Reason::FRAME_SIZE_ERROR, "a priority that is cut");
            let cut = if padded { malformed } else { cut };
            let on = frame::number(block).ok_or(cut)? & 0x7fff_ffff;
            block = block.get(5..).ok_or(cut)?;
            if on == head.stream {
                return Err(Fatal(Reason::PROTOCOL_ERROR, "a stream that depends on itself"));
            }
        }
        if head.has(flag::END_HEADERS) {
            return self.block(head, block, out, begun, spare);
        }
        self.block = Some(Block { head, bytes: block.into(), pieces: 1 });
        Ok(())
    }

    fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        spare: &mut impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        if head.stream != block.head.stream {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a CONTINUATION of another stream's head"));
        }
        block.pieces += 1;
        if block.pieces > PIECES || block.bytes.len() + payload.len() > self.max_head + SPARE {
            return Err(Fatal(Reason::ENHANCE_YOUR_CALM, "a head without end"));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(block.head, &block.bytes, out, begun, spare);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A head is whole.
    fn block(
        &mut self,
        head: Head,
        block: &[u8],
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        spare: &mut impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        let (id, ends) = (head.stream, head.has(flag::END_STREAM));
        let purpose = self.purpose(id)?;
        let wanted = matches!(purpose, Purpose::Request | Purpose::Trailers(_));
        let mut fields = Fields::new(if wanted { spare() } else { HeaderMap::new() });
        let limit = if wanted { self.max_head } else { 0 };
        let decoded = self.decoder.decode(block, limit, &mut |field, _| fields.take(field));
        let over = decoded.map_err(|_| Fatal(Reason::COMPRESSION_ERROR, "a head that cannot be decoded"))?;
        match purpose {
            Purpose::Request => {
                let head = match fields.into_request(ends) {
                    _ if over => Err(Refusal::TooLarge),
                    Ok(head) => Ok(head),
                    Err(why) => Err(Refusal::Malformed(why)),
                };
                let length = head.as_ref().ok().and_then(|head| head.length);
                let stream = Rc::new(Stream::new(id, self.first_window, length, ends));
                self.streams.push(Rc::clone(&stream));
                begun.push(Begun { stream, head });
            }
            Purpose::Trailers(stream) => match fields.into_trailers() {
                Ok(trailers) if !over && ends && stream.length.get().is_none_or(|left| left == 0) => {
                    stream.finish(Some(trailers));
                }
                _ => self.break_stream(&stream, Reason::PROTOCOL_ERROR, out)?,
            },
            Purpose::Closed(stream) => self.break_stream(&stream, Reason::STREAM_CLOSED, out)?,
            Purpose::Refused => self.refuse(id, Reason::REFUSED_STREAM, out)?,
            Purpose::Ignored => {}
        }
        Ok(())
    }

    fn purpose(&mut self, id: u32) -> Result<Purpose, Fatal> {
        if let Some(stream) = self.find(id) {
            let stream = Rc::clone(stream);
            return Ok(if stream.ended.get() { Purpose::Closed(stream) } else { Purpose::Trailers(stream) });
        }
        if id <= self.last {
            let closed = Fatal(Reason::STREAM_CLOSED, "a head on a stream that is over");
            return if self.ended.contains(&id) { Ok(Purpose::Ignored) } else { Err(closed) };
        }
        if self.farewell == Farewell::Said {
            // It came after what we said we would serve; the client will ask again elsewhere.
            return Ok(Purpose::Ignored);
        }
        self.last = id;
        Ok(if self.streams.len() >= MAX_STREAMS { Purpose::Refused } else { Purpose::Request })
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
        if payload.is_empty() && !ends {
            self.flood.control()?;
        } else {
            self.flood.request();
        }
        let malformed = Fatal(Reason::PROTOCOL_ERROR, "a padding longer than its frame");
        let data = frame::unpadded(head, payload).ok_or(malformed)?;
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
            return self.break_stream(&stream, Reason::STREAM_CLOSED, out);
        }
        stream.recv_window.set(stream.recv_window.get() - len);
        let short = stream.length.get().map(|left| left.checked_sub(data.len() as u64));
        let broken = match short {
            _ if stream.recv_window.get() < 0 => Some(Reason::FLOW_CONTROL_ERROR),
            // More than the head said, or less.
            Some(None) => Some(Reason::PROTOCOL_ERROR),
            Some(Some(left)) if ends && left > 0 => Some(Reason::PROTOCOL_ERROR),
            _ => None,
        };
        if let Some(reason) = broken {
            self.read(payload.len() as u32, out);
            return self.break_stream(&stream, reason, out);
        }
        stream.length.set(short.flatten());
        let padding = (payload.len() - data.len()) as u32;
        if !data.is_empty() {
            stream.push(data);
        }
        if ends {
            stream.finish(None);
        }
        if padding > 0 {
            self.take(&stream, padding, out);
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
        stream.end(Reason::CANCEL);
        self.remove(&stream);
        if !stream.answered.get() {
            self.flood.reset()?;
        }
        Ok(())
    }

    /// Ends a stream over what its client did on it.
    fn break_stream(&mut self, stream: &Rc<Stream>, reason: Reason, out: &mut BytesMut) -> Result<(), Fatal> {
        stream.end(reason);
        self.remove(stream);
        self.refuse(stream.id, reason, out)
    }

    fn refuse(&mut self, id: u32, reason: Reason, out: &mut BytesMut) -> Result<(), Fatal> {
        frame::reset(id, reason, out);
        self.remember(id);
        Ok(self.flood.reset()?)
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
        self.owed += stream.take_body().len() as u32;
    }
}
