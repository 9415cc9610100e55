//! From a plan to a running gateway, and back to nothing.

mod drain;
mod resize;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::barriers::Barriers;
use super::checks;
use super::elections::Elections;
use super::error::StartError;
use super::fleet::{self, Fleet};
use super::handover::{self, Door, Handed, Inherited, Successor};
use super::journal::{Journal, JournalFile, Place};
use super::limbo::Limbo;
use super::live::TableSource;
use super::pump::{self, Pump};
use super::snapshots::Snapshots;
use super::sockets::{self, BindError};
use super::spread::{Loads, SpreadSource};
use super::status::{RegistryStatus, StatusSource};
use super::workers::{self, Worker};
use crate::admin::{Admin, EventLog, FleetView, ListenerView, ReloadOrder};
use crate::balance::BalancerFactory;
use crate::config::plan::{AccessLog, ListenerPlan, Plan};
use crate::model::ServiceName;
use crate::proxy::{Filters, Shared};
use crate::table::{TableReader, TableWriter};
use crate::telemetry::{LineSink, LineTarget, Metrics};

/// What the admin's socket is called among those that are handed over: no listener's name has a bracket.
const ADMIN: &str = "[admin]";

/// A gateway to be: a plan, and what an embedding program adds to it.
#[derive(Debug)]
pub struct Gateway {
    plan: Plan,
    filters: Filters,
    balancers: HashMap<ServiceName, Arc<dyn BalancerFactory>>,
    inherited: Inherited,
}

impl Gateway {
    /// A gateway for this plan.
    pub fn new(plan: Plan) -> Self {
        Self { plan, filters: Filters::default(), balancers: HashMap::new(), inherited: Inherited::default() }
    }

    /// Accepts on sockets that are open already, where they are a listener's.
    ///
    /// From a gateway that still serves they are taken over once this one is ready; that one drains then.
    #[must_use]
    pub fn inherit(mut self, inherited: Inherited) -> Self {
        self.inherited = inherited;
        self
    }

    /// Puts filters around every forwarded request, the first of them outermost.
    #[must_use]
    pub fn filters(mut self, filters: Filters) -> Self {
        self.filters = filters;
        self
    }

    /// Balances a service, or every child of a catalog, by a policy of the embedding program.
    #[must_use]
    pub fn balancer(mut self, service: ServiceName, factory: Arc<dyn BalancerFactory>) -> Self {
        self.balancers.insert(service, factory);
        self
    }

    /// Binds every socket, starts every thread. Listeners accept when this returns; whether services have been
    /// listed is a matter of [`Running::ready`].
    pub async fn start(self) -> Result<Running, StartError> {
        let Self { plan, filters, balancers, mut inherited } = self;
        let admin_socket = match inherited.take(ADMIN, plan.admin.listen, 1)?.pop() {
            Some(socket) => socket,
            None => sockets::bind(plan.admin.listen, 1)
                .map_err(|source| StartError::Bind { what: "admin".into(), source })?
                .remove(0),
        };
        let admin_address = admin_socket.local_addr()?;
        let (mut bound, mut foreign) = (Vec::new(), Vec::new());
        for listener in &plan.listeners {
            let mut own = inherited.take(&listener.name, listener.listen, plan.gateway.workers)?;
            if own.is_empty() {
                own = listening(sockets::bind, listener, plan.gateway.workers)?;
            } else {
                foreign.push(Arc::clone(&listener.name));
            }
            bound.push((Arc::new(listener.clone()), own));
        }
        let access_log = open_access_log(&plan.gateway.access_log)?;

        let metrics = Metrics::new();
        // A reload may ask for more of them: up to here each has what it counts in to itself.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (writer, reader) = TableWriter::new(plan.gateway.workers.max(cores));
        let status = Arc::new(RegistryStatus::default());
        metrics.add_live(Box::new(StatusSource(Arc::clone(&status))));
        metrics.add_live(Box::new(TableSource(reader.clone())));
        let loads = Arc::<Loads>::default();
        metrics.add_live(Box::new(SpreadSource(Arc::clone(&loads))));

        let events = EventLog::default();
        let event_log = JournalFile::default();
        set_event_log(&event_log, &plan, &reader)?;
        let (reload_orders, reloads) = mpsc::channel(1);
        let pump = Pump {
            writer,
            metrics: Arc::clone(&metrics),
            status,
            balancers,
            own: vec![admin_address],
            snapshots: Snapshots::default(),
            journal: Journal::new(events.clone(), event_log.clone()),
            barriers: Barriers::default(),
            elections: Elections::default(),
            limbo: Limbo::default(),
        };
        let (pump_orders, pump_thread) = start_pump(pump)?;
        configure(&pump_orders, &plan).await;

        let (checks_stop, checks_thread) = checks::start(reader.clone(), Arc::clone(&metrics))?;
        let shared = Shared::new(reader.clone(), Arc::clone(&metrics), filters);
        let mut running = Running {
            workers: Vec::new(),
            shared,
            leaving: JoinSet::new(),
            pump_orders: Some(pump_orders),
            threads: vec![pump_thread, checks_thread],
            checks_stop: Some(checks_stop),
            admin_stop: None,
            admin_address,
            listeners: Arc::default(),
            draining: Arc::default(),
            access_log: Arc::new(Mutex::new(access_log.clone())),
            fleet: None,
            fleet_view: Arc::default(),
            plan,
            reader,
            metrics,
            events,
            event_log,
            held: Vec::new(),
            foreign,
            admin_socket: None,
            door: None,
            reload_orders,
            reloads: Some(reloads),
            loads,
        };
        running.start_workers(access_log).await?;
        if inherited.is_taken_over() {
            // Until this table is whole, the predecessor's serves better.
            if tokio::time::timeout(handover::READINESS, running.ready()).await.is_err() {
                return Err(StartError::NotReady(running.waiting_for().join(", ")));
            }
        }
        Fleet::introduce(&running.plan, &running.own_view());
        running.start_admin(admin_socket)?;
        for (plan, sockets) in bound {
            running.listen(&plan, sockets).await?;
        }
        if let Some(predecessor) = inherited.finish() {
            let relieved = tokio::task::spawn_blocking(move || predecessor.relieve()).await;
            match relieved.map_err(std::io::Error::other).flatten() {
                Ok(()) => tracing::info!("taken over from the gateway before this one, which drains now"),
                Err(error) => tracing::warn!(%error, "the gateway before this one did not say that it stops"),
            }
        }
        running.open_door();
        running.join_fleet()?;
        Ok(running)
    }
}

/// A duplicate of a listening socket, and the worker that accepts on it.
#[derive(Debug)]
struct Held {
    worker: usize,
    handed: Handed,
}

/// A gateway that serves. Dropping it stops it at once; [`Running::drain`] stops it well.
#[derive(Debug)]
pub struct Running {
    plan: Plan,
    workers: Vec<Worker>,
    /// What each worker is started with.
    shared: Shared,
    /// Workers that accept no more, until their connections have ended.
    leaving: JoinSet<()>,
    pump_orders: Option<mpsc::Sender<pump::Order>>,
    threads: Vec<JoinHandle<()>>,
    checks_stop: Option<oneshot::Sender<()>>,
    admin_stop: Option<oneshot::Sender<()>>,
    admin_address: SocketAddr,
    listeners: Arc<Mutex<Vec<ListenerView>>>,
    draining: Arc<AtomicBool>,
    access_log: Arc<Mutex<Option<LineSink>>>,
    fleet: Option<Fleet>,
    fleet_view: Arc<Mutex<FleetView>>,
    reader: TableReader,
    metrics: Arc<Metrics>,
    events: EventLog,
    event_log: JournalFile,
    /// Duplicates of the listening sockets, for a successor.
    held: Vec<Held>,
    /// Listeners whose sockets others have, too: whoever opened them, or handed them over.
    foreign: Vec<Arc<str>>,
    admin_socket: Option<std::net::TcpListener>,
    door: Option<Door>,
    reload_orders: mpsc::Sender<ReloadOrder>,
    reloads: Option<mpsc::Receiver<ReloadOrder>>,
    loads: Arc<Loads>,
}

impl Running {
    /// Where the admin answers.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Every listener with the address in use.
    pub fn listeners(&self) -> Vec<ListenerView> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address in use of one listener, by its name.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().find(|known| known.name == listener).map(|known| known.address)
    }

    /// Orders of `POST /api/reload`, for whoever can read the configuration again. Taken once; dropped, the call answers
    /// that there is nobody.
    pub fn reload_orders(&mut self) -> Option<mpsc::Receiver<ReloadOrder>> {
        self.reloads.take()
    }

    /// A process that asks for the listening sockets. Cancel-safe; without `[gateway] handover` nobody ever does.
    pub async fn successor(&self) -> Successor {
        let Some(door) = &self.door else { return std::future::pending().await };
        match door.visitor().await {
            Ok(visitor) => Successor(visitor),
            Err(error) => {
                tracing::warn!(path = %door.path().display(), %error, "no handover any more");
                std::future::pending().await
            }
        }
    }

    /// Hands the listening sockets over, while this gateway goes on serving. The task ends well once the successor
    /// accepts: then call [`Running::relieved`] and [`Running::drain`].
    pub fn hand_over(&mut self, successor: Successor) -> tokio::task::JoinHandle<std::io::Result<()>> {
        tracing::info!("a successor asks for the sockets");
        // Whatever becomes of it: should this gateway be stopped meanwhile, they serve the successor.
        self.foreign = self.held.iter().map(|held| Arc::clone(&held.handed.name)).collect();
        let duplicate = |Held { handed, .. }: &Held| {
            let (name, listen) = (Arc::clone(&handed.name), handed.listen);
            Ok(Handed { name, listen, socket: handed.socket.try_clone()? })
        };
        let admin = self.admin_socket.as_ref().map(|socket| {
            Ok(Handed { name: ADMIN.into(), listen: self.plan.admin.listen, socket: socket.try_clone()? })
        });
        let sockets: std::io::Result<Vec<Handed>> =
            admin.into_iter().chain(self.held.iter().map(duplicate)).collect();
        tokio::task::spawn_blocking(move || handover::hand_over(successor.0, &sockets?))
    }

    /// The successor answers for the admin from now on.
    pub fn relieved(&mut self) {
        self.admin_stop = None;
        self.admin_socket = None;
    }

    /// Lets successors in, where the configuration names a place for that.
    fn open_door(&mut self) {
        let Some(path) = &self.plan.gateway.handover else { return };
        match Door::open(path) {
            Ok(door) => self.door = Some(door),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "no handover: create its folder or give permission");
            }
        }
    }

    /// The routing table.
    pub fn table(&self) -> &TableReader {
        &self.reader
    }

    /// The gateway's metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Services and catalogs that have not had their first whole listing.
    pub fn waiting_for(&self) -> Vec<String> {
        self.reader.load().unlisted().iter().map(ToString::to_string).collect()
    }

    /// Waits until every configured service and catalog has been listed. Cancel-safe.
    pub async fn ready(&self) {
        while !self.reader.load().is_listed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens log files anew, after they were moved away.
    pub fn reopen_logs(&self) {
        if let Some(log) = &*self.access_log() {
            log.reopen();
        }
        self.event_log.reopen();
    }

    /// Puts another plan in force, whole or not at all.
    ///
    /// Routes and services swap in one publication; endpoints that stay keep their state. Connections of a listener
    /// that goes are served to their end. What needs a restart (the admin's address) is named in a warning; the log is
    /// whose program it is.
    pub async fn reload(&mut self, plan: Plan) -> Result<(), StartError> {
        let mut fresh = Vec::new();
        for listener in &plan.listeners {
            if !self.plan.listeners.iter().any(|known| known.is_where(listener)) {
                // Addresses are unique in a plan: one of ours that holds this one gives it up below.
                let held = |old: &ListenerPlan| old.listen == listener.listen && old.listen.port() != 0;
                let bind =
                    if self.plan.listeners.iter().any(held) { sockets::bind_beside } else { sockets::bind };
                fresh.push((Arc::new(listener.clone()), listening(bind, listener, plan.gateway.workers)?));
            }
        }
        let access_log = if plan.gateway.access_log == self.plan.gateway.access_log {
            self.access_log().clone()
        } else {
            open_access_log(&plan.gateway.access_log)?
        };
        let recruits = self.recruit(&plan)?;
        set_event_log(&self.event_log, &plan, &self.reader)?;
        if plan.admin.listen != self.plan.admin.listen {
            tracing::warn!(key = "admin.listen", "changed in the file; takes effect at the next start");
        }

        if let Some(orders) = &self.pump_orders {
            configure(orders, &plan).await;
        }
        self.resize(recruits, plan.gateway.workers, plan.gateway.drain_timeout).await;
        for worker in &self.workers {
            worker.order(workers::Order::AccessLog(access_log.clone())).await;
        }
        *self.access_log() = access_log;
        let moved = |old: &&ListenerPlan| !plan.listeners.iter().any(|new| new.is_where(old));
        let gone: Vec<_> =
            self.plan.listeners.iter().filter(moved).map(|old| Arc::clone(&old.name)).collect();
        // An address that another listener has now is not refused to anybody.
        let given = |at: SocketAddr| at.port() != 0 && fresh.iter().any(|(new, _)| new.listen == at);
        self.admit_no_more(|Held { handed, .. }| gone.contains(&handed.name) && !given(handed.listen)).await;
        for name in &gone {
            self.close(name).await;
        }
        for listener in &plan.listeners {
            if !fresh.iter().any(|(new, _)| new.name == listener.name) {
                let listener = Arc::new(listener.clone());
                self.show(&listener);
                for worker in &self.workers {
                    worker.order(workers::Order::Update(Arc::clone(&listener))).await;
                }
            }
        }
        for (listener, sockets) in fresh {
            self.listen(&listener, sockets).await?;
        }
        if let Some(fleet) = &self.fleet {
            fleet.configure(&plan);
        }
        let door = plan.gateway.handover != self.plan.gateway.handover;
        self.plan = plan;
        if door {
            self.door = None;
            self.open_door();
        }
        Ok(())
    }

    fn access_log(&self) -> MutexGuard<'_, Option<LineSink>> {
        self.access_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(
        &mut self,
        plan: &Arc<ListenerPlan>,
        sockets: Vec<std::net::TcpListener>,
    ) -> Result<(), StartError> {
        let Some(address) = sockets.first().map(std::net::TcpListener::local_addr).transpose()? else {
            return Ok(());
        };
        // Inherited, there may be more of them than workers.
        for ((number, worker), socket) in self.workers.iter().enumerate().cycle().zip(sockets) {
            self.held.push(Held { worker: number, handed: Handed::of(plan, socket.try_clone()?) });
            worker.order(workers::Order::Listen(Arc::clone(plan), socket)).await;
        }
        tracing::info!(listener = &*plan.name, %address, "listening");
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(ListenerView::new(plan, address));
        Ok(())
    }

    /// The admin shows a listener that stays as it is configured now.
    fn show(&self, plan: &ListenerPlan) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for view in listeners.iter_mut().filter(|view| view.name == *plan.name) {
            *view = ListenerView::new(plan, view.address);
        }
    }

    async fn close(&mut self, name: &Arc<str>) {
        // The workers' are the last: they empty the queues.
        self.held.retain(|held| held.handed.name != *name);
        self.foreign.retain(|foreign| foreign != name);
        for worker in &self.workers {
            worker.order(workers::Order::Close(Arc::clone(name))).await;
        }
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).retain(|l| l.name != **name);
    }

    fn own_view(&self) -> fleet::Own {
        fleet::Own {
            table: self.reader.clone(),
            admin: self.admin_address,
            listeners: Arc::clone(&self.listeners),
            shown: Arc::clone(&self.fleet_view),
        }
    }

    fn join_fleet(&mut self) -> Result<(), StartError> {
        self.fleet = Some(Fleet::start(&self.plan, self.own_view())?);
        Ok(())
    }

    fn start_admin(&mut self, socket: std::net::TcpListener) -> Result<(), StartError> {
        self.admin_socket = Some(socket.try_clone()?);
        let admin = Admin {
            table: self.reader.clone(),
            metrics: Arc::clone(&self.metrics),
            listeners: Arc::clone(&self.listeners),
            draining: Arc::clone(&self.draining),
            access_log: Arc::clone(&self.access_log),
            events: self.events.clone(),
            reload: self.reload_orders.clone(),
            fleet: Arc::clone(&self.fleet_view),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    served = admin.serve(socket) => if let Err(error) = served {
                        tracing::error!(%error, "the admin stopped");
                    },
                }
            });
        })?;
        tracing::info!(address = %self.admin_address, "admin listening");
        self.admin_stop = Some(stop);
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

type Bind = fn(SocketAddr, usize) -> Result<Vec<std::net::TcpListener>, BindError>;

fn listening(
    bind: Bind,
    listener: &ListenerPlan,
    workers: usize,
) -> Result<Vec<std::net::TcpListener>, StartError> {
    bind(listener.listen, workers)
        .map_err(|source| StartError::Bind { what: format!("listener {:?}", listener.name), source })
}

fn set_event_log(file: &JournalFile, plan: &Plan, table: &TableReader) -> Result<(), StartError> {
    let place = plan
        .gateway
        .event_log
        .as_ref()
        .map(|path| Place { path: path.clone(), size: plan.gateway.event_log_size });
    file.set(place, table).map_err(|source| {
        let path = plan.gateway.event_log.as_ref().map(|path| path.display().to_string());
        StartError::EventLog { path: path.unwrap_or_default(), source }
    })
}

fn open_access_log(plan: &AccessLog) -> Result<Option<LineSink>, StartError> {
    let target = match plan {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => LineTarget::Stdout,
        AccessLog::File(path) => LineTarget::File(path.clone()),
    };
    let path = match plan {
        AccessLog::File(path) => path.display().to_string(),
        _ => "stdout".into(),
    };
    LineSink::open(target).map(Some).map_err(|source| StartError::AccessLog { path, source })
}

/// The pump has a thread of its own: neither scrapes nor requests delay a removal.
fn start_pump(pump: Pump) -> std::io::Result<(mpsc::Sender<pump::Order>, JoinHandle<()>)> {
    let (orders, inbox) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("discovery".into()).spawn(move || {
        runtime.block_on(pump.run(inbox));
        // Blocking reads of a hung file system must not hold up the exit.
        runtime.shutdown_background();
    })?;
    Ok((orders, thread))
}

async fn configure(orders: &mpsc::Sender<pump::Order>, plan: &Plan) {
    let (done, published) = oneshot::channel();
    if orders.send(pump::Order::Configure(Arc::new(plan.clone()), done)).await.is_ok() {
        let _ = published.await;
    }
}
