//! Connections over workers.

use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::gateway::{Gateway, ORDERS, wait_for};
use crate::support::http::Client;
use crate::support::instance::Instance;

fn start(name: &str, workers: usize) -> (Gateway, Instance) {
    let gateway = Gateway::start(name, &ORDERS.replace("workers = 1", &format!("workers = {workers}")));
    let instance = Instance::start("a");
    gateway.register("orders/a", instance.address);
    gateway.instances("orders", &["a"]);
    (gateway, instance)
}

/// Connections of each worker, once they are so many.
fn loads(gateway: &Gateway, workers: usize, connections: usize) -> Vec<usize> {
    wait_for("the connections", || {
        let load = |worker| gateway.metric(&format!("zoogate_worker_connections{{worker=\"{worker}\"}}"));
        let loads: Vec<_> = (0..workers).map(|worker| load(worker).map(|load| load as usize)).collect();
        let loads: Vec<usize> = loads.into_iter().collect::<Option<_>>()?;
        (loads.iter().sum::<usize>() == connections).then_some(loads)
    })
}

#[test]
fn the_busiest_worker_has_at_most_a_quarter_more_than_the_mean_of_a_thousand_connections() {
    // Ours, and what the gateway inherits.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    for workers in [2, 4] {
        let (gateway, _instance) = start("spread-thousand", workers);
        let address = gateway.listener("public");
        let open: Vec<_> = (0..1000).map(|_| TcpStream::connect(address).unwrap()).collect();
        let found = loads(&gateway, workers, 1000);
        let most = found.iter().max().unwrap();
        assert!(most * workers * 4 <= 1000 * 5, "{found:?}");
        drop(open);
        loads(&gateway, workers, 0);
    }
}

#[test]
fn few_connections_are_dealt_out_evenly_and_each_is_served_where_it_went() {
    let (gateway, instance) = start("spread-few", 2);
    let address = gateway.listener("public");
    let mut open = Vec::new();
    for count in 1..=8 {
        let mut client = Client::connect(address).unwrap();
        assert_eq!(client.request("GET", "/", &[], b"").unwrap().body, "a");
        open.push(client);
        let found = loads(&gateway, 2, count);
        assert!(found[0].abs_diff(found[1]) <= 1, "{found:?}");
    }
    for client in &mut open {
        assert_eq!(client.request("POST", "/", &[], b"x").unwrap().body, "a");
    }
    assert_eq!(instance.count(), 16);
}
