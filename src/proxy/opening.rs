//! The first bytes of a connection, or of the next request after a rest.

use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use super::conn::{ConnState, Reading};
use super::h2::PREFACE;
use super::socket::Socket;
use crate::transport::Common;

/// The protocol that a connection opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What waiting for a client's bytes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Bytes came that begin a connection of this protocol or, on one that is used, a request.
    Begun(Protocol),
    /// The client left.
    Gone,
    /// It dallied for too long, or the worker drains.
    Cut,
}

/// Waits for the bytes that tell what is next, and reads them into `bytes`. While there are none nothing is
/// held but the socket.
pub(super) fn poll_open(
    cx: &mut Context<'_>,
    socket: &mut Socket,
    bytes: &mut BytesMut,
    (state, common): (&ConnState, &Common),
    used: bool,
) -> Poll<Opening> {
    loop {
        if state.verdict().is_some() || state.is_leaving() {
            return Poll::Ready(Opening::Cut);
        }
        let seen = bytes.len().min(PREFACE.len());
        if bytes[..seen] != PREFACE[..seen] || used && seen > 0 || state.head_is_late() {
            return Poll::Ready(Opening::Begun(Protocol::Http1));
        } else if seen == PREFACE.len() {
            return Poll::Ready(Opening::Begun(Protocol::Http2));
        }
        match ready!(socket.poll_first(cx, bytes, &common.buffers)) {
            Ok(len) if len > 0 => {
                state.received(len);
                state.set_reading(Reading::Head);
            }
            _ => return Poll::Ready(Opening::Gone),
        }
    }
}
