//! The body of an answer on its way to the client: its end is the request's end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::body::{Body, BoxError};
use super::call::{Call, Stamp};
use super::error::ProxyError;
use super::grpc;
use super::streams::{Leave, StreamGuard};
use crate::telemetry::Outcome;
use crate::transport::UpstreamBodyError;

/// A body that counts its request when it yields its end, before that end reaches the client: a scrape
/// after a whole answer includes it.
pub(super) struct Answer {
    body: Body,
    /// Gone once the request is counted.
    call: Option<Box<Call>>,
    /// HTTP/2 polls a body only when the client's window has room: after data, until the next poll, the
    /// client is who holds things up.
    held: bool,
    /// What its head gets beside its fields.
    stamp: Option<Stamp>,
    /// Since it had to be waited for.
    stream: Option<StreamGuard>,
}

impl Answer {
    pub(super) fn new(body: Body, mut call: Box<Call>) -> Self {
        let stamp = call.stamp.take();
        if body.is_end_stream() {
            call.ends(Outcome::Ok);
            return Self { body, call: None, held: false, stamp, stream: None };
        }
        Self { body, call: Some(call), held: false, stamp, stream: None }
    }

    /// Without a request to count: a tunnel has taken it over.
    pub(super) fn uncounted() -> Self {
        Self { body: Body::empty(), call: None, held: false, stamp: None, stream: None }
    }

    fn hold(&mut self, held: bool) {
        if let Some(call) = self.call.as_ref().filter(|call| call.client.http2 && held != self.held) {
            call.client.state.answer_held(held);
            self.held = held;
        }
    }

    /// What its head gets beside its fields.
    pub(super) fn take_stamp(&mut self) -> Option<Stamp> {
        self.stamp.take()
    }

    /// Gives back what was not written after all.
    pub(super) fn give_stamp(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    /// Whether it is to be broken off at the next poll.
    pub(super) fn must_end(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.over().is_some())
    }

    /// Whether the client has to take something before more of it is read.
    fn must_wait(&self) -> bool {
        self.call.as_ref().is_some_and(|call| !call.client.http2 && call.client.state.is_stuffed())
    }

    fn ends(&mut self, outcome: Outcome) {
        self.hold(false);
        self.stream = None;
        if let Some(mut call) = self.call.take() {
            call.ends(outcome);
        }
    }

    /// The instance broke off in the middle: gRPC has words for that, HTTP only a broken end.
    fn breaks(&mut self, error: BoxError) -> Result<Frame<Bytes>, BoxError> {
        let (outcome, reason) = match error.downcast_ref::<UpstreamBodyError>() {
            Some(UpstreamBodyError::RequestBody(_)) => (Outcome::Cancelled, None),
            Some(UpstreamBodyError::Reset(cause)) => {
                (Outcome::Reset, Some(ProxyError::UpstreamReset(cause.to_string())))
            }
            Some(UpstreamBodyError::Protocol(cause)) => {
                (Outcome::Reset, Some(ProxyError::UpstreamProtocol(cause.to_string())))
            }
            None => match error.downcast_ref::<Leave>() {
                Some(leave) => (Outcome::Cancelled, Some((*leave).into())),
                None => (Outcome::Reset, Some(ProxyError::Internal)),
            },
        };
        let mut grpc = false;
        if let (Some(call), Some(reason)) = (&mut self.call, &reason) {
            call.fails(reason);
            grpc = call.grpc;
        }
        self.ends(outcome);
        self.body = Body::empty();
        match reason {
            Some(reason) if grpc => {
                let mut trailers = HeaderMap::new();
                grpc::set_status(&mut trailers, &reason);
                Ok(Frame::trailers(trailers))
            }
            _ => Err(error),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.hold(false);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.hold(false);
        if let Some(leave) = self.stream.as_ref().and_then(StreamGuard::over) {
            return Poll::Ready(Some(self.breaks(leave.into())));
        }
        if self.must_wait() {
            // Whoever waits for the socket polls again when the client has taken something.
            if let Some(stream) = &self.stream {
                stream.park(cx);
            }
            return Poll::Pending;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if self.stream.is_none() {
                self.stream = self.call.as_mut().and_then(|call| call.enter());
            }
            if let Some(stream) = &self.stream {
                stream.park(cx);
            }
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            None => {
                self.ends(Outcome::Ok);
                None
            }
            Some(Err(error)) => Some(self.breaks(error)),
            Some(Ok(frame)) => {
                if let (Some(call), Some(data)) = (&mut self.call, frame.data_ref()) {
                    call.sent += data.len() as u64;
                }
                if let (Some(call), Some(trailers)) = (&mut self.call, frame.trailers_ref()) {
                    call.ends_grpc(trailers);
                }
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.ends(Outcome::Ok);
                }
                self.hold(true);
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("body", &self.body).finish_non_exhaustive()
    }
}
