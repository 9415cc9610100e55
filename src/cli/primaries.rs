//! `zoogate primaries`: the controller of a replicated store, in small.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::args::{parse_id, parse_path};
use super::credentials::AuthArgs;
use super::elect::{own_id, parse_session};
use super::run::{Signals, start_log};
use crate::config::plan::{LogLevel, LogPlan};
use crate::registry::zookeeper::recipes::{ConnectOptions, Primaries, Step};

pub(super) const HELP: &str = "\
Every child of ROOT is a group; its children with numbers for names are live members, and its
child `primary` holds the number of one of them. Of all controllers that run, one is elected. It
watches ROOT and names a new primary, the lowest number, when the named one is gone; one that
lives is never replaced. Candidates stand below the election's path as numbers, the one that
leads holds number 0 there.

Examples:
  zoogate primaries --zookeeper zk1:2181,zk2:2181 --root /data
  zoogate primaries --zookeeper zk1:2181/prod --root /data --election /server --id 10.0.0.5:7000";

/// `primaries`.
#[derive(Debug, Args)]
pub struct PrimariesArgs {
    /// The ensemble: HOST:PORT,HOST:PORT/CHROOT
    #[arg(long, value_name = "CONNECT")]
    pub zookeeper: String,
    #[command(flatten)]
    pub auth: AuthArgs,
    /// The directory of the groups
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    pub root: String,
    /// Where the controller is elected; it is created with its parents
    #[arg(long, value_name = "PATH", default_value = "/server", value_parser = parse_path)]
    pub election: String,
    /// Who this controller is, for others to read [default: host and process]
    #[arg(long, value_parser = parse_id)]
    pub id: Option<String>,
    /// Asked of the ensemble: how long a controller that vanishes is waited for
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_session)]
    pub session_timeout: Duration,
}

/// Runs the command.
pub(super) fn run(args: &PrimariesArgs) -> anyhow::Result<ExitCode> {
    let _logs = start_log(&LogPlan { level: LogLevel::Info, json: false })?;
    super::runtime()?.block_on(primaries(args))
}

async fn primaries(args: &PrimariesArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let options = ConnectOptions {
        session_timeout: args.session_timeout,
        auth: args.auth.list(),
        ..ConnectOptions::new(&args.zookeeper)
    };
    let id = args.id.clone().unwrap_or_else(own_id);
    tracing::info!(root = args.root, election = args.election, id, "standing for election");
    let controller = Primaries::new(options, &args.root).election(&args.election).id(id);
    controller.run(signals.stop(), tell).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn tell(step: Step) {
    match step {
        Step::Elected(fence) => tracing::info!(fence, "elected"),
        Step::Primary { group, before, now } => tracing::info!(group, before, now, "primary named"),
        Step::NoPrimary { group } => tracing::warn!(group, "no live member: the group has no primary"),
        Step::Deposed(doubt) => tracing::warn!(%doubt, "not leading any more, standing again"),
    }
}
