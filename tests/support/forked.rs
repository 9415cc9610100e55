//! Recording instances as processes of their own, which signals can kill and stop.
//!
//! Such a process is this very test binary, told to run [`serve`] and nothing else. It writes each request to a file
//! before it answers, so that what it had done is known after its death.

use std::fs::OpenOptions;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::instance::{Instance, Request};
use super::load::Witness;
use super::process::Process;
use super::zk::free_port;

/// The test that is an instance, and what it is to be: name, address, file, milliseconds before each answer.
const TEST: &str = "faults::an_instance_of_its_own";
const TOLD: &str = "ZOOGATE_TEST_INSTANCE";

/// A process that serves. Killed when dropped.
pub struct Forked {
    pub name: String,
    pub address: SocketAddr,
    process: Process,
    record: PathBuf,
    delay: Duration,
}

impl Forked {
    /// Its record is a file of its name in `folder`.
    pub fn start(name: &str, folder: &Path, delay: Duration) -> Self {
        // A port that nobody takes while the process is dead.
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self::start_at(name, address, folder.join(name), delay)
    }

    fn start_at(name: &str, address: SocketAddr, record: PathBuf, delay: Duration) -> Self {
        let told = format!("{name} {address} {} {}", record.display(), delay.as_millis());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--ignored", "--nocapture"]).env(TOLD, told);
        let process = Process::start_leashed(&mut command);
        process.out.find("that it serves", |line| line.contains("serving").then_some(()));
        Self { name: name.to_owned(), address, process, record, delay }
    }

    /// Another process of the same name at the same address, with the same record. The one before must be gone.
    pub fn again(self) -> Self {
        let (name, address, record, delay) =
            (self.name.clone(), self.address, self.record.clone(), self.delay);
        drop(self);
        Self::start_at(&name, address, record, delay)
    }

    /// SIGKILL; returns once it is gone, with its sockets.
    pub fn kill(&mut self) {
        self.process.kill();
        self.process.wait();
    }

    /// How many requests it has written down.
    pub fn count(&self) -> usize {
        self.requests().len()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }
}

impl Witness for Forked {
    fn name(&self) -> &str {
        &self.name
    }

    fn requests(&self) -> Vec<Request> {
        let record = std::fs::read_to_string(&self.record).unwrap_or_default();
        record.lines().map(|line| Request::from_line(line).expect("a line of a record")).collect()
    }
}

/// What the process does: serves until its input ends. Nothing where it was told nothing.
pub fn serve() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let [name, address, record, delay] = told.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{TOLD}: {told}")
    };
    let record = OpenOptions::new().create(true).append(true).open(record).unwrap();
    let instance = Instance::start_recording(name, address.parse().unwrap(), Some(record));
    instance.delay(Duration::from_millis(delay.parse().unwrap()));
    println!("{} is serving", instance.name);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
