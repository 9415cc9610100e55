//! The commands, one file each.

pub mod args;
pub mod check;
mod child;
mod completions;
mod credentials;
mod demo;
pub mod elect;
mod explain;
mod hooks;
mod lint;
pub mod primaries;
mod register;
mod replay;
mod run;
mod sample;
mod services;

use std::process::{ExitCode, ExitStatus};

use clap::Parser;

use args::{Cli, Command};

/// Runs the command that the process was started with, and says how it ended: 0, or 1 where it ended early. Usage
/// errors have ended the process with 2 before.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args.config),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Register(args) => register::run(args),
        Command::Services(args) => services::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Elect(args) => elect::run(args),
        Command::Primaries(args) => primaries::run(&args),
        Command::Elected(args) => Ok(elect::become_command(&args)),
        Command::SampleInstance(args) => sample::run(args),
        Command::Exec(args) => child::exec(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("zoogate: {error:#}");
        ExitCode::FAILURE
    })
}

/// A runtime for a command's own work; the gateway's threads have theirs.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A plan, or its errors on standard error.
fn load(config: &std::path::Path) -> Result<crate::config::Plan, ExitCode> {
    crate::config::load(config).map_err(|errors| {
        eprintln!("{errors}");
        ExitCode::FAILURE
    })
}

/// A child's status as ours; one that a signal ended becomes 128 and the signal's number, as shells have it.
fn exit_code_of(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
