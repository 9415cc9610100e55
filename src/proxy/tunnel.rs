//! Bytes both ways between two sockets, each half closed when the other side's half is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{ConnState, Verdict};
use super::streams::{Leave, StreamGuard};
use super::websocket::{self, Frames};

/// A direction's buffer.
const BUFFER: usize = 32 * 1024;

/// How long a frame that is under way may take to end, and a close frame to go out.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// It was time to go: both sockets are still open.
    Left(Leave),
}

/// What a tunnel is besides bytes.
pub(super) struct Kind {
    /// Its place among its worker's streams.
    pub(super) stream: Option<StreamGuard>,
    /// Whether these are WebSocket frames, which a close frame can follow.
    pub(super) websocket: bool,
}

/// One direction.
struct Half {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    source_done: bool,
    finished: bool,
    moved: u64,
    frames: Option<Frames>,
}

enum Broken {
    Source,
    Sink,
}

impl Half {
    /// A direction that begins with bytes read earlier.
    fn new(early: &[u8], websocket: bool) -> Self {
        let mut buffer = vec![0; BUFFER.max(early.len())].into_boxed_slice();
        buffer[..early.len()].copy_from_slice(early);
        let frames = websocket.then(Frames::default);
        Self { buffer, start: 0, end: early.len(), source_done: false, finished: false, moved: 0, frames }
    }

    /// Whether a frame of ours may follow what was handed on.
    fn may_say_more(&self) -> bool {
        let open = |frames: &Frames| frames.at_boundary() && !frames.is_closed();
        self.frames.as_ref().is_some_and(open) && !self.finished
    }

    /// Whether nothing of a frame is lost by stopping here.
    fn is_between(&self) -> bool {
        self.start == self.end && self.frames.as_ref().is_none_or(Frames::at_boundary)
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
                        if let Some(frames) = &mut self.frames {
                            frames.advance(&bytes[..n]);
                        }
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

/// Runs a tunnel to its end, or to its stream's. `early` was read from the client already. Reports each direction's bytes
/// (received from the client, sent to it) as they move.
pub(super) async fn run<C, U>(
    client: &mut C,
    early: &[u8],
    upstream: &mut U,
    (state, kind): (&ConnState, &Kind),
    mut report: impl FnMut(u64, u64),
) -> End
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::new(early, kind.websocket), Half::new(&[], kind.websocket));
    // Made when it is time to go, for the end of the frame that is under way.
    let mut grace = None;
    let end = std::future::poll_fn(|cx| {
        state.park(cx);
        if let Some(stream) = &kind.stream {
            stream.park(cx);
        }
        let before = (up.moved, down.moved);
        let a = up.poll(cx, client, upstream);
        let b = down.poll(cx, upstream, client);
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
            _ => match kind.stream.as_ref().and_then(StreamGuard::over) {
                None => Poll::Pending,
                Some(leave) if down.is_between() && up.is_between() => Poll::Ready(End::Left(leave)),
                Some(leave) => {
                    let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
                    grace.as_mut().poll(cx).map(|()| End::Left(leave))
                }
            },
        }
    })
    .await;
    if let End::Left(_) = end {
        say_goodbye(client, &down, None).await;
        say_goodbye(upstream, &up, Some(fastrand::u32(..).to_ne_bytes())).await;
    }
    end
}

/// Puts a WebSocket's close frame behind what was handed on, where it would be read as one.
async fn say_goodbye(to: &mut (impl AsyncWrite + Unpin), half: &Half, mask: Option<[u8; 4]>) {
    use tokio::io::AsyncWriteExt;

    if half.may_say_more() {
        let _ = tokio::time::timeout(GRACE, to.write_all(&websocket::going_away(mask))).await;
    }
}

/// Closes both sides of a tunnel that was left: each reads our last bytes and a FIN.
pub(super) async fn close(
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
) {
    tokio::join!(linger(client, false), linger(upstream, false));
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
