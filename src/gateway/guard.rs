//! The guard of one service against mass vanishing: a state machine without I/O and without a clock.
//!
//! It stands between what the registry says and what the table holds. While few vanish it passes on what it is told.
//! When a share of a service vanishes within a window, those who vanished are held in limbo: in the table
//! while they answer, out of it the moment they do not, and no longer than the hold time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::plan::VanishGuard;
use crate::model::{Address, Instance, ServiceSnapshot};

/// From the answer of a probe to the next one.
const EVERY: Duration = Duration::from_secs(1);
/// Vanished instances that are remembered for the window. Who vanished before them counts no more.
const REMEMBERED: usize = 100_000;

/// The guard of one service.
#[derive(Debug)]
pub(super) struct Guard {
    rule: VanishGuard,
    /// What the registry holds.
    real: Arc<ServiceSnapshot>,
    /// Who vanished within the window and is not back, by id.
    lost: BTreeMap<Arc<str>, Lost>,
    /// Who is in limbo, by id.
    held: BTreeMap<Arc<str>, Held>,
    /// What the table is to hold.
    offered: Arc<ServiceSnapshot>,
    /// What became of those who were held since the guard engaged.
    tally: Tally,
    next: u64,
}

#[derive(Debug)]
struct Lost {
    at: Instant,
    instance: Arc<Instance>,
    /// Held now, or held and found dead: it still counts for the share.
    judged: bool,
}

#[derive(Debug)]
struct Held {
    /// As the table holds it.
    instance: Arc<Instance>,
    /// Tells this stay in limbo from another of the same id.
    number: u64,
    until: Instant,
    /// Whether it is in the table. Who was removed before the guard engaged has to answer first.
    offered: bool,
    /// When it is to be probed; nothing while it is being asked.
    due: Option<Instant>,
}

/// A question to somebody in limbo.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) instance: Arc<Instance>,
}

/// The guard has just engaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Engaged {
    /// Held by it now.
    pub(super) held: usize,
    /// Instances that the registry still has.
    pub(super) left: usize,
}

/// How many were held, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) held: usize,
    /// Registered again.
    pub(super) back: usize,
    /// They did not answer.
    pub(super) dead: usize,
    /// The hold time was over.
    pub(super) expired: usize,
}

impl Guard {
    /// A guard over a service that holds this.
    pub(super) fn new(rule: VanishGuard, real: Arc<ServiceSnapshot>) -> Self {
        Self {
            rule,
            offered: Arc::clone(&real),
            real,
            lost: BTreeMap::new(),
            held: BTreeMap::new(),
            tally: Tally::default(),
            next: 0,
        }
    }

    /// Another rule. Who is held stays for as long as the rule said under which it vanished.
    pub(super) fn set_rule(&mut self, rule: VanishGuard) {
        self.rule = rule;
    }

    /// What the registry holds.
    pub(super) fn real(&self) -> &Arc<ServiceSnapshot> {
        &self.real
    }

    /// What the table is to hold: what the registry does, and who is in limbo and answers.
    pub(super) fn offered(&self) -> &Arc<ServiceSnapshot> {
        &self.offered
    }

    /// Whether anybody is in limbo.
    pub(super) fn is_engaged(&self) -> bool {
        !self.held.is_empty()
    }

    /// The registry holds this now.
    pub(super) fn told(&mut self, real: Arc<ServiceSnapshot>, now: Instant) -> Option<Engaged> {
        let ids: HashSet<&str> = real.instances.iter().map(|instance| &*instance.id.name).collect();
        let addresses: HashSet<&Address> = real.instances.iter().map(|instance| &instance.address).collect();
        // An address under another node is the same instance, registered anew.
        let is_back = |i: &Instance| ids.contains(&*i.id.name) || addresses.contains(&i.address);
        let before = self.held.len();
        self.held.retain(|_, held| !is_back(&held.instance));
        self.tally.back += before - self.held.len();
        let window = self.rule.window;
        self.lost
            .retain(|_, lost| now.saturating_duration_since(lost.at) < window && !is_back(&lost.instance));
        let mut fresh = HashSet::new();
        for instance in self.real.instances.iter().filter(|i| wants_traffic(i) && !is_back(i)) {
            if self.lost.len() >= REMEMBERED {
                break;
            }
            let name = Arc::clone(&instance.id.name);
            fresh.insert(Arc::clone(&name));
            self.lost.insert(name, Lost { at: now, instance: Arc::clone(instance), judged: false });
        }
        let left = real.instances.iter().filter(|i| wants_traffic(i)).count();
        let over = self.lost.len() as f64 >= self.rule.share * (self.lost.len() + left) as f64;
        self.real = real;
        let mut held = 0;
        if over && !fresh.is_empty() {
            held = self.hold(&fresh, now);
        }
        self.offer();
        (held > 0).then_some(Engaged { held, left })
    }

    /// Holds everybody who vanished within the window. `fresh` are in the table yet, and stay.
    fn hold(&mut self, fresh: &HashSet<Arc<str>>, now: Instant) -> usize {
        if self.held.is_empty() {
            self.tally = Tally::default();
        }
        let mut count = 0;
        for (name, lost) in self.lost.iter_mut().filter(|(_, lost)| !lost.judged) {
            lost.judged = true;
            count += 1;
            self.next += 1;
            let mut instance = Instance::clone(&lost.instance);
            instance.facts.limbo = true;
            let held = Held {
                instance: Arc::new(instance),
                number: self.next,
                until: now + self.rule.hold,
                offered: fresh.contains(name),
                due: Some(now),
            };
            self.held.insert(Arc::clone(name), held);
        }
        self.tally.held += count;
        count
    }

    /// Whom to ask now. Each is asked again once its answer is told.
    pub(super) fn questions(&mut self, now: Instant) -> Vec<Question> {
        let due = self.held.values_mut().filter(|held| held.due.is_some_and(|due| due <= now));
        due.map(|held| {
            held.due = None;
            Question { number: held.number, instance: Arc::clone(&held.instance) }
        })
        .collect()
    }

    /// Whether it answered. True where that changes what is offered.
    pub(super) fn answered(&mut self, question: &Question, answers: bool, now: Instant) -> bool {
        let name = &question.instance.id.name;
        let Some(held) = self.held.get_mut(name).filter(|held| held.number == question.number) else {
            return false;
        };
        if !answers {
            return self.failed(name);
        }
        held.due = Some(now + EVERY);
        if std::mem::replace(&mut held.offered, true) {
            return false;
        }
        self.offer();
        true
    }

    /// Somebody in limbo does not answer. True where that changes what is offered.
    pub(super) fn failed(&mut self, name: &str) -> bool {
        let Some(held) = self.held.remove(name) else { return false };
        self.tally.dead += 1;
        self.offer();
        held.offered
    }

    /// Lets those go whose time is over. True where that changes what is offered.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.held.len();
        self.held.retain(|_, held| held.until > now);
        let expired = before - self.held.len();
        if expired > 0 {
            self.tally.expired += expired;
            self.offer();
        }
        expired > 0
    }

    /// When there is something to do without being told: never, while nobody is in limbo.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.held.values().map(|held| held.due.map_or(held.until, |due| due.min(held.until))).min()
    }

    /// What became of everybody, once after nobody is in limbo any more.
    pub(super) fn ended(&mut self) -> Option<Tally> {
        let over = self.held.is_empty() && self.tally.held > 0;
        over.then(|| std::mem::take(&mut self.tally))
    }

    fn offer(&mut self) {
        let held: Vec<_> = self.held.values().filter(|held| held.offered).collect();
        if held.is_empty() {
            self.offered = Arc::clone(&self.real);
            return;
        }
        let mut offered = ServiceSnapshot::clone(&self.real);
        // An empty directory may not tell its format any more.
        offered.format = offered.format.or(self.offered.format);
        offered.instances.extend(held.into_iter().map(|held| Arc::clone(&held.instance)));
        offered.instances.sort_by(|a, b| a.id.name.cmp(&b.id.name));
        self.offered = Arc::new(offered);
    }
}

/// Who wants no traffic is not missed.
fn wants_traffic(instance: &Instance) -> bool {
    instance.enabled && instance.weight > 0.0
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
