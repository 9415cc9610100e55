//! The programs under `examples/`, run for real.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::Process;

/// Starts an example.
pub fn start(name: &str, arguments: &[&str]) -> Process {
    Process::start(Command::new(built(name)).args(arguments))
}

/// The address in the line that begins with `before` and goes on with `after`.
pub fn address(example: &Process, before: &str, after: &str) -> SocketAddr {
    example.out.find("address", |line| line.strip_prefix(before)?.strip_suffix(after)?.parse().ok())
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
