//! Header maps that a worker's messages lend each other: to make one costs as much as to fill it.

use std::cell::RefCell;

use http::HeaderMap;

/// Maps kept.
const KEPT: usize = 64;
/// One that has grown beyond this is not kept.
const LARGE: usize = 64;

/// One worker's spare maps.
#[derive(Debug, Default)]
pub(crate) struct Maps(RefCell<Vec<HeaderMap>>);

impl Maps {
    /// An empty map.
    pub(crate) fn take(&self) -> HeaderMap {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back. What is left in it is forgotten.
    pub(crate) fn give(&self, mut map: HeaderMap) {
        let mut spare = self.0.borrow_mut();
        if map.capacity() > 0 && map.capacity() <= LARGE && spare.len() < KEPT {
            map.clear();
            spare.push(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_map_comes_back_empty_and_a_large_one_not_at_all() {
        let maps = Maps::default();
        let mut map = maps.take();
        map.insert("a", HeaderValue::from_static("1"));
        let capacity = map.capacity();
        maps.give(map);
        let map = maps.take();
        assert!(map.is_empty() && map.capacity() == capacity);
        maps.give(HeaderMap::with_capacity(2 * LARGE));
        assert_eq!(maps.take().capacity(), 0);
        for _ in 0..2 * KEPT {
            maps.give(HeaderMap::with_capacity(1));
        }
        assert_eq!(maps.0.borrow().len(), KEPT);
    }
}
