//! `zoogate elect`: three of them, leaders killed and cut off, and never two commands at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::fault::{Fault, FaultProxy};
use crate::support::gateway::{Scratch, binary, wait_for};
use crate::support::process::Process;
use crate::support::zk;

/// The command: holds an exclusive lock while it runs, and tells who began, who ended, and who found it taken. `$1` is
/// the file to tell in, `$2` what to do on SIGTERM.
const WORK: &str = r#"
exec 9>"$1.lock"
flock -n 9 || echo "overlap $ZOOGATE_ID" >>"$1"
echo "begin $ZOOGATE_ID $ZOOGATE_FENCE $$" >>"$1"
trap "$2" TERM
while :; do sleep 0.1 9>&- & wait; done
"#;
const ENDS: &str = "echo end $ZOOGATE_ID >>$1; exit 7";
const SESSION: Duration = Duration::from_secs(4);

fn elector(connect: &str, id: &str, story: &Path, on_term: &str, grace: &str) -> Process {
    let mut command = binary();
    command
        .args(["elect", "--zookeeper", connect, "--path", "/apps/leader", "--id", id])
        .args(["--session-timeout", "4s", "--grace", grace, "--", "sh", "-c", WORK, "work"])
        .arg(story)
        .arg(on_term);
    Process::start(&mut command)
}

/// What the commands have told.
struct Story(PathBuf);

impl Story {
    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits for the `number`th beginning: who, with which fence, as which process.
    fn begin(&self, number: usize) -> (String, u64, u32) {
        wait_for(&format!("beginning {number} in {:?}", self.lines()), || {
            let lines = self.lines();
            assert!(!lines.iter().any(|line| line.starts_with("overlap")), "two at once: {lines:?}");
            let begin = lines.iter().filter(|line| line.starts_with("begin ")).nth(number)?;
            let mut words = begin.split(' ').skip(1);
            let mut word = || words.next().map(str::to_owned);
            Some((word()?, word()?.parse().ok()?, word()?.parse().ok()?))
        })
    }
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn one_command_runs_at_a_time_while_leaders_are_killed_and_cut_off() {
    zk::chroot("elect").await;
    let scratch = Scratch::new("elect");
    let story = Story(scratch.path().join("story"));
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(FaultProxy::start(&zk::shared().server.address()).await);
    }
    // The proxies need this thread; what waits needs another.
    tokio::task::spawn_blocking(move || never_two(&proxies, &story)).await.unwrap();
}

fn never_two(proxies: &[FaultProxy], story: &Story) {
    let start = |index: usize| {
        let connect = format!("{}/elect", proxies[index].address());
        elector(&connect, &index.to_string(), &story.0, ENDS, "3s")
    };
    let mut electors: Vec<Process> = (0..3).map(start).collect();
    let mut last_fence = 0;
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let (leader, fence, process) = story.begin(round);
        assert!(fence > last_fence, "the fence went from {last_fence} to {fence}");
        last_fence = fence;
        let leader: usize = leader.parse().unwrap();
        let since = Instant::now();
        match round % 3 {
            0 => {
                // The command dies with its elector.
                electors[leader].kill();
                electors[leader].wait();
                wait_for("the command's end", || (!is_alive(process)).then_some(()));
                electors[leader] = start(leader);
                story.begin(round + 1);
            }
            1 => {
                proxies[leader].set(Fault::BlackHole);
                wait_for("the command's end", || (!is_alive(process)).then_some(()));
                assert!(since.elapsed() < SESSION, "stopped only after {:?}", since.elapsed());
                story.begin(round + 1);
                proxies[leader].set(Fault::None);
            }
            _ => {
                proxies[leader].set(Fault::Cut);
                story.begin(round + 1);
                proxies[leader].set(Fault::None);
            }
        }
        slowest = slowest.max(since.elapsed());
        println!("round {round}: the next leader after {:?}", since.elapsed());
    }
    // The session timeout, the server's tick and what a busy machine needs.
    assert!(slowest < SESSION + Duration::from_secs(4), "a new leader only after {slowest:?}");

    let (leader, ..) = story.begin(6);
    let leader: usize = leader.parse().unwrap();
    electors[leader].signal("TERM");
    assert_eq!(electors[leader].wait().code(), Some(7), "the command's own status");
    let handed_over = Instant::now();
    let (next, ..) = story.begin(7);
    assert!(handed_over.elapsed() < SESSION, "a leader that resigns is not waited for");
    for (index, elector) in electors.iter_mut().enumerate().filter(|(index, _)| *index != leader) {
        if index.to_string() != next {
            elector.signal("TERM");
            assert_eq!(elector.wait().code(), Some(0), "a candidate that is told to stop");
        }
    }
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_dead_before_another_is_elected() {
    let connect = zk::chroot("elect-deaf").await;
    let scratch = Scratch::new("elect-deaf");
    let story = Story(scratch.path().join("story"));
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    tokio::task::spawn_blocking(move || never_late(&connect, &proxy, &story)).await.unwrap();
}

fn never_late(connect: &str, proxy: &FaultProxy, story: &Story) {
    let through = format!("{}/elect-deaf", proxy.address());
    let deaf = elector(&through, "deaf", &story.0, "", "5m");
    let (_, _, process) = story.begin(0);
    let _next = elector(connect, "next", &story.0, ENDS, "3s");
    let since = Instant::now();
    proxy.set(Fault::BlackHole);
    wait_for("the command's end", || (!is_alive(process)).then_some(()));
    assert!(since.elapsed() < SESSION, "{:?}", since.elapsed());
    let killed = |line: &str| line.contains("killing it").then_some(());
    deaf.log.find("the killing", killed);
    assert_eq!(story.begin(1).0, "next");
}

#[tokio::test]
async fn an_election_ends_with_its_command_and_says_what_cannot_be_started() {
    let connect = zk::chroot("elect-status").await;
    let elect = |command: &[&str]| {
        let mut all = binary();
        all.args(["elect", "--zookeeper", &connect, "--path", "/leader", "--"]).args(command);
        all.output().unwrap()
    };
    let done = elect(&["sh", "-c", "echo $ZOOGATE_FENCE $ZOOGATE_NODE; exit 5"]);
    assert_eq!(done.status.code(), Some(5));
    let said = String::from_utf8(done.stdout).unwrap();
    let (fence, node) = said.trim().split_once(' ').unwrap();
    assert!(fence.parse::<u64>().unwrap() > 0 && node.starts_with("/elect-status/leader/_c_"), "{said}");
    assert_eq!(elect(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let none = elect(&["/no/such/program"]);
    assert_eq!(none.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&none.stderr).contains("cannot start /no/such/program"));
}
