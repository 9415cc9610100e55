//! Counts HTTP/2 control frames as they come in, so that a flood of them ends the connection.
//!
//! h2 answers every PING and SETTINGS for ever. Frame headers are nine bytes with a length, so they can be
//! followed without decoding anything.

use std::time::{Duration, Instant};

/// The client's connection preface, which precedes its first frame.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A PING on a stream: h2 answers it with GOAWAY and ends the connection (RFC 9113, 6.7).
pub(super) const POISON: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

const WINDOW: Duration = Duration::from_secs(10);
const ALLOWED: u64 = 1000;
/// One more control frame for each KiB that we sent: window updates answer our data, and bandwidth probes
/// of gRPC clients accompany it.
const BYTES_EACH: u64 = 1024;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct FrameWatch {
    skip: usize,
    head: [u8; 9],
    filled: usize,
    since: Instant,
    control: u64,
    earned: u64,
}

impl FrameWatch {
    /// Before the preface.
    pub(super) fn new(now: Instant) -> Self {
        Self { skip: PREFACE.len(), head: [0; 9], filled: 0, since: now, control: 0, earned: 0 }
    }

    /// Bytes that we sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earned += bytes as u64;
    }

    /// Follows `buf`; `Err` with the offset up to which it may be read where the flood begins: a frame's
    /// start, unless the frame's header came in pieces.
    pub(super) fn advance(&mut self, buf: &[u8], now: Instant) -> Result<(), usize> {
        let mut at = 0;
        while at < buf.len() {
            if self.skip > 0 {
                let step = self.skip.min(buf.len() - at);
                self.skip -= step;
                at += step;
                continue;
            }
            let start = at;
            let step = (9 - self.filled).min(buf.len() - at);
            let whole_here = self.filled == 0 && step == 9;
            self.head[self.filled..self.filled + step].copy_from_slice(&buf[at..at + step]);
            self.filled += step;
            at += step;
            if self.filled < 9 {
                return Ok(());
            }
            self.filled = 0;
            let [a, b, c, kind, ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if self.is_flood(kind, now) {
                return Err(if whole_here { start } else { 0 });
            }
        }
        Ok(())
    }

    fn is_flood(&mut self, kind: u8, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.control, self.earned) = (now, 0, 0);
        }
        match kind {
            // DATA and HEADERS carry requests, which have limits of their own.
            0 | 1 => {
                self.earned += BYTES_EACH;
                false
            }
            // CONTINUATION and RST_STREAM: bounded by h2 itself.
            3 | 9 => false,
            _ => {
                self.control += 1;
                self.control > ALLOWED + self.earned / BYTES_EACH
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut out = vec![0, (payload >> 8) as u8, payload as u8, kind, 0, 0, 0, 0, 0];
        out.resize(9 + payload, 0);
        out
    }

    #[test]
    fn a_flood_of_pings_is_seen_at_the_frame_over_the_limit_however_it_is_cut() {
        let now = Instant::now();
        let bytes: Vec<u8> = PREFACE.iter().copied().chain((0..1001).flat_map(|_| frame(6, 8))).collect();
        assert_eq!(FrameWatch::new(now).advance(&bytes, now), Err(24 + 1000 * 17));
        let mut watch = FrameWatch::new(now);
        assert!(bytes.chunks(7).any(|piece| watch.advance(piece, now).is_err()));
    }

    #[test]
    fn data_and_time_earn_control_frames() {
        let now = Instant::now();
        let mut watch = FrameWatch::new(now);
        watch.advance(PREFACE, now).unwrap();
        for i in 0..5000 {
            watch.advance(&frame(0, 100), now).unwrap();
            watch.advance(&frame(6, 8), now).unwrap_or_else(|_| panic!("{i}"));
        }
        let mut watch = FrameWatch::new(now);
        watch.advance(PREFACE, now).unwrap();
        for second in 0..30 {
            for _ in 0..99 {
                watch.advance(&frame(4, 6), now + Duration::from_secs(second)).unwrap();
            }
        }
    }
}
