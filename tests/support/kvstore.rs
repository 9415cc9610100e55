//! Groups of `examples/kvstore`, each server a process with a folder of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::example;
use super::gateway::{Scratch, wait_for};
use super::http::{Answer, Client};
use super::process::Process;
use super::zk;

/// What ZooKeeper needs to notice a death.
const SESSION_MS: &str = "1500";

/// A group's servers, by number from 1.
pub struct Group {
    connect: String,
    name: String,
    scratch: Scratch,
}

/// One running server.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

impl Group {
    pub fn new(connect: &str, name: &str) -> Self {
        Self { connect: connect.to_owned(), name: name.to_owned(), scratch: Scratch::new(name) }
    }

    pub fn folder(&self, number: u32) -> PathBuf {
        self.scratch.path().join(number.to_string())
    }

    /// Starts a server on what its folder holds, and returns when it listens.
    pub fn start(&self, number: u32) -> Server {
        let folder = self.folder(number);
        let number = number.to_string();
        let arguments = [
            ["--zookeeper", &self.connect],
            ["--group", &self.name],
            ["--number", &number],
            ["--dir", folder.to_str().unwrap()],
            ["--session-timeout", SESSION_MS],
        ];
        let process = example::start("kvstore", &arguments.concat());
        let address = process.out.find("its address", |line| {
            line.split_once(" is server ").and_then(|(address, _)| address.parse().ok())
        });
        Server { process, address }
    }

    /// Writes the primary's number, as `zoogate primaries` does.
    pub async fn appoint(&self, number: u32) {
        let client = zk::client(&self.connect).await;
        let (path, data) = (format!("/data/{}/primary", self.name), number.to_string());
        match client.create(&path, data.as_bytes(), &zk::OPEN).await {
            Ok(_) => {}
            Err(zookeeper_client::Error::NodeExists) => {
                client.set_data(&path, data.as_bytes(), None).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Two servers in sync, the first of which leads.
    pub async fn pair(&self) -> (Server, Server) {
        let first = self.start(1);
        first.process.says("registered");
        self.appoint(1).await;
        first.leads();
        let second = self.start(2);
        second.process.says("registered");
        (first, second)
    }
}

impl Server {
    /// Waits until it leads.
    pub fn leads(&self) {
        wait_for("its lead", || self.status()["leads"].is_i64().then_some(()));
    }

    /// Waits until it has the primary's contents and counts.
    pub fn in_sync(&self) {
        wait_for("it to be in sync", || (self.status()["in_sync"] == true).then_some(()));
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask("GET", "/status", b"").body).unwrap()
    }

    /// Asks it directly, over a connection of its own. Status 0 where no answer came.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let asked =
            Client::connect(self.address).and_then(|mut client| client.request(method, path, &[], body));
        asked.unwrap_or_default()
    }

    pub fn put(&self, key: &str, value: &str) -> Answer {
        self.ask("PUT", &format!("/kv/{key}"), value.as_bytes())
    }

    /// The value; `None` where there is no such key.
    pub fn get(&self, key: &str) -> Option<String> {
        let answer = self.ask("GET", &format!("/kv/{key}"), b"");
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            _ => panic!("GET {key}: {answer:?}"),
        }
    }
}
