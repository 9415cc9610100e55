//! Commands that are run when a registration is made or lost.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::registration::State;

/// A hook that runs longer is killed.
const LIMIT: Duration = Duration::from_secs(60);

/// What is run when.
#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) on_registered: Option<OsString>,
    pub(super) on_lost: Option<OsString>,
    pub(super) address: String,
    pub(super) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Registered,
    Lost,
}

impl Hooks {
    /// Runs hooks until the registration ends, one at a time: a loss ends the hook of the registration before it.
    pub(super) async fn run(self, mut states: watch::Receiver<State>, node: watch::Receiver<Arc<str>>) {
        let mut told = None;
        loop {
            let event = match *states.borrow_and_update() {
                State::Registered => Some(Event::Registered),
                State::Lost => Some(Event::Lost),
                // Taken back by ourselves: being registered anew is news.
                State::Unhealthy => {
                    told = None;
                    None
                }
                State::Starting | State::InDoubt => None,
            };
            let path = node.borrow().clone();
            if let Some(event) = event
                && told.replace(event) != Some(event)
                && let Some(child) = self.start(event, &path)
            {
                let lost = async {
                    if event == Event::Lost || states.wait_for(|state| *state == State::Lost).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                finish(event, child, lost).await;
                // What happened meanwhile is looked at now.
                continue;
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn start(&self, event: Event, node: &str) -> Option<Child> {
        let (word, command) = match event {
            Event::Registered => ("registered", self.on_registered.as_ref()?),
            Event::Lost => ("lost", self.on_lost.as_ref()?),
        };
        let started = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("ZOOGATE_EVENT", word)
            .env("ZOOGATE_NODE", node)
            .env("ZOOGATE_PATH", &self.path)
            .env("ZOOGATE_ADDRESS", &self.address)
            .stdin(Stdio::null())
            .spawn();
        match started {
            Ok(child) => {
                tracing::info!(event = word, "running its command");
                Some(child)
            }
            Err(error) => {
                tracing::error!(event = word, %error, "its command cannot be run");
                None
            }
        }
    }
}

async fn finish(event: Event, mut child: Child, overtaken: impl Future<Output = ()>) {
    tokio::select! {
        ended = timeout(LIMIT, child.wait()) => match ended {
            Ok(Ok(status)) if status.success() => return,
            Ok(Ok(status)) => {
                tracing::warn!(?event, %status, "a command failed");
                return;
            }
            Ok(Err(error)) => tracing::warn!(?event, %error, "a command's end is unknown"),
            Err(_) => tracing::warn!(?event, "a command takes too long and is killed"),
        },
        () = overtaken => tracing::warn!(?event, "a command is killed: the registration is lost"),
    }
    if let Err(error) = child.kill().await {
        tracing::warn!(?event, %error, "a command cannot be killed");
    }
}
