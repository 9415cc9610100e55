//! How many requests of a service may go out a second time: a share of those that came, over a sliding window.
//!
//! Without it, a service that fails under its load gets a multiple of that load. Each worker keeps its own
//! account, alone on its cache line: nothing is shared, and a request costs two loads and two stores.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Parts of the window, and how long each is.
const PARTS: usize = 5;
const PART: Duration = Duration::from_secs(2);

/// So many may go out again within the window, whatever the share: a quiet service can retry at all.
const FLOOR: f64 = 10.0;

/// A service's accounts, one for each worker.
#[derive(Debug)]
pub(super) struct Budgets {
    epoch: Instant,
    accounts: Box<[Account]>,
}

/// One worker's, written by that worker alone.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Account {
    /// The part of time that the newest counts belong to.
    part: AtomicU32,
    requests: [AtomicU32; PARTS],
    again: [AtomicU32; PARTS],
}

impl Budgets {
    pub(super) fn new(workers: usize) -> Self {
        let accounts = (0..workers.max(1)).map(|_| Account::default()).collect();
        Self { epoch: Instant::now(), accounts }
    }

    fn account(&self, worker: usize, now: Instant) -> &Account {
        let account = &self.accounts[worker % self.accounts.len()];
        let since = now.saturating_duration_since(self.epoch).as_secs();
        account.turn((since / PART.as_secs()) as u32);
        account
    }

    /// A request came.
    pub(super) fn request(&self, worker: usize, now: Instant) {
        let account = self.account(worker, now);
        add(&account.requests[account.newest()]);
    }

    /// Whether one more may go out again, at this share of the requests; counts it if so.
    pub(super) fn draw(&self, worker: usize, now: Instant, share: f64) -> bool {
        let account = self.account(worker, now);
        let allowed = if share > 0.0 { (sum(&account.requests) * share).max(FLOOR) } else { 0.0 };
        let fits = sum(&account.again) + 1.0 <= allowed;
        if fits {
            add(&account.again[account.newest()]);
        }
        fits
    }

    /// Counts one that goes out again in any case.
    pub(super) fn charge(&self, worker: usize, now: Instant) {
        let account = self.account(worker, now);
        add(&account.again[account.newest()]);
    }
}

impl Account {
    fn newest(&self) -> usize {
        self.part.load(Relaxed) as usize % PARTS
    }

    /// Moves on to a part of time. One of the past changes nothing.
    fn turn(&self, part: u32) {
        let last = self.part.load(Relaxed);
        if part <= last {
            return;
        }
        for gone in (last + 1..=part).take(PARTS) {
            let at = gone as usize % PARTS;
            self.requests[at].store(0, Relaxed);
            self.again[at].store(0, Relaxed);
        }
        self.part.store(part, Relaxed);
    }
}

/// No read-modify-write: there is one writer.
fn add(count: &AtomicU32) {
    count.store(count.load(Relaxed).saturating_add(1), Relaxed);
}

fn sum(counts: &[AtomicU32; PARTS]) -> f64 {
    counts.iter().map(|count| f64::from(count.load(Relaxed))).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quiet_service_may_retry_a_few_and_a_busy_one_its_share() {
        let budgets = Budgets::new(2);
        let now = budgets.epoch;
        let drawn = |worker, share| (0..1_000_000).take_while(|_| budgets.draw(worker, now, share)).count();
        assert_eq!(drawn(0, 0.2), 10);
        for _ in 0..1000 {
            budgets.request(0, now);
        }
        assert_eq!(drawn(0, 0.2), 190, "a fifth of a thousand, less what was drawn before");
        assert_eq!(drawn(1, 0.2), 10, "another worker has an account of its own");
        assert_eq!(drawn(1, 0.0), 0, "no share is no budget");
        let later = now + PART * PARTS as u32;
        assert!(budgets.draw(0, later, 0.2), "what is out of the window counts no more");
    }

    #[test]
    fn what_goes_out_in_any_case_leaves_less_for_the_others() {
        let budgets = Budgets::new(1);
        let now = budgets.epoch;
        (0..9).for_each(|_| budgets.charge(0, now));
        assert!(budgets.draw(0, now, 0.2) && !budgets.draw(0, now, 0.2));
        budgets.charge(0, now);
        assert!(!budgets.draw(0, now, 0.2));
    }

    proptest! {
        /// Each request that comes wants to go out again as often as it may.
        #[test]
        fn never_more_than_the_share_and_the_floor_over_any_window(
            gaps in prop::collection::vec(0u64..400, 1..3000),
            share in 0.0..1.0f64,
            greed in 1usize..4,
        ) {
            let budgets = Budgets::new(1);
            let mut at = 0;
            // Milliseconds, and whether it is a request or one that went out again.
            let (mut came, mut again) = (Vec::<u64>::new(), Vec::<u64>::new());
            for gap in gaps {
                at += gap;
                let now = budgets.epoch + Duration::from_millis(at);
                budgets.request(0, now);
                came.push(at);
                for _ in 0..greed {
                    if budgets.draw(0, now, share) {
                        again.push(at);
                        // The window is at least so long, at the moment of each draw.
                        let window = (PART * (PARTS - 1) as u32).as_millis() as u64;
                        let within = |times: &[u64]| times.iter().filter(|t| **t + window > at).count() as f64;
                        let longest = (PART * PARTS as u32).as_millis() as u64;
                        let requests = came.iter().filter(|t| **t + longest > at).count() as f64;
                        prop_assert!(within(&again) <= (requests * share).max(FLOOR));
                    }
                }
            }
            let windows = (at / (PART * PARTS as u32).as_millis() as u64 + 1) as f64;
            let most = came.len() as f64 * share + (windows + 1.0) * FLOOR;
            prop_assert!(again.len() as f64 <= most, "{} of {} in {windows}", again.len(), came.len());
        }
    }
}
