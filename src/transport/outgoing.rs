//! A request on its way to an instance.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};

use super::BoxError;

/// What the body of a request must be. Implemented by every body that fits.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static {}

impl<T: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static> RequestBody for T {}

/// A request that may be handed to a connection, and from one that never took it to the next.
///
/// A body can't be polled backwards: frames that an attempt polled in vain travel in here, so that
/// only this, and not the bare request, can be sent again.
pub struct Outgoing<B> {
    pub(crate) request: Request<B>,
    /// Frames already polled from the body; they go first.
    pub(crate) taken: VecDeque<Frame<Bytes>>,
}

impl<B> Outgoing<B> {
    /// The request; its body may lack what was polled already.
    pub fn request(&self) -> &Request<B> {
        &self.request
    }

    /// The headers, to be changed between attempts.
    pub fn headers_mut(&mut self) -> &mut http::HeaderMap {
        self.request.headers_mut()
    }
}

impl<B: Body> Outgoing<B> {
    /// The exact length of the whole body, where it is known.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        let taken: u64 = self.taken.iter().filter_map(Frame::data_ref).map(|d| d.len() as u64).sum();
        self.request.body().size_hint().exact().map(|rest| rest + taken)
    }

    /// Whether there is nothing at all to send after the head.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.taken.is_empty() && self.request.body().is_end_stream()
    }
}

impl<B> From<Request<B>> for Outgoing<B> {
    fn from(request: Request<B>) -> Self {
        Self { request, taken: VecDeque::new() }
    }
}

impl<B> From<Box<Outgoing<B>>> for Outgoing<B> {
    fn from(unsent: Box<Outgoing<B>>) -> Self {
        *unsent
    }
}

impl<B> fmt::Debug for Outgoing<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("method", self.request.method())
            .field("uri", self.request.uri())
            .field("taken", &self.taken.len())
            .finish_non_exhaustive()
    }
}
