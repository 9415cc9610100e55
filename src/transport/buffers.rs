//! Buffers that a worker's exchanges lend each other.
//!
//! A connection that waits holds no buffer. One that reads or writes borrows a large one from
//! here for as long as there are bytes in it, so that a thousand idle connections cost nothing and
//! the buffer in use is warm in the cache.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::BytesMut;

/// A whole 64 KiB body and its head fit in one read.
pub(crate) const BUFFER: usize = 72 * 1024;

/// Buffers kept; more than that are in use at once only under load, and are then allocated.
const KEPT: usize = 16;

/// How many are tried for one whose last reader is done before a new one is allocated.
const TRIED: usize = 4;

/// Most heads fit, with a small body.
const SMALL: usize = 2 * 1024;
/// Small buffers kept: many messages wait for one round of sends.
const KEPT_SMALL: usize = 256;
/// One that has grown beyond this is not kept among them.
const GROWN: usize = 8 * 1024;

/// One worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: RefCell<VecDeque<BytesMut>>,
    small: RefCell<Vec<BytesMut>>,
}

impl Buffers {
    /// An empty buffer with room for at least [`BUFFER`] bytes.
    pub(crate) fn take(&self) -> BytesMut {
        let mut spare = self.spare.borrow_mut();
        let newest = spare.len();
        for index in (newest.saturating_sub(TRIED)..newest).rev() {
            // A buffer whose slices are still on their way to a client stays where it is.
            if spare[index].try_reclaim(BUFFER) {
                return spare.remove(index).unwrap_or_default();
            }
        }
        BytesMut::with_capacity(BUFFER)
    }

    /// An empty buffer for a head, which may grow.
    pub(crate) fn take_small(&self) -> BytesMut {
        self.small.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(SMALL))
    }

    /// Takes one of those back.
    pub(crate) fn give_small(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut small = self.small.borrow_mut();
        if (SMALL..=GROWN).contains(&buffer.capacity()) && small.len() < KEPT_SMALL {
            small.push(buffer);
        }
    }

    /// Takes a buffer back, whichever it is.
    pub(crate) fn give_back(&self, buffer: BytesMut) {
        if buffer.capacity() < BUFFER { self.give_small(buffer) } else { self.give(buffer) }
    }

    /// Takes a buffer back. What is left in it is forgotten.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let mut spare = self.spare.borrow_mut();
        if spare.len() == KEPT {
            spare.pop_front();
        }
        spare.push_back(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_slices_are_gone() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer.extend_from_slice(&[7; 100]);
        let slice = buffer.split_to(100).freeze();
        let storage = slice.as_ptr();
        buffers.give(buffer);

        let other = buffers.take();
        assert_ne!(other.as_ptr(), storage, "still being read");
        buffers.give(other);
        drop(slice);
        let pointers = [buffers.take(), buffers.take()].map(|b| b.as_ptr());
        assert!(pointers.contains(&storage), "both buffers serve again");
    }

    #[test]
    fn small_buffers_are_kept_apart_and_grown_ones_not_at_all() {
        let buffers = Buffers::default();
        let small = buffers.take_small();
        let storage = small.as_ptr();
        buffers.give_small(small);
        let mut small = buffers.take_small();
        assert_eq!(small.as_ptr(), storage);
        small.reserve(2 * GROWN);
        buffers.give_small(small);
        assert!(buffers.small.borrow().is_empty() && buffers.take_small().capacity() < BUFFER);
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let buffers = Buffers::default();
        for _ in 0..KEPT * 2 {
            buffers.give(BytesMut::with_capacity(BUFFER));
        }
        assert_eq!(buffers.spare.borrow().len(), KEPT);
    }
}
