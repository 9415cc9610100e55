//! The task behind a registration: claims the node whenever there is a connection, and proves to itself that the
//! session lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zookeeper_client::{EventType, OneshotWatcher};

use super::place::{Obstacle, Place};
use super::{Holding, RegisterError};
use crate::registry::zookeeper::session::{Link, LinkStatus, Session};

/// A pause between attempts.
const RETRY: Duration = Duration::from_millis(700);
/// Attempts without a pause, where others are at work.
const HURRIED: u32 = 8;
/// How long releasing may take, with and without a connection.
const RELEASE: Duration = Duration::from_secs(4);

pub(super) struct Holder {
    pub(super) address: String,
    pub(super) place: Place,
    pub(super) data: watch::Receiver<Arc<[u8]>>,
    pub(super) link: watch::Receiver<LinkStatus>,
    pub(super) state: watch::Sender<Holding>,
    pub(super) node: watch::Sender<Arc<str>>,
    pub(super) trouble: watch::Sender<Arc<str>>,
    pub(super) doubt: Doubt,
    /// Sessions lost so far, as the link counts them.
    pub(super) losses: u64,
}

impl Holder {
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), RegisterError> {
        tokio::select! {
            _ = &mut stopped => {}
            () = self.hold() => {}
        }
        // From here on nothing can be lost any more.
        self.doubt.until.send_replace(None);
        timeout(RELEASE, self.release()).await.unwrap_or_else(|_| self.not_released("no connection in time"))
    }

    async fn hold(&mut self) {
        let mut hurried = 0;
        loop {
            let session = self.session().await;
            let asked = Instant::now();
            let data = self.data.borrow_and_update().clone();
            match self.place.claim(&session.client, &data).await {
                Ok(watcher) => {
                    hurried = 0;
                    self.doubt.lives(asked, session.client.session_timeout());
                    self.set_state(Holding::Held);
                    self.guard(&session, watcher).await;
                }
                // Somebody else was at work in the same moment: nothing that a pause would help, the first times.
                Err(Obstacle::Again) if hurried < HURRIED => hurried += 1,
                Err(obstacle) => {
                    self.explain(&obstacle);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for a connected client.
    async fn session(&mut self) -> Session {
        loop {
            let status = self.link.borrow_and_update().clone();
            if status.losses != self.losses {
                self.losses = status.losses;
                self.set_state(Holding::Lost);
            }
            match status.link {
                Link::Up(session) => return session,
                Link::Connecting => {}
                Link::Down(reason) => {
                    self.trouble.send_replace(reason);
                    if *self.state.borrow() == Holding::Held {
                        self.set_state(Holding::InDoubt);
                    }
                }
            }
            if self.link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when the node, its payload or the session may no longer be what they should.
    async fn guard(&mut self, session: &Session, watcher: OneshotWatcher) {
        let ours = |status: &LinkStatus| matches!(&status.link, Link::Up(now) if now.epoch == session.epoch);
        let beat = session.client.session_timeout() / 5;
        let mut event = std::pin::pin!(watcher.changed());
        let deleted = loop {
            tokio::select! {
                event = &mut event => break event.event_type == EventType::NodeDeleted,
                // An error: the keeper is gone, and so are we soon.
                _ = self.link.wait_for(|status| !ours(status)) => break false,
                _ = self.data.changed() => break false,
                () = sleep(beat) => {}
            }
            let asked = Instant::now();
            // An answer counts only if it comes in time to be of use; without one the doubt's clock runs out.
            tokio::select! {
                event = &mut event => break event.event_type == EventType::NodeDeleted,
                _ = self.link.wait_for(|status| !ours(status)) => break false,
                proven = timeout(beat * 2, self.place.prove(&session.client)) => match proven {
                    Ok(Ok(true)) => self.doubt.lives(asked, session.client.session_timeout()),
                    Ok(Ok(false)) => break true,
                    Ok(Err(_)) | Err(_) => {}
                },
            }
        };
        if deleted {
            tracing::warn!(path = &*self.place.shown(), "somebody deleted our node, registering again");
            self.set_state(Holding::Lost);
        }
    }

    async fn release(&mut self) -> Result<(), RegisterError> {
        let client = self.session().await.client;
        match self.place.vacate(&client).await {
            Ok(()) => Ok(()),
            Err(error) => self.not_released(&error.to_string()),
        }
    }

    fn not_released(&self, reason: &str) -> Result<(), RegisterError> {
        Err(RegisterError::NotReleased {
            address: self.address.clone(),
            path: self.place.shown(),
            reason: reason.to_owned(),
        })
    }

    fn explain(&self, obstacle: &Obstacle) {
        let reason: Arc<str> = match obstacle {
            Obstacle::Again => "others make and delete nodes there all the time".into(),
            Obstacle::Stranger(0) => "a persistent node has this name".into(),
            Obstacle::Stranger(owner) => {
                format!("a node of another session, {owner:#x}, has this name").into()
            }
            Obstacle::Failed(error) => error.to_string().into(),
        };
        if matches!(obstacle, Obstacle::Stranger(_)) {
            self.set_state(Holding::Lost);
        }
        if *self.trouble.borrow() != reason {
            let path = self.place.shown();
            tracing::warn!(address = self.address, path, %reason, "can not register, retrying");
            self.trouble.send_replace(reason);
        }
    }

    fn set_state(&self, next: Holding) {
        if next == Holding::Held {
            self.node.send_replace(self.place.shown().into());
        }
        let news = self.state.send_if_modified(|state| {
            // Nothing is lost that never was held.
            let next =
                if *state == Holding::Pending && next != Holding::Held { Holding::Pending } else { next };
            // What is taken for lost is so until it is held again.
            let next = if *state == Holding::Lost && next == Holding::InDoubt { Holding::Lost } else { next };
            std::mem::replace(state, next) != next
        });
        if news && next == Holding::Held {
            self.trouble.send_replace("".into());
            tracing::info!(address = self.address, path = self.place.shown(), "registered");
        }
    }
}

/// The clock of a registration that nobody confirms: when it runs out, the node must be taken for gone.
///
/// The ensemble counts a session's timeout from the last it heard of it, which is no earlier than the moment we
/// asked something that it answered. What it answers here went through the leader: a follower that is cut off from the
/// rest goes on answering reads, while the leader has long given the session up. Two thirds of the timeout
/// leave room for what a follower takes to pass on that we live (half a tick, at most a quarter of the timeout), and for
/// the owner to act.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    until: watch::Sender<Option<Instant>>,
    state: watch::Sender<Holding>,
    address: String,
    path: String,
}

impl Doubt {
    pub(super) fn new(state: watch::Sender<Holding>, address: String, path: String) -> Self {
        Self { until: watch::Sender::new(None), state, address, path }
    }

    /// The session lived when this was asked.
    fn lives(&self, asked: Instant, session_timeout: Duration) {
        self.until.send_replace(Some(asked + session_timeout * 2 / 3));
    }

    /// Runs until the registration ends.
    pub(super) async fn run(self) {
        let mut until = self.until.subscribe();
        loop {
            let at = *until.borrow_and_update();
            let Some(at) = at else {
                if until.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                biased;
                _ = until.changed() => continue,
                () = sleep_until(at) => {}
            }
            let lost = self.state.send_if_modified(|state| {
                let lost =
                    matches!(state, Holding::Held | Holding::InDoubt) && *self.until.borrow() == Some(at);
                if lost {
                    *state = Holding::Lost;
                }
                lost
            });
            if lost {
                tracing::warn!(
                    address = self.address,
                    path = self.path,
                    "no word from ZooKeeper for most of the session's time: the registration must be taken for lost"
                );
            }
            if until.changed().await.is_err() {
                return;
            }
        }
    }
}
