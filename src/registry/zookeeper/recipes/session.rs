//! A session that recipes share, and the rules by which they ask: under a deadline, and in the knowledge that an
//! answer may be lost while its request was carried out.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout, timeout_at};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, SessionState};

use super::RecipeError;
use crate::registry::zookeeper::guard::Guard;
use crate::registry::zookeeper::session::{ConnectOptions, Guarded};

/// Nodes of recipes are open to everybody, as those of Curator and kazoo are by default.
pub(super) const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
pub(super) const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

/// One request's deadline: a server that takes longer is asked again.
const REQUEST: Duration = Duration::from_secs(4);
/// A pause before something is asked again.
const AGAIN: Duration = Duration::from_millis(25);
/// A pause between attempts to connect.
const KNOCK: Duration = Duration::from_millis(250);

/// A session with an ensemble. Clones are the same session, which ends when the last one is dropped.
///
/// It is never replaced by another behind the caller's back: what a recipe holds, it holds by a session, and is lost
/// with it ([`RecipeError::SessionLost`]).
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    _guard: Option<Arc<Guard>>,
    /// The chroot, which is made where it is missing.
    root: Arc<str>,
    patience: Duration,
}

/// What became of a request that is not safe to repeat.
pub(super) enum Told<T> {
    /// The server has decided.
    Answer(Result<T, Error>),
    /// The request may have been carried out, or may be yet.
    InDoubt(String),
}

impl<T> Told<T> {
    /// The same, of something else.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Told<U> {
        match self {
            Self::Answer(answer) => Told::Answer(answer.map(change)),
            Self::InDoubt(reason) => Told::InDoubt(reason),
        }
    }
}

impl Session {
    /// The deadline of [`Session::connect`]'s sessions for what does not wait by its nature.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Opens a session, trying for `within` at the most.
    pub async fn connect(options: &ConnectOptions, within: Duration) -> Result<Self, RecipeError> {
        let mut hosts = options.clone();
        options.hosts().clone_into(&mut hosts.connect);
        let mut reason = "no answer yet".to_owned();
        let attempts = async {
            loop {
                match hosts.attempt().await {
                    Ok(client) => return Ok(client),
                    Err(error @ (Error::AuthFailed | Error::BadArguments(_))) => {
                        return Err(error.to_string());
                    }
                    Err(error) => reason = error.to_string(),
                }
                sleep(KNOCK.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            }
        };
        let unreachable =
            |reason| RecipeError::Unreachable { address: options.hosts().to_owned(), after: within, reason };
        match timeout(within, attempts).await {
            Ok(Ok(Guarded { client, guard })) => {
                Ok(Self { root: options.chroot().into(), _guard: guard, ..Self::from(client) })
            }
            Ok(Err(reason)) => Err(unreachable(reason)),
            Err(_) => Err(unreachable(reason)),
        }
    }

    /// The same session with another deadline for what does not wait by its nature.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The client, for requests of one's own. Its paths are not below the chroot of [`ConnectOptions`]:
    /// see [`Session::path`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A path with the chroot in front, as the client and the other recipes' accessors have it.
    pub fn path(&self, path: &str) -> String {
        format!("{}{}", self.root, path.trim_end_matches('/'))
    }

    /// The session timeout that the server granted.
    pub fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Whether it is connected, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.client.state() == SessionState::SyncConnected
    }

    /// Returns when the connection is lost, or silent for so long that it counts as lost.
    pub async fn disconnected(&self) {
        let mut states = self.client.state_watcher();
        let mut state = self.client.state();
        while state == SessionState::SyncConnected {
            state = states.changed().await;
        }
    }

    /// When a call that begins now must have ended.
    pub(super) fn soon(&self) -> Instant {
        Instant::now() + self.patience
    }

    pub(super) fn id(&self) -> i64 {
        self.client.session_id().0
    }

    /// Waits for a connection. Requests that are made without one would wait in a queue without end or limit.
    async fn connected(&self, path: &str, until: Instant) -> Result<(), RecipeError> {
        let mut states = self.client.state_watcher();
        let mut state = self.client.state();
        loop {
            match state {
                SessionState::SyncConnected => return Ok(()),
                SessionState::Disconnected | SessionState::ConnectedReadOnly => {
                    match timeout_at(until.into(), states.changed()).await {
                        Ok(next) => state = next,
                        Err(_) => return Err(timed_out(path, "there is no connection")),
                    }
                }
                _ => return Err(RecipeError::SessionLost { path: path.to_owned() }),
            }
        }
    }

    /// Asks until there is an answer, good or bad. For requests that may be repeated.
    pub(super) async fn ask<T, F>(
        &self,
        path: &str,
        until: Instant,
        request: impl Fn() -> F,
    ) -> Result<Result<T, Error>, RecipeError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        Ok(self.ask_when(path, until, request).await?.0)
    }

    /// The same, and when the request that was answered was made: what the answer says was so no earlier.
    pub(super) async fn ask_when<T, F>(
        &self,
        path: &str,
        until: Instant,
        request: impl Fn() -> F,
    ) -> Result<(Result<T, Error>, Instant), RecipeError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            self.connected(path, until).await?;
            let asked = Instant::now();
            match self.ask_once(path, until, &request).await? {
                Told::Answer(answer) => return Ok((answer, asked)),
                Told::InDoubt(reason) if Instant::now() + AGAIN >= until => {
                    return Err(timed_out(path, &reason));
                }
                Told::InDoubt(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Asks once.
    pub(super) async fn ask_once<T, F>(
        &self,
        path: &str,
        until: Instant,
        request: impl FnOnce() -> F,
    ) -> Result<Told<T>, RecipeError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // First: the crate sends a request when it is made, not when it is polled.
        self.connected(path, until).await?;
        let until = until.min(Instant::now() + REQUEST);
        match timeout_at(until.into(), request()).await {
            Err(_) => Ok(Told::InDoubt("no answer in time".to_owned())),
            Ok(Err(error)) if is_terminal(&error) => Err(RecipeError::SessionLost { path: path.to_owned() }),
            Ok(Err(error)) if !is_answer(&error) => Ok(Told::InDoubt(error.to_string())),
            Ok(answer) => Ok(Told::Answer(answer)),
        }
    }

    /// Makes a directory with its parents.
    pub(super) async fn mkdir(&self, path: &str, until: Instant) -> Result<(), RecipeError> {
        if path.is_empty() || path == "/" {
            return Ok(());
        }
        let made = self.ask(path, until, || self.client.mkdir(path, &PERSISTENT)).await?;
        made.map_err(|error| refused(path, &error))
    }
}

impl From<Client> for Session {
    /// A session of one's own. Give its connector a session timeout and a connection timeout, or silence is noticed
    /// late.
    fn from(client: Client) -> Self {
        Self { client, _guard: None, root: "".into(), patience: Self::PATIENCE }
    }
}

/// Whether a path is one, below a chroot or not: what the server would refuse is told before anything is made.
pub(super) fn check(path: &str) -> Result<(), RecipeError> {
    let wrong = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    let reason = if !path.starts_with('/') {
        "it does not start with a slash"
    } else if path.trim_end_matches('/').split('/').skip(1).any(wrong) {
        "a segment is empty or relative"
    } else if path.chars().any(char::is_control) {
        "it contains control characters"
    } else {
        return Ok(());
    };
    Err(RecipeError::Refused { path: path.to_owned(), reason: reason.to_owned() })
}

pub(super) fn refused(path: &str, error: &Error) -> RecipeError {
    RecipeError::Refused { path: path.to_owned(), reason: error.to_string() }
}

pub(super) fn timed_out(path: &str, reason: &str) -> RecipeError {
    RecipeError::TimedOut { path: path.to_owned(), reason: reason.to_owned() }
}

/// Whether the session is over.
fn is_terminal(error: &Error) -> bool {
    matches!(error, Error::SessionExpired | Error::AuthFailed | Error::ClientClosed)
}

/// Whether the server has looked at the request and decided. Everything else, and what later versions of the crate may
/// add, leaves open what became of it.
fn is_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::NoNode
            | Error::NoAuth
            | Error::BadVersion
            | Error::NoChildrenForEphemerals
            | Error::NodeExists
            | Error::NotEmpty
            | Error::InvalidAcl
            | Error::QuotaExceeded
            | Error::Unimplemented
            | Error::BadArguments(_)
            | Error::MarshallingError
    )
}
