//! A client's socket as bytes go out of it: what it takes, and does not, is told to the deadlines of the connection.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use super::conn::ConnState;
use super::socket::Socket;
use crate::transport::Outlet;

/// A client's socket, as what is sent goes into it: every byte is reported to the connection's deadlines.
pub(super) struct ToClient<'a> {
    pub(super) socket: &'a mut Socket,
    /// The close follows at once.
    pub(super) last: bool,
    pub(super) state: &'a ConnState,
}

impl ToClient<'_> {
    fn took(&self, len: usize) {
        self.state.sent(len);
        self.state.judge_download();
    }
}

impl Outlet for ToClient<'_> {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = self.socket.send(pieces, self.last);
        match &sent {
            Ok(len) => self.took(*len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.state.wants_room(),
            Err(_) => {}
        }
        sent
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = self.socket.poll_write_pieces(cx, pieces);
        match &written {
            Poll::Ready(Ok(len)) => self.took(*len),
            Poll::Pending => self.state.wants_room(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}
