//! HTTP/2 toward clients: one connection and its streams, on the `h2` crate itself.
//!
//! hyper's server would look at every head once more, box every request, and put a pipe of its own between
//! `h2` and an answer. Here a stream is one small task: it polls its request and hands `h2` what comes out.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::{Request, Response};
use http_body::Body as _;

use super::answer::Answer;
use super::body::{Body, BoxError};
use super::headers;
use super::io::Io;
use super::listener::Client;
use super::socket::Socket;
use super::stack;
use super::streams::Leave;

/// Streams of one client connection.
const MAX_STREAMS: u32 = 256;
/// Windows of HTTP/2 uploads: a stream's, and the connection's over all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Answer bytes that one HTTP/2 stream may hold back for a slow client.
const SEND_BUFFER: usize = 64 * 1024;
/// Resets that a client may have outstanding, and ones that it may provoke, before GOAWAY.
const PENDING_RESETS: usize = 20;
const PROVOKED_RESETS: usize = 1024;

/// Serves a client's connection to its end.
/// Its socket comes back, for what is left to do with it.
pub(super) async fn run(socket: Socket, early: Bytes, client: &Rc<Client>) -> Option<Socket> {
    let (io, left) = Io::new(socket, early, Rc::clone(&client.state));
    let limits = client.limits();
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        // Larger than our own limit, so that what is over that gets an answer of ours.
        .max_header_list_size(
            u32::try_from(limits.max_header_size).unwrap_or(u32::MAX).saturating_add(32 * 1024),
        )
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let mut connection = Phase::Opening(builder.handshake(io));
    let state = &client.state;
    let mut leaving = false;
    let ended = poll_fn(|cx| {
        state.park(cx);
        leaving = leaving || client.context.is_draining() || state.verdict().is_some();
        if state.verdict().is_some() {
            // One more poll, so that GOAWAY goes out; streams that are open end with the connection.
            let _ = connection.poll(cx, client, leaving);
            return Poll::Ready(None);
        }
        connection.poll(cx, client, leaving).map(Some)
    })
    .await;
    match ended {
        Some(Err(error)) => tracing::debug!(%error, "client connection ended"),
        Some(Ok(())) => {}
        None => tracing::debug!(verdict = ?state.verdict(), "client connection cut"),
    }
    drop(connection);
    left.take()
}

/// How far a connection is.
enum Phase {
    /// The preface and the first settings.
    Opening(Handshake<Io, Bytes>),
    /// Streams come and go; whether GOAWAY was said.
    Open(Connection<Io, Bytes>, bool),
}

impl Phase {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &Rc<Client>,
        leaving: bool,
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match self {
                Self::Opening(handshake) => {
                    let connection = ready!(Pin::new(handshake).poll(cx))?;
                    *self = Self::Open(connection, false);
                }
                Self::Open(connection, left) => {
                    if leaving && !std::mem::replace(left, true) {
                        connection.graceful_shutdown();
                    }
                    match ready!(connection.poll_accept(cx)) {
                        Some(Ok((request, respond))) => {
                            tokio::task::spawn_local(stream(Rc::clone(client), request, respond));
                        }
                        Some(Err(error)) => return Poll::Ready(Err(error)),
                        None => return Poll::Ready(Ok(())),
                    }
                }
            }
        }
    }
}

/// One request and its answer.
async fn stream(client: Rc<Client>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    // Boxed: a task that carried it would be moved with it.
    let (parts, incoming) = request.into_parts();
    let request = Request::from_parts(parts, Body::empty()).into();
    let mut service = Box::pin(stack::serve(Rc::clone(&client), request, incoming.into()));
    let answer = poll_fn(|cx| match service.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        // A client that takes its request back takes along what was done for it.
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await;
    drop(service);
    let Some(answer) = answer else { return };
    let (head, body) = finish(answer, &client);
    let ends = body.is_end_stream();
    match respond.send_response(head, ends) {
        Ok(_) if ends => {}
        Ok(stream) => {
            let mut pipe = pin!(Pipe { stream, body, waiting: Bytes::new() });
            poll_fn(|cx| pipe.poll(cx)).await;
        }
        Err(error) => {
            tracing::debug!(%error, "an answer that HTTP/2 cannot carry");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// The answer's head as HTTP/2 has it, with a date where the instance gave none.
fn finish(answer: Response<Answer>, client: &Client) -> (Response<()>, Answer) {
    let (mut parts, body) = answer.into_parts();
    if client.context.chain.is_some() {
        // What instances send was cleaned; filters may write what they like.
        headers::strip_connection_fields(&mut parts.headers);
    }
    if !parts.headers.contains_key(DATE) {
        parts.headers.insert(DATE, client.context.date());
    }
    if let Some(len) = body.size_hint().exact()
        && !body.is_end_stream()
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    (Response::from_parts(parts, ()), body)
}

/// The way of an answer's body into its stream, as fast as the client's windows allow.
struct Pipe {
    stream: SendStream<Bytes>,
    body: Answer,
    /// Polled already, and waiting for window.
    waiting: Bytes,
}

impl Pipe {
    /// Ready when all of it is in the stream, or nobody wants the rest.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.poll_frames(cx);
        if polled.is_pending() && !matches!(self.stream.poll_reset(cx), Poll::Pending) {
            return Poll::Ready(());
        }
        polled
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // A client that takes nothing must not keep what is to end: what waits is cut off with the rest.
            if !self.waiting.is_empty() && !self.body.must_end() {
                // Less would do, and more would keep window from other streams: the rest of a piece is asked
                // for once it is given to h2.
                self.stream.reserve_capacity(1);
                while self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
                let data = std::mem::take(&mut self.waiting);
                let last = self.body.is_end_stream();
                if self.stream.send_data(data, last).is_err() || last {
                    return Poll::Ready(());
                }
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.stream.send_data(Bytes::new(), true),
                Some(Err(error)) => {
                    self.stream.send_reset(reason(&error));
                    return Poll::Ready(());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() && self.body.is_end_stream() => {
                        self.stream.send_data(data, true)
                    }
                    Ok(data) => {
                        self.waiting = data;
                        continue;
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => self.stream.send_trailers(trailers),
                        Err(_) => continue,
                    },
                },
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "an answer's end that HTTP/2 cannot carry");
                self.stream.send_reset(Reason::INTERNAL_ERROR);
            }
            return Poll::Ready(());
        }
    }
}

/// What a broken answer is reset with: the instance's own word where it spoke HTTP/2.
fn reason(error: &BoxError) -> Reason {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        if error.is::<Leave>() {
            return Reason::CANCEL;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
