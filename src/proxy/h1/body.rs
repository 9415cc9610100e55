//! The body of a request, read from its connection as it is polled.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use super::super::body::BoxError;
use super::wire::Wire;
use crate::transport::h1::Framing;

/// One request's body. It outlives its place on the connection only to say so.
#[derive(Debug)]
pub(in super::super) struct RequestBody {
    wire: Rc<Wire>,
    request: u64,
    length: Option<u64>,
}

impl RequestBody {
    /// Of the request whose head was read last.
    pub(super) fn new(wire: &Rc<Wire>, framing: Framing) -> Self {
        let length = match framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::Close => None,
        };
        Self { wire: Rc::clone(wire), request: wire.request(), length }
    }

    /// Its whole length, where the head says it.
    pub(in super::super) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(in super::super) fn is_end_stream(&self) -> bool {
        self.length == Some(0) || self.wire.is_exhausted(self.request)
    }

    pub(in super::super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.wire.poll_body(cx, self.request)
    }
}
