//! HTTP/1 toward clients: a server of our own, because a gateway has to be stricter than a server, and pays for
//! every byte that is looked at twice.
//!
//! `head` and `encode` know bytes and nothing else. `wire` is the socket with its buffers, `body` a request's body, read as it is polled, and here is the order of things: a head, its
//! request, the answer, and the next. Nothing of the next request is looked at before the answer is out, so that a
//! refusal comes in its turn, and what follows an Upgrade is HTTP or not as the answer says.

mod body;
mod encode;
mod head;
mod wire;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;

pub(super) use self::body::RequestBody;
use self::encode::{Asked, Begun, Framing, Size};
pub(super) use self::head::{HeadLimits, HeadReader, MAX_URI};
pub(super) use self::wire::body_decoder;
use self::wire::{Next, Wire};
use super::answer::Answer;
use super::call::Call;
use super::conn::ConnState;
use super::listener::Client;
use super::socket::Socket;
use super::stack;

/// What a connection came to.
pub(super) enum End {
    /// It is over, and the close may follow at once.
    Spent,
    /// It is over for us, and the client may still be sending.
    Over(Socket),
    /// Nothing has been asked for in a while: it goes on when bytes come.
    Rest(Socket),
    /// It has stopped being HTTP: with the request that asked for it, and what was read behind that.
    Tunnel(Box<Call>, Socket, BytesMut),
}

/// Why no other request is read.
enum Stop {
    /// It has idled for too long, or its bytes come or go too slowly, or memory is short.
    Cut,
    /// The client has left, or what was to be sent to it broke.
    Gone,
    /// The last answer is sent.
    Done,
    Rest,
    Tunnel(Box<Call>),
}

/// Speaks HTTP/1 to the end, or until nothing has been asked for in a while.
pub(super) async fn run(socket: Socket, early: BytesMut, client: &Rc<Client>) -> End {
    let (state, limits) = (&client.state, client.limits());
    let limits = HeadLimits { size: limits.max_header_size, headers: limits.max_headers };
    let wire = Wire::new(socket, early, state, client.context.transport.common(), limits);
    state.awake.set(true);
    let stop = match requests(&wire, client).await {
        Ok(stop) | Err(stop) => stop,
    };
    state.awake.set(false);
    let spent = wire.is_spent();
    let (socket, unread) = wire.take_socket();
    match stop {
        Stop::Cut => {
            tracing::debug!(verdict = ?state.verdict(), "client connection cut");
            End::Over(socket)
        }
        Stop::Done if spent => End::Spent,
        Stop::Done | Stop::Gone => End::Over(socket),
        Stop::Rest => End::Rest(socket),
        Stop::Tunnel(call) => End::Tunnel(call, socket, unread),
    }
}

/// One request after the other.
async fn requests(wire: &Rc<Wire>, client: &Rc<Client>) -> Result<Stop, Stop> {
    let state = &client.state;
    loop {
        let (answer, asked) = match unless_cut(state, |cx| wire.poll_head(cx)).await? {
            Next::Request(head) => {
                let request = head.request.request();
                let asked = Asked {
                    head: *request.method() == Method::HEAD,
                    http10: request.version() == Version::HTTP_10,
                    last: head.last,
                    trailers: head.trailers,
                };
                let body = RequestBody::new(wire, head.framing);
                let mut service = pin!(stack::serve(Rc::clone(client), head.request, body.into()));
                let answer = unless_cut(state, |cx| match service.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(Ok(answer)),
                    Poll::Pending => wire.poll_left(cx).map(|()| Err(Stop::Gone)),
                });
                (answer.await??, asked)
            }
            Next::Refused(fault) => {
                let asked = Asked { head: false, http10: false, last: true, trailers: false };
                (stack::refuse_head(client, fault), asked)
            }
            Next::Rest => return Ok(Stop::Rest),
            Next::Over => {
                flush(wire, state).await?;
                return Ok(Stop::Done);
            }
        };
        let mut sending = Sending::begin(wire, client, answer, asked);
        let whole = unless_cut(state, |cx| sending.poll(cx, wire)).await?;
        let last = sending.last;
        drop(sending);
        let tunnel = client.tunnel.borrow_mut().take();
        if let Some(call) = tunnel {
            flush(wire, state).await?;
            return Ok(Stop::Tunnel(call));
        }
        let goes_on = whole && !last && poll_fn(|cx| Poll::Ready(wire.skip_body(cx))).await;
        if !goes_on {
            flush(wire, state).await?;
            return Ok(if whole { Stop::Done } else { Stop::Gone });
        }
    }
}

/// Waits for something on a connection, as long as it may go on.
async fn unless_cut<T>(
    state: &ConnState,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, Stop> {
    poll_fn(|cx| {
        state.park(cx);
        if state.verdict().is_some() {
            return Poll::Ready(Err(Stop::Cut));
        }
        poll(cx).map(Ok)
    })
    .await
}

async fn flush(wire: &Wire, state: &ConnState) -> Result<(), Stop> {
    unless_cut(state, |cx| wire.poll_flush(cx)).await?.map_err(|_| Stop::Gone)
}

/// An answer on its way.
struct Sending {
    body: Answer,
    framing: Framing,
    done: bool,
    last: bool,
    client: Rc<Client>,
}

impl Sending {
    /// Writes the head.
    fn begin(wire: &Wire, client: &Rc<Client>, answer: Response<Answer>, mut asked: Asked) -> Self {
        let (mut parts, mut body) = answer.into_parts();
        let mut size = match body.size_hint().exact() {
            _ if body.is_end_stream() => Size::None,
            Some(length) => Size::Known(length),
            None => Size::Unknown,
        };
        if parts.status.is_informational() && client.tunnel.borrow().is_none() {
            // A filter's: an interim answer in place of one.
            parts.status = StatusCode::INTERNAL_SERVER_ERROR;
            parts.headers.clear();
            (size, asked.last) = (Size::None, true);
        }
        let stamp = body.take_stamp();
        let stamp = stamp.as_ref().map_or(&[][..], |stamp| &stamp[..]);
        let Begun { framing, bodiless, last } =
            wire.write(|out| encode::head(&parts, stamp, size, asked, || client.context.date(), out));
        wire.answers();
        client.context.transport.common().maps.give(parts.headers);
        Self { body, framing, done: bodiless, last, client: Rc::clone(client) }
    }

    /// Ready when all of it is sent or on the list of sends; with false where it had to be broken off.
    fn poll(&mut self, cx: &mut Context<'_>, wire: &Rc<Wire>) -> Poll<bool> {
        loop {
            while !self.done && wire.has_room() {
                let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                    wire.send();
                    let state = &self.client.state;
                    let stuffed = state.is_stuffed();
                    if stuffed {
                        wire.await_sent();
                    }
                    match wire.poll_left(cx) {
                        // The client has taken what was in the way.
                        Poll::Pending if stuffed && !state.is_stuffed() => continue,
                        polled => return polled.map(|()| false),
                    }
                };
                let frame = match frame {
                    None => None,
                    Some(Ok(frame)) => Some(frame),
                    Some(Err(_)) => return Poll::Ready(false),
                };
                if self.write(frame, wire).is_err() {
                    return Poll::Ready(false);
                }
            }
            if self.done {
                if self.last {
                    wire.is_last();
                }
                wire.send();
                return Poll::Ready(true);
            }
            if ready!(wire.poll_flush(cx)).is_err() {
                return Poll::Ready(false);
            }
        }
    }

    /// Writes a frame of the body; `None` is its end.
    fn write(
        &mut self,
        frame: Option<http_body::Frame<bytes::Bytes>>,
        wire: &Wire,
    ) -> Result<(), encode::Short> {
        let trailers = match frame.map(http_body::Frame::into_data) {
            None => None,
            Some(Ok(data)) => {
                self.done = self.body.is_end_stream();
                let (data, tail) = wire.write(|out| encode::data(&mut self.framing, data, self.done, out))?;
                wire.put(data, tail);
                return Ok(());
            }
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => Some(trailers),
                Err(_) => return Ok(()),
            },
        };
        self.done = true;
        wire.write(|out| encode::end(&self.framing, trailers, out))
    }
}
