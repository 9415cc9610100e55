//! The real binary as a child process, found by what it logs.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::http::{self, Answer};
use super::process::Process;
pub use super::wait::{PATIENCE, wait_for};

/// The binary built with the tests; `ZOOGATE_TEST_BINARY` names another, such as one built for release.
pub fn binary() -> Command {
    let other = std::env::var_os("ZOOGATE_TEST_BINARY");
    Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_zoogate").into()))
}

/// A folder of the test's own, removed with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zoogate-{}-{unique}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, &path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lines of a stream, kept, and awaited.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let sink = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                sink.0.0.lock().unwrap().push(line);
                sink.0.1.notify_all();
            }
        });
        lines
    }

    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap().clone()
    }

    /// The first line that `wanted` finds something in, now or later.
    pub fn find<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut lines = self.0.0.lock().unwrap();
        loop {
            while seen < lines.len() {
                if let Some(found) = wanted(&lines[seen]) {
                    return found;
                }
                seen += 1;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = lines.join("\n");
                // Who prints the lines on the way out locks them again.
                drop(lines);
                panic!("no {what} in:\n{all}");
            }
            lines = self.0.1.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// A running `zoogate run`.
pub struct Gateway {
    process: Process,
    pub config: PathBuf,
    pub log: Lines,
    pub out: Lines,
    pub admin: SocketAddr,
    scratch: Scratch,
    drifts: AtomicBool,
}

impl Drop for Gateway {
    /// Whatever a test was about: what events tell is the truth.
    fn drop(&mut self) {
        if !self.drifts.load(Ordering::Relaxed) && !std::thread::panicking() {
            let drift = self.log.all().into_iter().find(|line| line.contains("no event had told"));
            assert_eq!(drift, None, "an audit found what no event had told");
        }
    }
}

/// A directory registry in `./services`, and a listener `public`: what most tests begin with.
pub const LOCAL: &str = "\
[gateway]
workers = 1
[registries.local]
kind = \"directory\"
path = \"services\"
[[listeners]]
name = \"public\"
listen = \"127.0.0.1:0\"
";

/// `LOCAL`, a service `orders` and a route of everything to it.
pub const ORDERS: &str = "\
[gateway]
workers = 1
[registries.local]
kind = \"directory\"
path = \"services\"
[[listeners]]
name = \"public\"
listen = \"127.0.0.1:0\"
[services.orders]
path = \"/orders\"
[[routes]]
path = \"/*\"
service = \"orders\"
";

impl Gateway {
    /// Runs a configuration: `[admin]` on a free port is put before it; its listeners should end in `:0`.
    pub fn start(name: &str, config: &str) -> Self {
        Self::start_with(name, config, |_| {})
    }

    /// The same, with so many descriptors to open.
    pub fn start_limited(name: &str, config: &str, descriptors: usize) -> Self {
        let scratch = Scratch::new(name);
        let config = scratch.write("zoogate.toml", &with_admin(config));
        let run = format!("ulimit -n {descriptors}; exec \"$0\" run --config \"$1\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(run).arg(binary().get_program()).arg(&config);
        Self::found(Process::start(&mut command), config, scratch)
    }

    fn found(process: Process, config: PathBuf, scratch: Scratch) -> Self {
        let (log, out) = (process.log.clone(), process.out.clone());
        let admin = log.find("admin address", |line| address_in(line, "admin listening"));
        Self { process, config, log, out, admin, scratch, drifts: AtomicBool::new(false) }
    }

    /// The same, after `prepare` has worked in the configuration's folder.
    pub fn start_with(name: &str, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new(name);
        prepare(scratch.path());
        let config = scratch.write("zoogate.toml", &with_admin(config));
        let process = Process::start(binary().args(["run", "--config"]).arg(&config));
        Self::found(process, config, scratch)
    }

    /// Its events are lost on purpose.
    pub fn may_drift(&self) {
        self.drifts.store(true, Ordering::Relaxed);
    }

    /// The folder of its configuration file.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a registration into the directory registry `services`; `node` as `orders/a`.
    pub fn register(&self, node: &str, payload: impl std::fmt::Display) {
        self.scratch.write(&format!("services/{node}"), &payload.to_string());
    }

    pub fn withdraw(&self, node: &str) {
        std::fs::remove_file(self.folder().join("services").join(node)).unwrap();
    }

    /// A GET of the listener `public`.
    pub fn get(&self, path: &str) -> Answer {
        http::get(self.listener("public"), path)
    }

    /// Waits until an instance has this state.
    pub fn state(&self, service: &str, id: &str, state: &str) {
        wait_for(&format!("{service}/{id} is {state}"), || {
            let view = self.json(&format!("/api/services/{service}"));
            view["instances"].as_array()?.iter().find(|i| i["id"] == id && i["state"] == state).map(drop)
        });
    }

    /// The address of a listener.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let quoted = format!("listener=\"{name}\"");
        let bare = format!("listener={name} ");
        self.log.find(&format!("listener {name}"), |line| {
            let ours = line.contains(&quoted) || line.contains(&bare);
            if ours { address_in(line, "listening") } else { None }
        })
    }

    /// Replaces the configuration file and asks for a reload.
    pub fn reload(&self, config: &str) {
        self.scratch.write("zoogate.toml", &with_admin(config));
        self.signal("HUP");
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// An admin answer.
    pub fn admin(&self, path: &str) -> Answer {
        http::get(self.admin, path)
    }

    /// An admin answer as JSON.
    pub fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.admin(path);
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.body))
    }

    pub fn ready(&self) {
        wait_for("readiness", || (self.admin("/readyz").status == 200).then_some(()));
    }

    /// Waits until a service has exactly these instance ids, whatever their state.
    pub fn instances(&self, service: &str, ids: &[&str]) {
        wait_for(&format!("{service} = {ids:?}"), || {
            let view = self.json(&format!("/api/services/{service}"));
            let found: Vec<_> =
                view["instances"].as_array()?.iter().filter_map(|i| i["id"].as_str()).collect();
            (found == ids).then_some(())
        });
    }

    /// The value of a series, by its name and labels as they are printed.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin("/metrics").body;
        text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }
}

fn with_admin(config: &str) -> String {
    format!("[admin]\nlisten = \"127.0.0.1:0\"\n{config}")
}

fn address_in(line: &str, message: &str) -> Option<SocketAddr> {
    let rest = line.contains(message).then(|| line.split("address=").nth(1))??;
    rest.split_whitespace().next()?.trim_matches('"').parse().ok()
}

pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap();
    assert!(sent.success(), "kill -{name} {process}");
}
