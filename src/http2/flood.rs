//! What a client may make us do for nothing, in each ten seconds: a connection that asks for more ends. No I/O.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);
/// Control frames, and DATA that carries nothing.
const CONTROL: u64 = 1000;
/// One more control frame for each KiB that we sent, two for each frame, and one for each frame of a message: window updates
/// answer our data, for the stream and for the connection, and bandwidth probes of gRPC accompany it.
const BYTES_EACH: u64 = 1024;
const FRAME: u64 = 2 * BYTES_EACH;
/// Streams that were taken back before they had an answer, or that we had to reset.
const RESETS: u64 = 200;

/// The account of one connection.
#[derive(Debug)]
pub(super) struct Flood {
    since: Instant,
    control: u64,
    earned: u64,
    /// What was earned in the window before: what it is for may have been on its way.
    before: u64,
    resets: u64,
    answers: u64,
}

/// It is too much.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, control: 0, earned: 0, before: 0, resets: 0, answers: 0 }
    }

    /// Begins a new window where the old one is over.
    pub(super) fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self { before: self.earned, ..Self::new(now) };
        }
    }

    /// A frame of so many bytes went the other way.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earned += FRAME + bytes as u64;
    }

    /// A stream has an answer: its client may give up another one.
    pub(super) fn answered(&mut self) {
        self.answers += 1;
    }

    /// A frame that carries part of a request.
    pub(super) fn request(&mut self) {
        self.earned += BYTES_EACH;
    }

    /// A frame that carries none.
    pub(super) fn control(&mut self) -> Result<(), TooMuch> {
        self.control += 1;
        if self.control > CONTROL + (self.before + self.earned) / BYTES_EACH { Err(TooMuch) } else { Ok(()) }
    }

    /// A stream whose work was for nothing.
    pub(super) fn reset(&mut self) -> Result<(), TooMuch> {
        self.resets += 1;
        if self.resets > RESETS + self.answers { Err(TooMuch) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a thing are let through.
    fn allowed(flood: &mut Flood, mut thing: impl FnMut(&mut Flood) -> Result<(), TooMuch>) -> usize {
        (0..10_000).take_while(|_| thing(flood).is_ok()).count()
    }

    #[test]
    fn so_much_is_free_and_the_rest_has_to_be_earned() {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        assert_eq!(allowed(&mut flood, Flood::control), 1000);
        assert_eq!(allowed(&mut flood, Flood::reset), 200);
        let mut flood = Flood::new(now);
        flood.sent(8 * 1024);
        flood.request();
        flood.answered();
        assert_eq!(allowed(&mut flood, Flood::control), 1011);
        assert_eq!(allowed(&mut flood, Flood::reset), 201);
    }

    #[test]
    fn what_answers_the_last_of_ten_seconds_may_come_in_the_next() {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        flood.sent(4 << 20);
        flood.tick(now + WINDOW);
        assert_eq!(allowed(&mut flood, Flood::control), 1000 + 4096 + 2);
        flood.tick(now + 2 * WINDOW);
        assert_eq!(allowed(&mut flood, Flood::control), 1000);
    }

    #[test]
    fn ten_seconds_later_all_is_forgotten() {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        allowed(&mut flood, Flood::control);
        flood.tick(now + WINDOW / 2);
        assert_eq!(flood.control(), Err(TooMuch));
        flood.tick(now + WINDOW);
        assert_eq!(allowed(&mut flood, Flood::control), 1000);
    }
}
