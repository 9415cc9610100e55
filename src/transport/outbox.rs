//! Bytes on their way out of a connection, and what they wait for.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::buffers::Buffers;

/// Data up to this size is copied behind what is already to be sent, into one send.
const GATHER: usize = 16 * 1024;
/// More than this needs a large buffer.
const MUCH: usize = 1024;

/// Where an outbox empties into.
pub(crate) trait Outlet {
    /// Sends what there is room for now.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes when there is room.
    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
}

/// Bytes to send: on the list of the worker's [`Sends`](super::sends::Sends), or on their own.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: BytesMut,
    /// A large piece of data that goes out after `bytes` without being copied, and what ends it.
    chunk: Bytes,
    tail: &'static [u8],
    way: Way,
    /// The task goes on when all is sent.
    awaited: bool,
}

#[derive(Debug, Default)]
enum Way {
    /// Nothing was asked for.
    #[default]
    Still,
    /// On the list of sends.
    Listed,
    /// There is no room for now: the task writes on when there is.
    Blocked,
    /// The other side takes nothing any more.
    Failed(io::Error),
}

impl Outbox {
    /// Where heads and framing are written to.
    pub(crate) fn buffer(&mut self, spare: &Buffers) -> &mut BytesMut {
        if self.bytes.capacity() == 0 {
            self.bytes = spare.take_small();
        }
        &mut self.bytes
    }

    /// The same for so many bytes: one of the worker's large buffers where that is much.
    pub(crate) fn buffer_for(&mut self, more: usize, spare: &Buffers) -> &mut BytesMut {
        if more > MUCH && self.bytes.capacity() - self.bytes.len() < more {
            let mut large = spare.take();
            large.extend_from_slice(&self.bytes);
            spare.give_small(std::mem::replace(&mut self.bytes, large));
        }
        self.buffer(spare)
    }

    /// Queues data, then `tail`. Says where the data stands, for [`Outbox::unsent`].
    pub(crate) fn put(&mut self, data: Bytes, tail: &'static [u8], spare: &Buffers) -> Range<usize> {
        let start = self.bytes.len();
        let place = start..start + data.len();
        if data.len() <= GATHER {
            let bytes = self.buffer(spare);
            bytes.extend_from_slice(&data);
            bytes.extend_from_slice(tail);
        } else {
            (self.chunk, self.tail) = (data, tail);
        }
        place
    }

    /// Data that was queued, while nothing at all has been sent.
    pub(crate) fn unsent(&self, place: Range<usize>) -> Bytes {
        if place.len() <= GATHER { Bytes::copy_from_slice(&self.bytes[place]) } else { self.chunk.clone() }
    }

    /// Whether more may be queued before what there is has been sent.
    pub(crate) fn has_room(&self) -> bool {
        self.chunk.is_empty() && self.tail.is_empty() && self.bytes.len() < GATHER
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.chunk.len() + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.chunk.is_empty() && self.tail.is_empty()
    }

    /// Forgets what is queued.
    pub(crate) fn clear(&mut self, spare: &Buffers) {
        spare.give_back(std::mem::take(&mut self.bytes));
        *self = Self::default();
    }

    /// Gives the buffer back where nothing is in it.
    pub(crate) fn release(&mut self, spare: &Buffers) {
        if self.bytes.is_empty() {
            spare.give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Whether it is to be put on the list of sends; from now on it stands there.
    pub(crate) fn enlist(&mut self) -> bool {
        let now = matches!(self.way, Way::Still) && !self.is_empty();
        if now {
            self.way = Way::Listed;
        }
        now
    }

    /// The worker's sends have come to this one. True where the task has to go on.
    pub(crate) fn send_listed(&mut self, outlet: &mut impl Outlet, spare: &Buffers) -> bool {
        if !matches!(self.way, Way::Listed) {
            return false;
        }
        self.way = match self.send_at_once(outlet, spare) {
            Ok(true) => Way::Still,
            Ok(false) => Way::Blocked,
            Err(error) => Way::Failed(error),
        };
        std::mem::take(&mut self.awaited) || !matches!(self.way, Way::Still)
    }

    /// Sends what there is room for now. True where that is all.
    fn send_at_once(&mut self, outlet: &mut impl Outlet, spare: &Buffers) -> io::Result<bool> {
        while !self.is_empty() {
            let pieces = [IoSlice::new(&self.bytes), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
            let plain = self.chunk.is_empty() && self.tail.is_empty();
            match outlet.send(if plain { &pieces[..1] } else { &pieces }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.sent(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        spare.give_back(std::mem::take(&mut self.bytes));
        Ok(true)
    }

    fn sent(&mut self, len: usize) {
        let from_bytes = len.min(self.bytes.len());
        if from_bytes == self.bytes.len() {
            // Back to its start: one that is advanced has to be reclaimed.
            self.bytes.clear();
        } else {
            self.bytes.advance(from_bytes);
        }
        let from_chunk = (len - from_bytes).min(self.chunk.len());
        self.chunk.advance(from_chunk);
        self.tail = &self.tail[len - from_bytes - from_chunk..];
    }

    /// Writes on where there was no room. Ready when nothing waits for that.
    pub(crate) fn poll_blocked(
        &mut self,
        cx: &mut Context<'_>,
        outlet: &mut impl Outlet,
        spare: &Buffers,
    ) -> Poll<io::Result<()>> {
        match &mut self.way {
            Way::Still | Way::Listed => return Poll::Ready(Ok(())),
            Way::Failed(error) => {
                let error = std::mem::replace(error, io::ErrorKind::BrokenPipe.into());
                return Poll::Ready(Err(error));
            }
            Way::Blocked => {}
        }
        while !self.is_empty() {
            let pieces = [IoSlice::new(&self.bytes), IoSlice::new(&self.chunk), IoSlice::new(self.tail)];
            match ready!(outlet.poll_write(cx, &pieces)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(len) => self.sent(len),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.way = Way::Still;
        spare.give_back(std::mem::take(&mut self.bytes));
        Poll::Ready(Ok(()))
    }

    /// Sends everything: at once what does not stand on the list. With `wait` the task is woken when what stands
    /// there is sent.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        outlet: &mut impl Outlet,
        spare: &Buffers,
        wait: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.way {
                Way::Listed => {
                    self.awaited |= wait;
                    return Poll::Pending;
                }
                Way::Still if self.is_empty() => {
                    self.awaited = false;
                    return Poll::Ready(Ok(()));
                }
                Way::Still => {
                    if !self.send_at_once(outlet, spare)? {
                        self.way = Way::Blocked;
                    }
                }
                Way::Blocked | Way::Failed(_) => ready!(self.poll_blocked(cx, outlet, spare))?,
            }
        }
    }

    /// The task is woken when what stands on the list is sent.
    pub(crate) fn await_sent(&mut self) {
        self.awaited = true;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes each time; with none left in the list it has no room.
    struct Slow {
        room: Vec<usize>,
        took: Vec<u8>,
        breaks: bool,
    }

    impl Outlet for Slow {
        fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            let Some(room) = self.room.pop() else {
                let kind = if self.breaks { io::ErrorKind::BrokenPipe } else { io::ErrorKind::WouldBlock };
                return Err(kind.into());
            };
            let all = pieces.iter().flat_map(|piece| piece.iter().copied());
            let before = self.took.len();
            self.took.extend(all.take(room));
            Ok(self.took.len() - before)
        }

        fn poll_write(&mut self, _: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            match self.send(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                result => Poll::Ready(result),
            }
        }
    }

    #[test]
    fn who_waits_is_told_and_nobody_else() {
        let (spare, mut cx) = (Buffers::default(), Context::from_waker(Waker::noop()));
        let outlet = |room: &[usize]| Slow { room: room.to_vec(), took: Vec::new(), breaks: false };
        let queued = || {
            let mut outbox = Outbox::default();
            outbox.put("hello".into(), b"", &spare);
            assert!(outbox.enlist() && !outbox.enlist(), "it stands on the list once");
            outbox
        };
        let mut all = outlet(&[100]);
        assert!(!queued().send_listed(&mut all, &spare), "all is sent, and nobody asked");
        let mut outbox = queued();
        assert!(outbox.poll_flush(&mut cx, &mut outlet(&[]), &spare, true).is_pending());
        assert!(outbox.send_listed(&mut outlet(&[100]), &spare), "somebody waits");
        assert!(matches!(outbox.poll_flush(&mut cx, &mut outlet(&[]), &spare, true), Poll::Ready(Ok(()))));
        let mut outbox = queued();
        outbox.await_sent();
        assert!(outbox.send_listed(&mut outlet(&[100]), &spare), "somebody waits");
        outbox.put("again".into(), b"", &spare);
        assert!(outbox.enlist() && !outbox.send_listed(&mut outlet(&[100]), &spare), "and does not any more");
        let mut outbox = queued();
        assert!(outbox.send_listed(&mut outlet(&[3]), &spare), "it is blocked");
        let mut rest = outlet(&[100]);
        assert!(matches!(outbox.poll_blocked(&mut cx, &mut rest, &spare), Poll::Ready(Ok(()))));
        assert_eq!((&rest.took[..], outbox.is_empty()), (&b"lo"[..], true));
        let mut outbox = queued();
        let mut broken = Slow { room: vec![], took: vec![], breaks: true };
        assert!(outbox.send_listed(&mut broken, &spare), "it failed");
        assert!(matches!(outbox.poll_blocked(&mut cx, &mut broken, &spare), Poll::Ready(Err(_))));
        let mut outbox = queued();
        outbox.clear(&spare);
        assert!(!outbox.send_listed(&mut all, &spare) && all.took == b"hello", "what is cleared is not sent");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_at_a_time_all_goes_out_in_order(
            pieces in proptest::collection::vec((0usize..3 * GATHER / 2, any::<bool>()), 1..6),
            rooms in proptest::collection::vec(1usize..GATHER, 0..4),
        ) {
            let (spare, mut cx) = (Buffers::default(), Context::from_waker(Waker::noop()));
            let (mut outbox, mut expected) = (Outbox::default(), Vec::new());
            let mut outlet = Slow { room: vec![], took: vec![], breaks: false };
            for (i, (len, listed)) in pieces.into_iter().enumerate() {
                let data = vec![i as u8; len];
                expected.extend_from_slice(&data);
                expected.extend_from_slice(b"\r\n");
                outbox.put(data.into(), b"\r\n", &spare);
                outlet.room.clone_from(&rooms);
                if listed && outbox.enlist() {
                    outbox.send_listed(&mut outlet, &spare);
                }
                while outbox.poll_flush(&mut cx, &mut outlet, &spare, true).is_pending() {
                    outlet.room.push(GATHER);
                }
            }
            prop_assert_eq!(outlet.took, expected);
        }
    }
}
