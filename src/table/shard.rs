//! Shards: a ring of a catalog's services.
//!
//! As on the ring of instances, point N of a service stands at fmix32(CRC-32(`NAME#N`)), with its name in
//! the catalog. Health counts for nothing here: a key belongs to its group, whoever of it is up.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::balance::{Balancer, Member, Ring, Slot, hash};
use crate::config::plan::{RoutePlan, ShardPlan};
use crate::model::ServiceName;

use super::upstream::Upstream;
use super::upstream_map::ShardedMap;

/// A catalog's services on a ring.
#[derive(Debug)]
pub(super) struct ShardRing {
    catalog: ServiceName,
    virtual_nodes: u32,
    /// Sorted.
    names: Box<[ServiceName]>,
    ring: Ring,
}

/// Every ring that a route asks for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct ShardRings(Arc<[Arc<ShardRing>]>);

impl ShardRing {
    fn new(catalog: ServiceName, virtual_nodes: u32, mut names: Vec<ServiceName>) -> Self {
        names.sort_unstable();
        let member = |name: &ServiceName| Member { address: child(name).into(), share: 1.0 };
        let members: Vec<Member> = names.iter().map(member).collect();
        let ring = Ring::new(&members, virtual_nodes, None);
        Self { catalog, virtual_nodes, names: names.into(), ring }
    }

    /// The service that a key belongs to.
    pub(super) fn find(&self, key: &[u8]) -> Option<&ServiceName> {
        self.names.get(self.ring.owner(hash::key(key))?)
    }

    /// One by chance.
    pub(super) fn any(&self, rng: &mut fastrand::Rng) -> Option<&ServiceName> {
        (!self.names.is_empty()).then(|| &self.names[rng.usize(..self.names.len())])
    }

    /// All of them in the order in which they would take a key over.
    pub(super) fn order(&self, key: &[u8]) -> Vec<&ServiceName> {
        let order: Vec<Slot> = self.ring.placement(hash::key(key)).unwrap_or_default();
        order.into_iter().filter_map(|slot| self.names.get(slot)).collect()
    }

    /// All of them by name.
    pub(super) fn names(&self) -> &[ServiceName] {
        &self.names
    }
}

/// A service's name in its catalog.
pub(super) fn child(name: &ServiceName) -> &str {
    name.as_str().split_once('/').map_or(name.as_str(), |(_, child)| child)
}

impl ShardRings {
    /// The ring of a route.
    pub(super) fn get(&self, plan: &ShardPlan) -> Option<&ShardRing> {
        let same =
            |ring: &&Arc<ShardRing>| ring.catalog == plan.catalog && ring.virtual_nodes == plan.virtual_nodes;
        self.0.iter().find(same).map(|ring| &**ring)
    }

    /// What routes ask for.
    pub(super) fn wanted(routes: &[RoutePlan]) -> BTreeSet<(ServiceName, u32)> {
        let shards = routes.iter().filter_map(|route| route.shard.as_ref());
        shards.map(|shard| (shard.catalog.clone(), shard.virtual_nodes)).collect()
    }

    /// The rings after services came or went: those whose names are the same stay as they are.
    pub(super) fn next(
        &self,
        wanted: &BTreeSet<(ServiceName, u32)>,
        upstreams: &ShardedMap<Arc<Upstream>>,
    ) -> Self {
        let ring = |(catalog, virtual_nodes): &(ServiceName, u32)| {
            let ours = |name: &&ServiceName| {
                name.as_str().split_once('/').is_some_and(|(base, _)| base == catalog.as_str())
            };
            let mut names: Vec<ServiceName> =
                upstreams.iter().map(|(name, _)| name).filter(ours).cloned().collect();
            names.sort_unstable();
            let same = |ring: &&Arc<ShardRing>| {
                ring.catalog == *catalog && ring.virtual_nodes == *virtual_nodes && *ring.names == *names
            };
            let kept = self.0.iter().find(same).cloned();
            kept.unwrap_or_else(|| Arc::new(ShardRing::new(catalog.clone(), *virtual_nodes, names)))
        };
        Self(wanted.iter().map(ring).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(names: &BTreeSet<u8>) -> ShardRing {
        let name = |n: &u8| ServiceName::in_catalog("data", &format!("zdata{n}")).unwrap();
        ShardRing::new(ServiceName::new("data").unwrap(), 160, names.iter().rev().map(name).collect())
    }

    #[test]
    fn points_are_those_of_the_names_in_the_catalog() {
        let ring = ring(&(1..=4).collect());
        for key in (0..200).map(|i| format!("k{i}")) {
            let at = hash::key(key.as_bytes());
            let point = |name: &str, n| hash::key(format!("{name}#{n}").as_bytes()).wrapping_sub(at);
            let nearest = |name: &&ServiceName| (0..160).map(|n| point(child(name), n)).min();
            let expected = ring.names().iter().min_by_key(nearest);
            assert_eq!(ring.find(key.as_bytes()), expected);
            assert_eq!(ring.order(key.as_bytes()).first().copied(), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_group_that_comes_or_goes_moves_only_its_own_keys(
            groups in proptest::collection::btree_set(0u8..40, 2..20), at in any::<prop::sample::Index>()
        ) {
            let gone = *at.get(&groups.iter().copied().collect::<Vec<_>>());
            let (full, mut rest) = (ring(&groups), groups);
            rest.remove(&gone);
            let (less, gone) = (ring(&rest), format!("data/zdata{gone}"));
            for key in (0..500).map(|i| format!("k{i}")) {
                let (before, after) = (full.find(key.as_bytes()).unwrap(), less.find(key.as_bytes()).unwrap());
                prop_assert!(before == after || before.as_str() == gone, "{} {} {}", key, before, after);
                prop_assert_eq!(after, full.order(key.as_bytes()).into_iter().find(|name| name.as_str() != gone).unwrap());
            }
        }
    }
}
