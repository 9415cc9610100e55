//! The way of a request's body into a stream, as fast as the peer's windows allow.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::line::Line;
use crate::http2::hpack;
use crate::http2::stream::Stream;
use crate::transport::{BoxError, RequestBody};

/// Bytes of a body kept until the answer's head, so that a refused stream can be sent again.
const KEPT: usize = 64 * 1024;

/// An upload that goes on while the answer is read, whatever its body's type.
pub(super) trait Drive {
    /// Ready when all of it is in the stream, or the peer wants no more; fails with the body.
    fn poll_drive(
        &mut self,
        cx: &mut Context<'_>,
        line: &Rc<Line>,
        stream: &Rc<Stream>,
    ) -> Poll<Result<(), BoxError>>;
}

/// A request's body, and how far it got.
pub(super) struct Upload<B> {
    body: B,
    /// Polled already, to be sent before anything else.
    held: VecDeque<Frame<Bytes>>,
    next: Next,
    /// Everything polled so far, while it is little enough to be kept.
    kept: Option<Kept>,
}

/// What waits for window, or room.
enum Next {
    Nothing,
    Data(Bytes),
    Trailers(HeaderMap),
    /// That nothing follows.
    End,
    Ended,
}

#[derive(Default)]
struct Kept {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
}

impl<B: RequestBody> Upload<B> {
    /// `ended`: the stream ended with the head.
    pub(super) fn new(body: B, taken: VecDeque<Frame<Bytes>>, ended: bool) -> Self {
        let next = if ended { Next::Ended } else { Next::Nothing };
        Self { body, held: taken, next, kept: Some(Kept::default()) }
    }

    /// The body with all its frames, if they are still at hand.
    pub(super) fn into_unsent(mut self) -> Option<(B, VecDeque<Frame<Bytes>>)> {
        let mut frames = self.kept?.frames;
        frames.append(&mut self.held);
        Some((self.body, frames))
    }

    /// The answer has begun: it will not be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                kept.bytes += data.len();
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return,
        };
        if kept.bytes > KEPT {
            self.kept = None;
        } else {
            kept.frames.push_back(copy);
        }
    }

    /// Nothing is left to be polled.
    fn is_last(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    /// Writes what is next. Ready with true where nothing follows.
    fn poll_next(&mut self, cx: &Context<'_>, line: &Rc<Line>, stream: &Rc<Stream>) -> Poll<bool> {
        let last = self.is_last();
        let ends = match &mut self.next {
            Next::Nothing => return Poll::Ready(false),
            Next::Ended => return Poll::Ready(true),
            Next::Data(data) => {
                ready!(line.poll_data(cx, stream, data, last));
                last
            }
            Next::Trailers(trailers) => {
                ready!(line.poll_head(cx, stream, true, |out| hpack::trailers(out, trailers)));
                true
            }
            Next::End => {
                ready!(line.poll_data(cx, stream, &mut Bytes::new(), true));
                true
            }
        };
        self.next = if ends { Next::Ended } else { Next::Nothing };
        Poll::Ready(ends)
    }
}

impl<B: RequestBody> Drive for Upload<B> {
    fn poll_drive(
        &mut self,
        cx: &mut Context<'_>,
        line: &Rc<Line>,
        stream: &Rc<Stream>,
    ) -> Poll<Result<(), BoxError>> {
        loop {
            // Whoever reads the answer learns why the stream is over.
            if ready!(self.poll_next(cx, line, stream)) || stream.over().is_some() {
                return Poll::Ready(Ok(()));
            }
            let frame = match self.held.pop_front() {
                Some(frame) => Some(frame),
                None => match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => Some(frame),
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => None,
                },
            };
            let Some(frame) = frame else {
                self.next = Next::End;
                continue;
            };
            self.keep(&frame);
            self.next = match frame.into_data() {
                Ok(data) if !data.is_empty() => Next::Data(data),
                Ok(_) if self.is_last() => Next::End,
                Ok(_) => Next::Nothing,
                Err(frame) => frame.into_trailers().map_or(Next::Nothing, Next::Trailers),
            };
        }
    }
}
