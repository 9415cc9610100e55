//! Holding an instance's own ephemeral node.
//!
//! The node is there for as long as the registration is held: it is created again with a new session when
//! the old one is lost, and when somebody else deletes it. What a former session of ours left behind is
//! replaced in one transaction, so that watchers see no gap; a stranger's node is left alone.
//!
//! `place` knows the nodes: parents, the own one, what may be left of it. `holder` is the task that keeps it there
//! and says how sure of it one can be.

mod holder;
mod place;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::holder::{Doubt, Holder};
use self::place::Place;
use super::Task;
use super::session::{ConnectOptions, Link, LinkStatus};

/// What to register, and where.
#[derive(Debug, Clone)]
pub struct RegisterOptions {
    /// The ensemble.
    pub connect: ConnectOptions,
    /// The directory, below the chroot: `/services/orders`. Made, with its parents, where it is missing.
    pub path: String,
    /// The node's name in it; with `sequential` what the server's number is put behind (it may be empty).
    pub node: String,
    /// Lets the server number the node: `member_` becomes `member_0000000042`.
    pub sequential: bool,
    /// Its payload.
    pub data: Vec<u8>,
    /// What missing parents are made as.
    pub parents: Parents,
    /// Who may do what with the node and with parents that are made.
    pub access: Access,
    /// How long the first success may take.
    pub give_up: Duration,
}

/// What missing parents are made as. The chroot's own nodes are always persistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parents {
    /// They stay until somebody deletes them.
    #[default]
    Persistent,
    /// The server removes them some time after their last child. Needs ZooKeeper 3.5.3; where the server has none, a
    /// warning says so and they are persistent.
    Container,
    /// The server removes them when they were without child and change for this long. Needs ZooKeeper 3.5.3 with
    /// `extendedTypesEnabled`; where the server has none, a warning says so and they are persistent.
    Ttl(Duration),
}

/// Who may do what with a node that is made. The chroot's own nodes are always open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Everybody, everything.
    #[default]
    Open,
    /// Whoever shows the same credentials, everything; everybody else may read.
    Readable,
    /// Whoever shows the same credentials, and nobody else.
    Creator,
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
    /// It must be taken for gone: the session is lost or about to be, or somebody deleted the node, or a stranger has
    /// its name. Being registered again.
    ///
    /// Told after two thirds of the session timeout without a word from the ensemble, which is before the ensemble may
    /// have given the session up: who believes to be alone while registered stops believing it in time.
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
    node: watch::Receiver<Arc<str>>,
    data: watch::Sender<Arc<[u8]>>,
    stop: Option<oneshot::Sender<()>>,
    holder: Option<JoinHandle<Result<(), RegisterError>>>,
    _tasks: [Task; 2],
}

impl RegisterOptions {
    /// A node below a directory, with persistent parents and ten seconds for the first success.
    pub fn new(
        connect: ConnectOptions,
        path: impl Into<String>,
        node: impl Into<String>,
        data: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            connect,
            path: path.into(),
            node: node.into(),
            sequential: false,
            data: data.into(),
            parents: Parents::Persistent,
            access: Access::Open,
            give_up: Duration::from_secs(10),
        }
    }

    /// Says what no node can be made of, before anything is tried.
    pub fn check(&self) -> Result<(), RegisterError> {
        let path = format!("{}{}/{}", self.connect.chroot(), self.path.trim_end_matches('/'), self.node);
        let bad =
            |reason: &str| Err(RegisterError::BadPath { path: path.clone(), reason: reason.to_owned() });
        if !self.path.starts_with('/') {
            return bad("it does not start with a slash");
        }
        if self.node.contains('/') {
            return bad("the node's name contains a slash");
        }
        // A prefix may be anything: the number makes a name of it.
        let named = if self.sequential { format!("{path}0") } else { path.clone() };
        let wrong = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        if named.split('/').skip(1).any(wrong) {
            return bad("a segment is empty or relative");
        }
        if path.chars().any(char::is_control) {
            return bad("it contains control characters");
        }
        Ok(())
    }
}

impl Registration {
    /// Registers, and returns once the node is there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(options: RegisterOptions) -> Result<Self, RegisterError> {
        options.check()?;
        // Without a chroot of the client's, the chroot itself is just one more parent to make.
        let mut connect = options.connect.clone();
        connect.connect = options.connect.hosts().to_owned();
        let address = connect.hosts().to_owned();
        let place = Place::new(&options);
        let path = place.shown();

        let (link_sender, link) = watch::channel(LinkStatus { link: Link::Connecting, losses: 0 });
        let (state, state_seen) = watch::channel(Holding::Pending);
        let (trouble, last_trouble) = watch::channel(Arc::from("no answer yet"));
        let (node, node_seen) = watch::channel(Arc::from(path.as_str()));
        let (data, data_seen) = watch::channel(options.data.into());
        let (stop, stopped) = oneshot::channel();
        let doubt = Doubt::new(state.clone(), address.clone(), path.clone());
        let keeper = super::keeper(connect, link_sender);
        let doubting = Task::spawn(doubt.clone().run());
        let holder = Holder {
            address: address.clone(),
            place,
            data: data_seen,
            link,
            state,
            node,
            trouble,
            doubt,
            losses: 0,
        };
        let mut registration = Self {
            state: state_seen,
            node: node_seen,
            data,
            stop: Some(stop),
            holder: Some(tokio::spawn(holder.run(stopped))),
            _tasks: [keeper, doubting],
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

    /// The state as a channel: its value is [`Registration::state`], and it closes when the registration ends.
    pub fn states(&self) -> watch::Receiver<Holding> {
        self.state.clone()
    }

    /// The next state. Cancel-safe; states that were passed in between are skipped.
    pub async fn changed(&mut self) -> Holding {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.state.borrow_and_update()
    }

    /// The node's whole path, chroot included. A sequential node gets another number with another session.
    pub fn node(&self) -> Arc<str> {
        self.node.borrow().clone()
    }

    /// Gives the node another payload, now or as soon as there is a connection. Only the last one counts.
    pub fn update(&self, data: impl Into<Vec<u8>>) {
        let data: Arc<[u8]> = data.into().into();
        self.data.send_if_modified(|old| {
            let news = *old != data;
            *old = data;
            news
        });
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
