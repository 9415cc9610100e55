//! One stream: what the other side has sent and may still send, and who waits for what.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};

use super::frame::Reason;

/// Why a stream is over before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Our side is done with it.
    Ours(Reason),
    /// The other side reset it.
    Reset(Reason),
    /// The other side says that it has not looked at it, and will not.
    Unprocessed(Reason),
    /// The other side broke the rules, on this stream or for all of them.
    Broken(&'static str),
    /// The connection is no more.
    Lost,
}

/// A stream as the connection and whoever is served by it see it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    /// How many bytes the other side takes now; below nothing where it lowered its first window.
    pub(crate) send_window: Cell<i64>,
    /// How many it may still send, and may at most.
    pub(super) recv_window: Cell<i64>,
    window: u32,
    /// Bytes read that it has not been told of.
    owed: Cell<u32>,
    /// An answer's head; it stays in place of interim ones, which are counted.
    head: RefCell<Option<Response<()>>>,
    pub(super) interim: Cell<u32>,
    /// The answer has begun.
    pub(super) answered: Cell<bool>,
    /// It was asked for a head alone: its length says nothing.
    pub(super) bodiless: Cell<bool>,
    body: RefCell<BytesMut>,
    trailers: RefCell<Option<HeaderMap>>,
    /// Nobody reads the body.
    pub(super) abandoned: Cell<bool>,
    /// Bytes to come, where the head says how many.
    pub(super) length: Cell<Option<u64>>,
    /// The other side has said all.
    pub(crate) ended: Cell<bool>,
    /// Our side has.
    pub(crate) sent: Cell<bool>,
    over: Cell<Option<Over>>,
    /// On the list of those who wait for the connection.
    pub(crate) parked: Cell<bool>,
    /// What waits there needs window, and not room alone.
    pub(super) weighs: Cell<bool>,
    /// Who reads, and who writes.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

fn keep(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    match slot.as_ref() {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

fn wake(slot: &RefCell<Option<Waker>>) {
    if let Some(waker) = slot.borrow().as_ref() {
        // Only marks the task as runnable.
        waker.wake_by_ref();
    }
}

impl Stream {
    /// A stream whose other side takes so many bytes at first, and may send so many.
    pub(super) fn new(id: u32, send_window: i64, window: u32) -> Self {
        Self {
            id,
            send_window: Cell::new(send_window),
            recv_window: Cell::new(i64::from(window)),
            window,
            owed: Cell::new(0),
            head: RefCell::default(),
            interim: Cell::new(0),
            answered: Cell::new(false),
            bodiless: Cell::new(false),
            body: RefCell::default(),
            trailers: RefCell::default(),
            abandoned: Cell::new(false),
            length: Cell::new(None),
            ended: Cell::new(false),
            sent: Cell::new(false),
            over: Cell::new(None),
            parked: Cell::new(false),
            weighs: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
        }
    }

    /// Why it is over before its end.
    pub(crate) fn over(&self) -> Option<Over> {
        self.over.get()
    }

    /// Ends it; the first to say why is right.
    pub(super) fn end(&self, over: Over) {
        if self.over.get().is_none() {
            self.over.set(Some(over));
            wake(&self.reader);
            wake(&self.writer);
        }
    }

    /// Whom to wake when it is over, or more may be sent.
    pub(crate) fn park(&self, cx: &Context<'_>) {
        keep(&self.writer, cx);
    }

    pub(super) fn wake(&self) {
        wake(&self.writer);
    }

    /// Whom to wake when more of what the other side says is here, or it is over.
    pub(crate) fn park_reader(&self, cx: &Context<'_>) {
        keep(&self.reader, cx);
    }

    /// An answer's head has come.
    pub(super) fn begin(&self, head: Response<()>) {
        *self.head.borrow_mut() = Some(head);
        self.answered.set(true);
        wake(&self.reader);
    }

    pub(crate) fn take_head(&self) -> Option<Response<()>> {
        self.head.take()
    }

    /// Interim answers so far.
    pub(crate) fn interim(&self) -> u32 {
        self.interim.get()
    }

    pub(super) fn wake_reader(&self) {
        wake(&self.reader);
    }

    /// Part of the body has come.
    pub(super) fn push(&self, data: &[u8]) {
        // Copied: a slice would keep the whole buffer that it came in, for however few bytes.
        self.body.borrow_mut().extend_from_slice(data);
        wake(&self.reader);
    }

    /// The other side has said all, these trailers last.
    pub(super) fn finish(&self, trailers: Option<HeaderMap>) {
        *self.trailers.borrow_mut() = trailers;
        self.ended.set(true);
        wake(&self.reader);
    }

    /// All of the body that is here.
    pub(crate) fn take_body(&self) -> Bytes {
        self.body.take().freeze()
    }

    /// Forgets what nobody has read, and says how much that was. Whoever still reads must not take what was read for all.
    pub(super) fn discard(&self) -> u32 {
        let left = self.take_body().len() as u32;
        if left > 0 {
            self.ended.set(false);
        }
        left
    }

    pub(crate) fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether there is nothing to read, now and ever.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.ended.get() && self.body.borrow().is_empty() && self.trailers.borrow().is_none()
    }

    /// The rest of the body, where it is all here and nothing else follows.
    pub(crate) fn take_whole(&self) -> Option<Bytes> {
        (self.ended.get() && self.trailers.borrow().is_none()).then(|| self.take_body())
    }

    /// Bytes that the head promised and that were not read.
    pub(crate) fn unread(&self) -> u64 {
        self.length.get().unwrap_or(0) + self.body.borrow().len() as u64
    }

    /// Bytes that the head promised and that have not come.
    pub(crate) fn missing(&self) -> Option<u64> {
        self.length.get()
    }

    /// These bytes were read: by how much the other side's window is to be opened for that, once it is worth a frame.
    pub(super) fn read(&self, bytes: u32) -> Option<u32> {
        let owed = self.owed.get() + bytes;
        let opens = owed >= self.window / 2 && !self.ended.get();
        self.owed.set(if opens { 0 } else { owed });
        if !opens {
            return None;
        }
        self.recv_window.set(self.recv_window.get() + i64::from(owed));
        Some(owed)
    }
}
