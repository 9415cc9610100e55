//! A service as the table holds it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::balance::{Balancer, Candidates, Fingerprint, PickContext, Slot, hash};
use crate::model::{BalanceSpec, Instance, InstanceChoice, Protocol, ServiceName, ServiceSnapshot};

use super::Lease;
use super::config::ServiceSpec;
use super::endpoint::{Endpoint, InstanceState};
use super::health::{Health, Status};
use super::lease::Chosen;
use super::members::{Before, Lasting, Maker, Members, SlotState};
use super::zone::Local;

/// A service: its endpoints, its balancer, and what is known of it. Immutable.
#[derive(Debug)]
pub struct Upstream {
    spec: Arc<ServiceSpec>,
    snapshot: Arc<ServiceSnapshot>,
    pub(super) members: Arc<Members>,
    /// The primary's slot, where one is named and there.
    primary: Option<Slot>,
    departed: Arc<[Departed]>,
    revision: u64,
    pub(super) lasting: Arc<Lasting>,
}

/// An instance that left, for as long as requests are open on it.
#[derive(Debug, Clone)]
pub(super) struct Departed {
    pub(super) instance: Arc<Instance>,
    pub(super) endpoint: Arc<Endpoint>,
}

/// Endpoints that the next table will not hold.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Their nodes are gone.
    pub(super) retired: Vec<Arc<Endpoint>>,
    /// They live on, and are dialled in another way.
    pub(super) replaced: Vec<Arc<Endpoint>>,
}

impl Left {
    /// To be called once the next table is published: until then they were the way to go.
    pub(super) fn settle(&self) {
        self.retired.iter().for_each(|endpoint| endpoint.retire());
        self.replaced.iter().for_each(|endpoint| endpoint.replace());
    }
}

/// What a pick is told of its request.
#[derive(Debug)]
pub struct PickRequest<'a> {
    /// The worker's source of chance.
    pub rng: &'a mut fastrand::Rng,
    /// The worker's number.
    pub worker: usize,
    /// The hash key, for hash policies.
    pub key: Option<&'a [u8]>,
    /// [`Lease::id`] of each attempt so far. Ids, not slots: the table may have moved on since.
    pub tried: &'a [u64],
    /// The time, as the worker's coarse clock tells it.
    pub now: Instant,
}

impl Upstream {
    /// A service of which nothing is known yet.
    pub(super) fn empty(spec: Arc<ServiceSpec>, workers: usize, maker: &mut Maker) -> Self {
        let (lasting, snapshot) = (Lasting::new(workers), ServiceSnapshot::default());
        let (members, _) = Members::build(&spec, &snapshot, None, &lasting, maker);
        Self {
            spec,
            snapshot: Arc::new(snapshot),
            members: Arc::new(members),
            primary: None,
            departed: Arc::default(),
            revision: 0,
            lasting: Arc::new(lasting),
        }
    }

    /// The next generation of this service; notes the endpoints that are not in it.
    ///
    /// `fresh` forgets who is who: the same names in another place are somebody else.
    pub(super) fn next(
        &self,
        spec: Arc<ServiceSpec>,
        snapshot: Arc<ServiceSnapshot>,
        fresh: bool,
        maker: &mut Maker,
        left: &mut Left,
    ) -> Self {
        let before = Before { spec: &self.spec, snapshot: &self.snapshot, members: &self.members };
        let before = (!fresh).then_some(&before);
        let (members, mut kept) = Members::build(&spec, &snapshot, before, &self.lasting, maker);
        kept.resize(self.members.endpoints.len(), None);
        let leave = self.snapshot.instances.iter().zip(&self.members.slot_of);
        let leave =
            leave.filter(|(_, slot)| kept[**slot as usize].is_none()).map(|(instance, slot)| Departed {
                instance: Arc::clone(instance),
                endpoint: Arc::clone(&self.members.endpoints[*slot as usize]),
            });
        // Even one without a request may get its last while this is being built: the sweep decides.
        let departed =
            self.departed.iter().filter(|d| d.endpoint.in_flight() > 0).cloned().chain(leave).collect();
        for (endpoint, kept) in self.members.endpoints.iter().zip(&kept) {
            match kept {
                None => left.retired.push(Arc::clone(endpoint)),
                Some(slot) if Arc::ptr_eq(&endpoint.target, &members.endpoints[*slot].target) => {}
                Some(_) => left.replaced.push(Arc::clone(endpoint)),
            }
        }
        let primary = snapshot.primary_index().map(|at| members.slot_of[at] as Slot);
        Self {
            spec,
            snapshot,
            members: Arc::new(members),
            primary,
            departed,
            revision: self.revision + 1,
            lasting: Arc::clone(&self.lasting),
        }
    }

    /// Takes those out of rotation at once, in this generation, whose address the next one does not have.
    pub(super) fn bury(&self, next: &ServiceSnapshot) {
        self.members.bury(next);
    }

    /// The same without those who have nothing open any more: `None` where that is everyone left.
    pub(super) fn swept(&self) -> Option<Self> {
        let open = |d: &&Departed| d.endpoint.in_flight() > 0;
        (self.departed.iter().filter(open).count() < self.departed.len()).then(|| Self {
            spec: Arc::clone(&self.spec),
            snapshot: Arc::clone(&self.snapshot),
            members: Arc::clone(&self.members),
            primary: self.primary,
            departed: self.departed.iter().filter(open).cloned().collect(),
            revision: self.revision,
            lasting: Arc::clone(&self.lasting),
        })
    }

    /// The same with the shares of now. That is no change of the service.
    pub(super) fn warmed(&self, maker: &Maker) -> Self {
        let before = Before { spec: &self.spec, snapshot: &self.snapshot, members: &self.members };
        Self {
            spec: Arc::clone(&self.spec),
            snapshot: Arc::clone(&self.snapshot),
            members: Arc::new(self.members.warmed(&before, &self.lasting, maker)),
            primary: self.primary,
            departed: Arc::clone(&self.departed),
            revision: self.revision,
            lasting: Arc::clone(&self.lasting),
        }
    }

    /// When a share in it grows next.
    pub(super) fn warms_at(&self, now_ms: u64) -> Option<u64> {
        self.members.ramps.next(now_ms)
    }

    /// Its name.
    pub fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    /// What is configured of it.
    pub fn spec(&self) -> &Arc<ServiceSpec> {
        &self.spec
    }

    /// What its instances speak.
    pub fn protocol(&self) -> Protocol {
        self.spec.defaults.protocol
    }

    /// How one of them is chosen. Its `key` says what to hash.
    pub fn balance(&self) -> &BalanceSpec {
        &self.spec.defaults.balance
    }

    /// The registrations as discovery told them.
    pub fn snapshot(&self) -> &Arc<ServiceSnapshot> {
        &self.snapshot
    }

    /// Its endpoints in slot order.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.members.endpoints
    }

    /// How often a change of it was published.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Equal on every gateway that balances it alike.
    pub fn fingerprint(&self) -> Fingerprint {
        self.members.fingerprint(&self.spec, &self.snapshot)
    }

    /// Requests on its endpoints now.
    pub fn in_flight(&self) -> u64 {
        self.endpoints().iter().map(|endpoint| u64::from(endpoint.in_flight())).sum()
    }

    /// A request came, that counts for the worker's retry budget.
    pub fn request(&self, worker: usize, now: Instant) {
        self.lasting.budgets.request(worker, now);
    }

    /// Whether the worker's budget has room for one more attempt; takes it if so.
    pub fn draw(&self, worker: usize, now: Instant) -> bool {
        self.lasting.budgets.draw(worker, now, self.spec.defaults.retry_budget)
    }

    /// Takes an attempt from the worker's budget that is made whether there is room for it or not.
    pub fn charge(&self, worker: usize, now: Instant) {
        self.lasting.budgets.charge(worker, now);
    }

    /// Chooses an endpoint that was not tried yet, and counts the request in flight on it.
    ///
    /// Where no other is left, one that is ejected is better than none. So is one whose node went between the
    /// caller's load of the table and this pick, unless this generation knows that it is gone for good.
    pub fn pick(&self, request: PickRequest<'_>) -> Option<Lease> {
        self.pick_among(InstanceChoice::Any, request)
    }

    /// The same among some of its instances. For the primary there is nothing to balance: keys and turns do
    /// not count.
    pub fn pick_among(&self, choice: InstanceChoice, request: PickRequest<'_>) -> Option<Lease> {
        self.pick_for(choice, false, request)
    }

    /// The same for a request that may have an endpoint's trial, where `trial`: one that costs its client nothing
    /// when it fails. See [`Lease::is_trial`].
    pub fn pick_for(&self, choice: InstanceChoice, trial: bool, request: PickRequest<'_>) -> Option<Lease> {
        match &self.spec.defaults.load {
            None => self
                .choose(choice, trial, request)
                .map(|chosen| Lease::new(chosen, self.balance().load_bound.is_some())),
            Some(plan) => self.pick_limited(plan, choice, trial, request, false),
        }
    }

    /// Which endpoint, and where it is.
    pub(super) fn choose(
        &self,
        choice: InstanceChoice,
        trial: bool,
        request: PickRequest<'_>,
    ) -> Option<Chosen> {
        let PickRequest { rng, worker, key, tried, now } = request;
        let of = |id: &u64| self.endpoints().iter().position(|endpoint| endpoint.target.id == *id);
        // Empty but for retries: then this allocates nothing.
        let exclude: Vec<Slot> = tried.iter().filter_map(of).collect();
        let affinity = key.map(hash::key);
        let mut on_trial = false;
        let slot = if choice == InstanceChoice::Primary {
            self.primary_slot().filter(|slot| !exclude.contains(slot) && !self.is_full(*slot))?
        } else {
            // Turns through the replicas are turns of their own: skipping the primary must not cost it its
            // turn among all.
            let replicas = choice == InstanceChoice::Replicas;
            let worker = if replicas { worker % self.lasting.workers + self.lasting.workers } else { worker };
            let mut context = PickContext { rng, worker, affinity, exclude: &exclude };
            let mut pick =
                |trial| self.first(choice, trial, now, |balancer, view| balancer.pick(&mut context, view));
            let trial = trial && self.lasting.census.any_ejected();
            let mut slot = pick(trial)?;
            if trial && self.members.slots[slot].vitals.status() == Status::Trial {
                // Another worker may have been faster, or its time just over.
                on_trial = self.members.slots[slot].vitals.change(Health::begin_trial);
                if !on_trial {
                    slot = pick(false)?;
                }
            }
            slot
        };
        let endpoint = Arc::clone(self.endpoints().get(slot)?);
        Some(Chosen { endpoint, slot, since: now, trial: on_trial })
    }

    /// Asks the balancers in their order: the preferred zone's, everybody's, and everybody's with the ejected. Where
    /// too few are left, most of the ejected are offered with the rest.
    fn first(
        &self,
        choice: InstanceChoice,
        trial: bool,
        now: Instant,
        mut ask: impl FnMut(&dyn Balancer, &View<'_>) -> Option<Slot>,
    ) -> Option<Slot> {
        let except = self.primary.filter(|_| choice == InstanceChoice::Replicas);
        let view = |who, local| View {
            upstream: self,
            now,
            stamp: OnceCell::new(),
            who,
            doubted: false,
            except,
            local,
        };
        let who = if trial { Who::UpOrOnTrial } else { Who::Up };
        if let Some(local) = self.local()
            && let Some(slot) = ask(&*local.balancer, &view(who, Some(local)))
        {
            return Some(slot);
        }
        let who = if self.panics() { Who::Pardoned } else { who };
        let balancer = &*self.members.balancer;
        let doubts = self.lasting.census.any_doubted();
        let trusted = if doubts && !self.ignores_doubts() { ask(balancer, &view(who, None)) } else { None };
        // Who waits for one that is at its limit is not better off with one that is ejected.
        trusted
            .or_else(|| ask(balancer, &View { doubted: true, ..view(who, None) }))
            .or_else(|| if self.waits() { None } else { ask(balancer, &view(Who::Anyone, None)) })
    }

    /// Whether so few are usable that ejection is ignored.
    pub(super) fn panics(&self) -> bool {
        let up = |slot: &&SlotState| slot.enabled && slot.vitals.status().is_in();
        self.lasting.census.panics(|most| self.members.slots.iter().filter(up).take(most).count())
    }

    /// Whether so few are left without a doubt that doubts are ignored.
    fn ignores_doubts(&self) -> bool {
        let up = |slot: &&SlotState| slot.enabled && slot.vitals.status() == Status::Up;
        self.lasting.census.ignores_doubts(|most| self.members.slots.iter().filter(up).take(most).count())
    }

    /// Whether picks take others for now, while there are enough.
    pub(super) fn is_doubted(&self, slot: Slot) -> bool {
        self.members.slots[slot].vitals.status() == Status::Doubted && !self.ignores_doubts()
    }

    /// The preferred zone, while it serves alone.
    fn local(&self) -> Option<&Local> {
        self.members.local.as_ref().filter(|local| local.suffices(&self.members.slots, &self.lasting))
    }

    /// Whether a slot is in the preferred zone; nothing while there is none that serves alone.
    pub(super) fn is_local(&self, slot: Slot) -> Option<bool> {
        self.local().map(|local| local.slots.binary_search(&(slot as u32)).is_ok())
    }

    /// The primary, whatever its state.
    pub(super) fn primary(&self) -> Option<Slot> {
        self.primary
    }

    /// The primary, unless it wants no traffic.
    pub(super) fn primary_slot(&self) -> Option<Slot> {
        self.primary.filter(|slot| self.members.slots[*slot].enabled)
    }

    /// Where a first request with this key goes, without any effect: `None` where no key decides.
    pub(super) fn place(&self, choice: InstanceChoice, key: &[u8], now: Instant) -> Option<Slot> {
        let affinity = hash::key(key);
        self.first(choice, false, now, |balancer, view| balancer.place(affinity, view))
    }

    /// `Upstream::place` as the endpoint.
    pub fn owner(&self, choice: InstanceChoice, key: &[u8], now: Instant) -> Option<&Arc<Endpoint>> {
        self.endpoints().get(self.place(choice, key, now)?)
    }

    /// Whose a key is by membership and shares alone, whatever anybody's health and load: `None` where no key decides.
    pub fn home(&self, choice: InstanceChoice, key: &[u8]) -> Option<&Arc<Endpoint>> {
        if choice == InstanceChoice::Primary {
            return None;
        }
        let except = self.primary.filter(|_| choice == InstanceChoice::Replicas);
        let calm = Calm { members: &self.members, except };
        let local = self.members.local.as_ref().map(|local| &*local.balancer);
        let place = |balancer: &dyn Balancer| balancer.place(hash::key(key), &calm);
        let slot = local.and_then(place).or_else(|| place(&*self.members.balancer))?;
        self.endpoints().get(slot)
    }

    /// The order in which the slots are offered a key.
    pub(super) fn placement(&self, choice: InstanceChoice, key: &[u8]) -> Option<Vec<Slot>> {
        let affinity = hash::key(key);
        let mut order = self.members.balancer.placement(affinity)?;
        if let Some(first) = self.local().and_then(|local| local.balancer.placement(affinity)) {
            order.retain(|slot| !first.contains(slot));
            order.splice(..0, first);
        }
        if choice == InstanceChoice::Replicas {
            order.retain(|slot| Some(*slot) != self.primary);
        }
        Some(order)
    }

    /// Each registration with its slot and its state.
    pub fn instances(&self) -> impl Iterator<Item = (&Arc<Instance>, Slot, InstanceState)> {
        self.snapshot.instances.iter().zip(&self.members.slot_of).map(|(instance, &slot)| {
            let state = match self.endpoints()[slot as Slot].state() {
                _ if !instance.enabled => InstanceState::Disabled,
                // Retired while this generation is still being read: the registration stands here.
                InstanceState::Ejected => InstanceState::Ejected,
                _ if instance.facts.limbo => InstanceState::Limbo,
                _ => InstanceState::Up,
            };
            (instance, slot as Slot, state)
        })
    }

    /// Instances that left while requests were open on them, and still are.
    pub fn draining(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.departed.iter().filter(|d| d.endpoint.in_flight() > 0).map(|d| &d.instance)
    }

    /// How many instances are in each state, in the order of [`InstanceState::ALL`].
    pub fn count_by_state(&self) -> [(InstanceState, usize); 5] {
        let mut counts = InstanceState::ALL.map(|state| (state, 0));
        let states = self.instances().map(|(_, _, state)| state);
        for state in states.chain(self.draining().map(|_| InstanceState::Draining)) {
            counts[state as usize].1 += 1;
        }
        counts
    }

    pub(super) fn has_departed(&self) -> bool {
        !self.departed.is_empty()
    }
}

/// Whom a pick takes, of those that want traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Those in rotation.
    Up,
    /// And those that a request may try.
    UpOrOnTrial,
    /// And of the ejected those that at least answer.
    Pardoned,
    /// And the rest: better than none.
    Anyone,
}

/// The endpoints as they would be without a request and without a failure.
struct Calm<'a> {
    members: &'a Members,
    except: Option<Slot>,
}

impl Candidates for Calm<'_> {
    fn len(&self) -> usize {
        self.members.slots.len()
    }

    fn usable(&self, slot: Slot) -> bool {
        self.except != Some(slot) && self.members.slots.get(slot).is_some_and(|slot| slot.enabled)
    }

    fn load(&self, _: Slot) -> u32 {
        0
    }

    fn latency(&self, _: Slot) -> f64 {
        0.0
    }
}

/// The endpoints as a balancer sees them.
struct View<'a> {
    upstream: &'a Upstream,
    now: Instant,
    /// `now` as latencies are stamped: worked out once, for those who ask for latencies.
    stamp: OnceCell<u32>,
    /// Who will do.
    who: Who,
    /// Of those in rotation also the doubted.
    doubted: bool,
    /// One that will not.
    except: Option<Slot>,
    /// Those that alone have a share.
    local: Option<&'a Local>,
}

impl Candidates for View<'_> {
    fn len(&self) -> usize {
        self.upstream.members.slots.len()
    }

    fn usable(&self, slot: Slot) -> bool {
        if self.except == Some(slot) {
            return false;
        }
        if self.upstream.is_full(slot) {
            return false;
        }
        let Some(slot) = self.upstream.members.slots.get(slot).filter(|slot| slot.enabled) else {
            return false;
        };
        let health = slot.vitals.health();
        match (health.status, self.who) {
            (Status::Retired, who) => who == Who::Anyone && !self.has_tombs(),
            (Status::Doubted, who) => self.doubted || matches!(who, Who::Pardoned | Who::Anyone),
            (Status::Up, _) | (Status::Trial, Who::UpOrOnTrial) | (_, Who::Anyone) => true,
            (_, Who::Pardoned) => health.reason.is_pardoned(),
            (_, Who::Up | Who::UpOrOnTrial) => false,
        }
    }

    fn load(&self, slot: Slot) -> u32 {
        self.upstream.members.slots[slot].vitals.in_flight()
    }

    fn latency(&self, slot: Slot) -> f64 {
        let vitals = &self.upstream.members.slots[slot].vitals;
        vitals.latency(|| *self.stamp.get_or_init(|| vitals.stamp(self.now)))
    }

    fn total_load(&self) -> u64 {
        let slots = &self.upstream.members.slots;
        let load = |slot: Slot| u64::from(slots[slot].vitals.in_flight());
        if let Some(local) = self.local {
            let counted =
                local.slots.iter().map(|slot| *slot as Slot).filter(|slot| self.except != Some(*slot));
            return counted.map(load).sum();
        }
        if self.except.is_some() {
            return (0..slots.len()).filter(|slot| self.except != Some(*slot)).map(load).sum();
        }
        if self.upstream.balance().load_bound.is_some() {
            return u64::from(self.upstream.lasting.census.in_flight.load(Ordering::Relaxed));
        }
        (0..slots.len()).map(load).sum()
    }

    fn all_usable(&self) -> bool {
        self.except.is_none()
            && self.upstream.cap().is_none()
            && (self.who == Who::Anyone || !self.upstream.lasting.census.any_ejected())
            && (self.doubted || !self.upstream.lasting.census.any_doubted())
            && !self.has_tombs()
    }
}

impl View<'_> {
    fn has_tombs(&self) -> bool {
        self.upstream.members.tombs.load(Ordering::Acquire) > 0
    }
}
