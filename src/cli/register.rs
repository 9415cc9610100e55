//! `zoogate register`: holds a registration for as long as it, or a command, runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::args::RegisterArgs;
use super::child::{Child, Signals};
use super::hooks::Hooks;
use super::run::start_log;
use crate::config::plan::{LogLevel, LogPlan};
use crate::model::Instance;
use crate::registration::{
    Access, Announcement, Check, ConnectOptions, GateOptions, Parents, Place, Registrar, RegistrarOptions,
};

/// Where something is registered, from two flags of which the command line has exactly one.
pub(super) fn place(
    zookeeper: Option<String>,
    directory: Option<PathBuf>,
    parents: Parents,
) -> anyhow::Result<Place> {
    match (zookeeper, directory) {
        (Some(connect), None) => Ok(Place::ZooKeeper(ConnectOptions::new(connect), parents)),
        (None, Some(root)) => Ok(Place::Directory(root)),
        _ => bail!("exactly one of --zookeeper and --directory is needed"),
    }
}

/// Takes a registration back, and tells in the log how that went: whoever asks for it goes on either way.
pub(super) async fn release(registrar: Registrar) {
    match registrar.release().await {
        Ok(()) => tracing::info!("registration deleted"),
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Runs the command.
pub(super) fn run(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let _logs = start_log(&LogPlan { level: LogLevel::Info, json: false })?;
    super::runtime()?.block_on(register(args))
}

async fn register(args: RegisterArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let options = options(&args)?;
    let gated = options.gate.is_some();
    let path = options.announcement.path.clone();
    let mut registrar = Registrar::start(options);
    let hooks = Hooks {
        on_registered: args.on_registered,
        on_lost: args.on_lost,
        address: args.address.to_string(),
        path,
    };
    tokio::spawn(hooks.run(registrar.states(), registrar.nodes()));

    if !gated {
        tokio::select! {
            registered = registrar.registered() => registered?,
            _ = signals.stop(None) => {
                release(registrar).await;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    if args.command.is_empty() {
        tokio::select! {
            error = registrar.failed() => return Err(error.into()),
            _ = signals.stop(None) => {}
        }
        release(registrar).await;
        return Ok(ExitCode::SUCCESS);
    }

    let mut child = match Child::spawn(&args.command) {
        Ok(child) => child,
        Err(error) => {
            release(registrar).await;
            return Err(error).with_context(|| format!("cannot start {}", args.command[0].display()));
        }
    };
    let mailbox = child.mailbox();
    let told = tokio::select! {
        status = child.wait() => {
            release(registrar).await;
            return Ok(super::exit_code_of(status?));
        }
        error = registrar.failed() => {
            tracing::error!(%error, "ending the command");
            end(&mut child, &mut signals, Signal::TERM).await?;
            return Err(error.into());
        }
        told = signals.stop(Some(mailbox)) => told,
    };
    // Clients must stop coming before the instance stops answering.
    release(registrar).await;
    tokio::select! {
        () = tokio::time::sleep(args.linger) => {}
        // Whoever asks twice is in a hurry.
        _ = signals.stop(Some(mailbox)) => {}
        status = child.wait() => return Ok(super::exit_code_of(status?)),
    }
    end(&mut child, &mut signals, told).await
}

/// Passes a signal on, and every one that follows, until the command ends.
async fn end(child: &mut Child, signals: &mut Signals, signal: Signal) -> anyhow::Result<ExitCode> {
    let mailbox = child.mailbox();
    mailbox.signal(signal);
    loop {
        tokio::select! {
            status = child.wait() => return Ok(super::exit_code_of(status?)),
            signal = signals.next() => mailbox.signal(signal),
        }
    }
}

fn options(args: &RegisterArgs) -> anyhow::Result<RegistrarOptions> {
    let mut place = place(args.zookeeper.clone(), args.directory.clone(), args.parents)?;
    if let Place::ZooKeeper(connect, _) = &mut place {
        connect.session_timeout = args.session_timeout;
        connect.auth = args.auth.list();
    }
    if args.acl != Access::Open {
        match &place {
            Place::ZooKeeper(connect, _) if !connect.auth.is_empty() => {}
            Place::ZooKeeper(..) => bail!(
                "--acl names whoever shows the same credentials, and none are shown; set ZOOGATE_AUTH=digest:USER:PASSWORD"
            ),
            Place::Directory(_) => {
                bail!("--acl is for --zookeeper: a directory has its file system's permissions")
            }
        }
    }
    let id = args.id.clone().unwrap_or_else(|| args.address.to_string());
    let mut instance = Instance::new(id.as_str().into(), args.address.clone());
    instance.weight = args.weight.unwrap_or_else(|| args.format.default_weight());
    // Where members are numbers, who names none gets one.
    let sequential = args.sequential || (args.format.as_str() == "numbered" && args.id.is_none());
    let announcement = Announcement::new(args.format, &args.path, &instance, sequential)?;
    let mut options = RegistrarOptions::new(place, announcement);
    options.access = args.acl;
    let command = args.check_command.as_ref().map(|command| Check::Command(command.clone()));
    options.gate = args.check.clone().or(command).map(|check| {
        let default = GateOptions::new(check);
        GateOptions {
            address: Some(args.address.clone()),
            interval: args.check_interval.unwrap_or(default.interval),
            timeout: args.check_timeout.unwrap_or(default.timeout),
            rise: args.rise.unwrap_or(default.rise),
            fall: args.fall.unwrap_or(default.fall),
            ..default
        }
    });
    Ok(options)
}
