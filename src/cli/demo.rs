//! `zoogate demo`: a complete first experience, with nothing installed and nothing left behind.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::args::DemoArgs;
use super::run::{Signals, start_log};
use crate::config;
use crate::config::plan::{LogLevel, LogPlan, Plan};
use crate::gateway::{Gateway, Running};
use crate::registry::zookeeper::{ConnectOptions, remove_tree};

const NAMES: [&str; 3] = ["red", "green", "blue"];
/// How often the parent looks whether a child has died.
const LOOK: Duration = Duration::from_millis(100);
/// A command that needs an ensemble gives up after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the demo until Ctrl-C.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let _logs = start_log(&LogPlan { level: LogLevel::Warn, json: false })?;
    super::runtime()?.block_on(demo(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn demo(options: &DemoArgs) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let folder = Folder::new()?;
    let place = format!("/zoogate-demo-{}", std::process::id());
    let plan = plan(options, &folder.0, &place)?;
    // The sockets first: a port in use is told before anything is started.
    let mut running = Gateway::new(plan).start().await?;
    // There is no file to read again.
    drop(running.reload_orders());

    let mut instances = Vec::new();
    for name in NAMES {
        instances.push(Instance::start(name, options, &folder.0, &place).await?);
    }
    let all_up = async {
        running.ready().await;
        while running.table().load().upstream("demo").is_none_or(|u| u.endpoints().len() < NAMES.len()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        up = tokio::time::timeout(PATIENCE, all_up) => up.context("the instances did not appear within 10 s")?,
        () = signals.stop() => return stop(running, instances, options, &place).await,
    }
    tell(options, &running, &instances);
    loop {
        tokio::select! {
            () = signals.stop() => break,
            () = tokio::time::sleep(LOOK) => for instance in &mut instances {
                if instance.has_died() {
                    println!("{} (process {}) is gone", instance.name, instance.child.id());
                }
            }
        }
    }
    stop(running, instances, options, &place).await
}

async fn stop(
    running: Running,
    instances: Vec<Instance>,
    options: &DemoArgs,
    place: &str,
) -> anyhow::Result<()> {
    running.drain(tokio::time::sleep(Duration::from_secs(1))).await;
    for instance in instances {
        instance.stop().await;
    }
    if let Some(connect) = &options.zookeeper {
        remove_tree(&connect_options(connect), place, PATIENCE)
            .await
            .context("cannot remove the demo's nodes")?;
    }
    Ok(())
}

fn plan(options: &DemoArgs, folder: &Path, place: &str) -> anyhow::Result<Plan> {
    let registry = match &options.zookeeper {
        Some(connect) => format!("kind = \"zookeeper\"\nconnect = {}", quoted(connect)),
        None => format!("kind = \"directory\"\npath = {}", quoted(&folder.display().to_string())),
    };
    // Each worker keeps its own turns: one of them shows the instances strictly in turn.
    let text = format!(
        r#"
[gateway]
workers = 1
access_log = "off"
drain_timeout = "1s"
[admin]
listen = "{admin}"
[registries.demo]
{registry}
[services.demo]
path = "{place}/demo"
[services.by-user]
path = "{place}/demo"
balance = {{ policy = "ring", key = "header:x-user" }}
[[listeners]]
name = "demo"
listen = "{listen}"
[[routes]]
path = "/by-user/*"
service = "by-user"
[[routes]]
path = "/*"
service = "demo"
"#,
        admin = options.admin,
        listen = options.listen,
    );
    config::parse(&text, Path::new("."), |_| None, "demo").map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// A TOML string.
fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's; `${` is the configuration's own.
    serde_json::Value::from(text).to_string().replace("${", "$${")
}

fn connect_options(connect: &str) -> ConnectOptions {
    ConnectOptions { connect: connect.to_owned(), session_timeout: Duration::from_secs(4), auth: Vec::new() }
}

fn tell(options: &DemoArgs, running: &Running, instances: &[Instance]) {
    let gateway = running.listeners().first().map_or(options.listen, |l| l.address);
    let admin = running.admin_address();
    let registry = options.zookeeper.as_deref().unwrap_or("a directory, standing in for ZooKeeper");
    println!("zoogate is in front of three instances, registered in {registry}.\n");
    for instance in instances {
        println!("  {:6} http://{}  process {}", instance.name, instance.address, instance.child.id());
    }
    let victim = &instances[instances.len() - 1];
    println!(
        "\nTry, in another terminal:\n\n\
         1. Round robin: each answer comes from the next instance.\n   \
            for i in 1 2 3 4 5 6; do curl -s http://{gateway}/; done\n\n\
         2. Consistent hashing on a header: each user stays with one instance.\n   \
            for user in ann bob cat ann bob cat; do curl -s -H \"x-user: $user\" http://{gateway}/by-user; done\n\n\
         3. Kill an instance: it is gone from the answers at once, and no request fails.\n   \
            kill -9 {pid}; for i in 1 2 3 4 5 6; do curl -s http://{gateway}/; done\n\n\
         What it knows: http://{admin}/api/services   http://{admin}/metrics\n\
         Ctrl-C stops everything and leaves nothing behind.",
        pid = victim.child.id(),
    );
}

/// A directory of our own, removed with us.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("zoogate-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sample instance: a process that registers itself.
struct Instance {
    name: &'static str,
    address: SocketAddr,
    child: Child,
    /// The child serves until this closes, which it does however we end.
    lifeline: Option<ChildStdin>,
    /// Where its registration stands, if that is a file: nobody else removes it when the process dies.
    file: Option<PathBuf>,
}

impl Instance {
    async fn start(
        name: &'static str,
        options: &DemoArgs,
        folder: &Path,
        place: &str,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let parent = format!("{place}/demo");
        let mut command = Command::new(program);
        command.args(["sample-instance", name, "--path", &parent]);
        match &options.zookeeper {
            Some(connect) => command.arg("--zookeeper").arg(connect),
            None => command.arg("--directory").arg(folder),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal reaches the whole group: the children end when the parent is done with them.
            .process_group(0)
            .spawn()
            .context("cannot start an instance")?;
        let lifeline = child.stdin.take();
        let stdout = child.stdout.take().context("an instance has no output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = line.await.context("the reader of an instance's address ended")??;
        let address = line.trim().parse().with_context(|| format!("instance {name} did not start"))?;
        let file = options.zookeeper.is_none().then(|| folder.join(&parent[1..]).join(name));
        Ok(Self { name, address, child, lifeline, file })
    }

    /// Whether the process has ended since the last look. Its registration ends with it, as a session would.
    fn has_died(&mut self) -> bool {
        let died = self.lifeline.is_some() && matches!(self.child.try_wait(), Ok(Some(_)));
        if died {
            self.lifeline = None;
            if let Some(file) = &self.file {
                let _ = std::fs::remove_file(file);
            }
        }
        died
    }

    /// Lets the process end by itself, its registration first.
    async fn stop(mut self) {
        self.lifeline = None;
        let ended = tokio::task::spawn_blocking(move || {
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        });
        let _ = ended.await;
    }
}
