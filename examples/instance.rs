//! A service that registers itself, serves HTTP, and leaves without costing its clients a request.
//!
//! ```text
//! cargo run --example instance -- --zookeeper 127.0.0.1:2181         # or: --directory /tmp/registry
//! cargo run -- run --config config/minimal.toml                      # the gateway in front of it
//! curl http://127.0.0.1:8080/
//! ```
//!
//! Start as many as you like: each takes a free port. Ctrl-C or SIGTERM ends one in the order that matters: the
//! registration goes first, then requests that are running or on their way are answered, then the process ends.

use std::convert::Infallible;
use std::env::args;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use zoogate::model::{FormatName, Instance};
use zoogate::registration::{Announcement, ConnectOptions, Parents, Place, Registrar, RegistrarOptions};

/// Where it registers: what a gateway calls the service's `path`.
const PATH: &str = "/services/orders";
/// Requests that gateways sent before they knew that we go arrive within this.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Requests that run have this long to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Registers, and returns when the node is there. It lasts as long as the registrar: a lost session is replaced by itself,
/// and if we die, ZooKeeper removes the node.
async fn register(kind: &str, place: &str, address: SocketAddr) -> Result<Registrar, Box<dyn Error>> {
    let place = match kind {
        "--zookeeper" => Place::ZooKeeper(ConnectOptions::new(place), Parents::Persistent),
        "--directory" => Place::Directory(place.into()),
        _ => return Err(USAGE.into()),
    };
    let name = format!("instance-{}", address.port());
    let mut instance = Instance::new(name.as_str().into(), address.into());
    instance.metadata.insert("process".into(), std::process::id().to_string().into());
    let announcement = Announcement::new(FormatName::Json, PATH, &instance, false)?;
    let mut registrar = Registrar::start(RegistrarOptions::new(place, announcement));
    registrar.registered().await?;
    Ok(registrar)
}

const USAGE: &str = "usage: instance (--zookeeper CONNECT | --directory DIR)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (Some(kind), Some(place)) = (args().nth(1), args().nth(2)) else { return Err(USAGE.into()) };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    // Listen first, register then: whoever learns of us finds us answering.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (leaving, left) = watch::channel(false);
    let mut connections = JoinSet::new();
    let held = register(&kind, &place, address).await?;
    println!("{address} is registered in {PATH}");

    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // First nobody new is sent to us, then we stop listening. The other way round requests would be lost.
        let released = held.release().await;
        println!("deregistered");
        tokio::time::sleep(LAST_CALL).await;
        released
    };
    let released = tokio::select! {
        released = stop => released,
        never = accept(&listener, address, &left, &mut connections) => match never {},
    };
    drop(listener);
    leaving.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, finished).await.is_err() {
        println!("closing what is left");
    }
    println!("stopped");
    Ok(released?)
}

async fn accept(
    listener: &TcpListener,
    address: SocketAddr,
    left: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => _ = connections.spawn(serve(stream, address, left.clone())),
            // Out of descriptors, most likely: some must close first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        // Those that have ended.
        while connections.try_join_next().is_some() {}
    }
}

/// One connection: kept alive until it closes, or until its next answer once we are leaving.
async fn serve(stream: TcpStream, address: SocketAddr, mut left: watch::Receiver<bool>) {
    let service = service_fn(move |_| async move {
        let body = Full::new(Bytes::from(format!("hello from {address}\n")));
        Ok::<_, Infallible>(Response::new(body))
    });
    let mut connection =
        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = &mut connection => {}
        _ = left.changed() => {
            connection.as_mut().graceful_shutdown();
            // A client that breaks off is no news here.
            let _ = connection.await;
        }
    }
}
