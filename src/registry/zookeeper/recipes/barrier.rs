//! Barriers: a node that holds everybody back, and a gate that opens when enough have come.

use std::time::{Duration, Instant};

use zookeeper_client::{Error, OneshotWatcher};

use super::RecipeError;
use super::place::nonce;
use super::session::{EPHEMERAL, Session, Told, check, refused, timed_out};

/// A node is looked at again this often, should the watch on it be lost.
const RECHECK: Duration = Duration::from_secs(5);
/// The node that says that a double barrier has opened.
const READY: &str = "ready";
/// What a double barrier's members are called.
const MEMBER: &str = "member-";

/// A barrier: while its node exists, everybody who asks waits. `zoogate` holds back a route's requests by one.
///
/// The node is persistent: it outlives whoever raised it.
///
/// ```no_run
/// use std::time::Duration;
/// use zoogate::recipes::{Barrier, ConnectOptions, Session};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let session = Session::connect(&ConnectOptions::new("127.0.0.1:2181"), Duration::from_secs(10)).await?;
/// let barrier = Barrier::new(session, "/maintenance/orders");
/// barrier.raise().await?;
/// // … elsewhere …
/// barrier.wait(Duration::from_secs(30)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Barrier {
    session: Session,
    path: String,
}

impl Barrier {
    /// The barrier at a path.
    pub fn new(session: Session, path: impl Into<String>) -> Self {
        Self { session, path: path.into() }
    }

    /// Raises it, with its parents; one that stands stays.
    pub async fn raise(&self) -> Result<(), RecipeError> {
        check(&self.path)?;
        self.session.mkdir(&self.session.path(&self.path), self.session.soon()).await
    }

    /// Takes it away; one that does not stand is no error.
    pub async fn lift(&self) -> Result<(), RecipeError> {
        check(&self.path)?;
        let (session, path) = (&self.session, self.session.path(&self.path));
        match session.ask(&path, session.soon(), || session.client().delete(&path, None)).await? {
            Ok(()) | Err(Error::NoNode) => Ok(()),
            Err(error) => Err(refused(&path, &error)),
        }
    }

    /// Whether it stands.
    pub async fn stands(&self) -> Result<bool, RecipeError> {
        check(&self.path)?;
        let path = self.session.path(&self.path);
        Ok(exists(&self.session, &path, self.session.soon()).await?.0)
    }

    /// Waits until it does not stand, for `within` at the most.
    pub async fn wait(&self, within: Duration) -> Result<(), RecipeError> {
        check(&self.path)?;
        let (path, until) = (self.session.path(&self.path), Instant::now() + within);
        loop {
            let (stands, watcher) = exists(&self.session, &path, until).await?;
            if !stands {
                return Ok(());
            }
            woken(&self.session, until, watcher.changed()).await;
            if Instant::now() >= until {
                return Err(timed_out(&path, "the barrier stands"));
            }
        }
    }
}

async fn exists(
    session: &Session,
    path: &str,
    until: Instant,
) -> Result<(bool, OneshotWatcher), RecipeError> {
    let found = session.ask(path, until, || session.client().check_and_watch_stat(path)).await?;
    let (stat, watcher) = found.map_err(|error| refused(path, &error))?;
    Ok((stat.is_some(), watcher))
}

/// Waits for an event, or for what makes it worth looking again without one.
pub(super) async fn woken<T>(session: &Session, until: Instant, event: impl Future<Output = T>) {
    let until = until.min(Instant::now() + RECHECK);
    tokio::select! {
        _ = event => {}
        () = tokio::time::sleep_until(until.into()) => {}
        () = session.disconnected() => {}
    }
}

/// A double barrier: it opens when enough members have come, and lets them go when all have finished.
///
/// Members are ephemeral: one that dies is counted no more. A member that comes while others are inside passes at once,
/// so that rounds which may overlap need a path each.
///
/// ```no_run
/// use std::time::Duration;
/// use zoogate::recipes::{ConnectOptions, DoubleBarrier, Session};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let session = Session::connect(&ConnectOptions::new("127.0.0.1:2181"), Duration::from_secs(10)).await?;
/// let inside = DoubleBarrier::new(session, "/jobs/17", 3).enter(Duration::from_secs(60)).await?;
/// // … what all three do at the same time …
/// inside.leave(Duration::from_secs(60)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DoubleBarrier {
    session: Session,
    path: String,
    size: usize,
}

/// A member inside. Dropped without [`Inside::leave`], it no longer counts, and waits for nobody.
#[derive(Debug)]
#[must_use = "dropped, it leaves without waiting for the others"]
pub struct Inside {
    dir: String,
    member: Member,
}

/// A member's node, deleted in the background when dropped.
#[derive(Debug)]
struct Member {
    session: Session,
    path: String,
    left: bool,
}

impl DoubleBarrier {
    /// A barrier at a path that opens for `size` members.
    pub fn new(session: Session, path: impl Into<String>, size: usize) -> Self {
        Self { session, path: path.into(), size }
    }

    /// Comes in, and waits until enough have, for `within` at the most. One that gives up is counted no more.
    pub async fn enter(&self, within: Duration) -> Result<Inside, RecipeError> {
        check(&self.path)?;
        let (session, client, until) = (&self.session, self.session.client(), Instant::now() + within);
        let dir = session.path(&self.path);
        session.mkdir(&dir, until).await?;
        let path = format!("{dir}/{MEMBER}{}", nonce());
        let member = Member { session: session.clone(), path, left: false };
        create(session, &member.path, until).await?;
        let ready = format!("{dir}/{READY}");
        loop {
            // The watch first: an opening that is over when the members are counted is still told by it.
            let (open, opened) = exists(session, &ready, until).await?;
            if open {
                return Ok(Inside { dir, member });
            }
            if self.members(&dir, until).await?.len() >= self.size {
                create(session, &ready, until).await?;
                return Ok(Inside { dir, member });
            }
            let listed = session.ask(&dir, until, || client.list_and_watch_children(&dir)).await?;
            let (names, changed) = listed.map_err(|error| refused(&dir, &error))?;
            if count(&names) >= self.size {
                continue;
            }
            let mut passed = false;
            woken(session, until, async {
                tokio::select! {
                    event = opened.changed() => {
                        passed = event.event_type == zookeeper_client::EventType::NodeCreated;
                    }
                    _ = changed.changed() => {}
                }
            })
            .await;
            if passed {
                return Ok(Inside { dir, member });
            }
            if Instant::now() >= until {
                return Err(timed_out(&dir, "not enough members have come"));
            }
        }
    }

    async fn members(&self, dir: &str, until: Instant) -> Result<Vec<String>, RecipeError> {
        let session = &self.session;
        let names = session.ask(dir, until, || session.client().list_children(dir)).await?;
        let mut names = names.map_err(|error| refused(dir, &error))?;
        names.retain(|name| name.starts_with(MEMBER));
        Ok(names)
    }
}

impl Inside {
    /// Goes out, and waits until all others have, for `within` at the most.
    pub async fn leave(mut self, within: Duration) -> Result<(), RecipeError> {
        let (session, until) = (self.member.session.clone(), Instant::now() + within);
        let (client, dir) = (session.client(), &self.dir);
        let path = self.member.path.clone();
        match session.ask(&path, until, || client.delete(&path, None)).await? {
            Ok(()) | Err(Error::NoNode) => self.member.left = true,
            Err(error) => return Err(refused(&path, &error)),
        }
        loop {
            let listed = session.ask(dir, until, || client.list_and_watch_children(dir)).await?;
            let (names, changed) = match listed {
                Ok(listed) => listed,
                // Somebody tidied up: nobody is in there.
                Err(Error::NoNode) => return Ok(()),
                Err(error) => return Err(refused(dir, &error)),
            };
            if count(&names) == 0 {
                let ready = format!("{dir}/{READY}");
                return match session.ask(&ready, until, || client.delete(&ready, None)).await? {
                    Ok(()) | Err(Error::NoNode) => Ok(()),
                    Err(error) => Err(refused(&ready, &error)),
                };
            }
            woken(&session, until, changed.changed()).await;
            if Instant::now() >= until {
                return Err(timed_out(dir, "others have not finished"));
            }
        }
    }
}

fn count(names: &[String]) -> usize {
    names.iter().filter(|name| name.starts_with(MEMBER)).count()
}

/// Makes an ephemeral node; one that is there is as good, whoever's answer was lost.
async fn create(session: &Session, path: &str, until: Instant) -> Result<(), RecipeError> {
    loop {
        match session.ask_once(path, until, || session.client().create(path, b"", &EPHEMERAL)).await? {
            Told::Answer(Ok(_) | Err(Error::NodeExists)) => return Ok(()),
            Told::Answer(Err(error)) => return Err(refused(path, &error)),
            Told::InDoubt(reason) if Instant::now() >= until => return Err(timed_out(path, &reason)),
            Told::InDoubt(_) => {}
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.left {
            return;
        }
        let (session, path) = (self.session.clone(), std::mem::take(&mut self.path));
        runtime.spawn(async move {
            let until = Instant::now() + session.timeout() * 2;
            let _ = session.ask(&path, until, || session.client().delete(&path, None)).await;
        });
    }
}
