//! How many requests a service has at a time, who waits for a slot, and who is turned away.
//!
//! One [`Limiter`] a service, shared by all workers and by every generation of the table: counters only, which
//! nobody waits for. Each worker has a desk for each kind of request, at which its own requests stand in line;
//! a slot that becomes free rings at the next desk that somebody stands at, in turn. A service without limits
//! has none of it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::plan::{LoadLimits, QueuePlan};
use crate::model::InstanceChoice;
use crate::telemetry::Outcome;

use super::gradient::{Gradient, Sample};

/// How much the latest pause between two slots that became free counts.
const PACE_WEIGHT: f32 = 1.0 / 16.0;

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// As many wait as may.
    QueueFull,
    /// At the pace of now its turn would come too late.
    TooLate,
    /// Its turn did not come in time.
    Timeout,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::TooLate, Self::Timeout];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLate => "too_late",
            Self::Timeout => "timeout",
        }
    }
}

/// A service's slots and its line, for as long as the service lasts.
#[derive(Debug)]
pub struct Limiter {
    epoch: Instant,
    held: AtomicU32,
    waiting: AtomicU32,
    /// What the gradient says, for all to read.
    adaptive: AtomicU32,
    /// When a slot became free, in microseconds since `epoch`.
    freed_us: AtomicU64,
    /// Microseconds between two of those while somebody waits, as f32; zero while unknown.
    pace: AtomicU32,
    shed: [AtomicU64; 3],
    rung: AtomicUsize,
    desks: Box<[Desk]>,
    /// Never waited for: an answer that finds it taken is not counted in.
    gradient: Mutex<Gradient>,
}

/// Where the requests of one worker stand for one choice among the instances.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Desk {
    waiting: AtomicU32,
    bell: Notify,
}

/// A slot of the service.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Limiter>);

/// A place in the line.
#[derive(Debug)]
pub struct Place {
    limiter: Arc<Limiter>,
    desk: usize,
}

impl Limiter {
    pub(super) fn new(workers: usize) -> Self {
        let gradient = Gradient::new();
        let desks = (0..workers.max(1) * InstanceChoice::ALL.len()).map(|_| Desk::default()).collect();
        Self {
            epoch: Instant::now(),
            held: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            adaptive: AtomicU32::new(gradient.limit(u32::MAX)),
            freed_us: AtomicU64::new(0),
            pace: AtomicU32::new(0),
            shed: Default::default(),
            rung: AtomicUsize::new(0),
            desks,
            gradient: Mutex::new(gradient),
        }
    }

    /// Requests over all instances that are let through now: `u32::MAX` where nothing limits them.
    pub fn limit(&self, plan: &LoadLimits) -> u32 {
        if plan.adaptive {
            let ceiling = ceiling(plan);
            self.adaptive.load(Relaxed).min(ceiling)
        } else {
            plan.max_requests.unwrap_or(u32::MAX)
        }
    }

    /// Requests that hold a slot.
    pub fn held(&self) -> u32 {
        self.held.load(SeqCst)
    }

    /// Requests that wait for one.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// How many were turned away for this reason.
    pub fn shed_count(&self, reason: Shed) -> u64 {
        self.shed[reason as usize].load(Relaxed)
    }

    /// Counts a request that is turned away.
    pub fn shed(&self, reason: Shed) {
        self.shed[reason as usize].fetch_add(1, Relaxed);
    }

    fn desk(&self, worker: usize, choice: InstanceChoice) -> usize {
        (worker * InstanceChoice::ALL.len() + choice as usize) % self.desks.len()
    }

    /// Whether somebody stands in line here already: who comes now goes behind them.
    pub(super) fn has_line(&self, worker: usize, choice: InstanceChoice) -> bool {
        self.desks[self.desk(worker, choice)].waiting.load(SeqCst) > 0
    }

    /// A slot, while one is free.
    pub(super) fn take(self: &Arc<Self>, plan: &LoadLimits) -> Option<Ticket> {
        let limit = self.limit(plan);
        let more = |held: u32| (held < limit).then(|| held + 1);
        self.held.fetch_update(SeqCst, SeqCst, more).ok().map(|_| Ticket(Arc::clone(self)))
    }

    /// A place in the line of one worker.
    pub fn join(
        self: &Arc<Self>,
        queue: QueuePlan,
        worker: usize,
        choice: InstanceChoice,
    ) -> Result<Place, Shed> {
        let ahead = self.waiting.fetch_add(1, SeqCst);
        let desk = self.desk(worker, choice);
        self.desks[desk].waiting.fetch_add(1, SeqCst);
        let place = Place { limiter: Arc::clone(self), desk };
        if ahead >= queue.length {
            return Err(Shed::QueueFull);
        }
        // The first is let in on any pace: without anybody in line there would be no new one.
        let each = f32::from_bits(self.pace.load(Relaxed));
        if f64::from(each) * f64::from(ahead) > queue.timeout.as_secs_f64() * 1e6 {
            return Err(Shed::TooLate);
        }
        Ok(place)
    }

    fn now_us(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    fn release(&self) {
        self.held.fetch_sub(1, SeqCst);
        let now = self.now_us();
        let pause = now.saturating_sub(self.freed_us.swap(now, Relaxed)) as f32;
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        // Two workers at once: one pause may be lost. It is an estimate.
        let pace = f32::from_bits(self.pace.load(Relaxed));
        let next = if pace > 0.0 { pace + (pause - pace) * PACE_WEIGHT } else { pause };
        self.pace.store(next.max(1.0).to_bits(), Relaxed);
        self.ring();
    }

    /// Calls at the next desk, in turn, that somebody stands at.
    fn ring(&self) {
        let first = self.rung.fetch_add(1, Relaxed);
        let desks = (0..self.desks.len()).map(|i| &self.desks[(first.wrapping_add(i)) % self.desks.len()]);
        if let Some(desk) = { desks }.find(|desk| desk.waiting.load(SeqCst) > 0) {
            desk.bell.notify_one();
        }
    }

    fn observe(&self, outcome: Outcome, latency: Option<Duration>, plan: &LoadLimits) {
        let timed_out = outcome == Outcome::Timeout;
        let latency = match latency {
            Some(latency) if outcome == Outcome::Ok => latency,
            _ if timed_out => Duration::ZERO,
            // What fails fast says nothing about how much is borne.
            _ => return,
        };
        let Ok(mut gradient) = self.gradient.try_lock() else { return };
        let ceiling = ceiling(plan);
        let (now_us, in_flight) = (self.now_us(), self.held());
        let latency_us = latency.as_secs_f64() * 1e6;
        if gradient.sample(Sample { now_us, latency_us, in_flight, timed_out }, ceiling) {
            self.adaptive.store(gradient.limit(ceiling), Relaxed);
        }
    }
}

fn ceiling(plan: &LoadLimits) -> u32 {
    plan.max_requests.unwrap_or(LoadLimits::ADAPTIVE_CEILING)
}

impl Ticket {
    /// How a request of an adaptive service ended.
    pub(super) fn observe(&self, outcome: Outcome, latency: Option<Duration>, plan: &LoadLimits) {
        if plan.adaptive {
            self.0.observe(outcome, latency, plan);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Place {
    /// Rings when it may be this desk's turn. The first in the line listens.
    pub async fn called(&self) {
        self.limiter.desks[self.desk].bell.notified().await;
    }

    /// Whose line it is.
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// What tells this line from others on the worker.
    pub fn line(&self) -> (usize, usize) {
        (Arc::as_ptr(&self.limiter) as usize, self.desk)
    }

    /// Got its slot, and there may be more: the next desk's turn.
    pub fn served(self, plan: &LoadLimits) {
        let limiter = Arc::clone(&self.limiter);
        drop(self);
        if limiter.held() < limiter.limit(plan) && limiter.waiting() > 0 {
            limiter.ring();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limiter.desks[self.desk].waiting.fetch_sub(1, SeqCst);
        self.limiter.waiting.fetch_sub(1, SeqCst);
    }
}
