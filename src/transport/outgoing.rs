//! A request on its way to an instance.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};

use super::BoxError;

/// What the body of a request must be: its default is the body that has no bytes. Implemented by every body
/// that fits.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin + 'static {}

impl<T: Body<Data = Bytes, Error: Into<BoxError>> + Default + Unpin + 'static> RequestBody for T {}

/// A request that is lent to one connection after the other, until one has an answer to it.
///
/// The head stays here. So does a body without bytes; any other goes out with the attempt, and is back where
/// the attempt was in vain ([`SendError::Unsent`](super::SendError::Unsent)). A body can't be polled backwards:
/// frames that were polled for nothing are kept beside it.
pub struct Outgoing<B> {
    pub(crate) request: Request<B>,
    /// Fields that go out behind the request's own.
    pub(crate) added: Vec<(HeaderName, HeaderValue)>,
    /// Frames already polled from the body; they go first.
    pub(crate) taken: VecDeque<Frame<Bytes>>,
    /// The body went out and is not back.
    pub(crate) spent: bool,
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

    /// Fields that are sent behind the request's own: none of a name that stands there. What everybody adds costs no
    /// place in a map then.
    pub fn set_added(&mut self, added: Vec<(HeaderName, HeaderValue)>) {
        self.added = added;
    }

    /// What [`Outgoing::set_added`] was given.
    pub fn added(&self) -> &[(HeaderName, HeaderValue)] {
        &self.added
    }

    /// The headers, to be changed between attempts.
    pub fn headers_mut(&mut self) -> &mut http::HeaderMap {
        self.request.headers_mut()
    }

    /// Whether all of it is here: it may be sent.
    pub fn is_whole(&self) -> bool {
        !self.spent
    }

    /// Gives it a body, as if none had gone out.
    pub fn set_body(&mut self, body: B) {
        *self.request.body_mut() = body;
        self.taken.clear();
        self.spent = false;
    }

    /// What an attempt did not use comes back.
    pub(crate) fn give_back(&mut self, body: B, taken: VecDeque<Frame<Bytes>>) {
        *self.request.body_mut() = body;
        (self.taken, self.spent) = (taken, false);
    }
}

impl<B: Body> Outgoing<B> {
    /// The exact length of the whole body, where it is known.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        let taken: u64 = self.taken.iter().filter_map(Frame::data_ref).map(|d| d.len() as u64).sum();
        self.request.body().size_hint().exact().map(|rest| rest + taken)
    }

    /// Whether there is nothing at all to send after the head.
    pub fn is_bodiless(&self) -> bool {
        self.taken.is_empty() && self.request.body().is_end_stream()
    }
}

impl<B: RequestBody> Outgoing<B> {
    /// The body, for an attempt. Where it has no bytes it also stays.
    pub(crate) fn take_body(&mut self) -> (B, VecDeque<Frame<Bytes>>) {
        if self.is_bodiless() {
            return (B::default(), VecDeque::new());
        }
        self.spent = true;
        (std::mem::take(self.request.body_mut()), std::mem::take(&mut self.taken))
    }
}

impl<B> From<Request<B>> for Outgoing<B> {
    fn from(request: Request<B>) -> Self {
        Self { request, added: Vec::new(), taken: VecDeque::new(), spent: false }
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
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}
