//! The demo as a newcomer sees it.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::commands::text;
use crate::support::gateway::{Lines, binary, signal, wait_for};
use crate::support::script::finish;
use crate::support::zk;

struct Demo {
    child: Child,
    lines: Lines,
    temp: PathBuf,
}

impl Demo {
    fn start(more: &[&str]) -> Self {
        let temp = std::env::temp_dir().join(format!("zoogate-demo-test-{}", fastrand::u64(..)));
        std::fs::create_dir(&temp).unwrap();
        let mut command = binary();
        command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(more);
        command.env("TMPDIR", &temp).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        Self { child, lines, temp }
    }

    /// What it prints, once all of it is there.
    fn told(&self) -> Vec<String> {
        self.lines.find("the last line", |line| line.contains("Ctrl-C").then_some(()));
        self.lines.all()
    }

    fn commands(&self) -> Vec<String> {
        let told = self.told();
        told.iter()
            .map(|l| l.trim())
            .filter(|l| l.starts_with("for ") || l.starts_with("kill "))
            .map(str::to_owned)
            .collect()
    }

    /// The process ids of its instances.
    fn instances(&self) -> Vec<u32> {
        let told = self.told();
        told.iter().filter_map(|l| l.split_once("  process ")?.1.trim().parse().ok()).collect()
    }

    /// Interrupts it; nothing is left.
    fn end(mut self) {
        let instances = self.instances();
        assert_eq!(instances.len(), 3);
        signal(self.child.id(), "INT");
        let status = wait_for("the demo's end", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        for process in instances {
            assert!(!PathBuf::from(format!("/proc/{process}")).exists(), "{process} is still there");
        }
        let left: Vec<_> = std::fs::read_dir(&self.temp).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.temp);
    }
}

fn shell(command: &str) -> Vec<String> {
    let output = finish(Command::new("sh").args(["-c", command]));
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    output.stdout.lines().map(Result::unwrap).collect()
}

#[test]
fn the_three_commands_show_what_they_promise_and_nothing_is_left_behind() {
    let started = Instant::now();
    let demo = Demo::start(&[]);
    let commands = demo.commands();
    let took = started.elapsed();
    println!("the demo was up after {took:?}");
    // Alone on a machine it takes a tenth of this promise; here many tests run beside it.
    assert!(took.as_secs() < 10, "{took:?}");
    assert_eq!(commands.len(), 3, "{commands:?}");

    let turns = shell(&commands[0]);
    assert_eq!(turns.len(), 6);
    let all: BTreeSet<_> = turns.iter().collect();
    assert_eq!(all.len(), 3, "{turns:?}");

    let users = shell(&commands[1]);
    assert_eq!(users.len(), 6);
    assert_eq!(users[..3], users[3..], "a user stays with an instance");

    let left = shell(&commands[2]);
    assert_eq!(left.len(), 6);
    let left: BTreeSet<_> = left.iter().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.is_subset(&all));
    demo.lines.find("the death", |line| line.contains("is gone").then_some(()));
    demo.end();
}

#[test]
fn a_killed_demo_takes_its_instances_along() {
    let mut demo = Demo::start(&[]);
    let instances = demo.instances();
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    wait_for("the instances to end", || {
        let alive = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        (!instances.iter().any(alive)).then_some(())
    });
}

#[test]
fn the_demo_works_on_a_real_ensemble_and_removes_its_nodes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connect = runtime.block_on(zk::chroot("demo"));
    let demo = Demo::start(&["--zookeeper", &connect]);
    let commands = demo.commands();
    let turns: BTreeSet<_> = shell(&commands[0]).into_iter().collect();
    assert_eq!(turns.len(), 3, "{turns:?}");
    shell(&commands[1]);
    let left: BTreeSet<_> = shell(&commands[2]).into_iter().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    demo.end();
    let children = runtime.block_on(async { zk::client(&connect).await.list_children("/").await.unwrap() });
    assert!(children.is_empty(), "{children:?}");
}
