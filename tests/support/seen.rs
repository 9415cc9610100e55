//! What a discovery told so far, as a table would hold it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use zoogate::model::{FormatChoice, FormatName, PrimaryRule, ServiceName, ServiceSnapshot, Trust};
use zoogate::registry::zookeeper::{ConnectOptions, ZooKeeper, ZooKeeperDiscovery};
use zoogate::registry::{Base, Change, Discovery};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A discovery with its news.
pub struct Seen {
    pub discovery: ZooKeeperDiscovery,
    pub services: BTreeMap<String, Arc<ServiceSnapshot>>,
    /// By base: is it live, and if not, why.
    pub trust: BTreeMap<String, Result<(), String>>,
    pub connected: Option<bool>,
    pub session_losses: u64,
    /// Every membership told so far, oldest first.
    pub history: Vec<(String, Vec<String>)>,
}

pub fn options(connect: &str) -> ConnectOptions {
    ConnectOptions { connect: connect.to_owned(), session_timeout: Duration::from_secs(4), auth: Vec::new() }
}

pub fn service(name: &str, path: &str) -> Base {
    Base {
        name: ServiceName::new(name).expect("test names are names"),
        catalog: false,
        path: path.to_owned(),
        format: FormatChoice::Fixed(FormatName::Plain),
        reading: std::sync::Arc::default(),
        deny: Arc::default(),
        primary: PrimaryRule::Registered,
        election: false,
    }
}

pub fn catalog(name: &str, path: &str) -> Base {
    Base { catalog: true, ..service(name, path) }
}

impl Seen {
    pub fn start(connect: &str, bases: Vec<Base>) -> Self {
        Self::start_with(options(connect), bases)
    }

    pub fn start_with(options: ConnectOptions, bases: Vec<Base>) -> Self {
        Self {
            discovery: ZooKeeper::start(options, bases),
            services: BTreeMap::new(),
            trust: BTreeMap::new(),
            connected: None,
            session_losses: 0,
            history: Vec::new(),
        }
    }

    /// Takes the next change.
    pub async fn next(&mut self) {
        match self.discovery.changed().await {
            Change::Updated { service, snapshot, .. } => {
                let name = service.to_string();
                let ids = snapshot.instances.iter().map(|i| i.id.name.to_string()).collect();
                self.history.push((name.clone(), ids));
                self.services.insert(name, snapshot);
            }
            Change::Gone { service, .. } => {
                self.services.remove(service.as_str());
                self.history.push((service.to_string(), Vec::new()));
            }
            Change::Trust { base, trust: Trust::Live, .. } => {
                self.trust.insert(base.to_string(), Ok(()));
            }
            Change::Trust { base, trust: Trust::Stale, reason } => {
                let reason = reason.as_deref().unwrap_or_default().to_owned();
                self.trust.insert(base.to_string(), Err(reason));
            }
            Change::Leader { .. } | Change::Refused { .. } | Change::Drift { .. } => {}
            Change::Link { connected, session_losses } => {
                self.connected = Some(connected);
                self.session_losses = session_losses;
            }
        }
    }

    /// Takes changes until `done`.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        self.until_within(PATIENCE, what, done).await;
    }

    pub async fn until_within(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let taking = async {
            while !done(self) {
                self.next().await;
            }
        };
        if tokio::time::timeout(limit, taking).await.is_err() {
            panic!(
                "{what}: not within {limit:?}; services {:?}, trust {:?}, connected {:?}",
                self.services.keys().map(|name| (name, self.ids(name))).collect::<Vec<_>>(),
                self.trust,
                self.connected,
            );
        }
    }

    pub async fn until_live(&mut self, base: &str) {
        self.until("the base is live", |seen| seen.is_live(base)).await;
    }

    pub async fn until_stale(&mut self, base: &str, reason: &str) {
        self.until(reason, |s| matches!(s.trust.get(base), Some(Err(why)) if why.contains(reason))).await;
    }

    pub async fn until_ids(&mut self, service: &str, ids: &[&str]) {
        self.until(&format!("{service} has {ids:?}"), |seen| seen.ids(service) == ids).await;
    }

    pub fn is_live(&self, base: &str) -> bool {
        self.trust.get(base) == Some(&Ok(()))
    }

    /// Ids of the instances, sorted; empty where the service is unknown.
    pub fn ids(&self, service: &str) -> Vec<&str> {
        let snapshot = self.services.get(service);
        snapshot.map_or_else(Vec::new, |s| s.instances.iter().map(|i| &*i.id.name).collect())
    }

    /// Node names and reason codes of what was rejected.
    pub fn rejected(&self, service: &str) -> Vec<(&str, &str)> {
        let snapshot = self.services.get(service);
        snapshot.map_or_else(Vec::new, |s| s.rejected.iter().map(|r| (&*r.node, r.reason.code())).collect())
    }
}
