//! Leader election.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use zookeeper_client::{Error, MultiWriteError};

use super::RecipeError;
use super::place::{Naming, Place};
use super::proof::{Doubt, Proof};
use super::session::{PERSISTENT, Session, Told, check, refused, timed_out};
use crate::registry::zookeeper::session::ConnectOptions;

/// A candidate waits this long before it stands again after a failure.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one attempt to connect lasts before it is told in the log.
const KNOCK: Duration = Duration::from_secs(10);

/// An election: of all candidates at a path, one at a time leads.
///
/// Candidates stand in line as ephemeral sequential nodes, named as Curator's `LeaderLatch` names them; the first in
/// line leads, each other watches the one ahead of it and no other.
///
/// ```no_run
/// use zoogate::recipes::{ConnectOptions, Election};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let election = Election::new(ConnectOptions::new("127.0.0.1:2181"), "/election").id("machine-1");
/// loop {
///     let leadership = election.campaign().await?;
///     // Hand the fencing number to whatever is written to: it must refuse lower ones.
///     println!("leading with fence {}", leadership.fence());
///     let doubt = leadership.doubted().await;
///     println!("not leading any more: {doubt}");
///     // Stop the work, and only then let go.
///     drop(leadership);
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Election {
    connect: ConnectOptions,
    path: String,
    id: Vec<u8>,
    naming: Naming,
}

/// Being the leader. Dropped, the place is given up in the background and the next in line leads.
#[derive(Debug)]
#[must_use = "dropped, it is given up"]
pub struct Leadership {
    proof: Proof,
    place: Place,
}

impl Election {
    /// An election at a path below the chroot. It, and its parents, are made where they are missing.
    pub fn new(connect: ConnectOptions, path: impl Into<String>) -> Self {
        Self { connect, path: path.into(), id: Vec::new(), naming: Naming::Curator("latch-") }
    }

    /// What the candidate's node holds: who it is, for others to read.
    #[must_use]
    pub fn id(mut self, id: impl Into<Vec<u8>>) -> Self {
        self.id = id.into();
        self
    }

    /// Names the candidates by their number alone, `0000000007`, as the numbered layout does.
    #[must_use]
    pub fn numbered(mut self) -> Self {
        self.naming = Naming::Numbered;
        self
    }

    /// Stands for election until elected, with a session of its own; one that is lost is replaced.
    ///
    /// Waits as long as it takes, whether the ensemble can be reached or not: put a `timeout` around it where that is
    /// not meant. Fails only where trying again cannot help. Dropped, the place in line is given up in the background.
    pub async fn campaign(&self) -> Result<Leadership, RecipeError> {
        match self.campaign_until(std::future::pending()).await? {
            Some(leadership) => Ok(leadership),
            None => std::future::pending().await,
        }
    }

    /// The same, until told to stop. `None` where that was first: the place in line is given up by then.
    pub async fn campaign_until(
        &self,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Leadership>, RecipeError> {
        check(&self.path)?;
        let mut stop = pin!(stop);
        let mut told = false;
        loop {
            match self.stand(stop.as_mut()).await {
                Ok(leadership) => return Ok(leadership),
                Err(error) if error.is_passing() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(path = self.path, %error, "not standing for election, retrying");
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = sleep(AGAIN.mul_f64(0.75 + 0.5 * fastrand::f64())) => {}
                () = stop.as_mut() => return Ok(None),
            }
        }
    }

    async fn stand(
        &self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Leadership>, RecipeError> {
        let place = async {
            let session = Session::connect(&self.connect, KNOCK).await?;
            // A connection that stays away for half a session is not waited for: the crate's own reconnects get ever
            // rarer.
            let half = session.timeout() / 2;
            let session = session.with_patience(half);
            let until = session.soon();
            Place::take(&session, &self.path, self.naming.clone(), &self.id, until).await
        };
        let place = tokio::select! {
            place = place => place?,
            () = stop.as_mut() => return Ok(None),
        };
        tracing::debug!(node = place.path(), "standing for election");
        let proven = tokio::select! {
            proven = place.turn(None) => Some(proven?),
            () = stop => None,
        };
        let Some(proven) = proven else {
            place.leave().await?;
            return Ok(None);
        };
        let proof = Proof::new(place.session(), place.path(), place.czxid(), proven);
        Ok(Some(Leadership { proof, place }))
    }
}

impl Leadership {
    /// The fencing number: each leader's is higher than those of all before it, for as long as the ensemble keeps its
    /// data. It is the transaction that created the leader's node.
    pub fn fence(&self) -> u64 {
        self.place.czxid().cast_unsigned()
    }

    /// The leader's node. A write that must not be a deposed leader's checks, in one transaction with it, that this node
    /// exists.
    pub fn node(&self) -> String {
        self.place.path()
    }

    /// The session that holds the leadership.
    pub fn session(&self) -> &Session {
        self.place.session()
    }

    /// Whether there is no doubt now. Once there is, it stays.
    pub fn is_certain(&self) -> bool {
        self.proof.is_certain()
    }

    /// Nobody else can lead before this moment, by this machine's clock; it moves on while the ensemble answers. What a
    /// leader does must have ended by then.
    pub fn ours_until(&self) -> Instant {
        self.proof.ours_until()
    }

    /// Returns the moment that there is doubt: the connection is lost or silent, or the node is gone. That is well before
    /// [`Leadership::ours_until`], unless this process itself did not run. Cancel-safe.
    pub async fn doubted(&self) -> Doubt {
        self.proof.doubted().await
    }

    /// Writes a node in one transaction with a check that this leader's place still exists: a leader that was deposed
    /// while its write was on its way changes nothing, and gets [`RecipeError::Gone`].
    ///
    /// `version` is the one that was read; without it the node is created. False where somebody else has written
    /// meanwhile, or where an answer was lost: the node is to be read again.
    pub async fn write(&self, path: &str, data: &[u8], version: Option<i32>) -> Result<bool, RecipeError> {
        check(path)?;
        let session = self.session();
        let (node, path, until) = (self.node(), session.path(path), session.soon());
        let request = || async {
            let mut both = session.client().new_multi_writer();
            both.add_check_version(&node, -1)?;
            match version {
                Some(version) => both.add_set_data(&path, data, Some(version))?,
                None => both.add_create(&path, data, &PERSISTENT)?,
            }
            match both.commit().await {
                Ok(_) => Ok(None),
                Err(MultiWriteError::OperationFailed { index, source }) => Ok(Some((index, source))),
                Err(MultiWriteError::RequestFailed { source }) => Err(source),
            }
        };
        match session.ask_once(&path, until, request).await? {
            Told::Answer(Ok(None)) => Ok(true),
            Told::Answer(Ok(Some((0, Error::NoNode)))) => Err(RecipeError::Gone { path: node }),
            Told::Answer(Ok(Some((_, Error::BadVersion | Error::NodeExists | Error::NoNode)))) => Ok(false),
            Told::Answer(Ok(Some((_, error))) | Err(error)) => Err(refused(&path, &error)),
            Told::InDoubt(reason) if Instant::now() >= until => Err(timed_out(&path, &reason)),
            Told::InDoubt(_) => Ok(false),
        }
    }

    /// Gives it up; when this returns `Ok` the next in line may lead.
    pub async fn resign(self) -> Result<(), RecipeError> {
        let Self { proof, place } = self;
        drop(proof);
        place.leave().await
    }
}
