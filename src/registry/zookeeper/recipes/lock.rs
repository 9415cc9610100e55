//! A fair lock.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use zookeeper_client::{Acls, Error, LockOptions, LockPrefix, OwnedLockClient};

use super::RecipeError;
use super::place::nonce;
use super::proof::{Doubt, Proof};
use super::session::{PERSISTENT, Session, check, refused, timed_out};

/// What a failed attempt left behind is looked for this long, or until its session ends.
const SWEEP: Duration = Duration::from_secs(60);

/// A lock at a path: one holder at a time, in the order in which they came. Curator's `InterProcessMutex` at the same path
/// takes part.
///
/// Beside [`zookeeper_client::Client::lock`], which it uses, it has a deadline, sees to it that no node of a failed
/// attempt stays in the line while the session lives, tells when the lock may be lost, and has a fencing number.
///
/// ```no_run
/// use std::time::Duration;
/// use zoogate::recipes::{ConnectOptions, Lock, Session};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let session = Session::connect(&ConnectOptions::new("127.0.0.1:2181"), Duration::from_secs(10)).await?;
/// let guard = Lock::new(session, "/locks/reindex").acquire(Duration::from_secs(30)).await?;
/// tokio::select! {
///     () = reindex(guard.fence()) => guard.release().await?,
///     doubt = guard.doubted() => eprintln!("stopped: {doubt}"),
/// }
/// # Ok(())
/// # }
/// # async fn reindex(_fence: u64) {}
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    session: Session,
    path: String,
}

/// Holding the lock. Dropped, it is released in the background.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct LockGuard {
    proof: Proof,
    session: Session,
    fence: i64,
    /// Deletes the node when it is dropped.
    lock: OwnedLockClient,
}

impl Lock {
    /// A lock at a path, which is made, with its parents, where it is missing.
    pub fn new(session: Session, path: impl Into<String>) -> Self {
        Self { session, path: path.into() }
    }

    /// Waits for the lock, for `within` at the most. Dropped, the place in line is given up.
    pub async fn acquire(&self, within: Duration) -> Result<LockGuard, RecipeError> {
        check(&self.path)?;
        let until = Instant::now() + within;
        let dir = self.session.path(&self.path);
        loop {
            match self.attempt(&dir, until).await {
                Ok(guard) => return Ok(guard),
                Err(Attempt::Over(error)) => return Err(error),
                // What the crate makes of a lost answer is an error of one kind or another: stand in line again.
                Err(Attempt::Again(reason)) if Instant::now() >= until => {
                    return Err(timed_out(&dir, &reason));
                }
                Err(Attempt::Again(_)) => {}
            }
        }
    }

    async fn attempt(&self, dir: &str, until: Instant) -> Result<LockGuard, Attempt> {
        let (session, client) = (&self.session, self.session.client());
        // Asked first so that a request is only made while there is a connection.
        let there = session.ask(dir, until, || client.check_stat(dir)).await?;
        there.map_err(|error| refused(dir, &error))?;
        let name = format!("_c_{}-lock-", nonce());
        let sweep = Sweep { session: session.clone(), dir: dir.to_owned(), name: name.clone(), done: false };
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(PERSISTENT);
        let options = options.map_err(|error| refused(dir, &error))?;
        let prefix = LockPrefix::new_custom(format!("{dir}/{name}"), "lock-");
        let prefix = prefix.map_err(|error| refused(dir, &error))?;
        let locked = match timeout_at(until.into(), client.lock(prefix, b"", options)).await {
            Err(_) => return Err(timed_out(dir, "others are ahead").into()),
            Ok(Err(Error::SessionExpired | Error::AuthFailed | Error::ClientClosed)) => {
                return Err(RecipeError::SessionLost { path: dir.to_owned() }.into());
            }
            Ok(Err(error @ (Error::NoAuth | Error::NoChildrenForEphemerals | Error::BadArguments(_)))) => {
                return Err(refused(dir, &error).into());
            }
            Ok(Err(error)) => return Err(Attempt::Again(error.to_string())),
            Ok(Ok(locked)) => locked.into_owned(),
        };
        let path = locked.lock_path().to_owned();
        let (stat, asked) = session.ask_when(&path, until, || client.check_stat(&path)).await?;
        match stat {
            Ok(Some(stat)) if stat.ephemeral_owner == session.id() => {
                sweep.done();
                let proof = Proof::new(session, path, stat.czxid, asked);
                Ok(LockGuard { proof, session: session.clone(), fence: stat.czxid, lock: locked })
            }
            Ok(_) => Err(Attempt::Again("the node is gone".to_owned())),
            Err(error) => Err(refused(&path, &error).into()),
        }
    }
}

/// How an attempt failed.
enum Attempt {
    Over(RecipeError),
    Again(String),
}

impl From<RecipeError> for Attempt {
    fn from(error: RecipeError) -> Self {
        Self::Over(error)
    }
}

impl LockGuard {
    /// The fencing number: each holder's is higher than those of all before it. It is the transaction that created the
    /// holder's node.
    pub fn fence(&self) -> u64 {
        self.fence.cast_unsigned()
    }

    /// The holder's node, for transactions that check that it exists.
    pub fn node(&self) -> &str {
        self.lock.lock_path()
    }

    /// Whether there is no doubt now. Once there is, it stays.
    pub fn is_certain(&self) -> bool {
        self.proof.is_certain()
    }

    /// Nobody else can hold the lock before this moment; it moves on while the ensemble answers.
    pub fn ours_until(&self) -> Instant {
        self.proof.ours_until()
    }

    /// Returns the moment that there is doubt. Cancel-safe.
    pub async fn doubted(&self) -> Doubt {
        self.proof.doubted().await
    }

    /// Releases the lock; when this returns `Ok` the next in line may have it.
    pub async fn release(self) -> Result<(), RecipeError> {
        let Self { proof, session, lock, .. } = self;
        drop(proof);
        let path = lock.lock_path().to_owned();
        match session.ask(&path, session.soon(), || session.client().delete(&path, None)).await {
            Ok(Ok(()) | Err(Error::NoNode)) | Err(RecipeError::SessionLost { .. }) => Ok(()),
            Ok(Err(error)) => Err(refused(&path, &error)),
            Err(error) => Err(error),
        }
    }
}

/// Deletes, in the background, what an attempt may have left in the line. The crate does so only where the connection
/// was lost in a way that it expects.
struct Sweep {
    session: Session,
    dir: String,
    name: String,
    done: bool,
}

impl Sweep {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.done {
            return;
        }
        let (session, dir, name) = (self.session.clone(), self.dir.clone(), self.name.clone());
        let until = Instant::now() + SWEEP;
        runtime.spawn(async move {
            let client = session.client();
            let _ = session.ask(&dir, until, || client.sync(&dir)).await;
            let listed = session.ask(&dir, until, || client.list_children(&dir)).await;
            let Ok(Ok(children)) = listed else { return };
            for child in children.iter().filter(|child| child.starts_with(&name)) {
                let path = format!("{dir}/{child}");
                let _ = session.ask(&path, until, || client.delete(&path, None)).await;
            }
        });
    }
}
