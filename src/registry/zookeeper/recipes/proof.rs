//! The proof that something is still ours: its node is asked for again and again, and each answer is good from the moment
//! of the question for as long as the session must live after it.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::session::Session;
use crate::registry::zookeeper::Task;

/// Something held by an ephemeral node, watched over.
#[derive(Debug)]
pub(super) struct Proof {
    state: watch::Receiver<State>,
    session_timeout: Duration,
    _keeper: Task,
}

/// Why something may not be ours any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The connection to the ensemble is lost.
    Disconnected,
    /// The ensemble has not answered for two fifths of the session timeout.
    Silence,
    /// The node, or the session with it, is gone.
    Gone,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the connection to the ensemble is lost",
            Self::Silence => "the ensemble is silent",
            Self::Gone => "the node is gone",
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// When the last question was asked that was answered well.
    proven: Instant,
    doubt: Option<Doubt>,
}

impl Proof {
    /// Watches over the node; `proven` is when it was last asked for with success.
    pub(super) fn new(session: &Session, path: String, czxid: i64, proven: Instant) -> Self {
        let session_timeout = session.timeout();
        let (sender, state) = watch::channel(State { proven, doubt: None });
        let keeper = Task::spawn(keep(session.clone(), path, czxid, sender));
        Self { state, session_timeout, _keeper: keeper }
    }

    fn silence(&self) -> Duration {
        self.session_timeout * 2 / 5
    }

    /// Whether there is no doubt.
    pub(super) fn is_certain(&self) -> bool {
        self.doubt().is_none()
    }

    fn doubt(&self) -> Option<Doubt> {
        let state = *self.state.borrow();
        state.doubt.or_else(|| (state.proven.elapsed() >= self.silence()).then_some(Doubt::Silence))
    }

    /// No server can have ended the session before this, and nobody else can hold what it holds.
    pub(super) fn ours_until(&self) -> Instant {
        self.state.borrow().proven + self.session_timeout
    }

    /// Returns when there is doubt. Cancel-safe.
    pub(super) async fn doubted(&self) -> Doubt {
        let mut state = self.state.clone();
        loop {
            if let Some(doubt) = self.doubt() {
                return doubt;
            }
            let silence = state.borrow_and_update().proven + self.silence();
            let ended = tokio::select! {
                () = sleep_until(silence.into()) => false,
                changed = state.changed() => changed.is_err(),
            };
            if ended && self.doubt().is_none() {
                // The keeper was killed: nobody looks any more.
                return Doubt::Silence;
            }
        }
    }
}

async fn keep(session: Session, path: String, czxid: i64, state: watch::Sender<State>) {
    let session_timeout = session.timeout();
    let pause = (session_timeout / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let doubt = loop {
        let asked = Instant::now();
        let question = timeout_at((asked + session_timeout / 2).into(), session.client().check_stat(&path));
        let answer = tokio::select! {
            answer = question => answer,
            () = session.disconnected() => break Doubt::Disconnected,
        };
        match answer {
            Ok(Ok(Some(stat))) if stat.czxid == czxid => {
                state.send_modify(|state| state.proven = asked);
            }
            Ok(Ok(_)) => break Doubt::Gone,
            Ok(Err(_)) => break Doubt::Disconnected,
            Err(_) => break Doubt::Silence,
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = session.disconnected() => break Doubt::Disconnected,
        }
    };
    state.send_modify(|state| state.doubt = Some(doubt));
}
