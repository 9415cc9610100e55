//! What the servers of a group know of each other, all of it in ZooKeeper.
//!
//! ```text
//! /data/NAME/NUM      ephemeral: an in-sync server's address
//! /data/NAME/primary  the primary's number; kept by `zoogate primaries`
//! /data/NAME/insync   the servers that have every acknowledged write; kept by the primary
//! ```
//!
//! The fencing number of a primary, its epoch, is the transaction id of the last change of `primary`: it grows with
//! every appointment, even if the node was deleted in between. `insync` changes only by versioned sets, so that two
//! servers that both believe to lead can not both change it.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, CreateOptions, Error, EventType};

const RETRY: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(3);
const OPEN: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// The servers that have every acknowledged write: by number, the identity of their log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InSync {
    /// Of the primary that wrote it.
    pub epoch: i64,
    pub members: BTreeMap<u32, u64>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    pub number: u32,
    pub epoch: i64,
    /// `None` while it is not registered.
    pub address: Option<String>,
}

/// A group as ZooKeeper last showed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Whether it was read at all.
    pub known: bool,
    pub primary: Option<Primary>,
    /// With its version.
    pub in_sync: Option<(InSync, i32)>,
}

impl View {
    pub fn has(&self, number: u32, store: u64) -> bool {
        self.in_sync.as_ref().is_some_and(|(set, _)| set.members.get(&number) == Some(&store))
    }
}

/// Why the set of servers in sync is not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("another server changed it: there is a new primary")]
    Superseded,
    #[error("ZooKeeper does not answer: {0}")]
    Unavailable(Error),
}

/// A group's directory, watched.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub path: String,
    client: watch::Receiver<Option<Client>>,
    view: watch::Receiver<View>,
}

impl Cluster {
    /// Watches `path` for as long as the runtime runs.
    pub fn start(connect: String, session_timeout: Duration, path: String) -> Self {
        let (client, client_seen) = watch::channel(None);
        let (view, view_seen) = watch::channel(View::default());
        let cluster = Self { path: path.clone(), client: client_seen, view: view_seen };
        tokio::spawn(async move {
            loop {
                let connector = Client::connector().with_session_timeout(session_timeout).with_fail_eagerly();
                if let Ok(Ok(fresh)) = timeout(DEADLINE, connector.connect(&connect)).await {
                    client.send_replace(Some(fresh.clone()));
                    if let Err(error) = follow(&fresh, &path, &view).await {
                        println!("ZooKeeper: {error}");
                    }
                }
                client.send_replace(None);
                sleep(RETRY).await;
            }
        });
        cluster
    }

    /// What is there now, and from now on.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Makes the first set of a new group. Another server may have been quicker: then its set stands.
    pub async fn create(&self, first: &InSync) -> Result<(), ChangeError> {
        let client = self.client()?;
        let data = first.to_string();
        match within(client.create(&self.in_sync_path(), data.as_bytes(), &OPEN)).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(ChangeError::Unavailable(error)),
        }
    }

    /// Replaces the set of this version. Returns the new version.
    pub async fn replace(&self, set: &InSync, version: i32) -> Result<i32, ChangeError> {
        let client = self.client()?;
        let (path, data) = (self.in_sync_path(), set.to_string());
        match within(client.set_data(&path, data.as_bytes(), Some(version))).await {
            Ok(stat) => Ok(stat.version),
            // Perhaps our own change, whose answer was lost.
            Err(Error::BadVersion) => match within(client.get_data(&path)).await {
                Ok((found, stat)) if found == data.as_bytes() && stat.version == version + 1 => {
                    Ok(stat.version)
                }
                Ok(_) => Err(ChangeError::Superseded),
                Err(error) => Err(ChangeError::Unavailable(error)),
            },
            Err(Error::NoNode) => Err(ChangeError::Superseded),
            Err(error) => Err(ChangeError::Unavailable(error)),
        }
    }

    fn client(&self) -> Result<Client, ChangeError> {
        self.client.borrow().clone().ok_or(ChangeError::Unavailable(Error::ConnectionLoss))
    }

    fn in_sync_path(&self) -> String {
        format!("{}/insync", self.path)
    }
}

/// Tells every change until the connection is in doubt.
async fn follow(client: &Client, path: &str, view: &watch::Sender<View>) -> Result<(), Error> {
    within(client.mkdir(path, &OPEN)).await?;
    let mut events = within(client.watch(path, AddWatchMode::PersistentRecursive)).await?;
    within(client.sync(path)).await?;
    loop {
        let now = read(client, path).await?;
        view.send_if_modified(|view| std::mem::replace(view, now.clone()) != now);
        if events.changed().await.event_type == EventType::Session {
            // What changed meanwhile is told to no watch: everything anew.
            return Err(Error::ConnectionLoss);
        }
    }
}

async fn read(client: &Client, path: &str) -> Result<View, Error> {
    let text = |data: Vec<u8>| String::from_utf8(data).unwrap_or_default();
    let mut view = View { known: true, ..View::default() };
    if let Some((data, stat)) = found(client, &format!("{path}/primary")).await?
        && let Ok(number) = text(data).trim().parse()
    {
        // Numbers compare by value: `2` is registered by the node `2`.
        let address = found(client, &format!("{path}/{number}")).await?.map(|(data, _)| text(data));
        view.primary = Some(Primary { number, epoch: stat.mzxid, address });
    }
    if let Some((data, stat)) = found(client, &format!("{path}/insync")).await? {
        match text(data).parse() {
            Ok(set) => view.in_sync = Some((set, stat.version)),
            // Nobody is in sync, and nobody may make a new set.
            Err(error) => {
                println!("{path}/insync: {error}");
                view.in_sync = Some((InSync::default(), stat.version));
            }
        }
    }
    Ok(view)
}

async fn found(client: &Client, path: &str) -> Result<Option<(Vec<u8>, zookeeper_client::Stat)>, Error> {
    match within(client.get_data(path)).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn within<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(DEADLINE, request).await.unwrap_or(Err(Error::Timeout))
}

/// `epoch N`, then a line `NUMBER IDENTITY` for each member.
impl Display for InSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("epoch {}\n", self.epoch);
        for (number, store) in &self.members {
            writeln!(text, "{number} {store:016x}")?;
        }
        f.write_str(&text)
    }
}

impl FromStr for InSync {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no set of servers");
        let mut lines = text.lines();
        let epoch =
            lines.next().and_then(|line| line.strip_prefix("epoch ")?.parse().ok()).ok_or_else(wrong)?;
        let member = |line: &str| {
            let (number, store) = line.split_once(' ')?;
            Some((number.parse().ok()?, u64::from_str_radix(store, 16).ok()?))
        };
        let members = lines.map(member).collect::<Option<_>>().ok_or_else(wrong)?;
        Ok(Self { epoch, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_reads_back_as_it_was_written_and_nonsense_is_refused() {
        let set = InSync { epoch: -3, members: [(1, 7), (20, u64::MAX)].into() };
        assert_eq!(set.to_string().parse(), Ok(set.clone()));
        for wrong in ["", "1 00", "epoch x", "epoch 1\n1", "epoch 1\n1 xyz", "epoch 1\n\n"] {
            assert!(wrong.parse::<InSync>().is_err(), "{wrong:?}");
        }
        let view = View { in_sync: Some((set, 0)), ..View::default() };
        assert!(view.has(1, 7) && !view.has(1, 8) && !view.has(2, 7));
    }
}
