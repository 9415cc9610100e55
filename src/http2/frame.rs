//! HTTP/2 frames (RFC 9113, section 4 and 6) as bytes: how one begins, and how those are written that carry no head.
//! No I/O.

use std::fmt;

use bytes::{BufMut, BytesMut};

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;
/// A payload may be no longer than this either way: we never say that ours may, and ask nobody for more.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;
/// The same, as it counts in a window.
pub(crate) const MAX_WEIGHT: i64 = 16 * 1024;
/// No window may grow beyond this.
pub(crate) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Every window before anybody says something else.
pub(crate) const FIRST_WINDOW: i64 = 65_535;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames. `ACK` is that of `SETTINGS` and `PING`, the same bit as `END_STREAM`.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings by their numbers.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) u32);

impl Reason {
    pub(crate) const NO_ERROR: Self = Self(0x0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(0x1);
    pub(crate) const INTERNAL_ERROR: Self = Self(0x2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub(crate) const STREAM_CLOSED: Self = Self(0x5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub(crate) const REFUSED_STREAM: Self = Self(0x7);
    pub(crate) const CANCEL: Self = Self(0x8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(0x9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// The head that `bytes` begin with, where it is whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (len, kind, flags) = (*bytes.first_chunk::<3>()?, *bytes.get(3)?, *bytes.get(4)?);
        // The highest bit says nothing.
        let stream = number(bytes.get(5..)?)? & 0x7fff_ffff;
        Some(Self { len: len.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), kind, flags, stream })
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The bytes of a frame's head.
pub(crate) fn head(len: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[..3].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
    (out[3], out[4]) = (kind, flags);
    out[5..].copy_from_slice(&stream.to_be_bytes());
    out
}

/// Four bytes in network order.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.first_chunk::<4>().copied()?))
}

/// So many bytes, as they count in a window.
pub(crate) fn weight(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Takes off the padding of a DATA or HEADERS payload; `None` where it is longer than the payload.
pub(crate) fn unpadded(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(flag::PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.len().checked_sub(usize::from(*padding)).map(|end| &rest[..end])
}

/// Writes what has four bytes of payload: `RST_STREAM`, `WINDOW_UPDATE`.
fn word(kind: u8, stream: u32, word: u32, out: &mut BytesMut) {
    let mut frame = [0; HEAD + 4];
    frame[..HEAD].copy_from_slice(&head(4, kind, 0, stream));
    frame[HEAD..].copy_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&frame);
}

pub(crate) fn reset(stream: u32, reason: Reason, out: &mut BytesMut) {
    word(kind::RST_STREAM, stream, reason.0, out);
}

pub(crate) fn window_update(stream: u32, by: u32, out: &mut BytesMut) {
    word(kind::WINDOW_UPDATE, stream, by, out);
}

pub(crate) fn settings(settings: &[(u16, u32)], out: &mut BytesMut) {
    out.extend_from_slice(&head(settings.len() * 6, kind::SETTINGS, 0, 0));
    for (id, value) in settings {
        out.put_u16(*id);
        out.put_u32(*value);
    }
}

pub(crate) fn settings_ack(out: &mut BytesMut) {
    out.extend_from_slice(&head(0, kind::SETTINGS, flag::ACK, 0));
}

pub(crate) fn ping(payload: [u8; 8], ack: bool, out: &mut BytesMut) {
    out.extend_from_slice(&head(8, kind::PING, if ack { flag::ACK } else { 0 }, 0));
    out.extend_from_slice(&payload);
}

pub(crate) fn goaway(last: u32, reason: Reason, out: &mut BytesMut) {
    out.extend_from_slice(&head(8, kind::GOAWAY, 0, 0));
    out.put_u32(last);
    out.put_u32(reason.0);
}

/// Writes a head's frames around what `block` writes: one HEADERS, and CONTINUATIONs where that is too long for it.
pub(crate) fn headers(stream: u32, ends: bool, out: &mut BytesMut, block: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    block(out);
    let len = out.len() - start - HEAD;
    let end = if ends { flag::END_STREAM } else { 0 };
    if len <= MAX_PAYLOAD {
        out[start..start + HEAD].copy_from_slice(&head(len, kind::HEADERS, end | flag::END_HEADERS, stream));
        return;
    }
    let block = out.split_off(start + HEAD);
    out.truncate(start);
    let last = len.div_ceil(MAX_PAYLOAD) - 1;
    for (index, piece) in block.chunks(MAX_PAYLOAD).enumerate() {
        let (kind, flags) = if index == 0 { (kind::HEADERS, end) } else { (kind::CONTINUATION, 0) };
        let flags = flags | if index == last { flag::END_HEADERS } else { 0 };
        out.extend_from_slice(&head(piece.len(), kind, flags, stream));
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let bytes = head(0x01_0203, kind::PING, flag::ACK, 0x7fff_fffe);
        let read = Head { len: 0x01_0203, kind: kind::PING, flags: flag::ACK, stream: 0x7fff_fffe };
        assert_eq!(Head::parse(&bytes), Some(read));
        assert_eq!(Head::parse(&bytes[..8]), None);
        let reserved = [0, 0, 0, 0, 0, 0x80, 0, 0, 1];
        assert_eq!(Head::parse(&reserved).unwrap().stream, 1);
    }

    #[test]
    fn padding_is_taken_off_and_may_not_be_longer_than_what_it_pads() {
        let padded = |payload: &'static [u8]| {
            let head = Head { len: payload.len(), kind: 0, flags: flag::PADDED, stream: 1 };
            unpadded(head, payload)
        };
        assert_eq!(padded(&[2, b'a', 0, 0]), Some(&b"a"[..]));
        assert_eq!(padded(&[0]), Some(&b""[..]));
        assert_eq!((padded(&[1]), padded(&[])), (None, None));
    }

    #[test]
    fn a_long_head_goes_on_in_continuations() {
        for len in [0, MAX_PAYLOAD, MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD, 2 * MAX_PAYLOAD + 1] {
            let mut out = BytesMut::from(&b"before"[..]);
            let expected: Vec<u8> = (0..len).map(|i| i as u8).collect();
            headers(7, true, &mut out, |out| out.extend_from_slice(&expected));
            let (mut at, mut block, mut ended) = (6, Vec::new(), false);
            while at < out.len() {
                assert!(!ended);
                let frame = Head::parse(&out[at..]).unwrap();
                assert_eq!(frame.kind, if at == 6 { kind::HEADERS } else { kind::CONTINUATION });
                assert_eq!((frame.stream, frame.has(flag::END_STREAM)), (7, at == 6));
                ended = frame.has(flag::END_HEADERS);
                block.extend_from_slice(&out[at + HEAD..at + HEAD + frame.len]);
                at += HEAD + frame.len;
            }
            assert!(ended && block == expected && out.starts_with(b"before"));
        }
    }
}
