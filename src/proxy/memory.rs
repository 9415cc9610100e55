//! How much memory the process takes, held against how much it may.
//!
//! What is measured is what the system counts: all buffers are in it, ours and those of libraries, and no request pays
//! for the counting. The workers' ticks look, one of them each time. Near the limit, new work is turned away, and clients
//! that have not taken their answers for a while are cut; at the limit nothing more is taken in, bodies that were kept are
//! given up, and no client has a while.
//!
//! What a worker does for its last few requests is never turned away: where it is not the clients who need the memory,
//! to refuse them all would help nobody.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::clock::TICK;
use crate::telemetry::{LiveSink, LiveSource};

/// Requests that a worker serves however little memory there is.
pub(super) const FEW: usize = 16;
/// So long after clients were cut it shows what that has freed: the allocator gives back what is free after a second.
pub(super) const SETTLES: Duration = Duration::from_millis(1500);
/// While memory is short, a client may take so long to take something of its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A warning is not repeated for so long.
const QUIET: Duration = Duration::from_secs(10);

/// How near the process is to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Pressure {
    /// Far enough.
    #[default]
    None,
    /// New work would be too much.
    High,
    /// What there is may be too much.
    Full,
}

impl Pressure {
    /// The pressure after this one. It eases only when there is some room again, lest it change with every request.
    fn next(self, used: u64, limit: u64) -> Self {
        let reaches = |percent: u64| used.saturating_mul(100) >= limit.saturating_mul(percent);
        if reaches(100) || self == Self::Full && reaches(95) {
            Self::Full
        } else if reaches(90) || self != Self::None && reaches(85) {
            Self::High
        } else {
            Self::None
        }
    }

    fn from_level(level: u8) -> Self {
        match level {
            0 => Self::None,
            1 => Self::High,
            _ => Self::Full,
        }
    }
}

/// The memory of the process, shared by its workers.
#[derive(Debug)]
pub(super) struct Memory {
    /// Kept open: there may be no descriptor when it matters. `None` where the system has no such thing.
    statm: Option<File>,
    page: u64,
    begun: Instant,
    /// In ms since the beginning: when somebody looked, and before when the log is not to be told of pressure.
    looked: AtomicU64,
    quiet: AtomicU64,
    /// The log was told of pressure, and not yet of its end.
    told: AtomicBool,
    used: AtomicU64,
    /// 0: none.
    limit: AtomicU64,
    level: AtomicU8,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            statm: File::open("/proc/self/statm").ok(),
            page: rustix::param::page_size() as u64,
            begun: Instant::now(),
            looked: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            told: AtomicBool::new(false),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            level: AtomicU8::new(0),
        }
    }
}

impl Memory {
    /// The pressure now, to be asked each tick by each worker: one of them measures.
    pub(super) fn look(&self, limit: Option<u64>) -> Pressure {
        let now = self.begun.elapsed().as_millis() as u64;
        let looked = self.looked.load(Ordering::Relaxed);
        let due = now >= looked + TICK.as_millis() as u64 / 2;
        if due && self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.measure(limit, now);
        }
        Pressure::from_level(self.level.load(Ordering::Relaxed))
    }

    fn measure(&self, limit: Option<u64>, now_ms: u64) {
        let used = self.resident().unwrap_or_default();
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit.unwrap_or_default(), Ordering::Relaxed);
        let before = Pressure::from_level(self.level.load(Ordering::Relaxed));
        let next = limit.map_or(Pressure::None, |limit| before.next(used, limit));
        self.level.store(next as u8, Ordering::Relaxed);
        if next != before {
            self.tell(next, used, limit.unwrap_or_default(), now_ms);
        }
    }

    /// Bytes of the process that are in memory.
    fn resident(&self) -> Option<u64> {
        let mut text = [0; 128];
        let read = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        let pages = std::str::from_utf8(&text[..read]).ok()?.split(' ').nth(1)?;
        pages.parse::<u64>().ok()?.checked_mul(self.page)
    }

    fn tell(&self, now: Pressure, used: u64, limit: u64, now_ms: u64) {
        match now {
            Pressure::None if self.told.swap(false, Ordering::Relaxed) => {
                tracing::info!(used, limit, "memory suffices again: requests are served as usual");
            }
            Pressure::High | Pressure::Full if now_ms >= self.quiet.load(Ordering::Relaxed) => {
                self.quiet.store(now_ms + QUIET.as_millis() as u64, Ordering::Relaxed);
                self.told.store(true, Ordering::Relaxed);
                tracing::warn!(
                    used,
                    limit,
                    "memory is short: most new requests get a 503 until there is more; see limits.max_memory"
                );
            }
            _ => {}
        }
    }
}

/// The scrape's view of it.
#[derive(Debug)]
pub(super) struct MemorySource(pub(super) std::sync::Arc<Memory>);

impl LiveSource for MemorySource {
    fn collect(&self, sink: &mut LiveSink) {
        let memory = &self.0;
        sink.memory(memory.limit.load(Ordering::Relaxed), memory.level.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_at_once_and_eases_only_when_there_is_room_again() {
        let after = |uses: &[u64]| uses.iter().fold(Pressure::None, |p, used| p.next(*used, 1000));
        assert_eq!(after(&[899]), Pressure::None);
        assert_eq!(after(&[900]), Pressure::High);
        assert_eq!(after(&[900, 850]), Pressure::High);
        assert_eq!(after(&[900, 849]), Pressure::None);
        assert_eq!(after(&[1000]), Pressure::Full);
        assert_eq!(after(&[5000, 950]), Pressure::Full);
        assert_eq!(after(&[5000, 949]), Pressure::High);
        assert_eq!(after(&[5000, 100]), Pressure::None);
        assert_eq!(Pressure::None.next(u64::MAX, 1 << 50), Pressure::Full);
    }

    #[test]
    fn the_process_is_measured_and_held_against_its_limit() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let memory = Memory::default();
        let used = memory.resident().unwrap();
        assert!(used > 1 << 20 && used < 1 << 40, "{used}");
        memory.measure(None, 0);
        assert_eq!(memory.level.load(Ordering::Relaxed), 0);
        memory.measure(Some(1 << 20), 0);
        assert_eq!(Pressure::from_level(memory.level.load(Ordering::Relaxed)), Pressure::Full);
    }
}
