//! The way of a request's body to the instance.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::encode::{self, Outbound};
use super::io::Io;
use crate::transport::{BoxError, RequestBody};

/// Why an upload stopped.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The instance does not read on. It may have answered nevertheless.
    Io(io::Error),
    /// The body itself failed, or is not as long as it said.
    Body(BoxError),
}

/// An upload that goes on while the answer is read, whatever its body's type.
pub(super) trait Drive {
    /// Writes what the body gives and the socket takes. Ready when all of it is written.
    fn poll_drive(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>>;
}

/// A request's body, and how far it got.
pub(super) struct Upload<B> {
    pub(super) body: B,
    framing: Outbound,
    /// Polled already, to be sent before anything else.
    held: VecDeque<Frame<Bytes>>,
    /// Where the data of the first write stands in what is queued, until a byte of it has gone out.
    first: Option<Range<usize>>,
    ended: bool,
}

impl<B: RequestBody> Upload<B> {
    pub(super) fn new(body: B, framing: Outbound, taken: VecDeque<Frame<Bytes>>) -> Self {
        let ended = matches!(framing, Outbound::None);
        Self { body, framing, held: taken, first: None, ended }
    }

    /// The body as it was before a write that never happened: with the frames polled from it.
    pub(super) fn into_unsent(mut self, io: &Io) -> (B, VecDeque<Frame<Bytes>>) {
        if let Some(first) = self.first {
            self.held.push_front(Frame::data(io.unsent(first)));
        }
        (self.body, self.held)
    }

    /// Queues frames until the body has none, or the queue is full, or the first write is due.
    ///
    /// True where the body may give more at once.
    fn fill(&mut self, io: &Io, cx: &mut Context<'_>) -> Result<bool, BoxError> {
        while !self.ended && io.has_room() && (io.written() || self.first.is_none()) {
            let frame = match self.held.pop_front() {
                Some(frame) => frame,
                None if self.body.is_end_stream() => {
                    self.finish(io, None)?;
                    break;
                }
                None => match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => frame,
                    Poll::Ready(Some(Err(error))) => return Err(error.into()),
                    Poll::Ready(None) => {
                        self.finish(io, None)?;
                        break;
                    }
                    Poll::Pending => return Ok(false),
                },
            };
            match frame.into_data() {
                Ok(data) => self.data(data, io)?,
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) if io.written() => self.finish(io, Some(&trailers))?,
                    Ok(trailers) => {
                        self.held.push_front(Frame::trailers(trailers));
                        break;
                    }
                    Err(_) => {}
                },
            }
        }
        Ok(true)
    }

    fn data(&mut self, data: Bytes, io: &Io) -> Result<(), BoxError> {
        if data.is_empty() {
            return Ok(());
        }
        let place = match &mut self.framing {
            Outbound::Length(left) => {
                let Some(rest) = left.checked_sub(data.len() as u64) else {
                    return Err("the body is longer than its content-length".into());
                };
                *left = rest;
                self.ended = rest == 0;
                io.put(data, b"")
            }
            Outbound::Chunked => {
                io.write(|out| encode::chunk_size(data.len(), out));
                let place = io.put(data, b"\r\n");
                if self.held.is_empty() && self.body.is_end_stream() && io.has_room() {
                    self.finish(io, None)?;
                }
                place
            }
            Outbound::None => return Err("a body where none was announced".into()),
        };
        if !io.written() {
            self.first = Some(place);
        }
        Ok(())
    }

    fn finish(&mut self, io: &Io, trailers: Option<&HeaderMap>) -> Result<(), BoxError> {
        match self.framing {
            Outbound::Length(left) if left > 0 => {
                return Err("the body is shorter than its content-length".into());
            }
            Outbound::Chunked => io.write(|out| encode::last_chunk(trailers, out)),
            _ => {}
        }
        self.ended = true;
        Ok(())
    }
}

impl<B: RequestBody> Drive for Upload<B> {
    fn poll_drive(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            let more = self.fill(io, cx).map_err(UploadError::Body)?;
            // Woken for what it has to give at once; its body wakes it for the rest.
            let wait = more && !self.ended;
            ready!(io.poll_flush(cx, wait)).map_err(UploadError::Io)?;
            self.first = None;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if !more {
                return Poll::Pending;
            }
        }
    }
}
