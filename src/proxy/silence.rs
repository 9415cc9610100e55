//! Instances that leave requests waiting: whom to ask, and when.
//!
//! A process that hangs (stopped, or behind a network that drops everything) refuses nothing: without this, each
//! request that meets it would wait for its whole timeout. Slow is not silent, so nobody is judged by waiting alone:
//! who keeps a request for much longer than it uses to, and answers nothing meanwhile, is asked something that any server
//! answers at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The pause before the same instance is asked again: it doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// One that has kept nobody waiting for so long begins anew.
const FORGET: Duration = Duration::from_secs(60);

/// Who was asked, by endpoint.
#[derive(Debug, Default)]
pub(super) struct Suspects(HashMap<u64, Suspect>);

#[derive(Debug)]
struct Suspect {
    seen: Instant,
    next: Instant,
    pause: Duration,
}

impl Suspects {
    /// An endpoint keeps a request waiting: true where it is to be asked now.
    pub(super) fn waits(&mut self, id: u64, now: Instant) -> bool {
        let Some(suspect) = self.0.get_mut(&id) else {
            let suspect = Suspect { seen: now, next: now + FIRST_PAUSE, pause: FIRST_PAUSE };
            self.0.insert(id, suspect);
            return true;
        };
        suspect.seen = now;
        if now < suspect.next {
            return false;
        }
        suspect.pause = (suspect.pause * 2).min(LAST_PAUSE);
        suspect.next = now + suspect.pause;
        true
    }

    /// Forgets who keeps nobody waiting any more.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.0.retain(|_, suspect| now.saturating_duration_since(suspect.seen) < FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_one_is_asked_less_and_less_and_a_new_suspect_at_once() {
        let start = Instant::now();
        let mut suspects = Suspects::default();
        let mut asked = Vec::new();
        for half_second in 0..60 {
            let now = start + Duration::from_millis(500) * half_second;
            if suspects.waits(1, now) {
                asked.push(half_second / 2);
            }
            suspects.tidy(now);
        }
        assert_eq!(asked, [0, 1, 3, 7, 12, 17, 22, 27], "in seconds");
        assert!(suspects.waits(2, start), "another one has nothing to do with it");
        let later = start + Duration::from_secs(30) + FORGET;
        suspects.tidy(later);
        assert_eq!(suspects.0.len(), 0);
        assert!(suspects.waits(1, later));
    }
}
