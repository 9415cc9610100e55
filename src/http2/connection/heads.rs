//! Heads: requests that begin streams, answers to ours, and trailers.

use std::rc::Rc;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use super::{Connection, Farewell, Fatal, Side};
use crate::http2::fields::{Fields, RequestHead};
use crate::http2::frame::{self, Head, Reason, flag};
use crate::http2::stream::Stream;

/// Frames that one head may be spread over, and how much larger than its fields may be it may be as it comes.
const PIECES: u32 = 64;
const SPARE: usize = 32 * 1024;

/// A stream that has begun, or a head that is refused.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) stream: Rc<Stream>,
    pub(crate) head: Result<RequestHead, Refusal>,
}

/// Why a head is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed(&'static str),
    TooLarge,
}

/// A head whose last frame is yet to come.
#[derive(Debug)]
pub(super) struct Block {
    head: Head,
    bytes: BytesMut,
    pieces: u32,
}

/// What a head on a stream is.
enum Purpose {
    Request,
    Answer(Rc<Stream>),
    Trailers(Rc<Stream>),
    /// There are streams enough.
    Refused,
    /// The stream is over, and only the table has to be kept in step.
    Ignored,
    /// The other side had ended the stream.
    Closed(Rc<Stream>),
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut BytesMut,
        begun: &mut Vec<Begun>,
        spare: &mut impl FnMut() -> HeaderMap,
    ) -> Result<(), Fatal> {
        self.flood.request();
        if head.stream.is_multiple_of(2) {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a head on a stream that a client cannot have begun"));
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

    pub(super) fn continuation(
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
        if block.pieces > PIECES || block.bytes.len() + payload.len() > self.bounds.head + SPARE {
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
        let wanted = matches!(purpose, Purpose::Request | Purpose::Answer(_) | Purpose::Trailers(_));
        let mut fields = Fields::new(if wanted { spare() } else { HeaderMap::new() });
        let limit = if wanted { self.bounds.head } else { 0 };
        let decoded = self.decoder.decode(block, limit, &mut |field, _| fields.take(field));
        let over = decoded.map_err(|_| Fatal(Reason::COMPRESSION_ERROR, "a head that cannot be decoded"))?;
        match purpose {
            Purpose::Request => {
                let head = match fields.into_request(ends) {
                    _ if over => Err(Refusal::TooLarge),
                    Ok(head) => Ok(head),
                    Err(why) => Err(Refusal::Malformed(why)),
                };
                let stream = Rc::new(Stream::new(id, self.first_window, self.bounds.stream_window));
                stream.length.set(head.as_ref().ok().and_then(|head| head.length));
                stream.ended.set(ends);
                self.streams.push(Rc::clone(&stream));
                begun.push(Begun { stream, head });
            }
            Purpose::Answer(stream) => return self.answer(&stream, fields, (over, ends), out),
            Purpose::Trailers(stream) => match fields.into_trailers() {
                Ok(trailers) if !over && ends && stream.length.get().is_none_or(|left| left == 0) => {
                    stream.finish(Some(trailers));
                }
                _ => self.break_stream(&stream, Reason::PROTOCOL_ERROR, "trailers that are none", out)?,
            },
            Purpose::Closed(stream) => {
                self.break_stream(&stream, Reason::STREAM_CLOSED, "a head behind the end", out)?;
            }
            Purpose::Refused => self.refuse(id, Reason::REFUSED_STREAM, out)?,
            Purpose::Ignored => {}
        }
        Ok(())
    }

    /// The head of an answer, or of an interim one.
    fn answer(
        &mut self,
        stream: &Rc<Stream>,
        fields: Fields,
        (over, ends): (bool, bool),
        out: &mut BytesMut,
    ) -> Result<(), Fatal> {
        let broken = |why| Err((Reason::PROTOCOL_ERROR, why));
        let made = match fields.into_answer() {
            _ if over => broken("a head that is too large"),
            Ok((head, _)) if head.status().is_informational() => {
                if ends || head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    broken("an interim answer that is none")
                } else {
                    stream.interim.set(stream.interim.get() + 1);
                    stream.wake_reader();
                    return Ok(());
                }
            }
            Ok((head, length)) => {
                let empty = matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                let length = length.filter(|_| !stream.bodiless.get() && !empty);
                if ends && length.is_some_and(|length| length > 0) {
                    broken("a Content-Length without a body")
                } else {
                    Ok((head, length))
                }
            }
            Err(why) => broken(why),
        };
        match made {
            Ok((head, length)) => {
                stream.length.set(length);
                stream.ended.set(ends);
                stream.begin(head);
                Ok(())
            }
            Err((reason, why)) => self.break_stream(stream, reason, why, out),
        }
    }

    fn purpose(&mut self, id: u32) -> Result<Purpose, Fatal> {
        if let Some(stream) = self.find(id) {
            let stream = Rc::clone(stream);
            return Ok(match self.side {
                _ if stream.ended.get() => Purpose::Closed(stream),
                Side::Client if !stream.answered.get() => Purpose::Answer(stream),
                _ => Purpose::Trailers(stream),
            });
        }
        if self.side == Side::Client {
            let idle = Fatal(Reason::PROTOCOL_ERROR, "a head on a stream that has not begun");
            return if self.is_idle(id) { Err(idle) } else { Ok(Purpose::Ignored) };
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
        Ok(if self.streams.len() >= self.bounds.streams { Purpose::Refused } else { Purpose::Request })
    }
}
