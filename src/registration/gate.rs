//! The gate before a registration: open while a check passes, with thresholds against flapping.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::check::Check;
use crate::model::Address;

/// When and how an instance's health is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOptions {
    /// The check.
    pub check: Check,
    /// Whom a check asks that has no address of its own.
    pub address: Option<Address>,
    /// The pause between two runs.
    pub interval: Duration,
    /// A run that takes longer has failed.
    pub timeout: Duration,
    /// Passes in a row that open the gate.
    pub rise: u32,
    /// Failures in a row that close it.
    pub fall: u32,
}

impl GateOptions {
    /// Every second, for at most a second; two passes open, three failures close.
    pub fn new(check: Check) -> Self {
        let second = Duration::from_secs(1);
        Self { check, address: None, interval: second, timeout: second, rise: 2, fall: 3 }
    }

    /// Asks for ever, and tells whether the gate is open.
    pub(super) async fn watch(self, open: watch::Sender<bool>) {
        let mut gate = Gate::new(self.rise, self.fall);
        let mut told = None;
        loop {
            let passed = match timeout(self.timeout, self.check.run(self.address.as_ref())).await {
                Ok(passed) => passed,
                Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            };
            // One line a change, not one a run.
            if told.replace(passed.is_ok()) != Some(passed.is_ok()) {
                match &passed {
                    Ok(()) => tracing::info!(check = %self.check, "the check passes"),
                    Err(reason) => tracing::info!(check = %self.check, reason, "the check fails"),
                }
            }
            if let Some(now) = gate.note(passed.is_ok()) {
                open.send_replace(now);
            }
            sleep(self.interval).await;
        }
    }
}

/// Counts passes and failures. Begins closed.
#[derive(Debug)]
struct Gate {
    rise: u32,
    fall: u32,
    open: bool,
    /// Results in a row that contradict `open`.
    against: u32,
}

impl Gate {
    fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, open: false, against: 0 }
    }

    /// Takes a result; says so where it opens or closes the gate.
    fn note(&mut self, passed: bool) -> Option<bool> {
        if passed == self.open {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.open { self.fall } else { self.rise };
        if self.against < needed {
            return None;
        }
        self.open = passed;
        self.against = 0;
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_in_a_row_open_and_close_and_single_ones_do_not() {
        let mut gate = Gate::new(2, 3);
        let results = [true, false, true, true, false, false, true, false, false, false, false, true];
        let told: Vec<_> = results.iter().map(|passed| gate.note(*passed)).collect();
        let (opened, closed) = (Some(true), Some(false));
        assert_eq!(told, [None, None, None, opened, None, None, None, None, None, closed, None, None]);
        let mut hasty = Gate::new(1, 1);
        assert_eq!([true, false].map(|passed| hasty.note(passed)), [opened, closed]);
    }
}
