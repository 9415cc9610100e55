//! Where instances are announced: a ZooKeeper ensemble or a directory tree, behind one trait.
//!
//! [`Discovery`] tells what a registry holds; [`zookeeper::Registration`] and [`directory::register_in_directory`] put
//! something there.

pub mod directory;
pub mod format;
pub mod layout;
mod outbox;
pub mod snapshot;
pub mod view;
pub mod zookeeper;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use crate::model::{
    CatalogPattern, DenyList, FormatChoice, PrimaryRule, Reading, Rejected, ServiceName, ServiceSnapshot,
    Source, Trust,
};

/// One directory that is watched: a service's, or a catalog's.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// The service's name, or the catalog's.
    pub name: ServiceName,
    /// Whether every child directory is a service of its own, named `NAME/CHILD`.
    pub catalog: bool,
    /// Its path in the registry (below the chroot), `/services/orders`; of a catalog its pattern.
    pub path: String,
    /// How its nodes are decoded.
    pub format: FormatChoice,
    /// What else the service wants of their reading.
    pub reading: Arc<Reading>,
    /// Address ranges that no node may name (literals here; names when they are dialled).
    pub deny: Arc<DenyList>,
    /// How a primary is named.
    pub primary: PrimaryRule,
    /// Whether its nodes are no instances but candidates, of which one leads.
    pub election: bool,
}

impl Base {
    /// The candidates that decide who is the primary of a service.
    pub fn of_election(service: &ServiceName, path: &str) -> Self {
        Self {
            name: Self::election_of(service),
            catalog: false,
            path: path.to_owned(),
            format: FormatChoice::Auto,
            reading: Arc::default(),
            deny: Arc::default(),
            primary: PrimaryRule::Registered,
            election: true,
        }
    }

    /// What the election of a service is called: no service has this name, as none has a slash but those of
    /// catalogs, which are called otherwise.
    pub fn election_of(service: &ServiceName) -> ServiceName {
        ServiceName::in_catalog(service.as_str(), "election").unwrap_or_else(|_| service.clone())
    }

    /// A catalog's pattern.
    pub fn pattern(&self) -> Option<CatalogPattern> {
        self.catalog.then(|| self.path.parse().unwrap_or_else(|_| CatalogPattern::children_of(&self.path)))
    }

    /// The directory of its service, or what is before a catalog's first star.
    pub fn root(&self) -> String {
        self.pattern().map_or_else(|| self.path.clone(), |pattern| pattern.root().to_owned())
    }
}

/// News of a registry. Says what is, not what happened: missing one of two equals seeing the last.
#[derive(Debug, Clone)]
pub enum Change {
    /// The service's members now. `received` is when the oldest event that it covers reached us.
    Updated {
        /// Which service.
        service: ServiceName,
        /// Its members.
        snapshot: Arc<ServiceSnapshot>,
        /// For `zoogate_membership_publish_seconds`.
        received: Instant,
        /// What told of it.
        source: Source,
    },
    /// A catalog's child directory is gone, and its service with it.
    Gone {
        /// Which service.
        service: ServiceName,
        /// As above.
        received: Instant,
        /// What told of it.
        source: Source,
    },
    /// Another candidate leads in an election.
    Leader {
        /// The election's name.
        base: ServiceName,
        /// What its node says; nothing where there is no candidate.
        leader: Option<Arc<str>>,
        /// As above.
        received: Instant,
    },
    /// These directories of a catalog are no services, and no others.
    Refused {
        /// The catalog.
        catalog: ServiceName,
        /// Sorted by path below its root.
        rejected: Arc<[Rejected]>,
    },
    /// A base's trust changed, or its first whole listing is done (then `Live`, after its `Updated`s).
    Trust {
        /// The base's name.
        base: ServiceName,
        /// Live: every change up to here has been told.
        trust: Trust,
        /// Why it is stale, for people: `no connection to 127.0.0.1:2181`, `forbidden: …`.
        reason: Option<Arc<str>>,
    },
    /// An audit found nodes of a base to be otherwise than events had told.
    Drift {
        /// The base's name.
        base: ServiceName,
        /// So many, on top of those told before.
        nodes: u64,
    },
    /// The link to the registry itself.
    Link {
        /// Whether it is up now.
        connected: bool,
        /// Sessions lost so far (expired, not merely disconnected).
        session_losses: u64,
    },
}

/// A source of changes.
pub trait Discovery: Send {
    /// The next change. Cancel-safe: a change is lost to no dropped future.
    ///
    /// Never ends: a registry that is out of reach is retried for ever, at most a second apart.
    fn changed(&mut self) -> impl Future<Output = Change> + Send;
}
