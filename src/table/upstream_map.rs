//! A map of which a changed copy shares all but the changed part.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::model::ServiceName;

/// Among 10,000 services each shard holds some forty: a change copies those, and 256 pointers.
const SHARDS: usize = 256;

/// Services by name. Cloning is cheap; a clone that is changed copies one shard. A look-up hashes once.
#[derive(Debug)]
pub(super) struct ShardedMap<V> {
    shards: Box<[Arc<Vec<Entry<V>>>]>,
    /// Names come from registries: where they fall is not for them to choose.
    hasher: RandomState,
}

/// In a shard entries stand in the order of their hashes.
#[derive(Debug, Clone)]
struct Entry<V> {
    hash: u64,
    name: ServiceName,
    value: V,
}

impl<V> Clone for ShardedMap<V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone() }
    }
}

impl<V: Clone> Default for ShardedMap<V> {
    fn default() -> Self {
        let empty = Arc::default();
        Self { shards: std::iter::repeat_n(empty, SHARDS).collect(), hasher: RandomState::new() }
    }
}

impl<V: Clone> ShardedMap<V> {
    /// The hash of a name, its shard, and its place there: `Err` says where it would stand.
    fn find(&self, name: &str) -> (u64, usize, Result<usize, usize>) {
        let hash = self.hasher.hash_one(name);
        // The shard is the low bits', the order within it that of all.
        let shard = hash as usize % SHARDS;
        let entries = &self.shards[shard];
        let first = entries.partition_point(|entry| entry.hash < hash);
        let alike = entries[first..].iter().take_while(|entry| entry.hash == hash);
        let found = { alike }.position(|entry| entry.name.as_str() == name);
        (hash, shard, found.map(|at| first + at).ok_or(first))
    }

    /// The value under a name.
    pub(super) fn get(&self, name: &str) -> Option<&V> {
        let (_, shard, place) = self.find(name);
        place.ok().map(|at| &self.shards[shard][at].value)
    }

    /// Puts a value under a name and gives back what was there.
    pub(super) fn insert(&mut self, name: ServiceName, value: V) -> Option<V> {
        let (hash, shard, place) = self.find(name.as_str());
        let entries = Arc::make_mut(&mut self.shards[shard]);
        match place {
            Ok(at) => Some(std::mem::replace(&mut entries[at].value, value)),
            Err(at) => {
                entries.insert(at, Entry { hash, name, value });
                None
            }
        }
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, name: &str) -> Option<V> {
        let (_, shard, place) = self.find(name);
        Some(Arc::make_mut(&mut self.shards[shard]).remove(place.ok()?).value)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ServiceName, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|entry| (&entry.name, &entry.value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_clones_do_not_see_later_changes(
            steps in proptest::collection::vec((0u8..40, proptest::option::of(any::<u32>())), 0..200), cut in 0usize..200
        ) {
            let (mut map, mut model) = (ShardedMap::default(), BTreeMap::new());
            let mut kept = None;
            for (i, (name, value)) in steps.iter().enumerate() {
                if i == cut {
                    kept = Some((map.clone(), model.clone()));
                }
                let name = ServiceName::new(&format!("service-{name}")).unwrap();
                if let Some(value) = value {
                    prop_assert_eq!(map.insert(name.clone(), *value), model.insert(name, *value));
                } else {
                    prop_assert_eq!(map.remove(name.as_str()), model.remove(&name));
                }
            }
            for (map, model) in kept.into_iter().chain([(map, model)]) {
                for (name, value) in &model {
                    prop_assert_eq!(map.get(name.as_str()), Some(value));
                }
                let all: BTreeMap<_, _> = map.iter().map(|(n, v)| (n.clone(), *v)).collect();
                prop_assert_eq!(all, model);
            }
        }
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map = ShardedMap::default();
        for i in 0..1_000 {
            map.insert(ServiceName::new(&i.to_string()).unwrap(), i);
        }
        let mut next = map.clone();
        next.insert(ServiceName::new("7").unwrap(), 0);
        let copied = map.shards.iter().zip(&next.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }
}
