//! HTTP/2 toward clients: a server of our own, because a gateway pays for every map, copy and lock between a frame and
//! its request, and has to bound what a client can make it do.
//!
//! The rules are `http2`'s, which does no I/O. `wire` is the socket with its buffers, `body` a request's body, and here are
//! the tasks: one reads for the whole connection, and one a stream polls its request and writes the answer. All sends of a
//! turn go out together.

mod body;
pub(super) mod codec;
mod head;
mod wire;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;

pub(super) use self::body::RequestBody;
use self::wire::{Read, Wire};
use super::answer::Answer;
use super::body::{Body, BoxError};
use super::conn::Reading;
use super::error::Fault;
use super::headers;
use super::listener::Client;
use super::socket::Socket;
use super::stack;
use super::streams::Leave;
use crate::http2::connection::{Begun, Close, Refusal};
use crate::http2::frame::Reason;
use crate::http2::hpack;
use crate::http2::stream::Stream;
use crate::transport::Reset;

/// The client's connection preface, which precedes its first frame.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a client's connection, whose preface is what `early` begins with, to its end.
/// Its socket comes back, for what is left to do with it.
pub(super) async fn run(socket: Socket, mut early: BytesMut, client: &Rc<Client>) -> Socket {
    let (state, common) = (&client.state, client.context.transport.common());
    state.set_reading(Reading::Opaque);
    early.advance(PREFACE.len());
    let wire = Wire::new(socket, early, client.limits().max_header_size, state, common);
    let ends = Ends(Rc::clone(&wire));
    poll_fn(|cx| {
        state.park(cx);
        if let Poll::Ready(Err(_)) = wire.poll_write(cx) {
            return Poll::Ready(());
        }
        if state.verdict().is_some() {
            tracing::debug!(verdict = ?state.verdict(), "client connection cut");
            wire.goaway();
            return Poll::Ready(());
        }
        if client.context.is_draining() {
            wire.leave();
        }
        let read = wire.read(cx, |begun| {
            tokio::task::spawn_local(serve(Rc::clone(&wire), Rc::clone(client), begun));
        });
        wire.send();
        match read {
            Read::Waits => Poll::Pending,
            Read::Over => Poll::Ready(()),
        }
    })
    .await;
    drop(ends);
    poll_fn(|cx| {
        state.park(cx);
        match wire.poll_write(cx) {
            Poll::Pending if state.verdict().is_none() => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
    wire.take_socket()
}

/// Ends all streams of a connection whose task is done with them, or is no more.
struct Ends(Rc<Wire>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A stream's place on its connection: given back when its task is done, or is no more.
struct Place {
    wire: Rc<Wire>,
    stream: Rc<Stream>,
    close: Close,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.wire.close(&self.stream, self.close);
    }
}

/// One request and its answer.
async fn serve(wire: Rc<Wire>, client: Rc<Client>, Begun { stream, head }: Begun) {
    let mut place = Place { wire, stream, close: Close::Done(Reason::CANCEL) };
    let answer = match head {
        Ok(head) => {
            let request = head.request.map(|()| Body::empty()).into();
            let incoming = RequestBody::new(&place.wire, &place.stream);
            // Boxed: a task that carried it would be moved with it.
            let mut service = Box::pin(stack::serve(Rc::clone(&client), request, incoming.into()));
            let stream = &place.stream;
            poll_fn(|cx| match service.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                // A client that takes its request back takes along what was done for it.
                Poll::Pending if stream.over().is_some() => Poll::Ready(None),
                Poll::Pending => {
                    stream.park(cx);
                    Poll::Pending
                }
            })
            .await
        }
        Err(refusal) => {
            let fault = match refusal {
                Refusal::Malformed(why) => {
                    tracing::debug!(why, "a malformed request over HTTP/2");
                    place.close = Close::Broken(Reason::PROTOCOL_ERROR);
                    Fault::Malformed
                }
                Refusal::TooLarge => Fault::HeadTooLarge,
            };
            Some(stack::refuse_head(&client, fault))
        }
    };
    if let Some(answer) = answer {
        let mut sending = pin!(Sending::new(answer, &client));
        poll_fn(|cx| sending.poll(cx, &mut place, &client)).await;
    }
    let wire = Rc::clone(&place.wire);
    drop(place);
    wire.send();
}

/// An answer on its way.
struct Sending {
    parts: http::response::Parts,
    body: Answer,
    next: Next,
}

/// What is to be written before more of the answer is polled.
enum Next {
    Head,
    Nothing,
    Data(Bytes),
    Trailers(HeaderMap),
    /// That nothing follows.
    End,
}

impl Sending {
    fn new(answer: Response<Answer>, client: &Client) -> Self {
        let (mut parts, body) = answer.into_parts();
        if client.context.chain.is_some() {
            // What instances send was cleaned; filters may write what they like.
            headers::strip_connection_fields(&mut parts.headers);
        }
        if parts.status.is_informational() {
            // A filter's: an interim answer in place of one.
            parts.status = StatusCode::INTERNAL_SERVER_ERROR;
            parts.headers.clear();
        }
        Self { parts, body, next: Next::Head }
    }

    /// Ready when all of it is written, or nobody wants the rest.
    fn poll(&mut self, cx: &mut Context<'_>, place: &mut Place, client: &Client) -> Poll<()> {
        let polled = self.poll_frames(cx, place, client);
        place.wire.send();
        if polled.is_pending() {
            if place.stream.over().is_some() {
                return Poll::Ready(());
            }
            place.stream.park(cx);
        }
        polled
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, place: &mut Place, client: &Client) -> Poll<()> {
        loop {
            if ready!(self.poll_next(cx, place, client)) || place.stream.over().is_some() {
                return Poll::Ready(());
            }
            self.next = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => Next::End,
                Some(Err(error)) => {
                    place.close = Close::Done(reason(&error));
                    return Poll::Ready(());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Next::Data(data),
                    Ok(_) if self.body.is_end_stream() => Next::End,
                    Ok(_) => continue,
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => Next::Trailers(trailers),
                        Err(_) => continue,
                    },
                },
            };
        }
    }

    /// Writes what is next. Ready with true where that was the end.
    fn poll_next(&mut self, cx: &Context<'_>, place: &Place, client: &Client) -> Poll<bool> {
        let (wire, stream) = (&place.wire, &place.stream);
        let ends = match &mut self.next {
            Next::Nothing => return Poll::Ready(false),
            Next::Head => {
                let ends = self.body.is_end_stream();
                let length = if ends { None } else { self.body.size_hint().exact() };
                let stamp = self.body.take_stamp();
                let added = stamp.as_ref().map_or(&[][..], |stamp| &stamp[..]);
                let date = || client.context.date();
                let polled = wire.poll_head(cx, stream, ends, |out| {
                    head::answer(&self.parts, added, length, date, out);
                });
                if polled.is_pending() {
                    self.body.give_stamp(stamp);
                    return Poll::Pending;
                }
                client.context.transport.common().maps.give(std::mem::take(&mut self.parts.headers));
                ends
            }
            // A client that takes nothing must not keep what is to end: what waits is cut off with the rest.
            Next::Data(_) if self.body.must_end() => false,
            Next::Data(data) => {
                let ends = self.body.is_end_stream();
                ready!(wire.poll_data(cx, stream, data, ends));
                ends
            }
            Next::Trailers(trailers) => {
                ready!(wire.poll_head(cx, stream, true, |out| hpack::trailers(out, trailers)));
                true
            }
            Next::End => {
                ready!(wire.poll_data(cx, stream, &mut Bytes::new(), true));
                true
            }
        };
        self.next = Next::Nothing;
        Poll::Ready(ends)
    }
}

/// What a broken answer is reset with: the instance's own word where it spoke HTTP/2.
fn reason(error: &BoxError) -> Reason {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(reset) = error.downcast_ref::<Reset>() {
            return reset.reason.map_or(Reason::INTERNAL_ERROR, Reason);
        }
        if error.is::<Leave>() {
            return Reason::CANCEL;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
