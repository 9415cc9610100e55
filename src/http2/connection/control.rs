//! Frames that carry no part of a message: settings, windows, pings, and the end.

use bytes::BytesMut;

use super::{Connection, FAREWELL, Farewell, Fatal, Side, TABLE};
use crate::http2::frame::{self, Head, MAX_PAYLOAD, MAX_WINDOW, Reason, flag, setting};
use crate::http2::stream::Over;

const TOO_LARGE: Fatal = Fatal(Reason::FLOW_CONTROL_ERROR, "a window that is too large");

impl Connection {
    pub(super) fn settings(&mut self, head: Head, payload: &[u8], out: &mut BytesMut) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "SETTINGS on a stream"));
        }
        if head.has(flag::ACK) {
            return match payload.len() {
                0 => Ok(()),
                _ => Err(Fatal(Reason::FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS that says more")),
            };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR, "SETTINGS that are cut"));
        }
        let mut window = None;
        for [a, b, c, d, e, f] in settings {
            let value = u32::from_be_bytes([*c, *d, *e, *f]);
            match u16::from_be_bytes([*a, *b]) {
                // We write heads without one; only who keeps less than the usual has to be told.
                setting::HEADER_TABLE_SIZE => self.tableless |= (value as usize) < TABLE,
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Fatal(Reason::PROTOCOL_ERROR, "an ENABLE_PUSH that is neither yes nor no"));
                }
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value,
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => return Err(TOO_LARGE),
                // The last one counts: each would be work for every stream.
                setting::INITIAL_WINDOW_SIZE => window = Some(i64::from(value)),
                // We send no longer frames, whatever the client takes.
                setting::MAX_FRAME_SIZE if !(MAX_PAYLOAD..1 << 24).contains(&(value as usize)) => {
                    return Err(Fatal(Reason::PROTOCOL_ERROR, "a MAX_FRAME_SIZE out of bounds"));
                }
                _ => {}
            }
        }
        if let Some(window) = window {
            self.first_window(window)?;
        }
        frame::settings_ack(out);
        Ok(())
    }

    /// What new streams' clients take at first; what is open moves by the difference.
    fn first_window(&mut self, window: i64) -> Result<(), Fatal> {
        let more = window - self.first_window;
        self.first_window = window;
        for stream in &self.streams {
            let now = stream.send_window.get() + more;
            if now > MAX_WINDOW {
                return Err(TOO_LARGE);
            }
            stream.send_window.set(now);
            if more > 0 && now > 0 {
                stream.wake();
            }
        }
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Fatal> {
        let Some(by) = frame::number(payload).filter(|_| payload.len() == 4) else {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR, "a WINDOW_UPDATE of the wrong size"));
        };
        let by = i64::from(by & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += by;
            return match by {
                0 => Err(Fatal(Reason::PROTOCOL_ERROR, "a WINDOW_UPDATE by nothing")),
                _ if self.send_window > MAX_WINDOW => Err(TOO_LARGE),
                _ => Ok(()),
            };
        }
        if self.is_idle(head.stream) && self.farewell != Farewell::Said {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a WINDOW_UPDATE on a stream that has not begun"));
        }
        let Some(stream) = self.find(head.stream).cloned() else { return Ok(()) };
        let now = stream.send_window.get() + by;
        if by == 0 {
            return self.break_stream(&stream, Reason::PROTOCOL_ERROR, "a WINDOW_UPDATE by nothing", out);
        }
        if now > MAX_WINDOW {
            return self.break_stream(&stream, Reason::FLOW_CONTROL_ERROR, "a window that is too large", out);
        }
        stream.send_window.set(now);
        if now > 0 {
            stream.wake();
        }
        Ok(())
    }

    pub(super) fn pinged(&mut self, head: Head, payload: &[u8], out: &mut BytesMut) -> Result<(), Fatal> {
        if head.stream != 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a PING on a stream"));
        }
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Fatal(Reason::FRAME_SIZE_ERROR, "a PING of the wrong size"));
        };
        if !head.has(flag::ACK) {
            frame::ping(payload, true, out);
        } else if payload == FAREWELL && self.farewell == Farewell::Announced {
            self.farewell = Farewell::Said;
            frame::goaway(self.last, Reason::NO_ERROR, out);
        } else {
            self.pongs += 1;
        }
        Ok(())
    }

    pub(super) fn priority(&mut self, head: Head, payload: &[u8], out: &mut BytesMut) -> Result<(), Fatal> {
        if head.stream == 0 {
            return Err(Fatal(Reason::PROTOCOL_ERROR, "a PRIORITY of no stream"));
        }
        let reason = match frame::number(payload) {
            _ if payload.len() != 5 => Reason::FRAME_SIZE_ERROR,
            Some(on) if on & 0x7fff_ffff == head.stream => Reason::PROTOCOL_ERROR,
            _ => return Ok(()),
        };
        match self.find(head.stream).cloned() {
            Some(stream) => self.break_stream(&stream, reason, "a PRIORITY that says nothing", out),
            None => Err(Fatal(reason, "a PRIORITY that says nothing")),
        }
    }

    /// The other side says GOAWAY.
    pub(super) fn goes_away(&mut self, payload: &[u8], out: &mut BytesMut) {
        if self.side == Side::Server {
            // It will not go on for long, but what the client began, or still begins, is served.
            self.leave(out);
            return;
        }
        self.farewell = Farewell::Said;
        let (Some(last), Some(reason)) = (frame::number(payload), payload.get(4..).and_then(frame::number))
        else {
            return;
        };
        // Of our streams it has not looked at those above the number that it names.
        let above = self.streams.partition_point(|stream| stream.id <= last & 0x7fff_ffff);
        let unprocessed: Vec<_> = self.streams[above..].to_vec();
        for stream in unprocessed {
            stream.end(Over::Unprocessed(Reason(reason)));
            self.remove(&stream);
        }
    }
}
