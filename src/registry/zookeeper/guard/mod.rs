//! Between the client library and the servers: what a server says is looked at before the library reads it.
//!
//! The library believes its servers. It would wait for the end of a frame of two GiB, and keep what came of it; a timeout
//! that is negative, or an event of a path outside of its chroot, makes it panic; it makes room for as many names as
//! it is told there are. So it connects to addresses of ours on the loopback interface, one for each server, and everything
//! passes through here. A server that is caught is hung up on, and the library goes on to the next. So is one that says
//! nothing: who is silent is told here, see [`pulse`].

mod frames;
mod pulse;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use frames::{Exchange, Lie, is_over};
use pulse::{LOOK, Pulse, Verdict};

/// So long a server may take to answer a request, to finish an answer, or to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(15);
/// So long a connection goes on whose client is gone: it says goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Read at a time.
const PIECE: usize = 16 * 1024;

/// The addresses at which an ensemble can be reached through us, for as long as this lives.
#[derive(Debug)]
pub(super) struct Guard {
    connect: String,
    _accepting: JoinSet<()>,
    _lives: watch::Sender<()>,
}

impl Guard {
    /// For `host:port,host:port` below a chroot, which is empty where there is none. A server that is silent for `limit`
    /// counts as lost.
    pub(super) async fn start(hosts: &str, chroot: &str, limit: Duration) -> io::Result<Self> {
        let (lives, over) = watch::channel(());
        let (mut connect, mut accepting) = (Vec::new(), JoinSet::new());
        for host in hosts.split(',') {
            let host: Arc<str> = host.strip_prefix("tcp://").unwrap_or(host).into();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            connect.push(listener.local_addr()?.to_string());
            accepting.spawn(accept(listener, host, chroot.into(), limit, over.clone()));
        }
        Ok(Self { connect: connect.join(",") + chroot, _accepting: accepting, _lives: lives })
    }

    /// Where the client is to connect.
    pub(super) fn connect(&self) -> &str {
        &self.connect
    }
}

async fn accept(
    listener: TcpListener,
    host: Arc<str>,
    chroot: Arc<str>,
    limit: Duration,
    over: watch::Receiver<()>,
) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (host, chroot, over) = (Arc::clone(&host), Arc::clone(&chroot), over.clone());
                // It outlives the guard by its farewell.
                tokio::spawn(async move {
                    match relay(client, &host, &chroot, limit, over).await {
                        Ok(()) => {}
                        Err(broken @ (Broken::Io(_) | Broken::Silent(_))) => {
                            tracing::debug!(address = &*host, reason = %broken, "connection broke");
                        }
                        Err(broken) => {
                            tracing::warn!(address = &*host, reason = %broken, "hung up on a ZooKeeper server");
                        }
                    }
                });
            }
            // Of one connection, or for want of descriptors.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Why a connection was ended by us.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it sent {0}")]
    Lie(#[from] Lie),
    #[error("it said nothing for {0:?}")]
    Silent(Duration),
    #[error("it owes an answer, or the rest of one, for more than {PATIENCE:?}")]
    Owing,
    #[error("it reads nothing for more than {PATIENCE:?}")]
    Deaf,
}

async fn relay(
    mut client: TcpStream,
    host: &str,
    chroot: &str,
    limit: Duration,
    mut over: watch::Receiver<()>,
) -> Result<(), Broken> {
    let (mut from_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    let server = {
        let mut dialling = std::pin::pin!(timeout(limit, TcpStream::connect(host)));
        loop {
            from_client.reserve(PIECE);
            tokio::select! {
                server = &mut dialling => break server.map_err(|_| Broken::Silent(limit))??,
                // The client may give up sooner.
                read = client.read_buf(&mut from_client) => if read? == 0 { return Ok(()) },
            }
        }
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut server_in, mut server_out) = server.into_split();
    let (mut client_in, mut client_out) = client.into_split();
    let (mut from_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let mut exchange = Exchange::new(chroot);
    let mut pulse = Pulse::new(limit, Instant::now());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Since when the server does not take what it is sent; since when nobody needs the connection.
    let (mut deaf, mut left) = (None, None);
    loop {
        exchange.client(&mut from_client, &mut to_server, Instant::now());
        from_client.reserve(PIECE);
        from_server.reserve(PIECE);
        tokio::select! {
            read = client_in.read_buf(&mut from_client), if to_server.is_empty() => {
                if read? == 0 {
                    return Ok(());
                }
            }
            wrote = server_out.write_buf(&mut to_server), if to_server.has_remaining() => {
                wrote?;
                deaf = None;
            }
            // A server that does not listen is not listened to: each event may make the client say something.
            read = server_in.read_buf(&mut from_server), if to_client.is_empty() && to_server.is_empty() => {
                let over = read? == 0;
                pulse.heard();
                exchange.server(&mut from_server, &mut to_client, Instant::now())?;
                if over {
                    return Ok(client_out.write_all(&to_client).await?);
                }
            }
            wrote = client_out.write_buf(&mut to_client), if to_client.has_remaining() => {
                wrote?;
            }
            _ = over.changed(), if left.is_none() => {
                left = Some(Instant::now());
            }
            _ = look.tick() => {
                let now = Instant::now();
                exchange.session().inspect(|session| pulse.granted(*session));
                match pulse.look(to_client.is_empty(), now) {
                    Verdict::Lives => {}
                    Verdict::Ask => exchange.ping(&mut to_server),
                    Verdict::Silent => return Err(Broken::Silent(limit)),
                }
                if to_server.has_remaining() {
                    deaf.get_or_insert(now);
                }
                if is_over(exchange.waits_since(), PATIENCE, now) {
                    return Err(Broken::Owing);
                } else if is_over(deaf, PATIENCE, now) {
                    return Err(Broken::Deaf);
                } else if is_over(left, FAREWELL, now) {
                    return Ok(());
                }
            }
        }
    }
}
