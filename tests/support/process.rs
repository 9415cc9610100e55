//! A program under test as a child process: what it says is kept, it ends with the test, and a failed test shows it.

use std::process::{Child, Command, ExitStatus, Stdio};

use super::gateway::{Lines, signal};
use super::wait::wait_for;

/// A running program.
pub struct Process {
    child: Child,
    /// Standard output.
    pub out: Lines,
    /// Standard error.
    pub log: Lines,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self::start_from(command, Stdio::null())
    }

    /// One that reads its standard input to know when the test is gone, however that ended.
    pub fn start_leashed(command: &mut Command) -> Self {
        Self::start_from(command, Stdio::piped())
    }

    fn start_from(command: &mut Command, input: Stdio) -> Self {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let out = Lines::of(child.stdout.take().unwrap());
        let log = Lines::of(child.stderr.take().unwrap());
        Self { child, out, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for this line of standard output.
    pub fn says(&self, wanted: &str) {
        self.out.find(wanted, |line| (line == wanted).then_some(()));
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a process", || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- process {} said\n{}", self.child.id(), self.out.all().join("\n"));
            eprintln!("--- and logged\n{}", self.log.all().join("\n"));
        }
    }
}

/// How many descriptors a process has open.
pub fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Resident memory of a process in KiB.
pub fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
