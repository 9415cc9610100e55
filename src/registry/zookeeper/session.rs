//! The session with the ensemble: connects, notices losses, and always has the best client at hand.
//!
//! The crate reconnects by itself, but with a pause that doubles without a limit. A watcher owns nothing
//! that a session must outlive, so after a second without connection a new client is tried beside the old
//! one, and whichever is up first is used. An expired, closed or refused session is replaced likewise.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, Error, SessionState};

use super::guard::Guard;

/// How to reach an ensemble.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `host:port,host:port/chroot`.
    pub connect: String,
    /// Asked of the server, which may negotiate another.
    pub session_timeout: Duration,
    /// Credentials: scheme (`digest`) and bytes (`user:password`). Never logged.
    pub auth: Vec<(String, Vec<u8>)>,
}

/// A client, and what stands between it and its servers.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    pub(super) client: Client,
    pub(super) guard: Option<Arc<Guard>>,
}

/// A connected client. The epoch grows with every (re)connect: watches of an older one are dead.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) epoch: u64,
}

/// The link to the ensemble.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// The first attempt runs.
    Connecting,
    /// Connected.
    Up(Session),
    /// Not connected, and why.
    Down(Arc<str>),
}

/// The link with what happened to it so far.
#[derive(Debug, Clone)]
pub(super) struct LinkStatus {
    pub(super) link: Link,
    /// Sessions that ended against our will.
    pub(super) losses: u64,
}

/// Silence after which a server is taken for dead: how long we may be out of date unknowingly.
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a disconnected client is alone before a second one is tried.
const ALONE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(900);

impl ConnectOptions {
    /// The session timeout of [`ConnectOptions::new`].
    pub const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

    /// To `host:port,host:port/chroot`, without credentials.
    pub fn new(connect: impl Into<String>) -> Self {
        Self { connect: connect.into(), session_timeout: Self::SESSION_TIMEOUT, auth: Vec::new() }
    }

    /// The hosts without the chroot, for messages.
    pub(super) fn hosts(&self) -> &str {
        self.split().0
    }

    /// The chroot, empty where there is none.
    pub(super) fn chroot(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        let last = self.connect.rfind(',').map_or(0, |comma| comma + 1);
        let host = last + self.connect[last..].find("://").map_or(0, |scheme| scheme + 3);
        match self.connect[host..].find('/') {
            None => (&self.connect, ""),
            Some(slash) => {
                let (hosts, chroot) = self.connect.split_at(host + slash);
                (hosts, if chroot == "/" { "" } else { chroot })
            }
        }
    }

    /// Opens a session, for as long as the client and the guard before it live.
    pub(super) async fn attempt(&self) -> Result<Guarded, Error> {
        let hosts = 1 + self.connect.matches(',').count() as u32;
        let deadline = CONNECTION_TIMEOUT * (2 * hosts) + Duration::from_secs(1);
        let guard = match Guard::start(self.hosts(), self.chroot(), CONNECTION_TIMEOUT).await {
            Ok(guard) => Some(guard),
            Err(error) => {
                tracing::debug!(%error, "no guard before the servers: connecting to them as they are");
                None
            }
        };
        // The guard tells silence from a pause of our own; the library cannot, and is to leave it to the guard.
        let (connect, silence) = match &guard {
            Some(guard) => (guard.connect(), self.session_timeout * 3 / 5),
            None => (&*self.connect, CONNECTION_TIMEOUT),
        };
        let mut connector = Client::connector()
            .with_session_timeout(self.session_timeout)
            .with_connection_timeout(silence)
            .with_fail_eagerly();
        for (scheme, credentials) in &self.auth {
            connector = connector.with_auth(scheme, credentials);
        }
        let client = timeout(deadline, connector.connect(connect)).await.unwrap_or(Err(Error::Timeout))?;
        Ok(Guarded { client, guard: guard.map(Arc::new) })
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("connect", &self.connect)
            .field("session_timeout", &self.session_timeout)
            .field("auth", &self.auth.iter().map(|(scheme, _)| scheme).collect::<Vec<_>>())
            .finish()
    }
}

/// Holds the session for as long as it is polled. Never ends.
pub(super) async fn keep(options: ConnectOptions, link: watch::Sender<LinkStatus>, epochs: Arc<AtomicU64>) {
    let mut keeper = Keeper { options, link, epochs, told: None };
    let mut client = keeper.connect().await;
    loop {
        client = keeper.hold(client).await;
    }
}

struct Keeper {
    options: ConnectOptions,
    link: watch::Sender<LinkStatus>,
    /// Of the last connection.
    epochs: Arc<AtomicU64>,
    /// The trouble that was logged last, so that a lasting one is one line.
    told: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Unreachable,
    Refused,
    BadAddress,
}

impl Keeper {
    /// Uses a client until another must take over; returns that other.
    async fn hold(&mut self, guarded: Guarded) -> Guarded {
        let client = &guarded.client;
        let mut states = client.state_watcher();
        let mut state = client.state();
        loop {
            match state {
                SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                    self.up(client.clone());
                    state = states.changed().await;
                }
                SessionState::Disconnected => {
                    let hosts = self.options.hosts().to_owned();
                    self.trouble(Trouble::Unreachable, &format!("no connection to {hosts}"));
                    let fresh = async {
                        sleep(ALONE).await;
                        self.connect().await
                    };
                    tokio::select! {
                        biased;
                        next = states.changed() => state = next,
                        fresh = fresh => return fresh,
                    }
                }
                terminal => {
                    self.link.send_modify(|status| status.losses += 1);
                    let hosts = self.options.hosts();
                    tracing::warn!(address = hosts, state = %terminal, "lost the ZooKeeper session");
                    let down = Link::Down(format!("the session with {hosts} is lost").into());
                    self.link.send_modify(|status| status.link = down);
                    drop(guarded);
                    return self.connect().await;
                }
            }
        }
    }

    /// Tries until there is a client.
    async fn connect(&mut self) -> Guarded {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.options.attempt().await {
                Ok(client) => return client,
                Err(error) => self.explain(&error),
            }
            // Between three quarters and the whole of it, so that gateways don't knock in step.
            sleep(pause.mul_f64(0.75 + 0.25 * fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn explain(&mut self, error: &Error) {
        let hosts = self.options.hosts();
        match error {
            Error::AuthFailed => {
                let reason = format!("{hosts} refuses our credentials");
                self.trouble(Trouble::Refused, &reason);
            }
            Error::BadArguments(why) => {
                let reason = format!("{:?} can not be connected to: {why}", self.options.connect);
                self.trouble(Trouble::BadAddress, &reason);
            }
            _ => {
                let reason = format!("no connection to {hosts}");
                self.trouble(Trouble::Unreachable, &reason);
            }
        }
    }

    fn up(&mut self, client: Client) {
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        self.told = None;
        let session = format!("{}", client.session_id());
        tracing::info!(address = self.options.hosts(), session, "connected to ZooKeeper");
        let link = Link::Up(Session { client, epoch });
        self.link.send_modify(|status| status.link = link);
    }

    fn trouble(&mut self, trouble: Trouble, reason: &str) {
        self.link.send_if_modified(|status| {
            let news = !matches!(&status.link, Link::Down(old) if **old == *reason);
            if news {
                status.link = Link::Down(reason.into());
            }
            news
        });
        if self.told.replace(trouble) != Some(trouble) {
            tracing::warn!(address = self.options.hosts(), reason, "ZooKeeper is out of reach, retrying");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_chroot_are_told_apart() {
        for (connect, hosts, chroot) in [
            ("zk:2181", "zk:2181", ""),
            ("zk:2181/", "zk:2181", ""),
            ("a:1,b:2/prod/eu", "a:1,b:2", "/prod/eu"),
            ("tcp://a:1,tcp://b:2/prod", "tcp://a:1,tcp://b:2", "/prod"),
            ("tcp://[::1]:2181", "tcp://[::1]:2181", ""),
        ] {
            let options = ConnectOptions {
                connect: connect.to_owned(),
                session_timeout: Duration::from_secs(4),
                auth: Vec::new(),
            };
            assert_eq!((options.hosts(), options.chroot()), (hosts, chroot), "{connect}");
        }
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let options = ConnectOptions {
            connect: "zk:2181".to_owned(),
            session_timeout: Duration::from_secs(4),
            auth: vec![("digest".to_owned(), b"user:secret".to_vec())],
        };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
