//! Whether single nodes exist, told as it changes.
//!
//! A session of its own: a one-shot watch below a persistent one of the same session may never fire (ZOOKEEPER-4466),
//! and services may well be watched above.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zookeeper_client::Error;

use super::Task;
use super::session::{ConnectOptions, Link, LinkStatus, Session};

/// A request's deadline.
const DEADLINE: Duration = Duration::from_secs(4);
/// A node is looked at again this often, should its watch be lost.
const RECHECK: Duration = Duration::from_secs(15);
/// A pause after a failure.
const AGAIN: Duration = Duration::from_millis(300);

/// A session that looks at single nodes. Ends when dropped.
#[derive(Debug)]
pub struct Existence {
    link: watch::Receiver<LinkStatus>,
    _keeper: Task,
}

/// One node that is watched, for as long as this is held.
#[derive(Debug)]
pub struct Watching {
    _task: Task,
}

impl Existence {
    /// Connects, and stays connected. Returns at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: ConnectOptions) -> Self {
        let (status, link) = watch::channel(LinkStatus { link: Link::Connecting, losses: 0 });
        Self { link, _keeper: super::keeper(options, status) }
    }

    /// Tells whether the node exists: once it is known, after each change, and now and then without one. While the
    /// ensemble is out of reach nothing is told.
    pub fn watch(&self, path: String, told: impl Fn(bool) + Send + 'static) -> Watching {
        let link = self.link.clone();
        Watching { _task: Task::spawn(look(link, path.into(), told)) }
    }
}

async fn look(mut link: watch::Receiver<LinkStatus>, path: Arc<str>, told: impl Fn(bool) + Send) {
    let mut complained = false;
    loop {
        let Some(Session { client, epoch }) = connected(&mut link).await else { return };
        let asked = timeout(DEADLINE, async {
            // A reconnect may have led to a server that lags behind what was told before.
            client.sync(&path).await?;
            client.check_and_watch_stat(&path).await
        });
        match asked.await {
            Ok(Ok((stat, watcher))) => {
                complained = false;
                told(stat.is_some());
                let moved = |status: &LinkStatus| match &status.link {
                    Link::Up(now) => now.epoch != epoch,
                    _ => true,
                };
                tokio::select! {
                    _ = watcher.changed() => {}
                    _ = link.wait_for(moved) => {}
                    () = sleep(RECHECK) => {}
                }
            }
            failed => {
                if let Ok(Err(error @ (Error::NoAuth | Error::BadArguments(_)))) = &failed
                    && !std::mem::replace(&mut complained, true)
                {
                    tracing::warn!(path = &*path, %error, "cannot look at a node, retrying");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Waits for a connected client; none when the keeper is gone.
async fn connected(link: &mut watch::Receiver<LinkStatus>) -> Option<Session> {
    let status = link.wait_for(|status| matches!(status.link, Link::Up(_))).await.ok()?;
    match &status.link {
        Link::Up(session) => Some(session.clone()),
        _ => None,
    }
}
