//! A ZooKeeper server that lies: a relay to an honest one which, from some frame on, says what no server may. What, and
//! when, is drawn from a seed, another for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the relay does with connections, those that stand and those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are closed.
    Refuses,
    /// Bytes pass both ways.
    Honest,
    /// From some frame on there is something that no client may believe.
    Lies,
    /// Any bit may be wrong, so that much is believable.
    Scrambles,
}

/// The relay. Ends, with its connections, when dropped.
pub struct Hostile {
    pub address: String,
    mode: watch::Sender<Mode>,
    told: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Hostile {
    /// Relays to `target`. Connections draw from `seeds`, and wait where there are none left.
    pub async fn start(target: &str, mode: Mode, seeds: Arc<AtomicU64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mode, modes) = watch::channel(mode);
        let told = Arc::new(AtomicUsize::new(0));
        let (target, counted): (Arc<str>, _) = (target.into(), Arc::clone(&told));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (target, mut modes) = (Arc::clone(&target), modes.clone());
                let (seeds, told) = (Arc::clone(&seeds), Arc::clone(&counted));
                connections.spawn(async move {
                    let mode = *modes.borrow_and_update();
                    tokio::select! {
                        () = relay(client, &target, mode, &seeds, &told) => {}
                        // Another mode: everybody comes anew.
                        _ = modes.changed() => {}
                    }
                });
            }
        });
        Self { address, mode, told, accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many lies it has told.
    pub fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, target: &str, mode: Mode, seeds: &AtomicU64, told: &AtomicUsize) {
    if mode == Mode::Refuses {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_in, mut client_out) = client.into_split();
    let (mut server_in, server_out) = server.into_split();
    tokio::select! {
        () = copy(client_in, server_out) => {}
        () = async {
            if mode == Mode::Honest {
                let _ = tokio::io::copy(&mut server_in, &mut client_out).await;
            } else {
                let mut rng = Rng::with_seed(seeds.fetch_add(1, Ordering::SeqCst));
                let _ = lie(server_in, &mut client_out, mode, &mut rng, told).await;
            }
        } => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Passes some frames, then says something else.
async fn lie(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mode: Mode,
    rng: &mut Rng,
    told: &AtomicUsize,
) -> std::io::Result<()> {
    let honest = rng.usize(..8);
    for number in 0.. {
        let mut length = [0; 4];
        from.read_exact(&mut length).await?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut body).await?;
        if mode == Mode::Scrambles {
            let mut frame = [&length[..], &body].concat();
            for _ in 0..rng.usize(..3) {
                let at = rng.usize(..frame.len());
                frame[at] = if rng.bool() { rng.u8(..) } else { frame[at] ^ (1 << rng.u8(..8)) };
                told.fetch_add(1, Ordering::SeqCst);
            }
            to.write_all(&frame).await?;
        } else if number < honest {
            to.write_all(&[&length[..], &body].concat()).await?;
        } else {
            told.fetch_add(1, Ordering::SeqCst);
            return falsehood(to, body, number == 0, rng).await;
        }
    }
    Ok(())
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

fn event(kind: i32, state: i32, path: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 7] = [
        &(-1_i32).to_be_bytes(),
        &(-1_i64).to_be_bytes(),
        &0_i32.to_be_bytes(),
        &kind.to_be_bytes(),
        &state.to_be_bytes(),
        &(path.len() as i32).to_be_bytes(),
        path,
    ];
    framed(&parts.concat())
}

/// Says one of many things in place of this answer, or before it.
async fn falsehood(
    to: &mut OwnedWriteHalf,
    mut body: Vec<u8>,
    welcome: bool,
    rng: &mut Rng,
) -> std::io::Result<()> {
    let odd = |rng: &mut Rng| *rng.choice(&[i32::MIN, -1, 0, 1, 7, 1 << 20, i32::MAX - 4, i32::MAX]).unwrap();
    let paths: [&[u8]; 8] =
        [b"", b"/", b"orders", b"/elsewhere/orders/a", b"/hostile", b"/hostilex/orders", b"/\xff\xfe", b"//"];
    match rng.u32(..if welcome { 8 } else { 12 }) {
        // Of lengths: below nothing, and more than anybody may keep, with as much as is taken behind it.
        0 => {
            to.write_all(&(-rng.i32(1..)).to_be_bytes()).await?;
        }
        1 => {
            to.write_all(&rng.i32(1 << 27..).to_be_bytes()).await?;
            let junk = vec![rng.u8(..); 1 << 16];
            for _ in 0..4096 {
                to.write_all(&junk).await?;
            }
        }
        // Bytes that are no frames.
        2 => {
            let junk: Vec<u8> = (0..rng.usize(1..5000)).map(|_| rng.u8(..)).collect();
            to.write_all(&junk).await?;
        }
        // The beginning of it, and then the end, or nothing.
        3 => {
            let frame = framed(&body);
            to.write_all(&frame[..rng.usize(..frame.len())]).await?;
            if rng.bool() {
                return Ok(());
            }
        }
        // Shorter than it has to be.
        4 => {
            body.truncate(rng.usize(..body.len()));
            to.write_all(&framed(&body)).await?;
        }
        // A byte now and then.
        5 => {
            for byte in framed(&body) {
                to.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_millis(rng.u64(..40))).await;
            }
        }
        // A number that is not one: a timeout, a session or a password's length; an xid or a count.
        6 | 7 if welcome => {
            let at = *rng.choice(&[4, 8, 12, 16]).unwrap();
            body[at..at + 4].copy_from_slice(&odd(rng).to_be_bytes());
            to.write_all(&framed(&body)).await?;
        }
        6 => {
            body[..4].copy_from_slice(&rng.i32(1000..).to_be_bytes());
            to.write_all(&framed(&body)).await?;
        }
        7 if body.len() > 20 => {
            body[16..20]
                .copy_from_slice(&rng.choice(&[i32::MAX, i32::MAX / 32, 1 << 24]).unwrap().to_be_bytes());
            to.write_all(&framed(&body)).await?;
        }
        // An error that there is not, the same answer twice.
        8 => {
            body[12..16].copy_from_slice(&rng.i32(-30_000..-20_000).to_be_bytes());
            to.write_all(&framed(&body)).await?;
        }
        9 => {
            to.write_all(&framed(&body).repeat(rng.usize(2..50))).await?;
        }
        // Events of what is not watched, or of a kind that there is not.
        10 => {
            let path = rng.choice(&paths).unwrap();
            let flood: Vec<u8> = event(rng.i32(1..5), 3, path).repeat(rng.usize(1..2000));
            to.write_all(&flood).await?;
        }
        _ => {
            to.write_all(&event(odd(rng), odd(rng), b"/hostile/orders/a")).await?;
        }
    }
    // Silent from now on.
    std::future::pending().await
}
