//! The programs under `examples/`, run for real.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use super::gateway::{Lines, PATIENCE, signal};

/// A running example.
pub struct Example {
    child: Child,
    pub out: Lines,
    log: Lines,
}

impl Example {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(built(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let log = Lines::of(child.stderr.take().unwrap());
        Self { child, out, log }
    }

    /// The address in the line that begins with `before` and goes on with `after`.
    pub fn address(&self, before: &str, after: &str) -> SocketAddr {
        self.out.find("address", |line| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok())
    }

    /// Waits for this line.
    pub fn says(&self, wanted: &str) {
        self.out.find(wanted, |line| (line == wanted).then_some(()));
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.out.all().join("\n"));
            std::thread::yield_now();
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the example said\n{}", self.out.all().join("\n"));
            eprintln!("--- and logged\n{}", self.log.all().join("\n"));
        }
    }
}

/// The example's program. Cargo builds examples for `cargo test` as a whole, but not for one test binary of it.
fn built(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_zoogate")).parent().unwrap();
        let name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let build = ["build", "--quiet", "--locked", "--offline", "--examples", "--profile", name];
        let built = Command::new(env!("CARGO")).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success(), "the examples do not build");
        profile.join("examples")
    });
    folder.join(name)
}
