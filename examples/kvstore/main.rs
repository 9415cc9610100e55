//! A small replicated key-value store, of the kind that zoogate fronts: see `README.md` beside this file.
//!
//! ```text
//! cargo run --example kvstore -- --zookeeper 127.0.0.1:2181 --group zdata1 --number 1 --dir /tmp/zdata1-1
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `log` | the file's format: records with checksums, torn tails |
//! | `store` | log and index: reading, appending, snapshots, the last check of epochs |
//! | `cluster` | what ZooKeeper says: who leads, who is in sync |
//! | `node` | one server's role and its registration |
//! | `primary`, `feed` | leading: writes, copies, standbys that join |
//! | `standby` | following |
//! | `wire`, `server` | messages, gRPC and HTTP |

#![allow(unreachable_pub, reason = "`pub` means: for the other files of this program")]

mod cluster;
mod feed;
mod log;
mod node;
mod primary;
mod server;
mod standby;
mod store;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use zoogate::registry::zookeeper::{ConnectOptions, RegisterOptions};

use self::cluster::Cluster;
use self::node::Node;
use self::store::Store;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Requests that were sent before it was known that we go arrive within this.
const LAST_CALL: Duration = Duration::from_millis(500);

/// A data server of a replicated key-value store.
#[derive(Debug, Parser)]
struct Options {
    /// `host:port,host:port/chroot`
    #[arg(long)]
    zookeeper: String,
    /// The directory of all groups
    #[arg(long, default_value = "/data")]
    root: String,
    /// The group that it is a replica of
    #[arg(long)]
    group: String,
    /// Its number in the group
    #[arg(long)]
    number: u32,
    /// Where its log is
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Milliseconds after which ZooKeeper takes a silent server for dead
    #[arg(long, default_value_t = 4000)]
    session_timeout: u64,
    /// Leave writing to the kernel: survives the death of the process, not of the machine
    #[arg(long)]
    no_fsync: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let store = Arc::new(Store::open(&options.dir, !options.no_fsync)?);
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let at = store.position();
    println!(
        "{address} is server {} of {}, at {} of epoch {}",
        options.number, options.group, at.sequence, at.epoch
    );

    let session_timeout = Duration::from_millis(options.session_timeout);
    let path = format!("{}/{}", options.root.trim_end_matches('/'), options.group);
    let cluster = Cluster::start(options.zookeeper.clone(), session_timeout, path.clone());
    let (node, inbox) = Node::new(options.number, store, &cluster);
    let mut connect = ConnectOptions::new(options.zookeeper);
    connect.session_timeout = session_timeout;
    let registration = RegisterOptions::new(connect, path, options.number.to_string(), address.to_string());
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        ended = node.play(&cluster, inbox) => ended?,
        never = server::serve(listener, Arc::clone(&node)) => match never {},
        () = async {
            node.register(registration, stop).await;
            tokio::time::sleep(LAST_CALL).await;
        } => {}
    }
    Ok(())
}
