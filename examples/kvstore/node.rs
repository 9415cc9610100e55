//! One server: which role it plays, and whether it is registered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use zoogate::registry::zookeeper::{RegisterOptions, Registration};

use crate::cluster::{Cluster, InSync, Primary, View};
use crate::primary::{Ended, Inbox, Join, Leading, Write};
use crate::standby;
use crate::store::Store;

/// Requests that may wait for a primary's loop.
const QUEUE: usize = 1024;
/// Longer than the primary's patience with its standbys and with ZooKeeper together.
const WRITE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);

/// Why a write was not acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing was written.
    NotPrimary { primary: Option<Primary> },
    /// It may be seen later, or not.
    Unknown,
}

/// What the server's front and its role share.
#[derive(Debug)]
pub struct Node {
    pub number: u32,
    pub store: Arc<Store>,
    view: watch::Receiver<View>,
    /// The epoch it leads in.
    leads: watch::Sender<Option<i64>>,
    writes: mpsc::Sender<Write>,
    joins: mpsc::Sender<Join>,
}

#[derive(Debug, PartialEq, Eq)]
struct Role {
    known: bool,
    primary: Option<Primary>,
    has_set: bool,
    may_lead: bool,
}

impl Node {
    pub fn new(number: u32, store: Arc<Store>, cluster: &Cluster) -> (Arc<Self>, Inbox) {
        let (writes, waiting_writes) = mpsc::channel(QUEUE);
        let (joins, waiting_joins) = mpsc::channel(QUEUE);
        let node =
            Self { number, store, view: cluster.view(), leads: watch::Sender::new(None), writes, joins };
        (Arc::new(node), Inbox { writes: waiting_writes, joins: waiting_joins })
    }

    /// Whether it has every acknowledged write, as far as it has been told.
    pub fn in_sync(&self) -> bool {
        self.view.borrow().has(self.number, self.store.id())
    }

    pub fn leads(&self) -> Option<i64> {
        *self.leads.borrow()
    }

    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Returns the write's sequence number when every server in sync has it.
    pub async fn write(&self, key: String, value: Option<bytes::Bytes>) -> Result<u64, Refused> {
        self.primary_only()?;
        let (done, answer) = oneshot::channel();
        let written = async {
            self.writes.send(Write { key, value, done }).await.ok()?;
            answer.await.ok()
        };
        timeout(WRITE, written).await.ok().flatten().ok_or(Refused::Unknown)
    }

    pub async fn join(&self, join: Join) -> Result<(), Refused> {
        self.primary_only()?;
        self.joins.send(join).await.map_err(|_| Refused::Unknown)
    }

    fn primary_only(&self) -> Result<(), Refused> {
        match self.leads() {
            Some(_) => Ok(()),
            None => Err(Refused::NotPrimary { primary: self.view().primary }),
        }
    }

    /// Plays the role that ZooKeeper gives it. Ends only where the disk fails.
    pub async fn play(&self, cluster: &Cluster, mut inbox: Inbox) -> Result<(), Ended> {
        let mut view = cluster.view();
        loop {
            let now = view.borrow_and_update().clone();
            let role = self.role(&now);
            let changed = view.wait_for(|new| self.role(new) != role);
            let ended = tokio::select! {
                ended = self.once(&now, cluster, &mut inbox) => ended,
                _ = changed => Ok(()),
            };
            // Who waited for a primary that is none any more learns that it is.
            self.leads.send_replace(None);
            while inbox.writes.try_recv().is_ok() {}
            while inbox.joins.try_recv().is_ok() {}
            ended?;
        }
    }

    /// What of a view decides the role. Where its own node is registered does not, and to a standby it makes no
    /// difference whether it counts as in sync: it would lose its place in the stream at the moment it has caught up.
    fn role(&self, view: &View) -> Role {
        let mut primary = view.primary.clone();
        let own = primary.as_mut().filter(|primary| primary.number == self.number);
        let may_lead = own.map(|own| own.address = None).is_some() && view.has(self.number, self.store.id());
        Role { known: view.known, primary, has_set: view.in_sync.is_some(), may_lead }
    }

    /// A role, until it fails.
    async fn once(&self, now: &View, cluster: &Cluster, inbox: &mut Inbox) -> Result<(), Ended> {
        let own = self.store.id();
        match (&now.primary, &now.in_sync) {
            (_, None) if now.known => {
                let members = [(self.number, own)].into();
                if let Err(error) = cluster.create(&InSync { epoch: 0, members }).await {
                    println!("no set of servers in sync: {error}");
                }
            }
            (Some(primary), Some(set)) if primary.number == self.number && now.has(self.number, own) => {
                let epoch = primary.epoch;
                let led = async {
                    let leading =
                        Leading::claim(self.number, epoch, &self.store, cluster, set.clone()).await?;
                    self.leads.send_replace(Some(epoch));
                    println!("leads in epoch {epoch}");
                    leading.run(inbox).await
                };
                match led.await {
                    Ok(never) => match never {},
                    Err(Ended::Disk(error)) => return Err(Ended::Disk(error)),
                    Err(other) => println!("does not lead: {other}"),
                }
            }
            (Some(primary), Some(_)) if primary.number != self.number && primary.address.is_some() => {
                match standby::follow(self.number, &self.store, primary).await {
                    Ok(never) => match never {},
                    Err(error) => println!("does not follow server {}: {error}", primary.number),
                }
            }
            (Some(primary), _) if primary.number == self.number => {
                // Nobody but the operator can say that what is missing here is not missed.
                println!("is named primary but lacks acknowledged writes: it does not lead");
                std::future::pending::<()>().await;
            }
            _ => std::future::pending::<()>().await,
        }
        sleep(RETRY).await;
        Ok(())
    }

    /// Keeps the server's node while it is in sync. Returns when told to stop, the node deleted.
    pub async fn register(&self, options: RegisterOptions, stop: impl Future<Output = ()>) {
        let mut view = self.view.clone();
        let mut held: Option<Registration> = None;
        let mut stop = std::pin::pin!(stop);
        loop {
            let wanted = view.borrow_and_update().has(self.number, self.store.id());
            match held.take() {
                None if wanted => match Registration::start(options.clone()).await {
                    Ok(registration) => {
                        println!("registered");
                        held = Some(registration);
                        continue;
                    }
                    Err(error) => println!("{error}"),
                },
                Some(registration) if !wanted => release(registration).await,
                other => held = other,
            }
            tokio::select! {
                _ = view.changed() => {}
                () = sleep(RETRY), if wanted && held.is_none() => {}
                () = &mut stop => break,
            }
        }
        if let Some(registration) = held {
            release(registration).await;
        }
    }
}

async fn release(registration: Registration) {
    match registration.release().await {
        Ok(()) => println!("deregistered"),
        Err(error) => println!("{error}"),
    }
}
