//! SIGKILL to one of three instances, again and again, under a constant load. Their nodes stay, as those of a session
//! that has not expired yet.

use std::time::{Duration, Instant};

use zookeeper_client::Client;

use super::killed::{Killed, only_in_flight};
use super::{long, random};
use crate::support::background::Background;
use crate::support::forked::Forked;
use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::load::{Load, check};
use crate::support::zk::{self, EPHEMERAL, OPEN};

const CLIENTS: usize = 8;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Long enough that there always is something in flight.
const SERVICE: Duration = Duration::from_millis(10);

/// Registers instances in a session of 30 s, which lives as long as the client.
async fn register(connect: &str, instances: &[Forked]) -> Client {
    let session = Client::connector().with_session_timeout(Duration::from_secs(30)).connect(connect);
    let session = session.await.unwrap();
    session.create("/orders", b"", &OPEN).await.unwrap();
    for instance in instances {
        let (path, data) = (format!("/orders/{}", instance.name), instance.address.to_string());
        session.create(&path, data.as_bytes(), &EPHEMERAL).await.unwrap();
    }
    session
}

#[test]
fn instances_that_are_killed_cost_no_get_and_of_posts_at_most_those_in_flight_on_them() {
    let (kills, mut random) = (if long() { 20 } else { 5 }, random());
    let runtime = Background::start();
    let connect = runtime.block_on(zk::chroot("kill"));
    let folder = Scratch::new("kill");
    let mut instances: Vec<Forked> =
        NAMES.iter().map(|name| Forked::start(name, folder.path(), SERVICE)).collect();
    let _session = runtime.block_on(register(&connect, &instances));
    let config = format!(
        "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [services.orders]\npath = \"/orders\"\n[[routes]]\nservice = \"orders\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n"
    );
    let gateway = Gateway::start("kill", &config);
    gateway.instances("orders", &NAMES);
    let began = Instant::now();
    let load = Load::start(gateway.listener("public"), CLIENTS, Duration::from_millis(20));
    let mut killed = Vec::new();
    for _ in 0..kills {
        let mut dying = instances.swap_remove(random.usize(..instances.len()));
        let (name, served) = (dying.name.clone(), dying.count());
        wait_for("it to serve", || (dying.count() > served + 20).then_some(()));
        std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
        killed.push(Killed::by_kill(&mut dying));
        gateway.state("orders", &name, "ejected");
        gateway.instances("orders", &NAMES);
        instances.push(dying.again());
        gateway.state("orders", &name, "up");
    }
    let sent = load.stop();
    let lasted = began.elapsed();
    let history = check(&sent, &instances);
    let in_flight = only_in_flight(&gateway, &sent, &history.failures, &killed);
    println!(
        "{kills} kills, {} requests at {:.0}/s, the longest {:?}; of {in_flight} POSTs in flight on the killed {} failed",
        history.requests,
        history.requests as f64 / lasted.as_secs_f64(),
        history.longest,
        history.failures.len(),
    );
    assert!(in_flight > 0, "the kills met nothing: this shows nothing");
}
