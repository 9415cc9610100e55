//! An ordered queue whose items survive those who take them.

use std::time::{Duration, Instant};

use zookeeper_client::{Acls, CreateMode, Error};

use super::RecipeError;
use super::barrier::woken;
use super::place::nonce;
use super::session::{EPHEMERAL, PERSISTENT, Session, Told, check, refused, timed_out};

/// Items that may wait, unless it is said otherwise.
const CAPACITY: usize = 10_000;

/// A queue at a path. Items come out in the order in which they went in.
///
/// A consumer takes an item by an ephemeral claim beside it, and deletes item and claim together when it is done. The
/// claim of a consumer that dies goes with its session, and the item is the first of the queue again. So an item is worked
/// on at least once; twice only where a consumer lost its session while it worked.
///
/// ```no_run
/// use std::time::Duration;
/// use zoogate::recipes::{ConnectOptions, Queue, Session};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let session = Session::connect(&ConnectOptions::new("127.0.0.1:2181"), Duration::from_secs(10)).await?;
/// let queue = Queue::new(session, "/jobs");
/// queue.put(b"resize picture 17").await?;
/// let item = queue.take(Duration::from_secs(60)).await?;
/// // … do what it says …
/// item.done().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    session: Session,
    path: String,
    capacity: usize,
}

/// An item that is ours until it is done. Dropped without [`Taken::done`], it goes back to its place in the background.
#[derive(Debug)]
#[must_use = "dropped, the item goes back"]
pub struct Taken {
    data: Vec<u8>,
    item: String,
    claim: Claim,
}

/// A claim's node, deleted in the background when dropped.
#[derive(Debug)]
struct Claim {
    session: Session,
    path: String,
    /// What tells it from another claim of the same session.
    nonce: String,
    released: bool,
}

/// The three directories of a queue.
struct Places {
    items: String,
    claims: String,
    receipts: String,
}

impl Queue {
    /// The queue at a path, which is made, with its parents, where it is missing.
    pub fn new(session: Session, path: impl Into<String>) -> Self {
        Self { session, path: path.into(), capacity: CAPACITY }
    }

    /// The same queue, but [`Queue::put`] refuses when this many items wait (some more, where many put at once).
    #[must_use]
    pub fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Puts an item at the end; it is there, once, when this returns `Ok`.
    pub async fn put(&self, data: &[u8]) -> Result<(), RecipeError> {
        let (session, client, until) = (&self.session, self.session.client(), self.session.soon());
        let places = self.places(until).await?;
        let items = &places.items;
        let stat = session.ask(items, until, || client.check_stat(items)).await?;
        let waiting = stat.map_err(|error| refused(items, &error))?.map_or(0, |stat| stat.num_children);
        if usize::try_from(waiting).is_ok_and(|waiting| waiting >= self.capacity) {
            let reason = format!("the queue is full: {waiting} items wait");
            return Err(RecipeError::Refused { path: items.clone(), reason });
        }
        // The item may be taken and done before a lost answer is asked for again: a receipt tells that it was there.
        let receipt = format!("{}/{}", places.receipts, nonce());
        let item = format!("{items}/item-");
        let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
        let put = || async {
            let mut both = client.new_multi_writer();
            both.add_create(&item, data, &sequential)?;
            both.add_create(&receipt, b"", &EPHEMERAL)?;
            both.commit().await.map(drop).map_err(Error::from)
        };
        loop {
            match session.ask_once(items, until, put).await? {
                Told::Answer(Ok(()) | Err(Error::NodeExists)) => break,
                Told::Answer(Err(error)) => return Err(refused(items, &error)),
                Told::InDoubt(reason) if Instant::now() >= until => return Err(timed_out(items, &reason)),
                // A second receipt is refused, and the second item with it.
                Told::InDoubt(_) => {}
            }
        }
        // If this fails the receipt goes with the session.
        let _ = session.ask(&receipt, until, || client.delete(&receipt, None)).await;
        Ok(())
    }

    /// How many items are in it, those that are being worked on included.
    pub async fn len(&self) -> Result<usize, RecipeError> {
        let until = self.session.soon();
        let items = self.places(until).await?.items;
        let stat = self.session.ask(&items, until, || self.session.client().check_stat(&items)).await?;
        let children = stat.map_err(|error| refused(&items, &error))?.map_or(0, |stat| stat.num_children);
        Ok(usize::try_from(children).unwrap_or_default())
    }

    /// Whether nothing is in it.
    pub async fn is_empty(&self) -> Result<bool, RecipeError> {
        Ok(self.len().await? == 0)
    }

    /// Takes the first item that nobody works on, waiting for one for `within` at the most.
    pub async fn take(&self, within: Duration) -> Result<Taken, RecipeError> {
        let until = Instant::now() + within;
        let places = self.places(until).await?;
        let (session, client) = (&self.session, self.session.client());
        let (items, claims) = (&places.items, &places.claims);
        loop {
            // Claims before items: a claim that ends in between is seen by its watch.
            let claimed = session.ask(claims, until, || client.list_and_watch_children(claims)).await?;
            let (claimed, released) = claimed.map_err(|error| refused(claims, &error))?;
            let listed = session.ask(items, until, || client.list_and_watch_children(items)).await?;
            let (mut names, arrived) = listed.map_err(|error| refused(items, &error))?;
            names.retain(|name| name.starts_with("item-") && !claimed.contains(name));
            names.sort_unstable();
            let mut lost_race = false;
            for name in &names {
                match self.claim(&places, name, until).await? {
                    Some(taken) => return Ok(taken),
                    None => lost_race = true,
                }
            }
            if lost_race {
                continue;
            }
            woken(session, until, async {
                tokio::select! {
                    _ = arrived.changed() => {}
                    _ = released.changed() => {}
                }
            })
            .await;
            if Instant::now() >= until {
                return Err(timed_out(items, "no item has come"));
            }
        }
    }

    /// Tries to make an item ours. `None` where another was faster.
    async fn claim(&self, places: &Places, name: &str, until: Instant) -> Result<Option<Taken>, RecipeError> {
        let (session, client) = (&self.session, self.session.client());
        let path = format!("{}/{name}", places.claims);
        let mut claim = Claim { session: session.clone(), path, nonce: nonce(), released: false };
        loop {
            let create = || client.create(&claim.path, claim.nonce.as_bytes(), &EPHEMERAL);
            match session.ask_once(&claim.path, until, create).await? {
                Told::Answer(Ok(_)) => break,
                Told::Answer(Err(Error::NodeExists)) => {
                    if claim.is_ours(until).await? {
                        break;
                    }
                    claim.released = true;
                    return Ok(None);
                }
                Told::Answer(Err(error)) => return Err(refused(&claim.path, &error)),
                Told::InDoubt(reason) if Instant::now() >= until => {
                    return Err(timed_out(&claim.path, &reason));
                }
                Told::InDoubt(_) => {}
            }
        }
        let item = format!("{}/{name}", places.items);
        match session.ask(&item, until, || client.get_data(&item)).await? {
            Ok((data, _)) => Ok(Some(Taken { data, item, claim })),
            // It was done while we looked.
            Err(Error::NoNode) => {
                claim.release(until).await?;
                Ok(None)
            }
            Err(error) => Err(refused(&item, &error)),
        }
    }

    async fn places(&self, until: Instant) -> Result<Places, RecipeError> {
        check(&self.path)?;
        let path = self.session.path(&self.path);
        let places = Places {
            items: format!("{path}/items"),
            claims: format!("{path}/claims"),
            receipts: format!("{path}/receipts"),
        };
        for place in [&places.items, &places.claims, &places.receipts] {
            let client = self.session.client();
            let there = self.session.ask(place, until, || client.create(place, b"", &PERSISTENT)).await?;
            match there {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(Error::NoNode) => self.session.mkdir(place, until).await?,
                Err(error) => return Err(refused(place, &error)),
            }
        }
        Ok(places)
    }
}

impl Taken {
    /// What was put.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Deletes the item: it is out of the queue for good when this returns `Ok`.
    ///
    /// [`RecipeError::Gone`] where our claim was lost meanwhile: another consumer has the item, or will.
    pub async fn done(mut self) -> Result<(), RecipeError> {
        let session = self.claim.session.clone();
        let (client, until) = (session.client(), session.soon());
        let (item, claim) = (&self.item, &self.claim.path);
        let mut repeated = false;
        loop {
            if !self.claim.is_ours(until).await? {
                self.claim.released = true;
                let gone = repeated && is_gone(&session, item, until).await?;
                // If an answer was lost, it was that of the deletion: nobody but us could delete before it.
                return if gone { Ok(()) } else { Err(RecipeError::Gone { path: claim.clone() }) };
            }
            let both = || async {
                let mut both = client.new_multi_writer();
                both.add_delete(claim, Some(0))?;
                both.add_delete(item, None)?;
                both.commit().await.map(drop).map_err(Error::from)
            };
            match session.ask_once(item, until, both).await? {
                Told::Answer(Ok(())) => {
                    self.claim.released = true;
                    return Ok(());
                }
                // Somebody deleted it by hand.
                Told::Answer(Err(Error::NoNode)) if is_gone(&session, item, until).await? => {
                    return self.claim.release(until).await;
                }
                Told::Answer(Err(Error::NoNode)) => {}
                Told::Answer(Err(error)) => return Err(refused(item, &error)),
                Told::InDoubt(reason) if Instant::now() >= until => return Err(timed_out(item, &reason)),
                Told::InDoubt(_) => repeated = true,
            }
        }
    }

    /// Puts the item back to its place, for whoever comes first.
    pub async fn give_back(mut self) -> Result<(), RecipeError> {
        let until = self.claim.session.soon();
        self.claim.release(until).await
    }
}

async fn is_gone(session: &Session, path: &str, until: Instant) -> Result<bool, RecipeError> {
    let stat = session.ask(path, until, || session.client().check_stat(path)).await?;
    Ok(stat.map_err(|error| refused(path, &error))?.is_none())
}

impl Claim {
    async fn is_ours(&self, until: Instant) -> Result<bool, RecipeError> {
        let (session, client) = (&self.session, self.session.client());
        match session.ask(&self.path, until, || client.get_data(&self.path)).await? {
            Ok((data, stat)) => Ok(stat.ephemeral_owner == session.id() && data == self.nonce.as_bytes()),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(refused(&self.path, &error)),
        }
    }

    /// Deletes it, if it is ours. What the answer to a creation was lost of is found here, too.
    async fn release(&mut self, until: Instant) -> Result<(), RecipeError> {
        if self.is_ours(until).await? {
            let path = &self.path;
            let deleted = self.session.ask(path, until, || self.session.client().delete(path, None)).await?;
            match deleted {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => return Err(refused(path, &error)),
            }
        }
        self.released = true;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut claim = Self {
            session: self.session.clone(),
            path: std::mem::take(&mut self.path),
            nonce: std::mem::take(&mut self.nonce),
            released: true,
        };
        runtime.spawn(async move {
            let until = Instant::now() + claim.session.timeout() * 2;
            let _ = claim.release(until).await;
        });
    }
}
