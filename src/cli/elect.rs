//! `zoogate elect`: runs a command on one machine at a time.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout_at;

use super::args::{parse_id, parse_path, parse_time};
use super::credentials::AuthArgs;
use super::run::{Signals, start_log};
use crate::config::plan::{LogLevel, LogPlan};
use crate::registry::zookeeper::recipes::{ConnectOptions, Election, Leadership};

/// The command is dead this long before its time is over: what is left for the kernel to end it.
const MARGIN: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
COMMAND runs where the election at PATH is won, and nowhere else. It finds in its environment
ZOOGATE_FENCE, a number that grows with every leader (whatever COMMAND writes to should refuse
lower ones), ZOOGATE_NODE, the leader's node, and ZOOGATE_ID.

The moment that leadership is in doubt (no connection to the ensemble, or silence) COMMAND gets
SIGTERM, and SIGKILL after --grace or before another machine can be elected, whichever is first.
Then zoogate stands for election again. When COMMAND ends by itself, zoogate ends with its
status. SIGTERM is passed on. COMMAND must stay in the foreground: its process group is killed
when it ends, and it is killed with zoogate itself (on Linux).

Examples:
  zoogate elect --zookeeper zk1:2181,zk2:2181 --path /elections/cron -- ./nightly-jobs
  zoogate elect --zookeeper zk1:2181/prod --path /elections/scheduler --id machine-1 \\
      --session-timeout 6s --grace 2s -- ./scheduler --port 7000";

/// `elect`.
#[derive(Debug, Args)]
pub struct ElectArgs {
    /// The ensemble that elects: HOST:PORT,HOST:PORT/CHROOT
    #[arg(long, value_name = "CONNECT")]
    pub zookeeper: String,
    #[command(flatten)]
    pub auth: AuthArgs,
    /// The election's path; it is created with its parents
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    pub path: String,
    /// Who this candidate is, for others to read [default: host and process]
    #[arg(long, value_parser = parse_id)]
    pub id: Option<String>,
    /// Asked of the ensemble: how long a leader that vanishes is waited for
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_session)]
    pub session_timeout: Duration,
    /// How long COMMAND may take to end after SIGTERM, when leadership is in doubt
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_grace)]
    pub grace: Duration,
    /// The command to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `elected`.
#[derive(Debug, Args)]
pub struct ElectedArgs {
    /// Who started it
    pub parent: i32,
    /// What to become
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

pub(super) fn parse_session(text: &str) -> Result<Duration, String> {
    parse_time(text, Duration::from_secs(1), Duration::from_secs(300))
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    parse_time(text, Duration::ZERO, Duration::from_secs(300))
}

/// Who we are, where nobody has said so.
pub(super) fn own_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", std::process::id())
}

/// Runs the command.
pub(super) fn run(args: ElectArgs) -> anyhow::Result<ExitCode> {
    let _logs = start_log(&LogPlan { level: LogLevel::Info, json: false })?;
    super::runtime()?.block_on(elect(args))
}

async fn elect(args: ElectArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let id = args.id.clone().unwrap_or_else(own_id);
    let options = ConnectOptions {
        session_timeout: args.session_timeout,
        auth: args.auth.list(),
        ..ConnectOptions::new(&args.zookeeper)
    };
    let election = Election::new(options, &args.path).id(id.as_str());
    loop {
        tracing::info!(path = args.path, id, "standing for election");
        let Some(leadership) = election.campaign_until(signals.stop()).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        tracing::info!(path = args.path, fence = leadership.fence(), "elected");
        let mut command = Running::start(&args, &id, &leadership)?;
        let told_to_stop = tokio::select! {
            status = command.child.wait() => return resign(leadership, command, status?).await,
            doubt = leadership.doubted() => {
                tracing::warn!(%doubt, "leadership is in doubt: stopping the command");
                command.stop(args.grace, &leadership).await?;
                false
            }
            () = signals.stop() => true,
        };
        if told_to_stop {
            command.signal(Signal::TERM);
            let status = tokio::select! {
                status = command.child.wait() => status?,
                doubt = leadership.doubted() => {
                    tracing::warn!(%doubt, "leadership is in doubt while the command ends");
                    command.stop(args.grace, &leadership).await?
                }
                () = signals.stop() => {
                    command.signal(Signal::KILL);
                    command.child.wait().await?
                }
            };
            return resign(leadership, command, status).await;
        }
        // Only now: the command is dead.
        drop(command);
        drop(leadership);
    }
}

/// Lets the next one lead, and says how the command ended.
async fn resign(leadership: Leadership, command: Running, status: ExitStatus) -> anyhow::Result<ExitCode> {
    drop(command);
    match leadership.resign().await {
        Ok(()) => tracing::info!("resigned"),
        Err(error) => tracing::warn!(%error, "cannot resign; the next leader waits for the session to end"),
    }
    Ok(super::exit_code_of(status))
}

/// The command and its process group, which do not outlive this.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(args: &ElectArgs, id: &str, leadership: &Leadership) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("elected")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&args.command)
            .env("ZOOGATE_FENCE", leadership.fence().to_string())
            .env("ZOOGATE_NODE", leadership.node())
            .env("ZOOGATE_ID", id)
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, group })
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Fails when all of it has ended, which is what we want.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Ends it before anybody else can lead, with SIGTERM and, when `grace` or that time is over, SIGKILL.
    async fn stop(&mut self, grace: Duration, leadership: &Leadership) -> std::io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let last = leadership.ours_until().checked_sub(MARGIN).unwrap_or_else(Instant::now);
        let end = last.min(Instant::now() + grace);
        if let Ok(ended) = timeout_at(end.into(), self.child.wait()).await {
            return ended;
        }
        tracing::warn!("the command has not ended in time: killing it");
        self.signal(Signal::KILL);
        self.child.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Becomes the command, after seeing to it that it does not outlive the process that holds the leadership.
pub(super) fn become_command(args: &ElectedArgs) -> ExitCode {
    use std::os::unix::process::CommandExt;
    #[cfg(target_os = "linux")]
    {
        if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
            eprintln!("zoogate: cannot tie the command to its elector: {error}");
            return ExitCode::FAILURE;
        }
        if rustix::process::getppid().map(Pid::as_raw_pid) != Some(args.parent) {
            // It died in between.
            return ExitCode::FAILURE;
        }
    }
    let Some((program, arguments)) = args.command.split_first() else { return ExitCode::FAILURE };
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("zoogate: cannot start {}: {error}", program.display());
    ExitCode::from(127)
}
