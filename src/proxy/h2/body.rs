//! The body of a request, as its stream brings it.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use super::super::body::BoxError;
use super::wire::Wire;
use crate::http2::stream::Stream;

/// One request's body. What was read of it may be sent anew by the client: that is the back pressure.
pub(in super::super) struct RequestBody {
    wire: Rc<Wire>,
    stream: Rc<Stream>,
}

impl RequestBody {
    pub(super) fn new(wire: &Rc<Wire>, stream: &Rc<Stream>) -> Self {
        Self { wire: Rc::clone(wire), stream: Rc::clone(stream) }
    }

    pub(in super::super) fn is_end_stream(&self) -> bool {
        self.stream.is_exhausted()
    }

    pub(in super::super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.stream.is_exhausted() {
            return Poll::Ready(None);
        }
        if self.stream.over().is_some() {
            return Poll::Ready(Some(Err("the stream was reset".into())));
        }
        let data = self.stream.take_body();
        if !data.is_empty() {
            self.wire.took(&self.stream, data.len());
            self.wire.send();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.stream.take_trailers() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        self.stream.park_reader(cx);
        Poll::Pending
    }
}

impl Drop for RequestBody {
    /// What nobody reads must not take window from other streams.
    fn drop(&mut self) {
        self.wire.abandon(&self.stream);
    }
}
