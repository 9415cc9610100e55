//! A place in a line: an ephemeral sequential node, found again when the answer to its creation is lost, and taken away
//! whenever nobody wants it any more.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use zookeeper_client::{Acls, CreateMode, Error};

use super::RecipeError;
use super::session::{Session, Told, check, refused, timed_out};

/// A node that was left behind is looked for this long, or until its session ends.
const BURIAL: Duration = Duration::from_secs(60);
/// The line is looked at again this often, should the watch on the predecessor be lost.
const RECHECK: Duration = Duration::from_secs(5);
/// Digits of a sequence number.
const DIGITS: usize = 10;

/// How the nodes of a line are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Naming {
    /// `_c_UUID-LABELnnnnnnnnnn`, as Curator's protected nodes are.
    Curator(&'static str),
    /// `nnnnnnnnnn`. Only one place a session: it is found again by its owner.
    Numbered,
}

/// A place, or the attempt to get one. Dropped, its node is deleted in the background.
#[derive(Debug)]
pub(super) struct Place {
    session: Session,
    /// The line's directory, with the chroot.
    dir: String,
    naming: Naming,
    /// What the node's name starts with.
    prefix: String,
    /// Empty until the node is known.
    name: String,
    czxid: i64,
    left: bool,
}

impl Naming {
    /// The sequence number of a node of this line.
    fn sequence(&self, name: &str) -> Option<i64> {
        let digits = name.len().checked_sub(DIGITS).and_then(|at| name.get(at..))?;
        let ours = match self {
            Self::Curator(label) => name.contains(label),
            Self::Numbered => name.len() == DIGITS,
        };
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
        if ours { number } else { None }
    }
}

/// A name that nobody else uses, in the form of a UUID.
pub(super) fn nonce() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Place {
    /// Takes the last place of a line. The directory is made where it is missing.
    pub(super) async fn take(
        session: &Session,
        dir: &str,
        naming: Naming,
        data: &[u8],
        until: Instant,
    ) -> Result<Self, RecipeError> {
        check(dir)?;
        let prefix = match &naming {
            Naming::Curator(label) => format!("_c_{}-{label}", nonce()),
            Naming::Numbered => String::new(),
        };
        let mut place = Self {
            dir: session.path(dir),
            session: session.clone(),
            naming,
            prefix,
            name: String::new(),
            czxid: 0,
            left: false,
        };
        place.enter(data, until).await?;
        Ok(place)
    }

    async fn enter(&mut self, data: &[u8], until: Instant) -> Result<(), RecipeError> {
        let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let path = format!("{}/{}", self.dir, self.prefix);
        loop {
            let created = || self.session.client().create(&path, data, &options);
            match self.session.ask_once(&path, until, created).await? {
                Told::Answer(Ok((stat, sequence))) => {
                    (self.name, self.czxid) = (format!("{}{sequence}", self.prefix), stat.czxid);
                    return Ok(());
                }
                Told::Answer(Err(Error::NoNode)) => self.session.mkdir(&self.dir, until).await?,
                Told::Answer(Err(error)) => {
                    self.left = true;
                    return Err(refused(&self.dir, &error));
                }
                Told::InDoubt(reason) => {
                    if let Some((name, czxid)) = self.find(until).await?.into_iter().next() {
                        (self.name, self.czxid) = (name, czxid);
                        return Ok(());
                    }
                    if Instant::now() >= until {
                        return Err(timed_out(&self.dir, &reason));
                    }
                }
            }
        }
    }

    /// The nodes in the line that are ours, with what created them: one, unless an answer was lost.
    async fn find(&self, until: Instant) -> Result<Vec<(String, i64)>, RecipeError> {
        let (session, dir) = (&self.session, &*self.dir);
        // A reconnect may have led to a server that has not heard of the node yet.
        let _ = session.ask(dir, until, || session.client().sync(dir)).await?;
        let names = match session.ask(dir, until, || session.client().list_children(dir)).await? {
            Ok(names) => names,
            Err(Error::NoNode) => return Ok(Vec::new()),
            Err(error) => return Err(refused(dir, &error)),
        };
        let mut found = Vec::new();
        for name in names {
            if self.naming.sequence(&name).is_none() || !name.starts_with(&self.prefix) {
                continue;
            }
            let path = format!("{dir}/{name}");
            let stat = session.ask(&path, until, || session.client().check_stat(&path)).await?;
            if let Ok(Some(stat)) = stat
                && stat.ephemeral_owner == session.id()
            {
                found.push((name, stat.czxid));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The node.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.dir, self.name)
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The transaction that created the node: later places have higher ones.
    pub(super) fn czxid(&self) -> i64 {
        self.czxid
    }

    /// Waits until nobody is ahead. Returns when that was asked: it was so no earlier, and the session lived then.
    ///
    /// Watches the place ahead and no other, so that one that leaves wakes one.
    pub(super) async fn turn(&self, until: Option<Instant>) -> Result<Instant, RecipeError> {
        let (session, dir) = (&self.session, &*self.dir);
        loop {
            let soon = until.map_or(session.soon(), |until| until.min(session.soon()));
            let listed = session.ask_when(dir, soon, || session.client().list_children(dir)).await?;
            let (names, asked) = match listed {
                (Ok(names), asked) => (names, asked),
                (Err(Error::NoNode), _) => return Err(RecipeError::Gone { path: self.path() }),
                (Err(error), _) => return Err(refused(dir, &error)),
            };
            let mut line: Vec<(i64, &String)> =
                names.iter().filter_map(|name| Some((self.naming.sequence(name)?, name))).collect();
            line.sort_unstable();
            let Some(at) = line.iter().position(|(_, name)| **name == self.name) else {
                return Err(RecipeError::Gone { path: self.path() });
            };
            let Some((_, ahead)) = at.checked_sub(1).map(|ahead| line[ahead]) else { return Ok(asked) };
            let ahead = format!("{dir}/{ahead}");
            let looked = session.ask(&ahead, soon, || session.client().check_and_watch_stat(&ahead)).await?;
            let (stat, watcher) = looked.map_err(|error| refused(&ahead, &error))?;
            if stat.is_none() {
                continue;
            }
            let wake = until.map_or(Instant::now() + RECHECK, |until| until.min(Instant::now() + RECHECK));
            tokio::select! {
                _ = watcher.changed() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = session.disconnected() => {}
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(timed_out(dir, "others are ahead"));
            }
        }
    }

    /// Leaves the line; the node is gone when this returns `Ok`.
    pub(super) async fn leave(mut self) -> Result<(), RecipeError> {
        let path = self.path();
        let until = self.session.soon();
        let left = self.session.ask(&path, until, || self.session.client().delete(&path, None)).await;
        match left {
            Ok(Ok(()) | Err(Error::NoNode)) | Err(RecipeError::SessionLost { .. }) => {
                self.left = true;
                Ok(())
            }
            Ok(Err(error)) => Err(refused(&path, &error)),
            Err(error) => Err(error),
        }
    }

    async fn bury(&self) {
        let until = Instant::now() + BURIAL;
        if !self.name.is_empty() {
            let path = self.path();
            let _ = self.session.ask(&path, until, || self.session.client().delete(&path, None)).await;
            return;
        }
        for (name, _) in self.find(until).await.unwrap_or_default() {
            let path = format!("{}/{name}", self.dir);
            let _ = self.session.ask(&path, until, || self.session.client().delete(&path, None)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let remains = Self {
            session: self.session.clone(),
            dir: std::mem::take(&mut self.dir),
            naming: self.naming.clone(),
            prefix: std::mem::take(&mut self.prefix),
            name: std::mem::take(&mut self.name),
            czxid: self.czxid,
            left: true,
        };
        // Without a runtime the session's own task does not run either, and the node goes with the session.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout_at((Instant::now() + BURIAL).into(), remains.bury()).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_of_its_own_nodes_only() {
        let latch = Naming::Curator("latch-");
        let uuid = "_c_6aa2e3dc-4ee0-4c12-8a5b-3ec0c6f3a5a0-latch-0000000007";
        assert_eq!(latch.sequence(uuid), Some(7));
        assert_eq!(latch.sequence("_c_x-lock-0000000007"), None);
        assert_eq!(latch.sequence("latch-00000000x7"), None);
        assert_eq!(latch.sequence("7"), None);
        assert_eq!(Naming::Numbered.sequence("0000000012"), Some(12));
        assert_eq!(Naming::Numbered.sequence("0"), None);
        assert_eq!(Naming::Numbered.sequence("_c_x-0000000012"), None);
        assert_eq!(latch.sequence("éééééé"), None);
    }

    #[test]
    fn nonces_have_the_form_of_a_uuid_and_differ() {
        let nonce = nonce();
        assert_eq!(nonce.len(), 36);
        assert_ne!(nonce, super::nonce());
    }
}
