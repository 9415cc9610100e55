//! One stream: what its client has sent and may still send, and who waits for what.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::http2::frame::Reason;

/// Bytes of a request's body that may be here before they are read.
pub(super) const WINDOW: u32 = 256 * 1024;

/// A stream as the connection and the stream's task see it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// How many bytes the client takes now; below nothing where it lowered its first window.
    pub(super) send_window: Cell<i64>,
    /// How many it may still send.
    pub(super) recv_window: Cell<i64>,
    /// Bytes read that it has not been told of.
    owed: Cell<u32>,
    body: RefCell<BytesMut>,
    trailers: RefCell<Option<HeaderMap>>,
    /// Bytes to come, where the head says how many.
    pub(super) length: Cell<Option<u64>>,
    /// The client has sent all.
    pub(super) ended: Cell<bool>,
    /// Our side has.
    pub(super) answered: Cell<bool>,
    /// Nobody wants anything more of it.
    over: Cell<Option<Reason>>,
    /// On the list of those who wait for the connection.
    pub(super) parked: Cell<bool>,
    /// Who reads the body, and the stream's task.
    reader: RefCell<Option<Waker>>,
    task: RefCell<Option<Waker>>,
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
    /// A stream whose client takes so many bytes. `ended`: its request has no body.
    pub(super) fn new(id: u32, send_window: i64, length: Option<u64>, ended: bool) -> Self {
        Self {
            id,
            send_window: Cell::new(send_window),
            recv_window: Cell::new(i64::from(WINDOW)),
            owed: Cell::new(0),
            body: RefCell::default(),
            trailers: RefCell::default(),
            length: Cell::new(length),
            ended: Cell::new(ended),
            answered: Cell::new(false),
            over: Cell::new(None),
            parked: Cell::new(false),
            reader: RefCell::default(),
            task: RefCell::default(),
        }
    }

    /// Why it is over before its end.
    pub(super) fn over(&self) -> Option<Reason> {
        self.over.get()
    }

    /// Ends it, whoever said so.
    pub(super) fn end(&self, reason: Reason) {
        if self.over.get().is_none() {
            self.over.set(Some(reason));
            wake(&self.reader);
            wake(&self.task);
        }
    }

    /// Whom to wake when it is over, or more may be sent.
    pub(super) fn park(&self, cx: &Context<'_>) {
        keep(&self.task, cx);
    }

    pub(super) fn wake(&self) {
        wake(&self.task);
    }

    /// Whom to wake when more of the body is here.
    pub(super) fn park_reader(&self, cx: &Context<'_>) {
        keep(&self.reader, cx);
    }

    /// Part of the body has come.
    pub(super) fn push(&self, data: &[u8]) {
        // Copied: a slice would keep the whole buffer that it came in, for however few bytes.
        self.body.borrow_mut().extend_from_slice(data);
        wake(&self.reader);
    }

    /// The client has sent all, these trailers last.
    pub(super) fn finish(&self, trailers: Option<HeaderMap>) {
        *self.trailers.borrow_mut() = trailers;
        self.ended.set(true);
        wake(&self.reader);
    }

    /// All of the body that is here.
    pub(super) fn take_body(&self) -> Bytes {
        self.body.take().freeze()
    }

    pub(super) fn take_trailers(&self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether there is nothing to read, now and ever.
    pub(super) fn is_exhausted(&self) -> bool {
        self.ended.get() && self.body.borrow().is_empty() && self.trailers.borrow().is_none()
    }

    /// These bytes were read: by how much the client's window is to be opened for that, once it is worth a frame.
    pub(super) fn read(&self, bytes: u32) -> Option<u32> {
        let owed = self.owed.get() + bytes;
        let opens = owed >= WINDOW / 2 && !self.ended.get();
        self.owed.set(if opens { 0 } else { owed });
        if !opens {
            return None;
        }
        self.recv_window.set(self.recv_window.get() + i64::from(owed));
        Some(owed)
    }
}
