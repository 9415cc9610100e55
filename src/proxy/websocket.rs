//! Where the frames of a WebSocket begin and end, so that a gateway may put in a last one of its own.
//!
//! Nothing is looked at but the heads of frames (RFC 6455, 5.2), and nothing is held back.

/// One direction's frames as they go by.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; 10],
    have: usize,
    /// Bytes of the frame that are yet to come: its mask and its payload.
    rest: u64,
    closed: bool,
}

/// The opcode of a close frame, with FIN.
const CLOSE: u8 = 0x88;
/// Going away.
const CODE: [u8; 2] = 1001_u16.to_be_bytes();

impl Frames {
    /// These bytes have gone by.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
                self.rest -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some(rest) = self.after_head() {
                self.closed |= self.head[0] & 0x0f == CLOSE & 0x0f;
                (self.have, self.rest) = (0, rest);
            }
        }
    }

    /// What follows a head that is whole.
    fn after_head(&self) -> Option<u64> {
        let [_, second, long @ ..] = &self.head;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let length = match (self.have, second & 0x7f) {
            (2, short @ 0..=125) => u64::from(short),
            (4, 126) => u64::from(u16::from_be_bytes([long[0], long[1]])),
            (10, 127) => u64::from_be_bytes(*long),
            _ => return None,
        };
        Some(length.saturating_add(mask))
    }

    /// Whether another frame may begin here.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0 && self.rest == 0
    }

    /// Whether a close frame has gone by: nothing may follow it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

/// A close frame that says that we go away: what a client sends is masked.
pub(super) fn going_away(mask: Option<[u8; 4]>) -> Vec<u8> {
    match mask {
        None => vec![CLOSE, 2, CODE[0], CODE[1]],
        Some(mask) => {
            let mut frame = vec![CLOSE, 0x82];
            frame.extend(mask);
            frame.extend([CODE[0] ^ mask[0], CODE[1] ^ mask[1]]);
            frame
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![opcode];
        match length {
            0..=125 => frame.push(length as u8 | bit),
            126..=65535 => {
                frame.push(0x7e | bit);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x7f | bit);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0x88);
        frame
    }

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        for masked in [false, true] {
            let mut all = Vec::new();
            let mut ends = vec![0];
            for length in [0, 1, 125, 126, 300, 65_535, 65_536] {
                all.extend(frame(0x82, length, masked));
                ends.push(all.len());
            }
            for cut in
                (0..all.len()).filter(|cut| cut % 97 == 0 || ends.iter().any(|e| cut.abs_diff(*e) < 12))
            {
                let mut frames = Frames::default();
                frames.advance(&all[..cut]);
                assert_eq!(frames.at_boundary(), ends.contains(&cut), "{cut}");
                frames.advance(&all[cut..]);
                assert!(frames.at_boundary() && !frames.is_closed(), "payload is not looked into");
            }
        }
    }

    #[test]
    fn a_close_frame_is_noticed_and_ours_are_frames() {
        for mask in [None, Some([1, 2, 3, 250])] {
            let mut frames = Frames::default();
            frames.advance(&going_away(mask));
            assert!(frames.at_boundary() && frames.is_closed());
        }
    }

    #[test]
    fn a_hostile_length_is_only_a_long_wait() {
        let mut frames = Frames::default();
        frames.advance(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3]);
        assert!(!frames.at_boundary());
    }
}
