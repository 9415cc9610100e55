//! Sends at the end of a turn of the event loop, one behind the other.
//!
//! A worker that reads, thinks and sends for one connection after the other wakes whoever it sends to each time:
//! that side has been done with the last message for a while. When all the reading and thinking comes first and
//! the sends follow each other, the other side is still busy with one when the next arrives, and to wake it is
//! the dearest part of a send. So whoever has a message leaves it on a list, and one task, which runs when all
//! that were ready have had their turn, sends for all: nobody is polled again for having sent.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Somebody with a message that is ready to go out.
pub(crate) trait Sender {
    /// Sends what the socket takes at once, and wakes its task where that is not all, or fails.
    fn send_now(&self);
}

/// One worker's list of those who have something to send.
#[derive(Default)]
pub(crate) struct Sends {
    waiting: RefCell<Vec<Rc<dyn Sender>>>,
    /// The task that sends: `None` until the first message.
    task: RefCell<Option<Waker>>,
    spawned: Cell<bool>,
}

impl Sends {
    /// Lets `sender` send when everybody who is ready has had a turn. Must be called inside a `LocalRuntime`.
    pub(crate) fn put(self: &Rc<Self>, sender: Rc<dyn Sender>) {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting.is_empty();
        waiting.push(sender);
        if !first {
            return;
        }
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        } else if !self.spawned.replace(true) {
            let list = Rc::downgrade(self);
            tokio::task::spawn_local(std::future::poll_fn(move |cx| Self::poll(&list, cx)));
        }
    }

    fn poll(list: &Weak<Self>, cx: &Context<'_>) -> Poll<()> {
        let Some(list) = list.upgrade() else { return Poll::Ready(()) };
        list.task.borrow_mut().get_or_insert_with(|| cx.waker().clone());
        let mut waiting = std::mem::take(&mut *list.waiting.borrow_mut());
        for sender in waiting.drain(..) {
            // A panic is its own connection's: the list is everybody's, and nobody else would send from it again.
            if catch_unwind(AssertUnwindSafe(|| sender.send_now())).is_err() {
                tracing::error!("a send panicked");
            }
        }
        // Its room serves again, unless somebody came meanwhile.
        let mut now = list.waiting.borrow_mut();
        if now.is_empty() {
            *now = waiting;
        }
        Poll::Pending
    }
}

impl fmt::Debug for Sends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sends").field("waiting", &self.waiting.borrow().len()).finish_non_exhaustive()
    }
}

/// Sends what the socket takes now, whatever the runtime knows of it.
pub(crate) fn send(socket: impl AsFd, pieces: &[IoSlice<'_>], flags: SendFlags) -> io::Result<usize> {
    let flags = flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = match pieces {
        [one] => rustix::net::send(socket, one, flags),
        all => sendmsg(socket, all, &mut SendAncillaryBuffer::default(), flags),
    };
    Ok(sent?)
}

#[cfg(test)]
mod tests {
    use tokio::runtime::LocalOptions;

    use super::*;

    struct Named(&'static str, Rc<RefCell<Vec<String>>>);

    impl Sender for Named {
        fn send_now(&self) {
            self.1.borrow_mut().push(format!("{} sends", self.0));
        }
    }

    #[test]
    fn those_who_are_ready_think_before_the_first_sends() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        let log = Rc::<RefCell<Vec<String>>>::default();
        let told = Rc::clone(&log);
        runtime.block_on(async move {
            let sends = Rc::<Sends>::default();
            for _ in 0..2 {
                let tasks = ["a", "b", "c"].map(|name| {
                    let (sends, told) = (Rc::clone(&sends), Rc::clone(&told));
                    tokio::task::spawn_local(async move {
                        told.borrow_mut().push(format!("{name} thinks"));
                        sends.put(Rc::new(Named(name, told)));
                    })
                });
                for task in tasks {
                    task.await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
        let round = ["a thinks", "b thinks", "c thinks", "a sends", "b sends", "c sends"];
        assert_eq!(*log.borrow(), [round, round].concat());
    }

    struct Panics;

    impl Sender for Panics {
        fn send_now(&self) {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_send_that_panics_is_not_the_last_of_its_worker() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        let log = Rc::<RefCell<Vec<String>>>::default();
        let told = Rc::clone(&log);
        runtime.block_on(async move {
            let sends = Rc::<Sends>::default();
            for round in 1..=2 {
                sends.put(Rc::new(Panics));
                sends.put(Rc::new(Named("a", Rc::clone(&told))));
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(told.borrow().len(), round);
            }
        });
    }
}
