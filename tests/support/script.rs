//! Programs that are not ours: Python scripts of `support/py/`, and commands such as curl.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Instant;

use super::gateway::{Lines, PATIENCE};

/// The interpreter with kazoo, grpcio and websockets.
/// The interpreter with everything that scripts of ours import.
pub fn python() -> PathBuf {
    std::env::var_os("ZOOGATE_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let bundled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/venv/bin/python"));
        assert!(bundled.exists(), "no {}: run ./test.sh setup", bundled.display());
        bundled
    })
}

fn path_of(script: &str) -> String {
    format!("{}/tests/support/py/{script}", env!("CARGO_MANIFEST_DIR"))
}

/// The command that runs a script.
pub fn command(script: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(path_of(script));
    command
}

/// A script that runs beside the test, and ends with it.
pub struct Script {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines,
    read: usize,
}

impl Script {
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        Self::run(Command::new(python()).arg(path_of(script)).args(arguments))
    }

    /// Any program that reads and writes lines.
    pub fn run(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let lines = Lines::of(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), child, lines, read: 0 }
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let wanted = self.read;
        let mut index = 0;
        let line = self.lines.find(&format!("line {wanted} of a script"), |line| {
            index += 1;
            (index > wanted).then(|| line.to_owned())
        });
        self.read += 1;
        line
    }

    /// Writes a line, and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        self.line()
    }

    /// Ends its input, and returns what it says then.
    pub fn finish(&mut self) -> String {
        drop(self.input.take());
        self.line()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a script to its end, and returns what it printed.
pub fn run_script(script: &str, arguments: &[&str]) -> String {
    let output = finish(Command::new(python()).arg(path_of(script)).args(arguments));
    assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs curl, silent but for errors, and returns what it printed.
pub fn curl(arguments: &[&str]) -> String {
    let output = finish(Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments));
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command prints, and its status. One that does not end in time is killed, and fails the test.
pub fn finish(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let out = std::thread::spawn(drain(child.stdout.take().unwrap()));
    let err = std::thread::spawn(drain(child.stderr.take().unwrap()));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} does not end: {}", String::from_utf8_lossy(&err.join().unwrap()));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn drain(mut stream: impl std::io::Read + Send + 'static) -> impl FnOnce() -> Vec<u8> + Send {
    move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    }
}
