//! Whether a server still says anything. No I/O, and told the time.
//!
//! The client library counts a pause of this very process (a machine that was busy, a container that was frozen) as the
//! server's silence, and would connect anew, and list everything anew, for nothing. Here a moment counts only while we were
//! there to listen, and never for more than the time between two looks.

use std::time::{Duration, Instant};

/// How often it is to be looked at.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Lives,
    /// Ask whether it is there.
    Ask,
    /// It is not.
    Silent,
}

/// The silence of one server.
#[derive(Debug)]
pub(super) struct Pulse {
    /// So much of it is too much.
    limit: Duration,
    /// So much of it there was since it last said something, while we listened.
    quiet: Duration,
    looked: Instant,
    asked: bool,
}

impl Pulse {
    /// Of a server that has this long to say something.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, quiet: Duration::ZERO, looked: now, asked: false }
    }

    /// It may not be silent for more than two fifths of what it granted a session.
    pub(super) fn granted(&mut self, session: Duration) {
        if !session.is_zero() {
            self.limit = self.limit.min(session * 2 / 5);
        }
    }

    /// It has said something.
    pub(super) fn heard(&mut self) {
        (self.quiet, self.asked) = (Duration::ZERO, false);
    }

    /// A look, after which the socket is read if we are `listening`.
    pub(super) fn look(&mut self, listening: bool, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.looked).min(LOOK);
        self.looked = now;
        if listening {
            self.quiet += passed;
        }
        if self.quiet >= self.limit {
            Verdict::Silent
        } else if !self.asked && self.quiet >= self.limit * 3 / 8 {
            self.asked = true;
            Verdict::Ask
        } else {
            Verdict::Lives
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(800);

    /// What is to be done at looks of so many ms after the start.
    fn looks(pulse: &mut Pulse, start: Instant, at: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
        at.into_iter().map(|ms| pulse.look(true, start + Duration::from_millis(ms))).collect()
    }

    #[test]
    fn who_says_nothing_is_asked_once_and_given_up_at_the_limit() {
        use Verdict::{Ask, Lives, Silent};
        let start = Instant::now();
        let mut pulse = Pulse::new(LIMIT, start);
        let all = looks(&mut pulse, start, (100..=800).step_by(100));
        assert_eq!(all, [Lives, Lives, Ask, Lives, Lives, Lives, Lives, Silent]);
        let mut pulse = Pulse::new(LIMIT, start);
        assert_eq!(looks(&mut pulse, start, [100, 200, 300]), [Lives, Lives, Ask]);
        pulse.heard();
        assert_eq!(looks(&mut pulse, start, [400, 500, 600, 700]), [Lives, Lives, Ask, Lives]);
    }

    #[test]
    fn a_pause_of_our_own_is_not_the_servers() {
        let start = Instant::now();
        let mut pulse = Pulse::new(LIMIT, start);
        // A minute in a freezer, and then as many looks as were missed, at once.
        assert_eq!(looks(&mut pulse, start, [200, 60_000]), [Verdict::Lives; 2]);
        assert_eq!(looks(&mut pulse, start, [60_000; 20]), [Verdict::Lives; 20]);
        // While nothing is read, for want of room, nothing could be heard.
        for look in 1..20 {
            assert_eq!(pulse.look(false, start + LOOK * (600 + look)), Verdict::Lives);
        }
    }

    #[test]
    fn a_short_session_makes_it_strict() {
        let start = Instant::now();
        let mut pulse = Pulse::new(LIMIT, start);
        // Nothing is granted by who says that the session is over.
        for session in [0, 10, 1] {
            pulse.granted(Duration::from_secs(session));
        }
        assert_eq!(looks(&mut pulse, start, [100, 200, 300]).last(), Some(&Verdict::Lives));
        assert_eq!(looks(&mut pulse, start, [400]), [Verdict::Silent]);
    }
}
