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

    /// The request as it came, before anything of it was sent.
    pub fn into_request(self) -> Request<B> {
        self.request
    }

    /// The request, to be changed before it is sent.
    pub fn request_mut(&mut self) -> &mut Request<B> {
        &mut self.request
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

// On the heap: a request is passed from hand to hand, and its head is large.
impl<B> From<Request<B>> for Box<Outgoing<B>> {
    fn from(request: Request<B>) -> Self {
        Box::new(request.into())
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
