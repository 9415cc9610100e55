//! The way of a request's body into a stream, as fast as the peer's windows allow.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::SendStream;
use bytes::Bytes;
use http_body::Frame;

use crate::transport::{BoxError, RequestBody};

/// Bytes of a body kept until the answer's head, so that a refused stream can be sent again.
const KEPT: usize = 64 * 1024;

/// An upload that goes on while the answer is read, whatever its body's type.
pub(super) trait Drive {
    /// Ready when all of it is in the stream, or the peer wants no more; fails with the body.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
}

/// A request's body, and how far it got.
pub(super) struct Upload<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Polled already, to be sent before anything else.
    held: VecDeque<Frame<Bytes>>,
    /// What waits for window.
    data: Bytes,
    /// Everything polled so far, while it is little enough to be kept.
    kept: Option<Kept>,
    ended: bool,
}

#[derive(Default)]
struct Kept {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
}

impl<B: RequestBody> Upload<B> {
    /// `ended`: the stream ended with the head.
    pub(super) fn new(
        body: B,
        stream: SendStream<Bytes>,
        taken: VecDeque<Frame<Bytes>>,
        ended: bool,
    ) -> Self {
        Self { body, stream, held: taken, data: Bytes::new(), kept: Some(Kept::default()), ended }
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

    /// Puts waiting data into the stream. False where the peer wants no more.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.data.is_empty() {
            self.stream.reserve_capacity(self.data.len());
            let mut capacity = self.stream.capacity();
            if capacity == 0 {
                capacity = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(capacity)) => capacity,
                    Some(Err(_)) | None => return Poll::Ready(false),
                };
            }
            let piece = self.data.split_to(capacity.min(self.data.len()));
            let last = self.data.is_empty() && self.held.is_empty() && self.body.is_end_stream();
            if self.stream.send_data(piece, last).is_err() {
                return Poll::Ready(false);
            }
            self.ended |= last;
        }
        Poll::Ready(true)
    }
}

impl<B: RequestBody> Drive for Upload<B> {
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if !ready!(self.poll_data(cx)) {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let frame = match self.held.pop_front() {
                Some(frame) => Some(frame),
                None => match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => Some(frame),
                    Some(Err(error)) => {
                        self.stream.send_reset(::h2::Reason::CANCEL);
                        return Poll::Ready(Err(error.into()));
                    }
                    None => None,
                },
            };
            let Some(frame) = frame else {
                self.ended = true;
                let _ = self.stream.send_data(Bytes::new(), true);
                continue;
            };
            self.keep(&frame);
            match frame.into_data() {
                Ok(data) if data.is_empty() && self.body.is_end_stream() && self.held.is_empty() => {
                    self.ended = true;
                    let _ = self.stream.send_data(data, true);
                }
                Ok(data) => self.data = data,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.ended = true;
                        let _ = self.stream.send_trailers(trailers);
                    }
                }
            }
        }
    }
}
