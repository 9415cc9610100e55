//! Holding an instance's own ephemeral node.
//!
//! The node is there for as long as the registration is held: it is created again with a new session when
//! the old one is lost, and when somebody else deletes it. What a former session of ours left behind is
//! replaced in one transaction, so that watchers see no gap; a stranger's node is left alone.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zookeeper_client::{Acls, Client, CreateMode, Error, EventType, OneshotWatcher};

use super::Task;
use super::session::{self, ConnectOptions, Link, LinkStatus, Session};

/// What to register, and where.
#[derive(Debug, Clone)]
pub struct RegisterOptions {
    /// The ensemble.
    pub connect: ConnectOptions,
    /// The directory, below the chroot: `/services/orders`. Made, with its parents, where it is missing.
    pub path: String,
    /// The node's name in it.
    pub node: String,
    /// Its payload.
    pub data: Vec<u8>,
    /// How long the first success may take.
    pub give_up: Duration,
}

/// Whether the node is there, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Not yet.
    Pending,
    /// It is there and ours.
    Held,
    /// The connection is lost; the node stands until the session expires.
    InDoubt,
    /// The session is lost and the node with it, or a stranger has its name. Being registered again.
    Lost,
}

/// Why there is no registration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Not held in time.
    #[error("{path} could not be registered at {address} within {after:?}: {reason}")]
    GaveUp {
        /// The ensemble's hosts.
        address: String,
        /// The node.
        path: String,
        /// How long it was tried.
        after: Duration,
        /// What stood in the way last.
        reason: String,
    },
    /// A path that no node can have.
    #[error("{path:?} is no path of a node: {reason}")]
    BadPath {
        /// The node.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The node could not be deleted; it goes when its session expires.
    #[error("{path} could not be deleted at {address}: {reason}")]
    NotReleased {
        /// The ensemble's hosts.
        address: String,
        /// The node.
        path: String,
        /// Why.
        reason: String,
    },
}

/// An ephemeral node that is held until [`Registration::release`]. Dropped, its session is closed a little
/// later, which also removes the node.
#[derive(Debug)]
pub struct Registration {
    state: watch::Receiver<Holding>,
    stop: Option<oneshot::Sender<()>>,
    holder: Option<JoinHandle<Result<(), RegisterError>>>,
    _keeper: Task,
}

/// A pause between attempts.
const RETRY: Duration = Duration::from_millis(700);
/// How long releasing may take, with and without a connection.
const RELEASE: Duration = Duration::from_secs(4);
/// A request's deadline.
const DEADLINE: Duration = Duration::from_secs(4);

impl RegisterOptions {
    /// A node below a directory, with ten seconds for the first success.
    pub fn new(
        connect: ConnectOptions,
        path: impl Into<String>,
        node: impl Into<String>,
        data: impl Into<Vec<u8>>,
    ) -> Self {
        let (path, node, data) = (path.into(), node.into(), data.into());
        Self { connect, path, node, data, give_up: Duration::from_secs(10) }
    }
}

impl Registration {
    /// Registers, and returns once the node is there.
    pub async fn start(options: RegisterOptions) -> Result<Self, RegisterError> {
        // Without a chroot of the client's, the chroot itself is just one more parent to make.
        let mut connect = options.connect.clone();
        connect.connect = options.connect.hosts().to_owned();
        let chroot = options.connect.chroot();
        let directory = format!("{chroot}{}", options.path.trim_end_matches('/'));
        let path = format!("{directory}/{}", options.node);
        check(&options, &path)?;

        let (link_sender, link) = watch::channel(LinkStatus { link: Link::Connecting, losses: 0 });
        let (state, state_seen) = watch::channel(Holding::Pending);
        let (trouble, last_trouble) = watch::channel(Arc::from("no answer yet"));
        let (stop, stopped) = oneshot::channel();
        let address = connect.hosts().to_owned();
        let keeper = Task::spawn(session::keep(connect, link_sender));
        let holder = Holder {
            address: address.clone(),
            directory,
            path: path.clone(),
            data: options.data,
            link,
            state,
            trouble,
            sessions: HashSet::new(),
        };
        let mut registration = Self {
            state: state_seen,
            stop: Some(stop),
            holder: Some(tokio::spawn(holder.run(stopped))),
            _keeper: keeper,
        };
        let held = registration.state.wait_for(|state| *state == Holding::Held);
        if timeout(options.give_up, held).await.is_ok() {
            return Ok(registration);
        }
        let reason = last_trouble.borrow().to_string();
        Err(RegisterError::GaveUp { address, path, after: options.give_up, reason })
    }

    /// The state now.
    pub fn state(&self) -> Holding {
        *self.state.borrow()
    }

    /// The next state. Cancel-safe; states that were passed in between are skipped.
    pub async fn changed(&mut self) -> Holding {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.state.borrow_and_update()
    }

    /// Ends when the registration is held no longer for good: never, before [`Registration::release`],
    /// unless its task was killed.
    pub async fn closed(&mut self) {
        while self.state.changed().await.is_ok() {}
    }

    /// Deletes the node and closes the session. The node is gone when this returns `Ok`.
    pub async fn release(mut self) -> Result<(), RegisterError> {
        drop(self.stop.take());
        match self.holder.take() {
            Some(holder) => holder.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            holder.abort();
        }
    }
}

fn check(options: &RegisterOptions, path: &str) -> Result<(), RegisterError> {
    let bad = |reason: &str| Err(RegisterError::BadPath { path: path.to_owned(), reason: reason.to_owned() });
    if !options.path.starts_with('/') {
        return bad("it does not start with a slash");
    }
    if options.node.contains('/') {
        return bad("the node's name contains a slash");
    }
    let wrong = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if path.split('/').skip(1).any(wrong) {
        return bad("a segment is empty or relative");
    }
    if path.chars().any(char::is_control) {
        return bad("it contains control characters");
    }
    Ok(())
}

/// Why a claim failed.
enum Obstacle {
    /// The name is taken by a node of this session, which is not ours.
    Stranger(i64),
    /// A request failed.
    Failed(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Holder {
    address: String,
    directory: String,
    path: String,
    data: Vec<u8>,
    link: watch::Receiver<LinkStatus>,
    state: watch::Sender<Holding>,
    trouble: watch::Sender<Arc<str>>,
    /// Every session that we had: nodes of theirs are ours.
    sessions: HashSet<i64>,
}

impl Holder {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), RegisterError> {
        tokio::select! {
            _ = &mut stopped => {}
            () = self.hold() => {}
        }
        timeout(RELEASE, self.release()).await.unwrap_or_else(|_| self.not_released("no connection in time"))
    }

    async fn hold(&mut self) {
        let mut losses = 0;
        loop {
            let session = self.session(&mut losses).await;
            match self.claim(&session.client).await {
                Ok(watcher) => {
                    self.set_state(Holding::Held);
                    self.guard(&session, watcher).await;
                }
                Err(obstacle) => {
                    self.explain(&obstacle);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for a connected client.
    async fn session(&mut self, losses: &mut u64) -> Session {
        loop {
            let status = self.link.borrow_and_update().clone();
            if status.losses != *losses {
                *losses = status.losses;
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

    /// Makes the node ours, and watches it.
    async fn claim(&mut self, client: &Client) -> Result<OneshotWatcher, Obstacle> {
        let own = client.session_id().0;
        self.sessions.insert(own);
        if !self.directory.is_empty() {
            let parents = CreateMode::Persistent.with_acls(Acls::anyone_all());
            within(client.mkdir(&self.directory, &parents)).await?;
        }
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        match within(client.create(&self.path, &self.data, &ephemeral)).await {
            Ok(_) => {}
            Err(Error::NodeExists) => match within(client.check_stat(&self.path)).await? {
                // It went in this moment: once more.
                None => return Err(Error::NoNode.into()),
                Some(stat) if stat.ephemeral_owner == own => {}
                Some(stat) if self.sessions.contains(&stat.ephemeral_owner) => {
                    let mut both = client.new_multi_writer();
                    both.add_delete(&self.path, Some(stat.version))?;
                    both.add_create(&self.path, &self.data, &ephemeral)?;
                    within(async { both.commit().await.map_err(Error::from) }).await?;
                }
                Some(stat) => return Err(Obstacle::Stranger(stat.ephemeral_owner)),
            },
            Err(error) => return Err(error.into()),
        }
        let (stat, watcher) = within(client.check_and_watch_stat(&self.path)).await?;
        match stat {
            Some(stat) if stat.ephemeral_owner == own => Ok(watcher),
            _ => Err(Error::NoNode.into()),
        }
    }

    /// Returns when the node or the session may no longer be what it was.
    async fn guard(&mut self, session: &Session, watcher: OneshotWatcher) {
        let ours = |status: &LinkStatus| matches!(&status.link, Link::Up(now) if now.epoch == session.epoch);
        let deleted = tokio::select! {
            event = watcher.changed() => event.event_type == EventType::NodeDeleted,
            // An error: the keeper is gone, and so are we soon.
            _ = self.link.wait_for(|status| !ours(status)) => false,
        };
        if deleted {
            tracing::warn!(path = self.path, "somebody deleted our node, registering again");
            self.set_state(Holding::Lost);
        }
    }

    async fn release(&mut self) -> Result<(), RegisterError> {
        let session = self.session(&mut 0).await;
        let client = session.client;
        match client.check_stat(&self.path).await {
            Ok(Some(stat)) if self.sessions.contains(&stat.ephemeral_owner) => {
                match client.delete(&self.path, Some(stat.version)).await {
                    Ok(()) | Err(Error::NoNode) => Ok(()),
                    Err(error) => self.not_released(&error.to_string()),
                }
            }
            // Gone, or a stranger's: nothing of ours is left.
            Ok(_) => Ok(()),
            Err(error) => self.not_released(&error.to_string()),
        }
    }

    fn not_released(&self, reason: &str) -> Result<(), RegisterError> {
        Err(RegisterError::NotReleased {
            address: self.address.clone(),
            path: self.path.clone(),
            reason: reason.to_owned(),
        })
    }

    fn explain(&self, obstacle: &Obstacle) {
        let reason: Arc<str> = match obstacle {
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
            tracing::warn!(address = self.address, path = self.path, %reason, "can not register, retrying");
            self.trouble.send_replace(reason);
        }
    }

    fn set_state(&self, next: Holding) {
        let news = self.state.send_if_modified(|state| {
            // Nothing is lost that never was held.
            let next =
                if *state == Holding::Pending && next != Holding::Held { Holding::Pending } else { next };
            std::mem::replace(state, next) != next
        });
        if news && next == Holding::Held {
            self.trouble.send_replace("".into());
            tracing::info!(address = self.address, path = self.path, "registered");
        }
    }
}

async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(DEADLINE, request).await.unwrap_or(Err(Error::Timeout))
}
