//! A counter that a group shares.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use zookeeper_client::Error;

use super::RecipeError;
use super::session::{PERSISTENT, Session, Told, check, refused, timed_out};

/// A number in a node, counted up by versioned writes: `/data/NAME/top` of the numbered layout, from which members take
/// their numbers.
///
/// A number is never given out twice. One may be left out, when the answer to a write was lost.
///
/// ```no_run
/// use std::time::Duration;
/// use zoogate::recipes::{ConnectOptions, Counter, Session};
///
/// # async fn run() -> Result<(), zoogate::recipes::RecipeError> {
/// let session = Session::connect(&ConnectOptions::new("127.0.0.1:2181"), Duration::from_secs(10)).await?;
/// let number = Counter::new(session, "/data/zdata1/top").next().await?;
/// println!("I am number {number}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Counter {
    session: Session,
    path: String,
}

impl Counter {
    /// The counter at a path.
    pub fn new(session: Session, path: impl Into<String>) -> Self {
        Self { session, path: path.into() }
    }

    /// The highest number given out so far; 0 where the node is missing.
    pub async fn get(&self) -> Result<u64, RecipeError> {
        check(&self.path)?;
        let path = self.session.path(&self.path);
        Ok(self.read(&path, self.session.soon()).await?.map_or(0, |(number, _)| number))
    }

    /// Counts up, and returns the new number: 1 where the node was missing. It is made then, with its parents.
    pub async fn next(&self) -> Result<u64, RecipeError> {
        check(&self.path)?;
        let (session, client) = (&self.session, self.session.client());
        let (path, until) = (session.path(&self.path), session.soon());
        loop {
            let (number, written) = if let Some((top, version)) = self.read(&path, until).await? {
                let number = top.checked_add(1).ok_or_else(|| RecipeError::Refused {
                    path: path.clone(),
                    reason: "the counter has come to its end".to_owned(),
                })?;
                let text = number.to_string();
                let set = || client.set_data(&path, text.as_bytes(), Some(version));
                (number, session.ask_once(&path, until, set).await?.map(drop))
            } else {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    session.mkdir(parent, until).await?;
                }
                let create = || client.create(&path, b"1", &PERSISTENT);
                (1, session.ask_once(&path, until, create).await?.map(drop))
            };
            match written {
                Told::Answer(Ok(())) => return Ok(number),
                // Somebody was faster, or it was ours and the answer was lost: the next number is nobody's in any case.
                Told::Answer(Err(Error::BadVersion | Error::NodeExists | Error::NoNode))
                | Told::InDoubt(_) => {}
                Told::Answer(Err(error)) => return Err(refused(&path, &error)),
            }
            if Instant::now() >= until {
                return Err(timed_out(&path, "others count, too"));
            }
            // So that those who count at once don't meet again.
            sleep(Duration::from_millis(fastrand::u64(0..10))).await;
        }
    }

    async fn read(&self, path: &str, until: Instant) -> Result<Option<(u64, i32)>, RecipeError> {
        match self.session.ask(path, until, || self.session.client().get_data(path)).await? {
            Ok((data, stat)) => {
                let number = std::str::from_utf8(&data).ok().and_then(|text| text.trim().parse().ok());
                let reason = "this is no counter: the node holds no number".to_owned();
                let number = number.ok_or_else(|| RecipeError::Refused { path: path.to_owned(), reason })?;
                Ok(Some((number, stat.version)))
            }
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(refused(path, &error)),
        }
    }
}
