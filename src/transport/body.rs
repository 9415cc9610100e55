//! The body of an instance's answer, whichever protocol it comes by.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::h1::H1Body;
use super::h2::H2Body;
use super::{Upgraded, UpstreamBodyError};

/// An answer's body. Polling it also moves what is left of the request's body.
///
/// `is_end_stream` turns true with the last byte, not one poll later; `size_hint` is exact where
/// the answer has a length. Dropping it early gives the exchange up.
pub struct UpstreamBody(Kind);

/// One type for all: no boxed body between an instance and a client, and small to move.
enum Kind {
    /// What there is of it is here already; its connection serves others.
    Whole(Option<Bytes>),
    H1(Box<H1Body>),
    H2(Box<H2Body>),
    Upgraded(Box<Upgraded>),
}

impl UpstreamBody {
    pub(crate) fn whole(data: Option<Bytes>) -> Self {
        Self(Kind::Whole(data))
    }

    pub(crate) fn h1(body: H1Body) -> Self {
        Self(Kind::H1(Box::new(body)))
    }

    pub(crate) fn h2(body: H2Body) -> Self {
        Self(Kind::H2(Box::new(body)))
    }

    pub(crate) fn upgraded(upgraded: Upgraded) -> Self {
        Self(Kind::Upgraded(Box::new(upgraded)))
    }

    /// After 101: the connection, which is no longer HTTP. As a body it is empty.
    pub fn into_upgraded(self) -> Option<Upgraded> {
        match self.0 {
            Kind::Upgraded(upgraded) => Some(*upgraded),
            _ => None,
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        match &mut self.0 {
            Kind::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Kind::H1(body) => body.poll_frame(cx),
            Kind::H2(body) => body.poll_frame(cx),
            Kind::Upgraded(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(data) => data.is_none(),
            Kind::H1(body) => body.is_end_stream(),
            Kind::H2(body) => body.is_end_stream(),
            Kind::Upgraded(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(data) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Kind::H1(body) => body.size_hint(),
            Kind::H2(body) => body.size_hint(),
            Kind::Upgraded(_) => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Whole(_) => "whole",
            Kind::H1(_) => "http/1.1",
            Kind::H2(_) => "http/2",
            Kind::Upgraded(_) => "upgraded",
        };
        f.debug_tuple("UpstreamBody").field(&kind).finish()
    }
}
