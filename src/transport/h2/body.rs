//! The body of an answer on a stream, and the rest of the request beside it.

use std::task::{Context, Poll, ready};

use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::channel::Seat;
use super::exchange::{Fault, fault};
use super::upload::Drive;
use crate::transport::UpstreamBodyError;

/// A body that is read from its stream as it is polled. Dropped early, it resets the stream.
pub(crate) struct H2Body {
    /// Gone once the exchange is over; the seat with it, so that the next stream may open.
    stream: Option<(RecvStream, Seat)>,
    upload: Option<Box<dyn Drive>>,
    /// Bytes left, where the answer has a length.
    left: Option<u64>,
    data_ended: bool,
}

impl H2Body {
    pub(super) fn new(
        stream: RecvStream,
        seat: Seat,
        upload: Option<Box<dyn Drive>>,
        left: Option<u64>,
    ) -> Self {
        Self { stream: Some((stream, seat)), upload, left, data_ended: false }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let polled = ready!(self.poll_inner(cx));
        if !matches!(polled, Some(Ok(_))) || self.stream.as_ref().is_some_and(|(s, _)| s.is_end_stream()) {
            self.stream = None;
            self.upload = None;
        }
        Poll::Ready(polled)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let Some((stream, seat)) = &mut self.stream else { return Poll::Ready(None) };
        if let Some(upload) = &mut self.upload {
            match upload.poll_drive(cx) {
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(Err(UpstreamBodyError::RequestBody(error))));
                }
                Poll::Pending => {}
            }
        }
        let error = if self.data_ended {
            match ready!(stream.poll_trailers(cx)) {
                Ok(trailers) => return Poll::Ready(trailers.map(|map| Ok(Frame::trailers(map)))),
                Err(error) => error,
            }
        } else {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens again as the client takes the data: that is the back pressure.
                    let _ = stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => {
                    self.data_ended = true;
                    return self.poll_inner(cx);
                }
                Some(Err(error)) => error,
            }
        };
        if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() && self.left.unwrap_or(0) == 0 {
            // "Stop sending": the answer before it is complete (RFC 9113, section 8.1).
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(match fault(error, seat.reused) {
            Fault::Reset(reset) => UpstreamBodyError::Reset(reset),
            Fault::Protocol(error) => UpstreamBodyError::Protocol(error),
        })))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match (&self.stream, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }
}
