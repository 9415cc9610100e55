//! A registration from its instance's first healthy moment to its end.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::announcement::Announcement;
use super::gate::GateOptions;
use crate::registry::directory::{DirectoryRegistration, register_in_directory};
use crate::registry::zookeeper::{
    Access, ConnectOptions, Holding, Parents, RegisterError, RegisterOptions, Registration,
};

/// Where something is registered.
#[derive(Debug, Clone)]
pub enum Place {
    /// An ensemble, and what missing parents are made as.
    ZooKeeper(ConnectOptions, Parents),
    /// A directory registry's root. Its files outlive a process that is killed.
    Directory(PathBuf),
}

/// What a registrar does.
#[derive(Debug, Clone)]
pub struct RegistrarOptions {
    /// Where.
    pub place: Place,
    /// What.
    pub announcement: Announcement,
    /// Who may do what with the node, in an ensemble.
    pub access: Access,
    /// Registered only while this check passes; `None`: at once, and always.
    pub gate: Option<GateOptions>,
    /// How long the first registration may take, from the first healthy moment on.
    pub give_up: Duration,
}

/// How a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not been made yet.
    Starting,
    /// The node is there.
    Registered,
    /// The connection is lost; the node stands until the session expires.
    InDoubt,
    /// The node must be taken for gone: its session is lost, or may be before anyone can tell; or somebody deleted it, or a
    /// stranger has its name. Being registered again.
    Lost,
    /// The check fails: the node was taken back, until the check passes again.
    Unhealthy,
}

/// Why there is no registration.
#[derive(Debug, thiserror::Error)]
pub enum RegistrarError {
    /// In an ensemble.
    #[error(transparent)]
    ZooKeeper(#[from] RegisterError),
    /// In a directory.
    #[error("cannot register {node} under {root}: {source}")]
    Directory {
        /// The node.
        node: String,
        /// The registry's root.
        root: String,
        /// Why.
        source: io::Error,
    },
    /// A file that could not be deleted.
    #[error("{file} could not be deleted: {source}; it is there until somebody does")]
    NotDeleted {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A registrar's task ended before its time.
    #[error("the registrar's task ended")]
    Ended,
}

/// Keeps an instance registered until it is released. Dropped, it leaves as its session does.
#[derive(Debug)]
pub struct Registrar {
    state: watch::Receiver<State>,
    node: watch::Receiver<Arc<str>>,
    data: watch::Sender<Vec<u8>>,
    stop: Option<oneshot::Sender<()>>,
    /// Gone once it was awaited.
    work: Option<JoinHandle<Result<(), RegistrarError>>>,
}

impl RegistrarOptions {
    /// Without a check, and with ten seconds for the first registration.
    pub fn new(place: Place, announcement: Announcement) -> Self {
        Self { place, announcement, access: Access::Open, gate: None, give_up: Duration::from_secs(10) }
    }
}

impl Registrar {
    /// Starts to register. Returns at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: RegistrarOptions) -> Self {
        let (state, state_seen) = watch::channel(State::Starting);
        let announced = &options.announcement;
        let (node, node_seen) = watch::channel(Arc::from(format!("{}/{}", announced.path, announced.node)));
        let (data, data_seen) = watch::channel(announced.data.clone());
        let (stop, stopped) = oneshot::channel();
        let worker = Worker { options, state, node, data: data_seen, registered_once: false };
        Self {
            state: state_seen,
            node: node_seen,
            data,
            stop: Some(stop),
            work: Some(tokio::spawn(worker.run(stopped))),
        }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// How it stands, as a channel. Closes when the registrar ends.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The node's path: what it begins with before it has a number.
    pub fn node(&self) -> Arc<str> {
        self.node.borrow().clone()
    }

    /// The node's path, as a channel: another session may bring another number.
    pub fn nodes(&self) -> watch::Receiver<Arc<str>> {
        self.node.clone()
    }

    /// Gives the node another payload, now or when it is registered next.
    pub fn update(&self, data: Vec<u8>) {
        self.data.send_if_modified(|old| {
            let news = *old != data;
            *old = data;
            news
        });
    }

    /// Waits until the node is there for the first time, or cannot be made. Cancel-safe.
    pub async fn registered(&mut self) -> Result<(), RegistrarError> {
        if self.state.wait_for(|state| *state == State::Registered).await.is_ok() {
            return Ok(());
        }
        Err(self.failed().await)
    }

    /// Waits until the first registration has failed for good; for ever where it succeeds. Cancel-safe.
    pub async fn failed(&mut self) -> RegistrarError {
        self.ended().await.err().unwrap_or(RegistrarError::Ended)
    }

    /// Takes the registration back: the node is gone when this returns `Ok`. Also the way to end one that has not come to
    /// be.
    pub async fn release(mut self) -> Result<(), RegistrarError> {
        drop(self.stop.take());
        self.ended().await
    }

    async fn ended(&mut self) -> Result<(), RegistrarError> {
        let Some(work) = &mut self.work else { return Ok(()) };
        let done = work.await.unwrap_or(Err(RegistrarError::Ended));
        self.work = None;
        done
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.abort();
        }
    }
}

/// A node that is there.
#[derive(Debug)]
enum Held {
    ZooKeeper(Registration),
    Directory(DirectoryRegistration),
}

impl Held {
    async fn release(self) -> Result<(), RegistrarError> {
        match self {
            Self::ZooKeeper(registration) => Ok(registration.release().await?),
            Self::Directory(registration) => {
                let file = registration.path().display().to_string();
                registration.release().map_err(|source| RegistrarError::NotDeleted { file, source })
            }
        }
    }
}

struct Worker {
    options: RegistrarOptions,
    state: watch::Sender<State>,
    node: watch::Sender<Arc<str>>,
    data: watch::Receiver<Vec<u8>>,
    registered_once: bool,
}

impl Worker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<(), RegistrarError> {
        let (sender, mut open) = watch::channel(self.options.gate.is_none());
        let gate = self.options.gate.clone();
        let watching = async move {
            if let Some(gate) = gate {
                gate.watch(sender).await;
            } else {
                // The sender is held, so that the channel stays open.
                std::future::pending::<()>().await;
                drop(sender);
            }
        };
        tokio::select! {
            done = self.work(&mut stopped, &mut open) => done,
            () = watching => Ok(()),
        }
    }

    async fn work(
        &mut self,
        stopped: &mut oneshot::Receiver<()>,
        open: &mut watch::Receiver<bool>,
    ) -> Result<(), RegistrarError> {
        loop {
            tokio::select! {
                _ = &mut *stopped => return Ok(()),
                _ = open.wait_for(|open| *open) => {}
            }
            let mut held = tokio::select! {
                _ = &mut *stopped => return Ok(()),
                held = self.register() => held?,
                // Ill again before it was registered.
                _ = open.wait_for(|open| !*open) => continue,
            };
            let stop = tokio::select! {
                _ = &mut *stopped => true,
                _ = open.wait_for(|open| !*open) => false,
                never = self.hold(&mut held) => match never {},
            };
            let released = held.release().await;
            if stop {
                return released;
            }
            if let Err(error) = released {
                tracing::warn!(%error, "taking the registration back");
            }
            tracing::info!(node = &*self.node.borrow().clone(), "taken back while the check fails");
            self.state.send_replace(State::Unhealthy);
        }
    }

    /// Makes the node. Only the first time is given up: whoever was registered once will be again.
    async fn register(&mut self) -> Result<Held, RegistrarError> {
        loop {
            let give_up = if self.registered_once { Duration::from_secs(3600) } else { self.options.give_up };
            match self.attempt(give_up).await {
                Ok(held) => {
                    self.registered_once = true;
                    return Ok(held);
                }
                Err(error) if !self.registered_once => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "still not registered again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn attempt(&mut self, give_up: Duration) -> Result<Held, RegistrarError> {
        let data = self.data.borrow_and_update().clone();
        let Announcement { path, node, sequential, .. } = &self.options.announcement;
        match &self.options.place {
            Place::ZooKeeper(connect, parents) => {
                let options = RegisterOptions {
                    sequential: *sequential,
                    parents: *parents,
                    access: self.options.access,
                    give_up,
                    ..RegisterOptions::new(connect.clone(), path, node, data)
                };
                Ok(Held::ZooKeeper(Registration::start(options).await?))
            }
            Place::Directory(root) => {
                // Nobody counts there: a number by lot will do.
                let node = if *sequential {
                    format!("{node}{:010}", fastrand::u32(..1 << 31))
                } else {
                    node.clone()
                };
                let held = write(root, path, &node, &data)?;
                self.node.send_replace(held.path().display().to_string().into());
                self.state.send_replace(State::Registered);
                Ok(Held::Directory(held))
            }
        }
    }

    /// Passes on what becomes of the node, and to it what becomes of the payload. Never ends.
    async fn hold(&mut self, held: &mut Held) -> Infallible {
        match held {
            Held::ZooKeeper(registration) => self.hold_node(registration).await,
            Held::Directory(registration) => self.hold_file(registration).await,
        }
    }

    async fn hold_node(&mut self, registration: &Registration) -> Infallible {
        let mut states = registration.states();
        loop {
            let state = match *states.borrow_and_update() {
                Holding::Pending => State::Starting,
                Holding::Held => State::Registered,
                Holding::InDoubt => State::InDoubt,
                Holding::Lost => State::Lost,
            };
            if state == State::Registered {
                self.node.send_replace(registration.node());
            }
            self.state.send_if_modified(|old| std::mem::replace(old, state) != state);
            tokio::select! {
                Ok(()) = states.changed() => {}
                Ok(()) = self.data.changed() => registration.update(self.data.borrow_and_update().clone()),
                // Both ends are gone: so is the registrar, in a moment.
                else => return std::future::pending().await,
            }
        }
    }

    async fn hold_file(&mut self, registration: &mut DirectoryRegistration) -> Infallible {
        let Place::Directory(root) = &self.options.place else { return std::future::pending().await };
        let name = registration.path().file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        while self.data.changed().await.is_ok() {
            let data = self.data.borrow_and_update().clone();
            match write(root, &self.options.announcement.path, &name, &data) {
                // The old one has nothing left to take back: its file was replaced.
                Ok(written) => *registration = written,
                Err(error) => tracing::warn!(%error, "the registration keeps its old content"),
            }
        }
        std::future::pending().await
    }
}

fn write(root: &Path, path: &str, node: &str, data: &[u8]) -> Result<DirectoryRegistration, RegistrarError> {
    register_in_directory(root, path, node, data).map_err(|source| RegistrarError::Directory {
        node: format!("{path}/{node}"),
        root: root.display().to_string(),
        source,
    })
}
