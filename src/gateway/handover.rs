//! Listening sockets from one process to the next, so that an upgrade refuses and resets no connection.
//!
//! The old process answers on a Unix socket. A new one asks there for the listening sockets and gets the descriptors
//! themselves: whatever waits in a socket's queue is served by one of the two. The new one gets ready, then accepts, then
//! says so; only then the old one stops accepting, and drains. A new process that dies before that changes nothing.
//!
//! On the wire: `zoogate handover 1\n`; then a length (four bytes, little-endian) and a [`Manifest`] as JSON; then one byte
//! with each [`MESSAGE`] descriptors; `ready\n`; `draining\n`.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::config::plan::ListenerPlan;

const HELLO: &[u8] = b"zoogate handover 1\n";
const READY: &[u8] = b"ready\n";
const DRAINING: &[u8] = b"draining\n";
/// Descriptors a message; the kernel takes 253.
const MESSAGE: usize = 32;
/// Descriptors in all.
const MAX_SOCKETS: usize = 65_536;
/// The longest manifest, in bytes.
const MAX_MANIFEST: usize = 16 << 20;
/// Each step but the one to readiness.
const STEP: Duration = Duration::from_secs(5);
/// How long the new process may take to get ready.
pub(super) const READINESS: Duration = Duration::from_secs(60);

/// What is handed over: for each listener its address as configured, and how many sockets of it follow.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    listeners: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    listen: SocketAddr,
    sockets: usize,
}

/// A socket that is handed over: of which listener, and at which address as it is configured.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) name: Arc<str>,
    pub(super) listen: SocketAddr,
    pub(super) socket: TcpListener,
}

/// Listening sockets of another life: taken over from a running gateway, or opened by systemd.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Each with its listener's name, where it has one, and the address that it is known by.
    sockets: Vec<(Option<String>, SocketAddr, TcpListener)>,
    /// The process that still serves on them.
    from: Option<Predecessor>,
}

/// The old process, while it waits for the new one.
#[derive(Debug)]
pub(super) struct Predecessor(UnixStream);

impl Handed {
    /// A socket of this listener.
    pub(super) fn of(listener: &ListenerPlan, socket: TcpListener) -> Self {
        Self { name: Arc::clone(&listener.name), listen: listener.listen, socket }
    }
}

impl Inherited {
    /// Sockets that somebody else opened, each known by the address that it is bound to.
    pub fn opened(sockets: impl IntoIterator<Item = TcpListener>) -> io::Result<Self> {
        let mut all = Vec::new();
        for socket in sockets {
            socket.set_nonblocking(true)?;
            super::sockets::tune(&socket2::SockRef::from(&socket))?;
            all.push((None, socket.local_addr()?, socket));
        }
        Ok(Self { sockets: all, from: None })
    }

    /// Asks the gateway behind this path for its sockets; `None` where none answers. Blocks.
    pub fn take_over(path: &Path) -> io::Result<Option<Self>> {
        let mut stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        limit(&stream, STEP)?;
        stream.write_all(HELLO)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MANIFEST {
            return Err(bad("a manifest that is too long"));
        }
        let mut manifest = vec![0; length];
        stream.read_exact(&mut manifest)?;
        let manifest: Manifest = serde_json::from_slice(&manifest)?;
        let count = manifest.listeners.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.sockets));
        let count = count.filter(|count| *count <= MAX_SOCKETS).ok_or_else(|| bad("too many sockets"))?;
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            receive(&stream, &mut descriptors)?;
        }
        let mut descriptors = descriptors.into_iter();
        let mut sockets = Vec::new();
        for entry in manifest.listeners {
            for descriptor in descriptors.by_ref().take(entry.sockets) {
                sockets.push((Some(entry.name.clone()), entry.listen, TcpListener::from(descriptor)));
            }
        }
        Ok(Some(Self { sockets, from: Some(Predecessor(stream)) }))
    }

    /// Whether a running gateway still serves on these sockets.
    pub(super) fn is_taken_over(&self) -> bool {
        self.from.is_some()
    }

    /// The sockets of a listener, by its name and its address as configured. At least so many as there are workers, or
    /// none: fewer are shared. There may be more, and none may be left alone: each has its own queue.
    pub(super) fn take(
        &mut self,
        name: &str,
        listen: SocketAddr,
        workers: usize,
    ) -> io::Result<Vec<TcpListener>> {
        let is_mine = |(of, at, _): &(Option<String>, SocketAddr, TcpListener)| {
            *at == listen && of.as_deref().is_none_or(|of| of == name)
        };
        let (mine, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets).into_iter().partition(is_mine);
        self.sockets = rest;
        let mut mine: Vec<TcpListener> = mine.into_iter().map(|(_, _, socket)| socket).collect();
        for at in 0..if mine.is_empty() { 0 } else { workers.saturating_sub(mine.len()) } {
            mine.push(mine[at].try_clone()?);
        }
        Ok(mine)
    }

    /// Names what nobody took, and hands back the process that waits.
    pub(super) fn finish(self) -> Option<Predecessor> {
        for (_, address, _) in self.sockets {
            tracing::info!(%address, "an inherited socket belongs to no listener; closed");
        }
        self.from
    }
}

impl Predecessor {
    /// We accept: the old process stops, and drains. Blocks until it has said so.
    pub(super) fn relieve(mut self) -> io::Result<()> {
        self.0.write_all(READY)?;
        expect(&mut self.0, DRAINING)
    }
}

/// Where a running gateway can be asked for its sockets.
#[derive(Debug)]
pub(super) struct Door {
    path: PathBuf,
    listener: tokio::net::UnixListener,
}

impl Door {
    /// Opens it, in place of one that a predecessor left. Only this user, and root, may come in.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody who may ask. Cancel-safe.
    pub(super) async fn visitor(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = rustix::net::sockopt::socket_peercred(&stream)?;
            if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            tracing::warn!(user = peer.uid.as_raw(), "a handover was asked for by another user; refused");
        }
    }
}

/// A process that asks for the sockets.
#[derive(Debug)]
pub struct Successor(pub(super) UnixStream);

/// The old process's side. Blocks; returns once the new one accepts, and this one must stop.
pub(super) fn hand_over(mut stream: UnixStream, sockets: &[Handed]) -> io::Result<()> {
    limit(&stream, STEP)?;
    expect(&mut stream, HELLO)?;
    let mut listeners: Vec<Entry> = Vec::new();
    for Handed { name, listen, .. } in sockets {
        match listeners.last_mut() {
            Some(entry) if entry.name == **name && entry.listen == *listen => entry.sockets += 1,
            _ => listeners.push(Entry { name: name.to_string(), listen: *listen, sockets: 1 }),
        }
    }
    let manifest = serde_json::to_vec(&Manifest { listeners })?;
    let length = u32::try_from(manifest.len()).map_err(|_| bad("too many listeners"))?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&manifest)?;
    for some in sockets.chunks(MESSAGE) {
        send(&stream, some)?;
    }
    limit(&stream, READINESS + STEP)?;
    expect(&mut stream, READY)?;
    stream.write_all(DRAINING)
}

fn limit(stream: &UnixStream, limit: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))
}

fn expect(stream: &mut UnixStream, words: &[u8]) -> io::Result<()> {
    let mut got = vec![0; words.len()];
    stream.read_exact(&mut got)?;
    if got == words { Ok(()) } else { Err(bad("other words than a gateway of this version says")) }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other side sent {what}"))
}

fn send(stream: &UnixStream, sockets: &[Handed]) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|handed| handed.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(b"F")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let before = descriptors.len();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    if descriptors.len() == before { Err(bad("a message without a socket")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(count: usize) -> Vec<Handed> {
        let one = |number: usize| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            Handed { name: format!("{number}").into(), listen: "127.0.0.1:0".parse().unwrap(), socket }
        };
        (0..count).map(one).collect()
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("zoogate-door-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[tokio::test]
    async fn sockets_pass_whole_and_the_old_process_goes_on_until_it_is_relieved() {
        let place = Place::new("pass");
        let door = Door::open(&place.0).unwrap();
        let sockets = bound(70);
        let addresses: Vec<SocketAddr> = sockets.iter().map(|s| s.socket.local_addr().unwrap()).collect();
        let path = place.0.clone();
        let taken = tokio::task::spawn_blocking(move || Inherited::take_over(&path));
        let visitor = door.visitor().await.unwrap();
        let old = tokio::task::spawn_blocking(move || hand_over(visitor, &sockets).map(|()| sockets));
        let mut inherited = taken.await.unwrap().unwrap().unwrap();
        assert!(inherited.is_taken_over() && !old.is_finished());
        let listen = "127.0.0.1:0".parse().unwrap();
        for (number, address) in addresses.iter().enumerate() {
            let mine = inherited.take(&number.to_string(), listen, 2).unwrap();
            assert_eq!(mine.len(), 2, "one socket for two workers");
            assert!(mine.iter().all(|socket| socket.local_addr().unwrap() == *address));
        }
        assert!(inherited.take("0", listen, 2).unwrap().is_empty(), "each is given once");
        let predecessor = inherited.finish().unwrap();
        tokio::task::spawn_blocking(move || predecessor.relieve()).await.unwrap().unwrap();
        assert_eq!(old.await.unwrap().unwrap().len(), 70);
    }

    #[tokio::test]
    async fn a_new_process_that_dies_leaves_the_old_one_serving() {
        let place = Place::new("dies");
        let door = Door::open(&place.0).unwrap();
        let path = place.0.clone();
        let taken = tokio::task::spawn_blocking(move || Inherited::take_over(&path).unwrap().unwrap());
        let visitor = door.visitor().await.unwrap();
        let old = tokio::task::spawn_blocking(move || hand_over(visitor, &bound(1)));
        drop(taken.await.unwrap());
        assert!(old.await.unwrap().is_err(), "it was not relieved");
    }

    #[test]
    fn where_nobody_answers_there_is_nothing_to_take() {
        let place = Place::new("nobody");
        assert!(Inherited::take_over(&place.0).unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&place.0).unwrap());
        assert!(Inherited::take_over(&place.0).unwrap().is_none(), "left by a process that was killed");
    }

    #[test]
    fn sockets_that_systemd_opened_are_found_by_their_address() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = socket.local_addr().unwrap();
        let mut inherited = Inherited::opened([socket]).unwrap();
        assert!(inherited.take("public", "127.0.0.1:1".parse().unwrap(), 2).unwrap().is_empty());
        assert_eq!(inherited.take("public", listen, 3).unwrap().len(), 3);
    }
}
