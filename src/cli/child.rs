//! A command that runs below one of ours, and the signals that are passed on to it.

use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitStatus};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::args::ExecArgs;

/// A running command. Killed when dropped.
///
/// It has a process group of its own, so that a Ctrl-C in a terminal reaches it only through us, in the order that we
/// promise. On Linux it gets SIGTERM when we die without a word.
#[derive(Debug)]
pub(super) struct Child(tokio::process::Child);

impl Child {
    /// Starts it; a program that does not exist is found here only on other systems than Linux.
    pub(super) fn spawn(command: &[OsString]) -> io::Result<Self> {
        let mut command = command_of(command);
        Ok(Self(command.process_group(0).kill_on_drop(true).spawn()?))
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Its address for signals, good until its end was waited for.
    pub(super) fn mailbox(&self) -> Mailbox {
        Mailbox(self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }
}

/// Where a command gets its signals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mailbox(Option<Pid>);

impl Mailbox {
    /// Passes a signal on: Ctrl-C to the whole group, as a terminal would, any other to the process.
    pub(super) fn signal(self, signal: Signal) {
        let Some(process) = self.0 else { return };
        let sent = if signal == Signal::INT {
            kill_process_group(process, signal)
        } else {
            kill_process(process, signal)
        };
        if let Err(error) = sent {
            tracing::warn!(?signal, %error, "cannot pass a signal on");
        }
    }
}

/// Where the kernel can tell a child of its parent's death, the child is ourselves for a moment, to ask for that.
#[cfg(target_os = "linux")]
fn command_of(command: &[OsString]) -> tokio::process::Command {
    // The running program, also when its file was replaced.
    let mut ours = tokio::process::Command::new("/proc/self/exe");
    ours.arg("exec").arg(std::process::id().to_string()).arg("--").args(command);
    ours
}

#[cfg(not(target_os = "linux"))]
fn command_of(command: &[OsString]) -> tokio::process::Command {
    let (program, arguments) =
        command.split_first().map_or((OsString::new(), &[][..]), |(p, a)| (p.clone(), a));
    let mut theirs = tokio::process::Command::new(program);
    theirs.args(arguments);
    theirs
}

/// `zoogate exec`: becomes the command, which from then on ends with its parent.
pub(super) fn exec(args: &ExecArgs) -> anyhow::Result<std::process::ExitCode> {
    use std::os::unix::process::CommandExt;
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
            .context("cannot be told of the parent's end")?;
        // It may have ended before we asked.
        anyhow::ensure!(
            rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == args.parent),
            "the parent has ended"
        );
    }
    let (program, arguments) = args.command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// The signals that a command's keeper gets: two that end, and those that mean something to the command alone.
pub(super) struct Signals([(Signal, Stream); 6]);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let stream = |ours: Signal, kind| Ok::<_, io::Error>((ours, signal(kind)?));
        Ok(Self([
            stream(Signal::TERM, SignalKind::terminate())?,
            stream(Signal::INT, SignalKind::interrupt())?,
            stream(Signal::HUP, SignalKind::hangup())?,
            stream(Signal::QUIT, SignalKind::quit())?,
            stream(Signal::USR1, SignalKind::user_defined1())?,
            stream(Signal::USR2, SignalKind::user_defined2())?,
        ]))
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        let [first, second, third, fourth, fifth, sixth] = &mut self.0;
        tokio::select! {
            _ = first.1.recv() => first.0,
            _ = second.1.recv() => second.0,
            _ = third.1.recv() => third.0,
            _ = fourth.1.recv() => fourth.0,
            _ = fifth.1.recv() => fifth.0,
            _ = sixth.1.recv() => sixth.0,
        }
    }

    /// The next one that ends us; whatever comes before it goes to the command. Cancel-safe.
    pub(super) async fn stop(&mut self, child: Option<Mailbox>) -> Signal {
        loop {
            match self.next().await {
                stop @ (Signal::TERM | Signal::INT) => return stop,
                other => match child {
                    Some(child) => child.signal(other),
                    // Nobody here for whom these mean anything else than the end.
                    None if matches!(other, Signal::HUP | Signal::QUIT) => return other,
                    None => {}
                },
            }
        }
    }
}
