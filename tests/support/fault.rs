//! A TCP relay that breaks: cuts, swallows, or eats only ZooKeeper's watch events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the relay does with connections, those that stand and those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Bytes pass both ways.
    None,
    /// Connections are closed.
    Cut,
    /// Connections stand, bytes go nowhere. Those read meanwhile are lost, so what was open is cut later.
    BlackHole,
    /// Everything passes but the server's notifications (frames with xid -1).
    NoEvents,
    /// Requests pass; in place of an answer the connection is cut.
    NoAnswers,
}

/// The relay. Ends, with its connections, when dropped.
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    /// What is lost, and still to be lost.
    losses: Losses,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Losses {
    /// Answers to writes that are still to be lost.
    left: Arc<AtomicUsize>,
    /// Connections refused by [`Fault::Cut`], and answers lost to [`Fault::NoAnswers`].
    lost: watch::Sender<usize>,
}

impl FaultProxy {
    /// Relays to `target` without fault.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (fault, faults) = watch::channel(Fault::None);
        let target: Arc<str> = target.into();
        let losses = Losses { left: Arc::default(), lost: watch::Sender::new(0) };
        let shared = losses.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(relay(client, Arc::clone(&target), faults.clone(), shared.clone()));
            }
        });
        Self { address, fault, losses, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Loses the answers to so many of the writes to come: each reaches the server, then its connection is cut.
    pub fn lose_answers(&self, count: usize) {
        self.losses.left.store(count, Ordering::SeqCst);
    }

    /// Answers that are still to be lost.
    pub fn answers_to_lose(&self) -> usize {
        self.losses.left.load(Ordering::SeqCst)
    }

    /// Changes what it does, at once.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Waits until so many connections were refused or answers lost since the start.
    pub async fn lost(&self, count: usize) {
        let mut losses = self.losses.lost.subscribe();
        let waiting = losses.wait_for(|losses| *losses >= count);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "fewer than {count} losses");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, target: Arc<str>, mut faults: watch::Receiver<Fault>, losses: Losses) {
    let fault = *faults.borrow_and_update();
    if fault == Fault::Cut {
        losses.lost.send_modify(|lost| *lost += 1);
        return;
    }
    if fault == Fault::BlackHole {
        // Accepted and silent until the fault changes.
        let _ = faults.changed().await;
        return;
    }
    let Ok(server) = TcpStream::connect(&*target).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let losing = AtomicI32::new(0);
    tokio::select! {
        () = pass(client_in, server_out, faults.clone(), false, &losses, &losing) => {}
        () = pass(server_in, client_out, faults.clone(), true, &losses, &losing) => {}
        () = cut(faults) => {}
    }
}

/// Ends when connections are to be cut: at once, or after a black hole that ate bytes.
async fn cut(mut faults: watch::Receiver<Fault>) {
    let mut was = *faults.borrow_and_update();
    loop {
        if faults.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let now = *faults.borrow_and_update();
        if now == Fault::Cut || was == Fault::BlackHole {
            return;
        }
        was = now;
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: watch::Receiver<Fault>,
    from_server: bool,
    losses: &Losses,
    // The number of the write whose answer is lost; 0: none.
    losing: &AtomicI32,
) {
    let mut handshake = true;
    loop {
        let mut frame = vec![0; 4];
        if from.read_exact(&mut frame).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        frame.resize(4 + length, 0);
        if from.read_exact(&mut frame[4..]).await.is_err() {
            return;
        }
        let fault = *faults.borrow();
        // Answers to requests have the requests' numbers; those of handshakes and pings are none above 0.
        let answer = from_server && frame[4] < 0x80 && frame[4..8] != [0; 4];
        if answer && fault == Fault::NoAnswers {
            losses.lost.send_modify(|lost| *lost += 1);
            return;
        }
        let number = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if answer && number == losing.load(Ordering::SeqCst) {
            // It is carried out: now nobody hears of it.
            return;
        }
        let notification = from_server && frame[4..].starts_with(&(-1i32).to_be_bytes());
        let swallowed = fault == Fault::BlackHole || (fault == Fault::NoEvents && notification);
        if !from_server && !std::mem::replace(&mut handshake, false) && is_write(&frame) {
            let one =
                losses.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if one.is_ok() {
                losing.store(number, Ordering::SeqCst);
            }
        }
        if !swallowed && to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Whether a request, after its length and number, is a setData, a multi, or a create of one kind or another.
fn is_write(frame: &[u8]) -> bool {
    let operation = frame.get(8..12).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    operation.is_some_and(|operation| [1, 5, 14, 15, 19, 21].contains(&operation))
}
