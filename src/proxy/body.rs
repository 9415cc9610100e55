//! The one body type of requests and answers: an enum, so that the hot path boxes nothing.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::headers::clean_trailers;
use super::replay::Copy;
use super::{h1, h2};
use crate::transport::UpstreamBody;

/// Any error, as bodies hand them up.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a request or of an answer. Belongs to its worker's thread.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Upload(Upload),
    Copy(Copy),
    Upstream(UpstreamBody),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>),
}

/// Why a request's body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the request body is larger than allowed")]
    TooLarge,
    #[error("the client's body failed: {0}")]
    Client(#[source] BoxError),
}

/// A client's body as it comes in.
pub(super) enum Incoming {
    Http1(h1::RequestBody),
    Http2(h2::RequestBody),
}

impl From<h1::RequestBody> for Incoming {
    fn from(body: h1::RequestBody) -> Self {
        Self::Http1(body)
    }
}

impl From<h2::RequestBody> for Incoming {
    fn from(body: h2::RequestBody) -> Self {
        Self::Http2(body)
    }
}

impl Incoming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }
}

/// A client's body, counted and limited as it streams.
struct Upload {
    incoming: Incoming,
    counter: Rc<Cell<u64>>,
    limit: u64,
    /// Its whole length, where that is known.
    length: Option<u64>,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Self(Kind::Full(bytes)) }
    }

    /// Any other body: what filters need. One allocation.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Kind::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// A client's body, whose bytes are added to `counter`. `length`: what its head says, if HTTP/2, which
    /// holds the body to it.
    pub(super) fn upload(
        incoming: Incoming,
        length: Option<u64>,
        counter: &Rc<Cell<u64>>,
        limit: Option<u64>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let length = match &incoming {
            Incoming::Http1(body) => body.length(),
            Incoming::Http2(_) => length,
        };
        let limit = limit.unwrap_or(u64::MAX);
        Self(Kind::Upload(Upload { incoming, counter: Rc::clone(counter), limit, length }))
    }

    pub(super) fn copy(copy: Copy) -> Self {
        Self(Kind::Copy(copy))
    }

    pub(super) fn upstream(body: UpstreamBody) -> Self {
        Self(Kind::Upstream(body))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Empty => "Body(empty)",
            Kind::Full(_) => "Body(full)",
            Kind::Upload(_) => "Body(upload)",
            Kind::Copy(_) => "Body(copy)",
            Kind::Upstream(_) => "Body(upstream)",
            Kind::Boxed(_) => "Body(boxed)",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Upload(upload) => upload.poll_frame(cx),
            Kind::Copy(copy) => copy.poll_frame(cx),
            Kind::Upstream(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(without_forbidden).map_err(Into::into)))
            }
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Upload(upload) => upload.incoming.is_end_stream(),
            Kind::Copy(copy) => copy.is_end_stream(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upload(upload) => match upload.length {
                // What was polled is counted: the hint is of the rest.
                Some(length) => SizeHint::with_exact(length.saturating_sub(upload.counter.get())),
                None => SizeHint::default(),
            },
            Kind::Copy(copy) => copy.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.incoming.poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(Box::new(UploadError::Client(error))))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let total = self.counter.get() + data.len() as u64;
            self.counter.set(total);
            if total > self.limit {
                return Poll::Ready(Some(Err(Box::new(UploadError::TooLarge))));
            }
        }
        Poll::Ready(Some(Ok(without_forbidden(frame))))
    }
}

fn without_forbidden(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        clean_trailers(trailers);
    }
    frame
}
