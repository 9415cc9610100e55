//! The body of an answer on a stream, and the rest of the request beside it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::exchange::{Fault, Place, fault};
use super::upload::Drive;
use crate::http2::frame::Reason;
use crate::http2::stream::Over;
use crate::transport::UpstreamBodyError;

/// A body that is read from its stream as it is polled. Dropped early, it resets the stream.
pub(crate) struct H2Body {
    /// Gone once the exchange is over; the seat with it, so that the next stream may open.
    place: Option<Place>,
    upload: Option<Box<dyn Drive>>,
    /// The answer has a length.
    sized: bool,
}

impl H2Body {
    pub(super) fn new(place: Place, upload: Option<Box<dyn Drive>>) -> Self {
        let sized = place.stream.missing().is_some();
        Self { place: Some(place), upload, sized }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let polled = ready!(self.poll_inner(cx));
        let exhausted = self.place.as_ref().is_some_and(|place| place.stream.is_exhausted());
        if !matches!(polled, Some(Ok(_))) || exhausted {
            self.place = None;
            self.upload = None;
        }
        Poll::Ready(polled)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let Some(place) = &self.place else { return Poll::Ready(None) };
        let (line, stream) = (place.line(), &place.stream);
        if let Some(upload) = &mut self.upload {
            let driven = upload.poll_drive(cx, line, stream);
            line.send();
            match driven {
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(Err(UpstreamBodyError::RequestBody(error))));
                }
                Poll::Pending => {}
            }
        }
        let data = stream.take_body();
        if !data.is_empty() {
            // The window opens again as the client takes the data: that is the back pressure.
            line.took(stream, data.len());
            line.send();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = stream.take_trailers() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if stream.ended.get() {
            return Poll::Ready(None);
        }
        let Some(over) = stream.over() else {
            stream.park_reader(cx);
            return Poll::Pending;
        };
        if over == Over::Reset(Reason::NO_ERROR) && stream.missing() == Some(0) {
            // "Stop sending", behind an answer that is complete (RFC 9113, section 8.1) but for its end.
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(match fault(over, place.reused()) {
            Fault::Reset(reset) => UpstreamBodyError::Reset(reset),
            Fault::Protocol(error) => UpstreamBodyError::Protocol(error),
        })))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.place.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.place {
            None => SizeHint::with_exact(0),
            Some(place) if self.sized => SizeHint::with_exact(place.stream.unread()),
            Some(_) => SizeHint::default(),
        }
    }
}
