//! The fleet: this gateway's own node beside those of the others, and what they say of themselves.
//!
//! A gateway is an instance like any other: a node in the format `json` whose address is the admin's, and whose
//! metadata say the rest. So the list of all of them is what any service's is, read by the same discovery.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::registries::{AnyDiscovery, ensemble};
use crate::admin::{FleetView, GatewayView, ListenerView};
use crate::balance::Fingerprint;
use crate::config::plan::{FleetPlan, Plan, RegistryKind, RegistryPlan};
use crate::model::{FormatChoice, FormatName, Instance, PrimaryRule, ServiceName, ServiceSnapshot, Trust};
use crate::registration::{Announcement, Parents, Place, Registrar, RegistrarOptions, State};
use crate::registry::{Base, Change};
use crate::table::TableReader;

/// The least time between two looks at what this gateway has to say.
const LOOK: Duration = Duration::from_secs(1);
/// More services than these are told by their digest alone: a node is small.
const TOLD: usize = 100;
/// Leaving may take this long; afterwards the session's end does it.
const LEAVE: Duration = Duration::from_secs(2);
/// What the registry calls the list.
const NAME: &str = "gateways";

/// What the fleet learns of its own gateway.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) table: TableReader,
    pub(super) admin: SocketAddr,
    pub(super) listeners: Arc<Mutex<Vec<ListenerView>>>,
    /// What the admin shows.
    pub(super) shown: Arc<Mutex<FleetView>>,
}

impl Own {
    /// Changes with everything that is told.
    fn version(&self) -> (u64, Vec<ListenerView>) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        (self.table.load().generation(), listeners.clone())
    }
}

/// What a plan says of the fleet: while it stays, so does the node.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    id: String,
    joined: Option<(FleetPlan, RegistryPlan)>,
}

/// A thread of its own: neither scrapes nor discovery delay the proof that the session lives.
#[derive(Debug)]
pub(super) struct Fleet {
    wanted: Option<watch::Sender<Wanted>>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Shows this gateway alone: what the admin tells until it takes part.
    pub(super) fn introduce(plan: &Plan, own: &Own) {
        let wanted = Wanted::of(plan);
        show(&wanted, own, &tell(&wanted.id, own), None);
    }

    /// Starts with a plan.
    pub(super) fn start(plan: &Plan, own: Own) -> std::io::Result<Self> {
        let wanted = Wanted::of(plan);
        let (wanted, mut asked) = watch::channel(wanted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let now = asked.borrow_and_update().clone();
                    if !run(&now, &own, &mut asked).await {
                        return;
                    }
                }
            });
            // A hung file system must not hold up the exit.
            runtime.shutdown_background();
        })?;
        Ok(Self { wanted: Some(wanted), thread: Some(thread) })
    }

    /// Follows another plan. What did not change goes on.
    pub(super) fn configure(&self, plan: &Plan) {
        let Some(sender) = &self.wanted else { return };
        let next = Wanted::of(plan);
        sender.send_if_modified(|wanted| {
            let news = *wanted != next;
            *wanted = next;
            news
        });
    }

    /// Begins to leave the fleet.
    pub(super) fn leave(&mut self) {
        self.wanted = None;
    }

    /// The thread, to be waited for once it was told to leave.
    pub(super) fn into_thread(mut self) -> Option<JoinHandle<()>> {
        self.leave();
        self.thread.take()
    }
}

impl Wanted {
    fn of(plan: &Plan) -> Self {
        let id = plan.gateway.id.clone().unwrap_or_else(default_id);
        let joined = plan.gateway.register.clone().and_then(|fleet| {
            let registry = plan.registries.iter().find(|registry| registry.name == fleet.registry)?.clone();
            Some((fleet, registry))
        });
        Self { id, joined }
    }
}

/// The host's name and the process id, as one node's name.
fn default_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    let host = host.trim_start_matches('.');
    format!("{}-{}", if host.is_empty() { "gateway" } else { host }, std::process::id())
}

/// Takes part until something else is wanted; false where nothing is, any more.
async fn run(wanted: &Wanted, own: &Own, asked: &mut watch::Receiver<Wanted>) -> bool {
    let mut seen = own.version();
    let mut told = tell(&wanted.id, own);
    let mut member = wanted.joined.as_ref().map(|(fleet, registry)| Member::join(fleet, registry, &told));
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        show(wanted, own, &told, member.as_ref());
        tokio::select! {
            changed = asked.changed() => {
                if let Some(member) = member {
                    member.leave().await;
                }
                return changed.is_ok();
            }
            _ = look.tick() => {
                let now = own.version();
                if now != seen {
                    seen = now;
                    told = tell(&wanted.id, own);
                    if let Some(member) = &member {
                        member.update(&told);
                    }
                }
            }
            () = changed(member.as_mut()) => {}
        }
    }
}

async fn changed(member: Option<&mut Member>) {
    match member {
        Some(member) => member.changed().await,
        None => std::future::pending().await,
    }
}

/// A node in the fleet's directory, and the view of the others.
struct Member {
    registrar: Registrar,
    states: watch::Receiver<State>,
    discovery: AnyDiscovery,
    snapshot: Option<Arc<ServiceSnapshot>>,
    stale: bool,
}

impl Member {
    fn join(fleet: &FleetPlan, registry: &RegistryPlan, told: &GatewayView) -> Self {
        let place = match &registry.kind {
            RegistryKind::ZooKeeper { connect, session_timeout, auth } => {
                Place::ZooKeeper(ensemble(connect, *session_timeout, auth), Parents::Persistent)
            }
            RegistryKind::Directory { path } => Place::Directory(path.clone()),
        };
        let announcement = Announcement {
            path: fleet.path.clone(),
            node: told.id.clone(),
            sequential: false,
            data: payload(told),
        };
        // A gateway outlives any outage of its registry.
        let give_up = Duration::from_secs(10 * 365 * 24 * 3600);
        let registrar =
            Registrar::start(RegistrarOptions { give_up, ..RegistrarOptions::new(place, announcement) });
        let base = Base {
            name: ServiceName::new(NAME).expect("it is a word"),
            catalog: false,
            path: fleet.path.clone(),
            format: FormatChoice::Fixed(FormatName::Json),
            reading: Arc::default(),
            primary: PrimaryRule::Registered,
            election: false,
            deny: Arc::default(),
        };
        let discovery = AnyDiscovery::start(&registry.kind, vec![base]);
        Self { states: registrar.states(), registrar, discovery, snapshot: None, stale: true }
    }

    fn update(&self, told: &GatewayView) {
        self.registrar.update(payload(told));
    }

    /// Waits until there is something else to be shown.
    async fn changed(&mut self) {
        tokio::select! {
            changed = self.states.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            change = self.discovery.changed() => match change {
                Change::Updated { snapshot, .. } => self.snapshot = Some(snapshot),
                Change::Trust { trust, .. } => self.stale = trust == Trust::Stale,
                Change::Gone { .. } | Change::Link { .. } | Change::Leader { .. } | Change::Refused { .. } | Change::Drift { .. } => {}
            },
        }
    }

    async fn leave(self) {
        match timeout(LEAVE, self.registrar.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "leaving the fleet"),
            Err(_) => tracing::warn!("the fleet learns of our leaving when our session ends"),
        }
    }
}

/// What this gateway says of itself now.
fn tell(id: &str, own: &Own) -> GatewayView {
    let table = own.table.load();
    let prints = table.upstreams().map(|u| (u.name().to_string(), u.fingerprint().to_string()));
    let prints: BTreeMap<String, String> = prints.collect();
    let lines: Vec<String> = prints.iter().map(|(name, print)| format!("{name} {print}")).collect();
    let listeners = own.listeners.lock().unwrap_or_else(PoisonError::into_inner);
    GatewayView {
        id: id.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        admin: own.admin.to_string(),
        listeners: listeners.iter().map(|l| (l.name.clone(), l.address.to_string())).collect(),
        services: prints.len(),
        digest: Fingerprint::new("services", lines.iter().map(|line| (line.as_str(), 1.0))).to_string(),
        fingerprints: (prints.len() <= TOLD).then_some(prints),
    }
}

fn payload(told: &GatewayView) -> Vec<u8> {
    let mut object = serde_json::json!({
        "version": told.version,
        "admin": told.admin,
        "listeners": told.listeners,
        "services": told.services,
        "digest": told.digest,
    });
    if let Some(prints) = &told.fingerprints {
        object["fingerprints"] = serde_json::json!(prints);
    }
    serde_json::json!({ "address": told.admin, "metadata": object }).to_string().into_bytes()
}

/// What another gateway said; what is missing or strange in it is empty.
fn read(instance: &Instance) -> GatewayView {
    let text = |key: &str| instance.metadata.get(key).map(ToString::to_string).unwrap_or_default();
    let map = |key: &str| serde_json::from_str::<BTreeMap<String, String>>(instance.metadata.get(key)?).ok();
    GatewayView {
        id: instance.id.name.to_string(),
        version: text("version"),
        admin: text("admin"),
        listeners: map("listeners").unwrap_or_default(),
        services: text("services").parse().unwrap_or_default(),
        digest: text("digest"),
        fingerprints: map("fingerprints"),
    }
}

fn show(wanted: &Wanted, own: &Own, told: &GatewayView, member: Option<&Member>) {
    let others = member.and_then(|member| member.snapshot.as_ref());
    let mut gateways: Vec<GatewayView> =
        others.map_or_else(Vec::new, |snapshot| snapshot.instances.iter().map(|i| read(i)).collect());
    // Our own word on ourselves is newer than the registry's.
    gateways.retain(|gateway| gateway.id != told.id);
    gateways.push(told.clone());
    let view = FleetView {
        id: wanted.id.clone(),
        registry: wanted.joined.as_ref().map(|(fleet, _)| fleet.registry.to_string()),
        path: wanted.joined.as_ref().map(|(fleet, _)| fleet.path.clone()),
        registered: member.is_some_and(|member| *member.states.borrow() == State::Registered),
        stale: member.is_some_and(|member| member.stale),
        gateways,
        ..FleetView::default()
    };
    *own.shown.lock().unwrap_or_else(PoisonError::into_inner) = view.compared();
}
