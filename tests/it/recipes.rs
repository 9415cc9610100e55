//! The recipes against a real server: who holds what, and what is left when an answer is lost or a holder dies.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use zoogate::recipes::{
    Barrier, ConnectOptions, Counter, DoubleBarrier, Doubt, Election, Lock, Queue, RecipeError, Session,
};
use zookeeper_client::Client;

use crate::support::fault::{Fault, FaultProxy};
use crate::support::wait::until;
use crate::support::zk;

/// However slow the machine: what has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(connect: &str) -> ConnectOptions {
    ConnectOptions { session_timeout: Duration::from_secs(5), ..ConnectOptions::new(connect) }
}

async fn session(connect: &str) -> Session {
    Session::connect(&options(connect), PATIENCE).await.unwrap().with_patience(PATIENCE)
}

/// A relay to the shared server, and the connect string through it.
async fn relayed(chroot: &str) -> (FaultProxy, String) {
    let proxy = FaultProxy::start(&zk::shared().server.address()).await;
    let connect = format!("{}/{chroot}", proxy.address());
    (proxy, connect)
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The children of a node, none where it is missing.
async fn children(client: &Client, path: &str) -> Vec<String> {
    let mut names = client.list_children(path).await.unwrap_or_default();
    names.sort();
    names
}

async fn until_children(client: &Client, path: &str, what: &str, wanted: impl Fn(&[String]) -> bool) {
    until(what, async || wanted(&children(client, path).await).then_some(())).await;
}

#[tokio::test]
async fn candidates_lead_one_after_the_other_with_growing_fences_and_each_watches_only_the_one_ahead() {
    let connect = zk::chroot("election-line").await;
    let client = zk::client(&connect).await;
    let leading = Arc::new(AtomicUsize::new(0));
    let mut candidates = JoinSet::new();
    let (elected, mut terms) = tokio::sync::mpsc::channel(1);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    for number in 0..5 {
        let election = Election::new(options(&connect), "/apps/leader").id(format!("candidate-{number}"));
        let (leading, elected, gate) = (Arc::clone(&leading), elected.clone(), Arc::clone(&gate));
        candidates.spawn(async move {
            let leadership = election.campaign().await.unwrap();
            assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
            elected.send(leadership.fence()).await.unwrap();
            gate.acquire().await.unwrap().forget();
            assert!(leadership.is_certain());
            leading.fetch_sub(1, Ordering::SeqCst);
            leadership.resign().await.unwrap();
        });
    }
    until_children(&client, "/apps/leader", "five candidates", |names| names.len() == 5).await;
    let mut fences = vec![soon("a first leader", terms.recv()).await.unwrap()];

    // Every node but the last is watched by the one behind it, and by nobody else.
    let line = children(&client, "/apps/leader").await;
    until("four watches", async || {
        let watches = zk::shared().server.ask("wchp").unwrap_or_default();
        let ours: Vec<usize> = watches
            .split("\n/")
            .filter(|path| path.trim_start_matches('/').starts_with("election-line/apps/leader/"))
            .map(|path| path.lines().filter(|line| line.starts_with('\t')).count())
            .collect();
        assert!(ours.iter().all(|watchers| *watchers <= 1), "a herd: {watches}");
        (ours.len() == line.len() - 1).then_some(())
    })
    .await;

    for _ in 0..4 {
        gate.add_permits(1);
        fences.push(soon("the next leader", terms.recv()).await.unwrap());
    }
    gate.add_permits(1);
    while let Some(candidate) = candidates.join_next().await {
        candidate.unwrap();
    }
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
    until_children(&client, "/apps/leader", "an empty line", <[String]>::is_empty).await;
}

#[tokio::test]
async fn a_leader_cut_off_is_in_doubt_before_anybody_else_can_lead() {
    for fault in [Fault::BlackHole, Fault::Cut] {
        let name = format!("election-{fault:?}").to_lowercase();
        let connect = zk::chroot(&name).await;
        let (proxy, through) = relayed(&name).await;
        let first = soon("a leader", Election::new(options(&through), "/leader").campaign()).await.unwrap();
        let second = Election::new(options(&connect), "/leader");
        let second = tokio::spawn(async move { (second.campaign().await.unwrap(), Instant::now()) });
        let client = zk::client(&connect).await;
        until_children(&client, "/leader", "a second candidate", |names| names.len() == 2).await;
        assert!(first.is_certain());

        proxy.set(fault);
        let doubt = soon("doubt", first.doubted()).await;
        let doubted = Instant::now();
        assert!(matches!(doubt, Doubt::Disconnected | Doubt::Silence), "{doubt:?}");
        assert!(!first.is_certain());
        assert!(doubted < first.ours_until(), "doubt came too late");
        let ours_until = first.ours_until();
        let (next, elected) = soon("the next leader", second).await.unwrap();
        assert!(elected > ours_until, "{:?} early", ours_until - elected);
        assert!(next.fence() > first.fence());
        proxy.set(Fault::None);
        assert!(!first.is_certain(), "doubt stays");
        drop(first);
        assert!(next.is_certain());
        soon("the end", next.resign()).await.unwrap();
    }
}

#[tokio::test]
async fn a_deposed_leader_cannot_overwrite_what_a_newer_one_wrote() {
    let connect = zk::chroot("election-fenced").await;
    let client = zk::client(&connect).await;
    let old = soon("a leader", Election::new(options(&connect), "/leader").campaign()).await.unwrap();
    assert!(old.write("/decision", b"old", None).await.unwrap());
    assert!(!old.write("/decision", b"old", None).await.unwrap(), "it is there");
    assert!(!old.write("/decision", b"old", Some(7)).await.unwrap(), "another version");
    let node = old.node().strip_prefix("/election-fenced").unwrap().to_owned();
    client.delete(&node, None).await.unwrap();
    let new = soon("a leader", Election::new(options(&connect), "/leader").campaign()).await.unwrap();
    assert!(new.fence() > old.fence());
    let late = old.write("/decision", b"late", Some(0)).await.unwrap_err();
    assert!(matches!(late, RecipeError::Gone { .. }), "{late}");
    assert_eq!(client.get_data("/decision").await.unwrap().0, b"old");
    assert!(new.write("/decision", b"new", Some(0)).await.unwrap());
    assert_eq!(client.get_data("/decision").await.unwrap().0, b"new");
}

#[tokio::test]
async fn a_leader_whose_node_is_deleted_by_hand_is_in_doubt() {
    let connect = zk::chroot("election-deleted").await;
    let client = zk::client(&connect).await;
    let leader = soon("a leader", Election::new(options(&connect), "/leader").campaign()).await.unwrap();
    let node = leader.node();
    let below = node.strip_prefix("/election-deleted").unwrap();
    client.delete(below, None).await.unwrap();
    assert_eq!(soon("doubt", leader.doubted()).await, Doubt::Gone);
}

#[tokio::test]
async fn what_was_made_by_a_request_whose_answer_was_lost_is_found_again() {
    let connect = zk::chroot("lost-answers").await;
    let client = zk::client(&connect).await;
    for what in ["election", "numbered", "lock", "queue", "counter"] {
        let (proxy, through) = relayed("lost-answers").await;
        // Long: the session is alive all through, so that nothing goes by itself.
        let options =
            ConnectOptions { session_timeout: Duration::from_secs(60), ..ConnectOptions::new(through) };
        let path = format!("/{what}");
        client.mkdir(&path, &zk::OPEN).await.unwrap();
        let session = Session::connect(&options, PATIENCE).await.unwrap().with_patience(PATIENCE);
        match what {
            "lock" => {
                proxy.lose_answers(2);
                let guard = soon("a lock", Lock::new(session, &path).acquire(PATIENCE)).await.unwrap();
                until_children(&client, &path, "one node in the line", |names| names.len() == 1).await;
                guard.release().await.unwrap();
            }
            "queue" => {
                let queue = Queue::new(session, &path);
                queue.put(b"first").await.unwrap();
                proxy.lose_answers(3);
                soon("an item in the queue", queue.put(b"second")).await.unwrap();
                assert_eq!(children(&client, "/queue/items").await.len(), 2, "put twice, or never");
                assert_eq!(queue.len().await.unwrap(), 2);
            }
            "counter" => {
                let counter = Counter::new(session, "/counter/top");
                proxy.lose_answers(2);
                let first = soon("a number", counter.next()).await.unwrap();
                assert!((1..=3).contains(&first), "{first}");
                assert_eq!(counter.next().await.unwrap(), first + 1);
            }
            kind => {
                drop(session);
                let election = Election::new(options, &path);
                let election = if kind == "numbered" { election.numbered() } else { election };
                proxy.lose_answers(1);
                let leadership = soon("a leader", election.campaign()).await.unwrap();
                assert_eq!(children(&client, &path).await.len(), 1);
                leadership.resign().await.unwrap();
            }
        }
        assert_eq!(proxy.answers_to_lose(), 0, "nothing was lost for the {what}");
        if what != "queue" && what != "counter" {
            until_children(&client, &path, "an empty line", <[String]>::is_empty).await;
        }
    }
}

#[tokio::test]
async fn a_lock_is_had_by_one_at_a_time_in_the_order_of_their_coming() {
    let connect = zk::chroot("lock-order").await;
    let client = zk::client(&connect).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let first = Lock::new(session(&connect).await, "/a/lock").acquire(PATIENCE).await.unwrap();
    let mut waiting = JoinSet::new();
    for number in 0..4 {
        let (lock, order) = (Lock::new(session(&connect).await, "/a/lock"), Arc::clone(&order));
        waiting.spawn(async move {
            let guard = lock.acquire(PATIENCE).await.unwrap();
            order.lock().unwrap().push((number, guard.fence()));
            if number % 2 == 0 { guard.release().await.unwrap() } else { drop(guard) }
        });
        until_children(&client, "/a/lock", "one more", |names| names.len() == number + 2).await;
    }
    assert!(order.lock().unwrap().is_empty());
    let fence = first.fence();
    first.release().await.unwrap();
    while let Some(done) = soon("all of them", waiting.join_next()).await {
        done.unwrap();
    }
    let order = order.lock().unwrap().clone();
    assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(order[0].1 > fence && order.windows(2).all(|pair| pair[0].1 < pair[1].1), "{order:?}");
    until_children(&client, "/a/lock", "an empty line", <[String]>::is_empty).await;
}

#[tokio::test]
async fn who_gives_up_a_lock_leaves_no_node_in_the_line_and_a_stolen_one_is_in_doubt() {
    let connect = zk::chroot("lock-timeout").await;
    let client = zk::client(&connect).await;
    let guard = Lock::new(session(&connect).await, "/lock").acquire(PATIENCE).await.unwrap();
    let other = session(&connect).await;
    let refused = Lock::new(other.clone(), "/lock").acquire(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(refused, RecipeError::TimedOut { .. }), "{refused}");
    until_children(&client, "/lock", "the holder alone", |names| names.len() == 1).await;
    assert!(guard.is_certain());
    let node = guard.node().strip_prefix("/lock-timeout").unwrap().to_owned();
    client.delete(&node, None).await.unwrap();
    assert_eq!(soon("doubt", guard.doubted()).await, Doubt::Gone);
    let next = Lock::new(other, "/lock").acquire(PATIENCE).await.unwrap();
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_barrier_holds_while_its_node_exists() {
    let connect = zk::chroot("barrier").await;
    let (ours, theirs) = (session(&connect).await, session(&connect).await);
    let barrier = Barrier::new(ours, "/maintenance/orders");
    soon("nothing", barrier.wait(PATIENCE)).await.unwrap();
    barrier.raise().await.unwrap();
    barrier.raise().await.unwrap();
    let other = Barrier::new(theirs, "/maintenance/orders");
    assert!(other.stands().await.unwrap());
    let late = other.wait(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(late, RecipeError::TimedOut { .. }), "{late}");
    let waiting = tokio::spawn(async move { other.wait(PATIENCE).await });
    barrier.lift().await.unwrap();
    barrier.lift().await.unwrap();
    soon("the barrier to be lifted", waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_double_barrier_lets_members_in_and_out_together() {
    let connect = zk::chroot("double-barrier").await;
    let client = zk::client(&connect).await;
    let (inside, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let alone = DoubleBarrier::new(session(&connect).await, "/jobs/1", 3);
    let gave_up = alone.enter(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(gave_up, RecipeError::TimedOut { .. }), "{gave_up}");
    until_children(&client, "/jobs/1", "nobody", <[String]>::is_empty).await;
    for _round in 0..2 {
        let mut members = JoinSet::new();
        for number in 0..3 {
            if number == 2 {
                until_children(&client, "/jobs/1", "two members", |names| names.len() == 2).await;
                assert_eq!(inside.load(Ordering::SeqCst), 0);
            }
            let barrier = DoubleBarrier::new(session(&connect).await, "/jobs/1", 3);
            let (inside, finished) = (Arc::clone(&inside), Arc::clone(&finished));
            members.spawn(async move {
                let member = barrier.enter(PATIENCE).await.unwrap();
                inside.fetch_add(1, Ordering::SeqCst);
                finished.fetch_add(1, Ordering::SeqCst);
                member.leave(PATIENCE).await.unwrap();
                assert_eq!(finished.load(Ordering::SeqCst), 3, "one was let out while another was at it");
            });
        }
        while let Some(done) = soon("all members", members.join_next()).await {
            done.unwrap();
        }
        inside.store(0, Ordering::SeqCst);
        finished.store(0, Ordering::SeqCst);
        until_children(&client, "/jobs/1", "nobody", <[String]>::is_empty).await;
    }
}

#[tokio::test]
async fn a_queue_is_in_order_and_an_item_survives_who_took_it() {
    let connect = zk::chroot("queue").await;
    let producer = Queue::new(session(&connect).await, "/work/jobs").with_capacity(4);
    for item in ["a", "b", "c", "d"] {
        producer.put(item.as_bytes()).await.unwrap();
    }
    let full = producer.put(b"e").await.unwrap_err();
    assert!(full.to_string().contains("full"), "{full}");

    let (proxy, through) = relayed("queue").await;
    let mortal = Queue::new(session(&through).await, "/work/jobs");
    let taken = mortal.take(PATIENCE).await.unwrap();
    assert_eq!(taken.data(), b"a");
    let consumer = Queue::new(session(&connect).await, "/work/jobs");
    let second = consumer.take(PATIENCE).await.unwrap();
    assert_eq!(second.data(), b"b", "what another works on is not given out");
    second.done().await.unwrap();
    let third = consumer.take(PATIENCE).await.unwrap();
    assert_eq!(third.data(), b"c");
    third.give_back().await.unwrap();
    assert_eq!(producer.len().await.unwrap(), 3);

    // Its consumer dies; its claim goes with the session.
    proxy.set(Fault::BlackHole);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let item = soon("an item", consumer.take(PATIENCE)).await.unwrap();
        seen.push(String::from_utf8(item.data().to_vec()).unwrap());
        item.done().await.unwrap();
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
    assert!(seen.contains(&"a".to_owned()) && consumer.is_empty().await.unwrap(), "{seen:?}");
    proxy.set(Fault::None);
    let late = soon("an answer", taken.done()).await.unwrap_err();
    assert!(matches!(late, RecipeError::Gone { .. } | RecipeError::SessionLost { .. }), "{late}");

    let waiting = tokio::spawn(async move { consumer.take(PATIENCE).await.unwrap().data().to_vec() });
    producer.put(b"f").await.unwrap();
    assert_eq!(soon("the item that comes", waiting).await.unwrap(), b"f");
}

#[tokio::test]
async fn a_counter_gives_every_number_once() {
    let connect = zk::chroot("counter").await;
    let mut counting = JoinSet::new();
    for _ in 0..4 {
        let counter = Counter::new(session(&connect).await, "/data/zdata1/top");
        counting.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..25 {
                mine.push(counter.next().await.unwrap());
            }
            mine
        });
    }
    let mut all = Vec::new();
    while let Some(numbers) = soon("all counts", counting.join_next()).await {
        all.extend(numbers.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (1..=100).collect::<Vec<u64>>());
    let client = zk::client(&connect).await;
    assert_eq!(client.get_data("/data/zdata1/top").await.unwrap().0, b"100");
    client.set_data("/data/zdata1/top", b"many", None).await.unwrap();
    let refused = Counter::new(session(&connect).await, "/data/zdata1/top").next().await.unwrap_err();
    assert!(refused.to_string().contains("no number"), "{refused}");
}

#[tokio::test]
async fn what_cannot_succeed_is_refused_at_once_or_in_time() {
    let address = format!("127.0.0.1:{}", zk::free_port());
    let error = Session::connect(&options(&address), Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    let connect = zk::chroot("recipes-refused").await;
    for path in ["a", "/a//b", "/a/../b", "/a\nb"] {
        let error = Election::new(options(&connect), path).campaign().await.unwrap_err();
        assert!(matches!(error, RecipeError::Refused { .. }), "{path}: {error}");
    }
    // A call on a session without connection ends, too.
    let (proxy, through) = relayed("recipes-refused").await;
    let cut = session(&through).await.with_patience(Duration::from_millis(500));
    proxy.set(Fault::Cut);
    let error = Counter::new(cut, "/top").next().await.unwrap_err();
    assert!(matches!(error, RecipeError::TimedOut { .. }), "{error}");
}
