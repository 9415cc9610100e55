//! The one place where discovery meets requests: a pointer that is swapped.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::RoutingTable;

/// The writing end: one, and not `Clone`.
pub(super) struct Publisher(Arc<ArcSwap<RoutingTable>>);

impl Publisher {
    pub(super) fn new(first: Arc<RoutingTable>) -> Self {
        Self(Arc::new(ArcSwap::new(first)))
    }

    /// From here on every load is of the new table. Returns the one before.
    pub(super) fn publish(&self, next: Arc<RoutingTable>) -> Arc<RoutingTable> {
        self.0.swap(next)
    }

    pub(super) fn reader(&self) -> TableReader {
        TableReader(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publisher").field(&self.0.load().generation()).finish()
    }
}

/// Reads the table from anywhere.
#[derive(Clone)]
pub struct TableReader(Arc<ArcSwap<RoutingTable>>);

impl TableReader {
    /// The table now. Holding it keeps this generation alive: not for long, please.
    pub fn load(&self) -> Arc<RoutingTable> {
        self.0.load_full()
    }

    /// A reader for one worker, whose loads cost next to nothing while nothing changes.
    pub fn cached(&self) -> CachedReader {
        CachedReader(Cache::new(Arc::clone(&self.0)))
    }
}

impl fmt::Debug for TableReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TableReader").field(&self.0.load().generation()).finish()
    }
}

/// A worker's own reader. It holds the generation that it saw last, so that an idle worker should
/// call [`CachedReader::get`] on its tick, too.
pub struct CachedReader(Cache<Arc<ArcSwap<RoutingTable>>, Arc<RoutingTable>>);

impl CachedReader {
    /// The table now.
    pub fn get(&mut self) -> &Arc<RoutingTable> {
        self.0.load()
    }
}

impl fmt::Debug for CachedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachedReader").field(&self.0.arc_swap().load().generation()).finish()
    }
}
