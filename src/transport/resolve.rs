//! Names to addresses: asked off the worker, remembered for a while, one question a name at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Names remembered a worker.
const MAX_NAMES: usize = 4096;

/// A failure is believed this long, so that a missing name costs one question a second.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// What a name resolves to, or why it does not.
pub(crate) type Addresses = Result<Rc<[IpAddr]>, Arc<io::Error>>;

/// One worker's memory of names. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolver {
    names: Rc<RefCell<HashMap<Box<str>, Entry>>>,
}

#[derive(Debug)]
enum Entry {
    Known { addresses: Addresses, until: Instant },
    Asking(Rc<Question>),
}

#[derive(Debug, Default)]
struct Question {
    answer: RefCell<Option<Addresses>>,
    answered: Notify,
}

impl Resolver {
    /// The addresses of `name`, in the resolver's order, never empty.
    ///
    /// Cancel-safe: the question goes on in a task of its own and serves whoever asks next.
    pub(crate) async fn lookup(&self, name: &str, ttl: Duration) -> Addresses {
        let question = match self.names.borrow().get(name) {
            Some(Entry::Known { addresses, until }) if *until > Instant::now() => {
                return addresses.clone();
            }
            Some(Entry::Asking(question)) => Some(Rc::clone(question)),
            _ => None,
        };
        let question = question.unwrap_or_else(|| self.ask(name, ttl));
        loop {
            let answered = question.answered.notified();
            if let Some(answer) = question.answer.borrow().as_ref() {
                return answer.clone();
            }
            answered.await;
        }
    }

    fn ask(&self, name: &str, ttl: Duration) -> Rc<Question> {
        let question = Rc::new(Question::default());
        self.make_room();
        self.names.borrow_mut().insert(name.into(), Entry::Asking(Rc::clone(&question)));
        let (this, name, asked) = (self.clone(), Box::<str>::from(name), Rc::clone(&question));
        tokio::task::spawn_local(async move {
            let addresses = system_lookup(&name).await;
            let ttl = if addresses.is_ok() { ttl } else { ttl.min(FAILURE_TTL) };
            let known = Entry::Known { addresses: addresses.clone(), until: Instant::now() + ttl };
            this.names.borrow_mut().insert(name, known);
            *asked.answer.borrow_mut() = Some(addresses);
            asked.answered.notify_waiters();
        });
        question
    }

    /// Forgets what is out of date when full, and if that is not enough, everything known.
    fn make_room(&self) {
        let mut names = self.names.borrow_mut();
        if names.len() < MAX_NAMES {
            return;
        }
        let now = Instant::now();
        names.retain(|_, entry| !matches!(entry, Entry::Known { until, .. } if *until <= now));
        if names.len() >= MAX_NAMES {
            names.retain(|_, entry| matches!(entry, Entry::Asking(_)));
        }
    }
}

async fn system_lookup(name: &str) -> Addresses {
    let mut addresses: Vec<IpAddr> =
        tokio::net::lookup_host((name, 0)).await.map_err(Arc::new)?.map(|address| address.ip()).collect();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|ip| seen.insert(*ip));
    if addresses.is_empty() {
        return Err(Arc::new(io::Error::new(io::ErrorKind::NotFound, "no address")));
    }
    Ok(addresses.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::support::run;

    #[test]
    fn a_name_is_asked_once_while_it_is_believed() {
        run(async {
            let resolver = Resolver::default();
            let ttl = Duration::from_secs(60);
            let (first, second) =
                tokio::join!(resolver.lookup("localhost", ttl), resolver.lookup("localhost", ttl));
            let (first, second) = (first.unwrap(), second.unwrap());
            assert!(Rc::ptr_eq(&first, &second), "one question for both");
            assert!(first.iter().all(IpAddr::is_loopback));
            assert!(Rc::ptr_eq(&first, &resolver.lookup("localhost", ttl).await.unwrap()));
        });
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        run(async {
            let resolver = Resolver::default();
            assert!(resolver.lookup("no such name", Duration::from_secs(60)).await.is_err());
        });
    }
}
