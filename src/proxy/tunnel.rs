//! Bytes both ways between two sockets, each half closed when the other side's half is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{ConnState, Verdict};

/// A direction's buffer.
const BUFFER: usize = 32 * 1024;

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides had said all.
    Whole,
    /// Nothing moved for the idle limit.
    Idle,
    /// The client's side broke.
    Client,
    /// The instance's side broke.
    Upstream,
}

/// One direction.
struct Half {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    source_done: bool,
    finished: bool,
    moved: u64,
}

enum Broken {
    Source,
    Sink,
}

impl Half {
    /// A direction that begins with bytes read earlier.
    fn new(early: &[u8]) -> Self {
        let mut buffer = vec![0; BUFFER.max(early.len())].into_boxed_slice();
        buffer[..early.len()].copy_from_slice(early);
        Self { buffer, start: 0, end: early.len(), source_done: false, finished: false, moved: 0 }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let bytes = &self.buffer[self.start..self.end];
                match ready!(Pin::new(&mut *to).poll_write(cx, bytes)) {
                    Ok(n) if n > 0 => {
                        self.start += n;
                        self.moved += n as u64;
                    }
                    _ => return Poll::Ready(Err(Broken::Sink)),
                }
            }
            if self.source_done {
                if !self.finished {
                    if ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err() {
                        return Poll::Ready(Err(Broken::Sink));
                    }
                    self.finished = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut space = ReadBuf::new(&mut self.buffer);
            match ready!(Pin::new(&mut *from).poll_read(cx, &mut space)) {
                Ok(()) => {
                    (self.start, self.end) = (0, space.filled().len());
                    self.source_done = self.end == 0;
                }
                Err(_) => return Poll::Ready(Err(Broken::Source)),
            }
        }
    }
}

/// Runs a tunnel to its end. `early` was read from the client already. Reports each direction's bytes
/// (received from the client, sent to it) as they move.
pub(super) async fn run<C, U>(
    mut client: C,
    early: &[u8],
    mut upstream: U,
    state: &ConnState,
    mut report: impl FnMut(u64, u64),
) -> End
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::new(early), Half::new(&[]));
    std::future::poll_fn(|cx| {
        state.park(cx);
        let before = (up.moved, down.moved);
        let a = up.poll(cx, &mut client, &mut upstream);
        let b = down.poll(cx, &mut upstream, &mut client);
        if before != (up.moved, down.moved) {
            state.moved();
            report(up.moved, down.moved);
        }
        match (a, b) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                Poll::Ready(End::Client)
            }
            (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
                Poll::Ready(End::Upstream)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Whole),
            _ if state.verdict() == Some(Verdict::Idle) => Poll::Ready(End::Idle),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Closes a socket whose peer may still send: FIN, then at most 64 KiB or a second is read and dropped, so
/// that the peer reads our last bytes before a reset reaches it.
pub(super) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, shut: bool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: usize = 64 * 1024;
    const TIME: std::time::Duration = std::time::Duration::from_secs(1);

    let drop_rest = async {
        // Where the FIN has gone out already, a system call would only say so.
        if !shut {
            stream.shutdown().await?;
        }
        let mut buffer = vec![0; 2 * 1024];
        let mut dropped = 0;
        while dropped < LIMIT {
            match stream.read(&mut buffer).await? {
                0 => break,
                n => dropped += n,
            }
        }
        io::Result::Ok(())
    };
    // Once a connection at most: a timer is no cost here.
    let _ = tokio::time::timeout(TIME, drop_rest).await;
}
