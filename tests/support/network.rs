//! A TCP relay in front of an instance: the network between it and the gateway, with its bad days.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::background::Background;

/// What happens to connections, those that stand and those that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Bytes pass both ways.
    None,
    /// RST, at once.
    Resets,
    /// Requests pass; of an answer its first twelve bytes, then RST.
    ResetsInHead,
    /// Requests pass; of an answer all but the last byte, then RST.
    ResetsInBody,
    /// A request is taken; instead of an answer the relay closes its half, and goes on reading.
    HalfCloses,
    /// Connections stand, and nothing is read from them.
    Stalls,
    /// Answers come at a byte a second.
    Drips,
}

/// The relay. Ends, with its connections, when dropped.
pub struct Relay {
    pub address: SocketAddr,
    trouble: watch::Sender<Trouble>,
    _background: Background,
}

impl Relay {
    /// Relays to `target` without trouble.
    pub fn start(target: SocketAddr) -> Self {
        let background = Background::start();
        let (trouble, troubles) = watch::channel(Trouble::None);
        let listener = background.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        background.block_on(async move {
            tokio::spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    while connections.try_join_next().is_some() {}
                    connections.spawn(relay(client, target, troubles.clone()));
                }
            });
        });
        Self { address, trouble, _background: background }
    }

    /// Changes what it does, at once.
    pub fn set(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }
}

/// Ends with the connection: by RST where it says so, else by FIN.
async fn relay(
    mut client: TcpStream,
    target: SocketAddr,
    mut troubles: watch::Receiver<Trouble>,
) -> Option<()> {
    let mut server = TcpStream::connect(target).await.ok()?;
    let (mut request, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut asked = false;
    loop {
        let now = *troubles.borrow_and_update();
        match now {
            Trouble::Resets => return reset(client),
            Trouble::Stalls => {
                troubles.changed().await.ok()?;
                continue;
            }
            Trouble::HalfCloses if asked => {
                client.shutdown().await.ok()?;
                while client.read(&mut request).await.ok()? > 0 {}
                return None;
            }
            _ => {}
        }
        tokio::select! {
            changed = troubles.changed() => changed.ok()?,
            read = client.read(&mut request) => {
                let request = &request[..read.ok().filter(|count| *count > 0)?];
                asked = true;
                if now != Trouble::HalfCloses {
                    server.write_all(request).await.ok()?;
                }
            }
            read = server.read(&mut answer) => {
                let answer = &answer[..read.ok().filter(|count| *count > 0)?];
                match now {
                    Trouble::ResetsInHead => {
                        client.write_all(&answer[..12]).await.ok()?;
                        return reset(client);
                    }
                    Trouble::ResetsInBody => {
                        client.write_all(&answer[..answer.len() - 1]).await.ok()?;
                        return reset(client);
                    }
                    Trouble::Drips => drip(&mut client, answer, troubles.clone()).await?,
                    _ => client.write_all(answer).await.ok()?,
                }
            }
        }
    }
}

/// A byte a second; the rest as soon as the trouble changes.
async fn drip(client: &mut TcpStream, answer: &[u8], mut troubles: watch::Receiver<Trouble>) -> Option<()> {
    for (at, byte) in answer.iter().enumerate() {
        client.write_all(&[*byte]).await.ok()?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            changed = troubles.changed() => {
                changed.ok()?;
                return client.write_all(&answer[at + 1..]).await.ok();
            }
        }
    }
    Some(())
}

fn reset(client: TcpStream) -> Option<()> {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).ok()?;
    None
}
