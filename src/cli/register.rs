//! `zoogate register`: holds a registration for as long as it, or a command, runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::args::RegisterArgs;
use super::run::{Signals, start_log};
use crate::config::plan::{LogLevel, LogPlan};
use crate::model::{FormatName, Instance};
use crate::registry::directory::{DirectoryRegistration, register_in_directory};
use crate::registry::format::encode;
use crate::registry::zookeeper::{ConnectOptions, RegisterOptions, Registration};

/// The first registration must succeed within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where something is registered.
#[derive(Debug, Clone)]
pub(super) enum RegistrationTarget {
    /// An ensemble's connect string.
    ZooKeeper(String),
    /// A directory registry's root.
    Directory(PathBuf),
}

impl RegistrationTarget {
    /// From two flags of which the command line has exactly one.
    pub(super) fn new(zookeeper: Option<String>, directory: Option<PathBuf>) -> anyhow::Result<Self> {
        match (zookeeper, directory) {
            (Some(connect), None) => Ok(Self::ZooKeeper(connect)),
            (None, Some(root)) => Ok(Self::Directory(root)),
            _ => bail!("exactly one of --zookeeper and --directory is needed"),
        }
    }
}

/// A registration that is held.
#[derive(Debug)]
pub(super) enum Held {
    ZooKeeper(Registration),
    Directory(DirectoryRegistration),
}

impl Held {
    /// Registers; the parents are created. Fails after ten seconds without an ensemble.
    pub(super) async fn start(
        target: &RegistrationTarget,
        path: &str,
        node: &str,
        data: Vec<u8>,
    ) -> anyhow::Result<Self> {
        match target {
            RegistrationTarget::Directory(root) => Ok(Self::Directory(
                register_in_directory(root, path, node, &data)
                    .with_context(|| format!("cannot register {path}/{node} under {}", root.display()))?,
            )),
            RegistrationTarget::ZooKeeper(connect) => {
                let connect = ConnectOptions::new(connect);
                let options =
                    RegisterOptions { give_up: PATIENCE, ..RegisterOptions::new(connect, path, node, data) };
                Ok(Self::ZooKeeper(Registration::start(options).await?))
            }
        }
    }

    /// Takes the registration back; returns when it is gone or nobody can tell.
    async fn withdraw(self) -> anyhow::Result<()> {
        match self {
            Self::ZooKeeper(registration) => registration.release().await?,
            Self::Directory(registration) => registration.release()?,
        }
        Ok(())
    }

    /// Takes the registration back, and tells in the log how that went: whoever asks for it goes on either way.
    pub(super) async fn release(self) {
        match self.withdraw().await {
            Ok(()) => tracing::info!("registration deleted"),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let _logs = start_log(&LogPlan { level: LogLevel::Info, json: false })?;
    super::runtime()?.block_on(register(args))
}

async fn register(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let target = RegistrationTarget::new(args.zookeeper, args.directory)?;
    let mut signals = Signals::new()?;
    let address = args.address.to_string();
    let node = match args.format {
        // There the node's name is the address, whatever else it is called.
        FormatName::NameAddr => address.clone(),
        _ => args.id.clone().unwrap_or_else(|| address.clone()),
    };
    let mut instance = Instance::new(node.as_str().into(), args.address);
    instance.weight = args.weight.unwrap_or_else(|| args.format.default_weight());
    let service = args.path.rsplit('/').next().unwrap_or_default();
    let data = encode(args.format, service, &instance).context("this format is only read, not written")?;
    let held = tokio::select! {
        held = Held::start(&target, &args.path, &node, data) => held?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    tracing::info!(path = args.path, node, address, "registered");

    let Some((program, arguments)) = args.command.split_first() else {
        signals.stop().await;
        held.release().await;
        return Ok(ExitCode::SUCCESS);
    };
    let mut child = match Command::new(program).args(arguments).kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) => {
            held.release().await;
            bail!("cannot start {}: {error}", program.display());
        }
    };
    let ended = tokio::select! {
        status = child.wait() => Some(status?),
        () = signals.stop() => None,
    };
    // Clients must stop coming before the instance stops answering.
    held.release().await;
    if let Some(status) = ended {
        return Ok(super::exit_code_of(status));
    }
    if let Some(process) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
        && let Err(error) = kill_process(process, Signal::TERM)
    {
        tracing::warn!(%error, "cannot pass SIGTERM on");
    }
    Ok(super::exit_code_of(child.wait().await?))
}
