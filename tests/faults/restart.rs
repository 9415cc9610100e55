//! A rolling restart of all three, again and again, under GETs, POSTs and unary gRPC calls: nobody notices.
//!
//! Each leaves as a service does that is well-behaved: its node goes, and it stops once nobody asks it any more. It comes
//! back at its old address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use zookeeper_client::Client;

use super::{long, random};
use crate::support::background::Background;
use crate::support::gateway::{Gateway, Scratch, wait_for};
use crate::support::instance::{Instance, Request};
use crate::support::load::{Load, Sent, Served, check, compare};
use crate::support::script::Script;
use crate::support::zk::{self, EPHEMERAL, OPEN, free_port};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A service's registrations, in one session.
struct Registrar {
    background: Background,
    session: Client,
}

impl Registrar {
    fn create(&self, service: &str, name: &str, address: SocketAddr) {
        let (path, data) = (format!("/{service}/{name}"), address.to_string());
        self.background.block_on(self.session.create(&path, data.as_bytes(), &EPHEMERAL)).unwrap();
    }

    /// Returns once the gateway sends nothing there any more, and what it has sent is answered: a request that is on its way is one
    /// that a server which stops in order may not have read yet, and gRPC's own cancels it.
    fn delete(&self, service: &str, name: &str, gateway: &Gateway) {
        self.background.block_on(self.session.delete(&format!("/{service}/{name}"), None)).unwrap();
        wait_for("it to be gone", || {
            let view = gateway.json(&format!("/api/services/{service}"));
            let mut instances = view["instances"].as_array()?.iter();
            instances.all(|instance| instance["id"] != name).then_some(())
        });
    }
}

/// A gRPC server that is not ours, with its record.
struct Grpc {
    name: &'static str,
    address: SocketAddr,
    record: PathBuf,
    server: Script,
}

impl Grpc {
    fn start(name: &'static str, address: SocketAddr, record: PathBuf) -> Self {
        let arguments = [name, &address.port().to_string(), record.to_str().unwrap()];
        let mut server = Script::start("grpc_recording.py", &arguments);
        assert_eq!(server.line(), "serving");
        Self { name, address, record, server }
    }

    fn again(mut self) -> Self {
        assert_eq!(self.server.ask("stop"), "stopped");
        drop(self.server);
        Self::start(self.name, self.address, self.record)
    }

    fn requests(&self) -> Vec<Request> {
        let record = std::fs::read_to_string(&self.record).unwrap();
        record.lines().map(|line| Request::from_line(line).unwrap()).collect()
    }
}

/// What a client of gRPC told, as a history: each call is like a POST.
fn calls(told: &str) -> Vec<Sent> {
    let told: Vec<(String, String, String)> = serde_json::from_str(told).unwrap();
    let sent = |(id, code, said): (String, String, String)| {
        let ok = code == "OK";
        let (answer, echo) = said.split_once(' ').unwrap_or((&said, ""));
        let answer = if ok { answer.to_owned() } else { format!("{code}: {said}") };
        let echo = ok.then(|| echo.to_owned());
        let status = if ok { 200 } else { 500 };
        Sent { id, method: "POST", at: Instant::now(), took: Duration::ZERO, status, answer, echo }
    };
    told.into_iter().map(sent).collect()
}

#[test]
fn a_rolling_restart_costs_no_get_no_post_and_no_grpc_call() {
    let (rounds, mut random) = (if long() { 10 } else { 3 }, random());
    let background = Background::start();
    let connect = background.block_on(zk::chroot("restart"));
    let session = background.block_on(zk::lasting_client(&connect));
    let registrar = Registrar { background, session };
    for service in ["/orders", "/echo"] {
        registrar.background.block_on(registrar.session.create(service, b"", &OPEN)).unwrap();
    }
    let config = format!(
        "[registries.main]\nkind = \"zookeeper\"\nconnect = \"{connect}\"\n\
         [[listeners]]\nname = \"public\"\nlisten = \"127.0.0.1:0\"\n\
         [services.orders]\npath = \"/orders\"\n[services.echo]\npath = \"/echo\"\nprotocol = \"h2\"\n\
         [[routes]]\npath = \"/test.Echo/*\"\nservice = \"echo\"\n[[routes]]\nservice = \"orders\"\n"
    );
    let folder = Scratch::new("restart");
    let local = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut instances: Vec<Instance> = NAMES.iter().map(|name| Instance::start_at(name, local())).collect();
    let mut servers: Vec<Grpc> =
        NAMES.iter().map(|name| Grpc::start(name, local(), folder.path().join(name))).collect();
    for (instance, server) in instances.iter().zip(&servers) {
        instance.delay(Duration::from_millis(5));
        registrar.create("orders", &instance.name, instance.address);
        registrar.create("echo", server.name, server.address);
    }
    let gateway = Gateway::start("restart", &config);
    gateway.instances("orders", &NAMES);
    gateway.instances("echo", &NAMES);
    let public = gateway.listener("public");
    let load = Load::start(public, 6, Duration::from_millis(15));
    let mut grpc = Script::start("grpc_load.py", &[&public.to_string(), "4", "15"]);
    assert_eq!(grpc.line(), "asking");
    let mut past = Vec::new();
    for _ in 0..rounds {
        let mut order = [0, 1, 2];
        random.shuffle(&mut order);
        for name in order.map(|index| NAMES[index]) {
            let index = instances.iter().position(|instance| instance.name == name).unwrap();
            registrar.delete("orders", name, &gateway);
            let old = instances.swap_remove(index);
            old.leave();
            let new = Instance::start_at(name, old.address);
            new.delay(Duration::from_millis(5));
            registrar.create("orders", name, new.address);
            past.push(old);

            let index = servers.iter().position(|server| server.name == name).unwrap();
            registrar.delete("echo", name, &gateway);
            let server = servers.swap_remove(index).again();
            registrar.create("echo", name, server.address);
            let before = server.requests().len();
            wait_for("both to serve", || {
                (new.count() > 5 && server.requests().len() > before + 5).then_some(())
            });
            instances.push(new);
            servers.push(server);
        }
    }
    let history = check(&load.stop(), instances.iter().chain(&past));
    let sent = calls(&grpc.finish());
    let mut seen: HashMap<String, Vec<Served>> = HashMap::new();
    for server in &servers {
        for Request { id, body } in server.requests() {
            seen.entry(id).or_default().push((server.name.to_owned(), body));
        }
    }
    let called = compare(&sent, seen);
    println!(
        "{} restarts, {} requests, the longest {:?}, {} gRPC calls; failed: {} and {}",
        rounds * 3,
        history.requests,
        history.longest,
        called.requests,
        history.failures.len(),
        called.failures.len()
    );
    assert!(history.failures.is_empty() && called.failures.is_empty(), "{history:?} {called:?}");
    assert!(called.requests > 100 && history.requests > 100);
}
