//! An ensemble of three, a gateway that reads it, and instances that come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zookeeper_client::{Client, Error};

use crate::support::background::Background;
use crate::support::gateway::{Gateway, wait_for};
use crate::support::instance::Instance;
use crate::support::zk::{self, Ensemble, OPEN};

pub struct World {
    pub zk: Ensemble,
    pub gateway: Arc<Gateway>,
    pub instances: BTreeMap<String, Instance>,
    /// Those whose node went: they keep what they saw.
    pub past: Vec<Instance>,
    background: Background,
}

impl World {
    pub fn start(name: &str, members: &[&str]) -> Self {
        let zk = Ensemble::start();
        let config = format!(
            "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{}\"\nsession_timeout = \"4s\"\n\
             [services.orders]\npath = \"/orders\"\nformat = \"plain\"\n\
             [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
             [[routes]]\npath = \"/*\"\nservice = \"orders\"\n",
            zk.connect()
        );
        let gateway = Arc::new(Gateway::start(name, &config));
        let mut world = Self {
            zk,
            gateway,
            instances: BTreeMap::new(),
            past: Vec::new(),
            background: Background::start(),
        };
        world.act(|client| async move { existing(client.create("/orders", b"", &OPEN).await.map(drop)) });
        members.iter().for_each(|name| world.add(name));
        world.gateway.ready();
        world.truth(Instant::now());
        world
    }

    /// Does something in the ensemble, as soon as it has a quorum; says when it had done it.
    pub fn act<F: Future<Output = Result<(), Error>>>(&self, act: impl Fn(Client) -> F) -> Instant {
        let connect = self.zk.connect();
        self.background.block_on(async {
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let connecting = Client::connector()
                    .with_session_timeout(Duration::from_secs(4))
                    .with_connection_timeout(Duration::from_millis(800))
                    .with_fail_eagerly()
                    .connect(&connect);
                let deadline = Duration::from_secs(2);
                let done = tokio::time::timeout(deadline, async { act(connecting.await?).await }).await;
                if matches!(done, Ok(Ok(()))) {
                    return Instant::now();
                }
                assert!(Instant::now() < end, "no quorum comes together: {done:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// A node that lives as long as the session that is returned, and has somebody who keeps it alive.
    pub fn ephemeral(&self, name: &str, data: &str) -> Client {
        self.background.block_on(async {
            let session = Client::connector().with_session_timeout(Duration::from_secs(4));
            let session = session.connect(&self.zk.connect()).await.unwrap();
            session.create(&format!("/orders/{name}"), data.as_bytes(), &zk::EPHEMERAL).await.unwrap();
            session
        })
    }

    /// A new instance with its node.
    pub fn add(&mut self, name: &str) {
        let instance = Instance::start(name);
        let (path, data) = (format!("/orders/{name}"), instance.address.to_string());
        self.act(|client| {
            let (path, data) = (path.clone(), data.clone());
            async move { existing(client.create(&path, data.as_bytes(), &OPEN).await.map(drop)) }
        });
        self.instances.insert(name.to_owned(), instance);
    }

    /// The node goes; the process goes on, so that a request which it gets wrongly is seen.
    pub fn delete(&mut self, name: &str) {
        let path = format!("/orders/{name}");
        self.act(|client| {
            let path = path.clone();
            async move {
                match client.delete(&path, None).await {
                    Err(Error::NoNode) => Ok(()),
                    other => other,
                }
            }
        });
        self.past.extend(self.instances.remove(name));
    }

    /// Kills servers so that no two are left, and waits until the gateway says so.
    pub fn down(&mut self, servers: &[usize]) {
        servers.iter().for_each(|&server| self.zk.servers[server].kill());
        wait_for("the gateway to notice", || {
            let stale = self.gateway.metric("zoogate_registry_stale_seconds{registry=\"main\"}")?;
            let connected = self.gateway.metric("zoogate_registry_connected{registry=\"main\"}")?;
            (connected < 0.5 && stale > 0.0).then_some(())
        });
        assert_eq!(self.gateway.json("/api/services/orders")["stale"], true);
        assert_eq!(self.gateway.admin("/readyz").status, 200, "it serves what it knows");
    }

    /// Starts servers, and lets the directory change as soon as there is a leader. Says how long after its first answer the
    /// gateway was current again, and how long after the last change its table was the truth.
    pub fn back(&mut self, servers: &[usize], change: impl FnOnce(&mut Self)) -> (Duration, Duration) {
        servers.iter().for_each(|&server| self.zk.servers[server].start());
        self.zk.leader();
        let (answered, gateway) = (Instant::now(), Arc::clone(&self.gateway));
        let current = std::thread::spawn(move || {
            wait_for("the gateway to be current", || is_current(&gateway).then(|| answered.elapsed()))
        });
        change(self);
        let changed = Instant::now();
        (current.join().unwrap(), self.truth(changed))
    }

    /// Waits until every server serves.
    pub fn whole(&self) {
        wait_for("all three servers", || self.zk.servers.iter().all(|s| s.mode().is_some()).then_some(()));
    }

    /// Waits until the table is what the ensemble holds, and known to be; says how long after `since` that was.
    pub fn truth(&self, since: Instant) -> Duration {
        let client = self.background.block_on(zk::client(&self.zk.connect()));
        let names: Vec<&str> = self.instances.keys().map(String::as_str).collect();
        let mut held = BTreeMap::new();
        let look = || {
            let listing = async {
                let mut nodes = BTreeMap::new();
                for name in client.list_children("/orders").await.ok()? {
                    let (data, _) = client.get_data(&format!("/orders/{name}")).await.ok()?;
                    nodes.insert(name, String::from_utf8(data).unwrap());
                }
                Some(nodes)
            };
            let listing = async { tokio::time::timeout(Duration::from_secs(2), listing).await.ok()? };
            held = self.background.block_on(listing)?;
            let view = self.gateway.json("/api/services/orders");
            let mut table = BTreeMap::new();
            for instance in view["instances"].as_array()? {
                table.insert(instance["id"].as_str()?.to_owned(), instance["address"].as_str()?.to_owned());
            }
            let current = is_current(&self.gateway) && view["stale"] == false;
            (current && table == held).then(|| since.elapsed())
        };
        let took = wait_for("the table to be what the ensemble holds", look);
        if !held.keys().eq(names.iter()) {
            // Servers that are killed without syncing to disk may forget. What they then hold is the truth all the same.
            println!("the ensemble holds {:?}, though {names:?} was written to it", held.keys());
        }
        took
    }

    /// How often an audit found what no event had told.
    pub fn drift(&self) -> Option<f64> {
        self.gateway.metric("zoogate_registry_drift_total{registry=\"main\"}")
    }
}

fn is_current(gateway: &Gateway) -> bool {
    let is = |metric: &str| gateway.metric(&format!("zoogate_registry_{metric}{{registry=\"main\"}}"));
    is("stale_seconds") == Some(0.0) && is("connected") == Some(1.0)
}

fn existing(created: Result<(), Error>) -> Result<(), Error> {
    match created {
        Err(Error::NodeExists) => Ok(()),
        other => other,
    }
}
