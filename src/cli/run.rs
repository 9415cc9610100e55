//! `zoogate run`: serves until it is told to stop.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;

use crate::admin::ReloadOrder;
use crate::config;
use crate::config::plan::{LogLevel, LogPlan, Plan};
use crate::gateway::{Gateway, Inherited, Running};
use crate::telemetry::{LogFormat, Logs, init_logging};

/// A start that takes longer than this tells what it waits for, and again every ten times as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs the gateway of a configuration file.
pub(super) fn run(config: &Path) -> anyhow::Result<ExitCode> {
    let plan = match super::load(config) {
        Ok(plan) => plan,
        Err(code) => return Ok(code),
    };
    // Before anything is opened here: where a number stands for nothing, it must not stand for something of ours.
    let opened = opened()?;
    let logs = start_log(&plan.log)?;
    keep_memory_sparse();
    let runtime = super::runtime()?;
    let served = runtime.block_on(serve(config, plan, opened, &logs));
    // A successor that is still getting ready is not waited for.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// What the allocator gives back stays given back. Where it asks for huge pages, the kernel fills the holes in
/// its blocks again, every ten seconds some 16 MiB of them: a gateway with idle connections would grow without a
/// request. Commands that start other programs leave it alone, since those inherit it.
fn keep_memory_sparse() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on: memory that is free may not be given back");
    }
}

/// Sets up the log that a plan asks for.
pub(super) fn start_log(plan: &LogPlan) -> std::io::Result<Logs> {
    let (level, format) = shape(plan);
    init_logging(level, format)
}

fn shape(plan: &LogPlan) -> (LevelFilter, LogFormat) {
    let level = match plan.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    (level, if plan.json { LogFormat::Json } else { LogFormat::Text })
}

async fn serve(config: &Path, plan: Plan, opened: Vec<TcpListener>, logs: &Logs) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.display(), "starting");
    let inherited = inherited(&plan, opened)?;
    let mut running = Gateway::new(plan).inherit(inherited).start().await?;
    let mut orders = running.reload_orders();
    let mut handing_over = None;
    let mut told = Patience::default();
    let mut ready = false;
    loop {
        tokio::select! {
            () = running.ready(), if !ready => {
                ready = true;
                tracing::info!(after = ?told.started.elapsed(), "ready");
                notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
            }
            () = told.run_out(), if !ready => told.tell(&running),
            successor = running.successor(), if handing_over.is_none() => {
                handing_over = Some(running.hand_over(successor));
            }
            Some(done) = ended(&mut handing_over) => match done {
                Ok(()) => {
                    tracing::info!("the successor accepts; stopping");
                    running.relieved();
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "the successor gave up; serving on");
                    handing_over = None;
                }
            },
            Some(done) = next(&mut orders) => {
                let outcome = reload(config, &mut running, logs).await;
                let _ = done.send(outcome);
            }
            signal = signals.next() => match signal {
                Asked::Reload => _ = reload(config, &mut running, logs).await,
                Asked::Stop => break,
            },
        }
    }
    // Nobody reads the file any more: the admin says so at once.
    drop(orders);
    notify(&[NotifyState::Stopping]);
    running.drain(signals.stop()).await;
    tracing::info!("stopped");
    Ok(())
}

/// The listening sockets that systemd, or whoever speaks as it does, has opened for us.
fn opened() -> anyhow::Result<Vec<TcpListener>> {
    let mut opened = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..opened.len() {
        let taken = opened.take_tcp_listener(index).and_then(|socket| match socket {
            Some(socket) if rustix::net::sockopt::socket_acceptconn(&socket)? => Ok(socket),
            _ => Err(std::io::Error::other("a socket that does not listen")),
        });
        sockets.push(taken.with_context(|| {
            format!("LISTEN_FDS: descriptor {} of those passed is no listening TCP socket", index + 1)
        })?);
    }
    Ok(sockets)
}

/// Listening sockets that are open already: systemd's, or those of a gateway that serves.
fn inherited(plan: &Plan, opened: Vec<TcpListener>) -> anyhow::Result<Inherited> {
    if let Some(path) = &plan.gateway.handover {
        let taken = Inherited::take_over(path);
        let path = path.display();
        if let Some(inherited) = taken.with_context(|| {
            format!("cannot take over from the gateway behind {path}; stop it, or remove that socket")
        })? {
            tracing::info!(%path, "taking over from a gateway that serves");
            return Ok(inherited);
        }
    }
    Ok(Inherited::opened(opened)?)
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

async fn ended(task: &mut Option<JoinHandle<std::io::Result<()>>>) -> Option<std::io::Result<()>> {
    match task {
        Some(task) => Some(task.await.map_err(std::io::Error::other).flatten()),
        None => None,
    }
}

async fn next(orders: &mut Option<Receiver<ReloadOrder>>) -> Option<ReloadOrder> {
    match orders {
        Some(orders) => orders.recv().await,
        None => None,
    }
}

async fn reload(config: &Path, running: &mut Running, logs: &Logs) -> Result<(), Vec<String>> {
    running.reopen_logs();
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    let refused = match config::load(config) {
        Ok(plan) => {
            let (level, format) = shape(&plan.log);
            let reloaded = running.reload(plan).await.map_err(|error| vec![error.to_string()]);
            if reloaded.is_ok() {
                logs.set(level, format);
            }
            reloaded
        }
        Err(errors) => Err(errors.to_string().lines().map(str::to_owned).collect()),
    };
    match &refused {
        Ok(()) => {
            running.metrics().reload("ok");
            tracing::info!(config = %config.display(), "reloaded");
        }
        Err(errors) => {
            running.metrics().reload("refused");
            for error in errors {
                tracing::error!(error, "configuration refused; the old one stays");
            }
        }
    }
    notify(&[NotifyState::Ready]);
    refused
}

/// What a signal asks for.
enum Asked {
    Reload,
    Stop,
}

/// The signals that a gateway answers.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for any of them.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
        }
    }

    /// Waits for SIGINT or SIGTERM.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Tells, ever less often, what a long start waits for.
struct Patience {
    started: tokio::time::Instant,
    next: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { started: tokio::time::Instant::now(), next: PATIENCE }
    }
}

impl Patience {
    async fn run_out(&self) {
        tokio::time::sleep_until(self.started + self.next).await;
    }

    fn tell(&mut self, running: &Running) {
        let waiting = running.waiting_for();
        let shown = waiting.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::info!(
            services = waiting.len(),
            names = shown,
            "serving, but waiting for the first listing of some services"
        );
        self.next = (self.next * 10).min(self.next + Duration::from_secs(60));
    }
}
