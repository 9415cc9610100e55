//! The body of an answer, still on its way, and the rest of the request beside it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::decode::{Decoder, Step};
use super::io::Io;
use super::upload::{Drive, UploadError};
use crate::transport::{Reset, UpstreamBodyError};

/// A body that is read from its connection as it is polled.
///
/// With the last byte the connection goes back to the pool, if both directions are done and
/// nothing came behind it. Dropped before, it closes.
pub(crate) struct H1Body {
    /// Gone once the exchange is over.
    io: Option<Io>,
    decoder: Decoder,
    upload: Option<Box<dyn Drive>>,
    reusable: bool,
}

impl H1Body {
    pub(super) fn new(io: Io, decoder: Decoder, upload: Option<Box<dyn Drive>>, reusable: bool) -> Self {
        Self { io: Some(io), decoder, upload, reusable }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        match ready!(self.poll_step(cx)) {
            Ok(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Ok(None) => Poll::Ready(None),
            Err(error) => {
                self.io = None;
                self.upload = None;
                self.decoder = Decoder::new(super::head::Framing::None, super::HeadLimits::NONE);
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UpstreamBodyError>> {
        let Some(io) = &mut self.io else {
            // All bytes are in; trailers may be left.
            return Poll::Ready(match self.decoder.decode(&mut bytes::BytesMut::new()) {
                Ok(Step::Trailers(trailers)) => Ok(Some(Frame::trailers(trailers))),
                _ => Ok(None),
            });
        };
        if let Some(upload) = &mut self.upload {
            match upload.poll_drive(io, cx) {
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(UploadError::Body(error))) => {
                    return Poll::Ready(Err(UpstreamBodyError::RequestBody(error)));
                }
                Poll::Ready(Err(UploadError::Io(_))) => {
                    // It has answered and reads no more; the answer is still good.
                    io.discard_output();
                    self.upload = None;
                    self.reusable = false;
                }
                Poll::Pending => {}
            }
        }
        loop {
            let step = self.decoder.decode(&mut io.input).map_err(UpstreamBodyError::Protocol)?;
            let frame = match step {
                Step::Data(data) => Some(Frame::data(data)),
                Step::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Step::End => None,
                Step::More => {
                    match ready!(io.poll_fill(cx)) {
                        Ok(0) if self.decoder.close() => {}
                        Ok(0) => return Poll::Ready(Err(UpstreamBodyError::Reset(Reset::eof(io.reused())))),
                        Ok(_) => {}
                        Err(error) => {
                            let reset = Reset::io(error, io.reused());
                            return Poll::Ready(Err(UpstreamBodyError::Reset(reset)));
                        }
                    }
                    continue;
                }
            };
            if self.decoder.is_complete() {
                // An answer that ends before the request does leaves a connection of unknown state.
                let reusable = self.reusable && self.upload.is_none();
                self.upload = None;
                if let Some(io) = self.io.take() {
                    io.finish(reusable);
                }
            } else {
                io.release_input();
            }
            return Poll::Ready(Ok(frame));
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.decoder.is_exhausted()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
