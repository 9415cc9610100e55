//! The primary: numbers the writes, logs them, copies them, and answers when every server in sync has them.
//!
//! One loop does it all, so that a snapshot, a write and a change of the set of servers in sync never overlap. What
//! it promises rests on three rules:
//!
//! - A write is acknowledged when each member of `insync`, as ZooKeeper has it, has it in its log.
//! - A member that does not answer within [`PATIENCE`] is first taken out of `insync`, then done without. If that
//!   can not be written, the write is not acknowledged, and leading begins anew.
//! - A standby enters `insync` between two writes, when it has everything up to there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cluster::{ChangeError, Cluster, InSync};
use crate::store::{AppendError, Snapshot, Store};
use crate::wire::{Batch, Record, Stage};

/// How long a write waits for a member of the set, and a new primary for its standbys.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Writes that share an fsync and a message.
const TOGETHER: usize = 32;
/// Batches that may wait for a standby before it is given up.
const TAIL: usize = 256;

/// A write that somebody waits for. An answer that never comes means that its fate is not known.
#[derive(Debug)]
pub struct Write {
    pub key: String,
    pub value: Option<Bytes>,
    pub done: oneshot::Sender<u64>,
}

/// What a standby's connection asks.
#[derive(Debug)]
pub enum Join {
    /// It wants everything, and then every write.
    Follow { number: u32, store: u64, acked: watch::Receiver<u64>, reply: oneshot::Sender<Feed> },
    /// It has the snapshot.
    CaughtUp { number: u32 },
}

/// What a standby is sent.
#[derive(Debug)]
pub struct Feed {
    pub epoch: i64,
    pub snapshot: Snapshot,
    /// Every write after the snapshot.
    pub tail: mpsc::Receiver<Batch>,
}

/// Where requests wait for the primary, whoever it is.
#[derive(Debug)]
pub struct Inbox {
    pub writes: mpsc::Receiver<Write>,
    pub joins: mpsc::Receiver<Join>,
}

/// Why a server leads no longer.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("its log is of epoch {log}, later than its appointment, {epoch}: did ZooKeeper lose its data?")]
    Outdated { log: i64, epoch: i64 },
    #[error(transparent)]
    Set(#[from] ChangeError),
    #[error("{0}")]
    Disk(#[from] io::Error),
}

#[derive(Debug)]
struct Follower {
    store: u64,
    tail: mpsc::Sender<Batch>,
    acked: watch::Receiver<u64>,
}

#[derive(Debug)]
pub struct Leading<'n> {
    number: u32,
    store: &'n Arc<Store>,
    cluster: &'n Cluster,
    set: InSync,
    version: i32,
    followers: BTreeMap<u32, Follower>,
}

impl<'n> Leading<'n> {
    /// Takes the lead in an epoch: from here on no server of an earlier one can change the set.
    pub async fn claim(
        number: u32,
        epoch: i64,
        store: &'n Arc<Store>,
        cluster: &'n Cluster,
        (set, version): (InSync, i32),
    ) -> Result<Self, Ended> {
        let log = store.position().epoch;
        if log > epoch {
            return Err(Ended::Outdated { log, epoch });
        }
        if set.epoch > epoch {
            return Err(ChangeError::Superseded.into());
        }
        let set = InSync { epoch, ..set };
        let version = cluster.replace(&set, version).await?;
        Ok(Self { number, store, cluster, set, version, followers: BTreeMap::new() })
    }

    /// Serves until it may not.
    pub async fn run(mut self, inbox: &mut Inbox) -> Result<std::convert::Infallible, Ended> {
        // The other members have a moment to come back before they are missed.
        let grace = Instant::now() + PATIENCE;
        let mut writes = Vec::new();
        loop {
            let ready = Instant::now() >= grace || self.others().all(|(n, store)| self.follows(n, store));
            tokio::select! {
                biased;
                Some(join) = inbox.joins.recv() => self.join(join).await?,
                () = sleep_until(grace), if !ready => {}
                _ = inbox.writes.recv_many(&mut writes, TOGETHER), if ready => {
                    self.write(std::mem::take(&mut writes)).await?;
                }
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = (u32, u64)> {
        self.set.members.iter().map(|(n, store)| (*n, *store)).filter(|(n, _)| *n != self.number)
    }

    fn follows(&self, number: u32, store: u64) -> bool {
        self.followers.get(&number).is_some_and(|f| f.store == store && !f.tail.is_closed())
    }

    async fn join(&mut self, join: Join) -> Result<(), Ended> {
        match join {
            Join::Follow { number, store, acked, reply } => {
                let (tail, batches) = mpsc::channel(TAIL);
                let feed = Feed { epoch: self.set.epoch, snapshot: self.store.snapshot(), tail: batches };
                if reply.send(feed).is_ok() {
                    self.followers.insert(number, Follower { store, tail, acked });
                }
                Ok(())
            }
            Join::CaughtUp { number } => {
                let Some(store) = self.followers.get(&number).map(|follower| follower.store) else {
                    return Ok(());
                };
                if !self.has_all(number, store, Instant::now() + PATIENCE).await {
                    self.followers.remove(&number);
                    return Ok(());
                }
                let mut set = self.set.clone();
                set.members.insert(number, store);
                self.change(set).await
            }
        }
    }

    async fn write(&mut self, mut writes: Vec<Write>) -> Result<(), Ended> {
        // Whoever gave up may have written something else since: what it asked must not come true after that.
        writes.retain(|write| !write.done.is_closed());
        let first = self.store.position().sequence + 1;
        let (mut records, mut waiting) = (Vec::new(), Vec::new());
        for (sequence, Write { key, value, done }) in (first..).zip(writes) {
            records.push(Record { sequence, epoch: self.set.epoch, key, value });
            waiting.push((sequence, done));
        }
        let batch = Batch { epoch: self.set.epoch, stage: Stage::Tail.into(), records: records.clone() };
        // Theirs while we wait for our own disk. One whose queue is full is too slow, one that left is gone.
        self.followers.retain(|_, follower| follower.tail.try_send(batch.clone()).is_ok());
        self.store.append(records).await.map_err(|error| match error {
            AppendError::Disk(error) => Ended::Disk(error),
            late => Ended::Disk(io::Error::other(late)),
        })?;

        let deadline = Instant::now() + PATIENCE;
        let others: Vec<(u32, u64)> = self.others().collect();
        let mut missing = BTreeSet::new();
        for (number, store) in others {
            if !self.has_all(number, store, deadline).await {
                missing.insert(number);
            }
        }
        if !missing.is_empty() {
            println!("without {missing:?} from here on");
            self.followers.retain(|number, _| !missing.contains(number));
            let mut set = self.set.clone();
            set.members.retain(|number, _| !missing.contains(number));
            self.change(set).await?;
        }
        for (sequence, done) in waiting {
            let _ = done.send(sequence);
        }
        Ok(())
    }

    /// Whether this follower has our whole log by then.
    async fn has_all(&mut self, number: u32, store: u64, deadline: Instant) -> bool {
        let last = self.store.position().sequence;
        match self.followers.get_mut(&number) {
            Some(follower) if follower.store == store => {
                let acked = follower.acked.wait_for(|acked| *acked >= last);
                timeout_at(deadline, acked).await.is_ok_and(|acked| acked.is_ok())
            }
            _ => false,
        }
    }

    /// An error ends this lead: whether the change was made shows when leading begins anew.
    async fn change(&mut self, set: InSync) -> Result<(), Ended> {
        if set != self.set {
            self.version = self.cluster.replace(&set, self.version).await?;
            self.set = set;
        }
        Ok(())
    }
}
