//! From a snapshot to endpoints: which addresses there are, who lives on, who is new, who has gone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::balance::{Balancer, Cursors, Fingerprint, Member, Slot};
use crate::model::{Address, FormatName, Instance, ServiceSnapshot};
use crate::transport::Target;

use super::budget::Budgets;
use super::census::Census;
use super::config::ServiceSpec;
use super::endpoint::{Endpoint, Vitals};
use super::limit::Limiter;
use super::warm::Ramps;
use super::zone::Local;

/// The endpoints of a service in slot order, and the balancer over them.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    /// Whether a slot's registrations want traffic. Beside its vitals, because a pick reads both.
    pub(super) slots: Box<[SlotState]>,
    /// The slot of each of the snapshot's instances.
    pub(super) slot_of: Box<[u32]>,
    pub(super) balancer: Arc<dyn Balancer>,
    /// The same over the preferred zone alone.
    pub(super) local: Option<Local>,
    /// Who of the snapshot's instances has not its whole share yet.
    pub(super) ramps: Ramps,
    /// How many of the slots are gone before the generation without them is there.
    pub(super) tombs: AtomicU32,
    fingerprint: OnceLock<Fingerprint>,
    list: Arc<[Member]>,
}

#[derive(Debug)]
pub(super) struct SlotState {
    pub(super) vitals: Arc<Vitals>,
    pub(super) enabled: bool,
}

/// What a service keeps for as long as it exists.
#[derive(Debug)]
pub(super) struct Lasting {
    /// One for each worker's turn through all instances, then one for each through the replicas.
    pub(super) cursors: Arc<Cursors>,
    pub(super) workers: usize,
    pub(super) census: Arc<Census>,
    pub(super) budgets: Budgets,
    /// Made for those that are limited.
    limiter: OnceLock<Arc<Limiter>>,
}

impl Lasting {
    pub(super) fn new(workers: usize) -> Self {
        let workers = workers.max(1);
        let cursors = Arc::new(Cursors::new(2 * workers));
        let budgets = Budgets::new(workers);
        Self { cursors, workers, census: Arc::default(), budgets, limiter: OnceLock::new() }
    }

    pub(super) fn limiter(&self) -> &Arc<Limiter> {
        self.limiter.get_or_init(|| Arc::new(Limiter::new(self.workers)))
    }
}

/// The instances and endpoints of the generation before.
pub(super) struct Before<'a> {
    pub(super) spec: &'a ServiceSpec,
    pub(super) snapshot: &'a ServiceSnapshot,
    pub(super) members: &'a Members,
}

/// Makes the parts that are new.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) epoch: Instant,
    pub(super) next_target: u64,
    /// Milliseconds since 1970; 0 while nobody has told.
    pub(super) now_ms: u64,
    /// Whether what is being built is what its registry held when we came.
    pub(super) first_listing: bool,
}

/// One address with what its registrations say.
struct Group<'a> {
    address: &'a Address,
    /// The first in order: its id is the label.
    first: &'a Instance,
    /// The largest weight of those that want traffic.
    weight: Option<f64>,
    /// The endpoint of the generation before that lives on here.
    kept: Option<Slot>,
    /// Whether one of its registrations was not there before.
    fresh: bool,
}

impl Members {
    /// Builds the members of a snapshot. Also says on which slot each slot before lives on.
    pub(super) fn build(
        spec: &ServiceSpec,
        snapshot: &ServiceSnapshot,
        before: Option<&Before<'_>>,
        lasting: &Lasting,
        maker: &mut Maker,
    ) -> (Self, Vec<Option<Slot>>) {
        let (groups, slot_of) = group(snapshot, before);
        let mut kept = vec![None; before.map_or(0, |b| b.members.endpoints.len())];
        let endpoints: Box<[Arc<Endpoint>]> = groups
            .iter()
            .enumerate()
            .map(|(new, group)| match group.kept.zip(before) {
                Some((slot, before)) => {
                    kept[slot] = Some(new);
                    if group.fresh {
                        // Who registers beside a node that has not expired yet is trusted as anybody new is.
                        before.members.slots[slot].vitals.forgive();
                    }
                    maker.keep(spec, before.spec, group, &before.members.endpoints[slot])
                }
                None => maker.make(spec, group, lasting),
            })
            .collect();
        let ramps = Ramps::new(spec, snapshot, before, maker);
        let list = list(snapshot, &slot_of, &endpoints, &ramps, maker.now_ms);
        let balance = &spec.defaults.balance;
        let build = || spec.balancer.build(balance, &list, &lasting.cursors);
        let alike = before.filter(|b| b.spec.same_balancing(spec)).map(|b| b.members);
        let (list, balancer) = match alike {
            Some(before) if before.list == list => (Arc::clone(&before.list), Arc::clone(&before.balancer)),
            Some(before) => (Arc::clone(&list), before.balancer.successor(&list).unwrap_or_else(build)),
            None => (Arc::clone(&list), build()),
        };
        let slot = |(group, endpoint): (&Group<'_>, &Arc<Endpoint>)| SlotState {
            vitals: Arc::clone(&endpoint.vitals),
            enabled: group.weight.is_some_and(|weight| weight > 0.0),
        };
        let slots: Box<[SlotState]> = groups.iter().zip(&endpoints).map(slot).collect();
        let enabled = slots.iter().filter(|slot| slot.enabled).count();
        lasting.census.limit(enabled, slots.len(), spec.defaults.ejection.as_deref());
        let local = Local::new(spec, snapshot, &slot_of, &list, before, lasting);
        let (tombs, fingerprint) = (AtomicU32::new(0), OnceLock::new());
        (Self { endpoints, slots, slot_of, balancer, local, ramps, tombs, fingerprint, list }, kept)
    }

    /// The same members with the shares of now.
    pub(super) fn warmed(&self, before: &Before<'_>, lasting: &Lasting, maker: &Maker) -> Self {
        let Before { spec, snapshot, .. } = before;
        let ramps = Ramps::new(spec, snapshot, Some(before), maker);
        let list = list(snapshot, &self.slot_of, &self.endpoints, &ramps, maker.now_ms);
        let slot = |s: &SlotState| SlotState { vitals: Arc::clone(&s.vitals), enabled: s.enabled };
        Self {
            endpoints: self.endpoints.clone(),
            slots: self.slots.iter().map(slot).collect(),
            slot_of: self.slot_of.clone(),
            balancer: spec.balancer.build(&spec.defaults.balance, &list, &lasting.cursors),
            local: Local::new(spec, snapshot, &self.slot_of, &list, Some(before), lasting),
            ramps,
            fingerprint: self.fingerprint.clone(),
            tombs: AtomicU32::new(self.tombs.load(Ordering::Acquire)),
            list,
        }
    }

    /// Marks the slots whose address `next` does not have: no pick takes them from here on, whatever generation it
    /// looks at. A ring walks on from them as the ring without them does.
    ///
    /// Not where nobody who stays is up and somebody will be: requests go on as they did until the swap.
    pub(super) fn bury(&self, next: &ServiceSnapshot) {
        let stay: HashSet<&Address> = next.instances.iter().map(|instance| &instance.address).collect();
        let stays = |endpoint: &Endpoint| stay.contains(&endpoint.target.address);
        let up = |slot: &SlotState| slot.enabled && slot.vitals.status().is_in();
        let served = self.endpoints.iter().zip(&self.slots).any(|(e, slot)| up(slot) && stays(e));
        if !served && next.instances.iter().any(|i| i.enabled && i.weight > 0.0) {
            return;
        }
        for endpoint in self.endpoints.iter().filter(|endpoint| !stays(endpoint)) {
            // First the count: whoever sees the mark and looks for anyone must not take it for a successor's.
            self.tombs.fetch_add(1, Ordering::Release);
            endpoint.retire();
        }
    }

    /// Worked out when it is first asked for: discovery does not wait for it.
    pub(super) fn fingerprint(&self, spec: &ServiceSpec, snapshot: &ServiceSnapshot) -> Fingerprint {
        *self.fingerprint.get_or_init(|| {
            let (groups, _) = group(snapshot, None);
            let weights =
                groups.iter().zip(&self.endpoints).filter_map(|(g, e)| Some((&*e.address, g.weight?)));
            Fingerprint::new(&spec.balancer.describe(&spec.defaults.balance), weights)
        })
    }
}

/// The share of each slot: the largest of its instances, as far as they are warm.
fn list(
    snapshot: &ServiceSnapshot,
    slot_of: &[u32],
    endpoints: &[Arc<Endpoint>],
    ramps: &Ramps,
    now_ms: u64,
) -> Arc<[Member]> {
    let unit = snapshot.format.map_or(1.0, FormatName::default_weight);
    let mut shares = vec![0.0_f64; endpoints.len()];
    for (at, (instance, slot)) in snapshot.instances.iter().zip(slot_of).enumerate() {
        if instance.enabled {
            let share = &mut shares[*slot as usize];
            *share = share.max(instance.weight * ramps.factor(at, now_ms) / unit);
        }
    }
    let member =
        |(endpoint, share): (&Arc<Endpoint>, f64)| Member { address: Arc::clone(&endpoint.address), share };
    endpoints.iter().zip(shares).map(member).collect()
}

/// Groups the instances by address, in the order in which the addresses first occur.
fn group<'a>(snapshot: &'a ServiceSnapshot, before: Option<&Before<'_>>) -> (Vec<Group<'a>>, Box<[u32]>) {
    // An endpoint lives on where one of its registrations is still there and still has its address.
    // Both snapshots are sorted by name.
    let old = before.into_iter().flat_map(|b| b.snapshot.instances.iter().zip(&b.members.slot_of));
    let mut old = old.peekable();
    let mut known = |instance: &Instance| {
        while old.next_if(|(before, _)| before.id.name < instance.id.name).is_some() {}
        let (before, slot) = old.next_if(|(before, _)| before.id.name == instance.id.name)?;
        let same = before.id == instance.id && before.address == instance.address;
        same.then_some(*slot as Slot)
    };
    // Who is in limbo lives on where its address is registered again, whatever its node is called now.
    let held = before.into_iter().flat_map(|b| b.snapshot.instances.iter().zip(&b.members.slot_of));
    let held: HashMap<&Address, Slot> = held
        .filter(|(before, _)| before.facts.limbo)
        .map(|(before, slot)| (&before.address, *slot as Slot))
        .collect();
    let mut slots: HashMap<&Address, u32> = HashMap::with_capacity(snapshot.instances.len());
    let mut groups: Vec<Group<'_>> = Vec::with_capacity(snapshot.instances.len());
    let mut slot_of = Vec::with_capacity(snapshot.instances.len());
    for instance in &snapshot.instances {
        let address = &instance.address;
        let slot = *slots.entry(address).or_insert(groups.len() as u32);
        if slot as usize == groups.len() {
            groups.push(Group { address, first: instance, weight: None, kept: None, fresh: false });
        }
        let group = &mut groups[slot as usize];
        if instance.enabled {
            group.weight = Some(group.weight.unwrap_or(0.0).max(instance.weight));
        }
        let kept = known(instance);
        group.kept = group.kept.or(kept).or_else(|| held.get(address).copied());
        group.fresh |= kept.is_none();
        slot_of.push(slot);
    }
    (groups, slot_of.into())
}

impl Maker {
    fn make(&mut self, spec: &ServiceSpec, group: &Group<'_>, lasting: &Lasting) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            target: self.target(spec, group.address),
            id: Arc::clone(&group.first.id.name),
            address: group.address.to_string().into(),
            ejection: spec.defaults.ejection.clone(),
            vitals: Arc::new(Vitals::new(self.epoch, Arc::clone(&lasting.census))),
        })
    }

    /// The endpoint itself, or with another label or another way to dial it the same life.
    fn keep(
        &mut self,
        spec: &ServiceSpec,
        before: &ServiceSpec,
        group: &Group<'_>,
        endpoint: &Arc<Endpoint>,
    ) -> Arc<Endpoint> {
        let (now, then) = (&spec.defaults, &before.defaults);
        let same_target = (now.protocol, now.connect_timeout, now.dns_ttl, &spec.deny)
            == (then.protocol, then.connect_timeout, then.dns_ttl, &before.deny);
        let id = &group.first.id.name;
        if same_target && endpoint.id == *id && now.ejection == then.ejection {
            return Arc::clone(endpoint);
        }
        let target =
            if same_target { Arc::clone(&endpoint.target) } else { self.target(spec, group.address) };
        Arc::new(Endpoint {
            target,
            id: Arc::clone(id),
            address: Arc::clone(&endpoint.address),
            ejection: now.ejection.clone(),
            vitals: Arc::clone(&endpoint.vitals),
        })
    }

    fn target(&mut self, spec: &ServiceSpec, address: &Address) -> Arc<Target> {
        self.next_target += 1;
        Arc::new(Target {
            id: self.next_target,
            address: address.clone(),
            protocol: spec.defaults.protocol,
            connect_timeout: spec.defaults.connect_timeout,
            dns_ttl: spec.defaults.dns_ttl,
            deny: Arc::clone(&spec.deny),
            gone: Arc::default(),
        })
    }
}
