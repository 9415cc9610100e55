//! One request and its answer's head on a stream, polled by whoever asked.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Response};

use super::body::H2Body;
use super::channel::Seat;
use super::line::Line;
use super::upload::{Drive, Upload};
use crate::http2::frame::Reason;
use crate::http2::hpack;
use crate::http2::stream::{Over, Stream};
use crate::transport::h1::{MAX_INTERIM, expects_body, number};
use crate::transport::{BoxError, Outgoing, ProtocolError, RequestBody, Reset, SendError, UpstreamBody};

/// A stream with its seat. Dropped before both sides have said all it resets the stream.
pub(super) struct Place {
    seat: Seat,
    pub(super) stream: Rc<Stream>,
}

impl Place {
    pub(super) fn line(&self) -> &Rc<Line> {
        self.seat.line()
    }

    pub(super) fn reused(&self) -> bool {
        self.seat.reused
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line().close(&self.stream, Reason::CANCEL);
        self.line().send();
    }
}

/// Sends `outgoing` on a stream of its own and waits for the head of the answer.
pub(crate) async fn send<B: RequestBody>(
    seat: Seat,
    outgoing: &mut Outgoing<B>,
) -> Result<Response<UpstreamBody>, SendError> {
    let authority = authority(&outgoing.request);
    let authority = authority.map_err(|why| SendError::Protocol(ProtocolError::Request(why)))?;
    let bodiless = outgoing.is_bodiless();
    let asked_head = outgoing.request.method() == Method::HEAD;
    let opened = seat.line().open(bodiless, asked_head, |out| head(outgoing, authority, out));
    // It went away while this request was on its way here.
    let Some(stream) = opened else { return Err(SendError::Unsent { refused: false }) };
    let place = Place { seat, stream };
    let (body, taken) = outgoing.take_body();
    let mut exchange = Exchange { place, upload: Upload::new(body, taken, bodiless), uploading: !bodiless };
    match poll_fn(|cx| exchange.poll_head(cx)).await {
        Ok(head) => exchange.into_response(head).map_err(SendError::Protocol),
        Err(Failure::Body(error)) => Err(SendError::RequestBody(error)),
        Err(Failure::Interim) => Err(SendError::Protocol(ProtocolError::TooManyInterim(MAX_INTERIM))),
        Err(Failure::Over(over)) => {
            let reused = exchange.place.reused();
            let unprocessed = matches!(over, Over::Unprocessed(_));
            if unprocessed && let Some((body, taken)) = exchange.upload.into_unsent() {
                outgoing.give_back(body, taken);
                return Err(SendError::Unsent { refused: true });
            }
            Err(match fault(over, reused) {
                Fault::Protocol(error) => SendError::Protocol(error),
                Fault::Reset(reset) => SendError::Reset(Reset { unprocessed, ..reset }),
            })
        }
    }
}

/// What stands in place of Host.
fn authority<B>(request: &Request<B>) -> Result<&[u8], &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT makes a tunnel, not a request");
    }
    match (request.headers().get(HOST), request.uri().authority()) {
        (Some(host), _) if Authority::try_from(host.as_bytes()).is_ok() => Ok(host.as_bytes()),
        (Some(_), _) => Err("its host is no authority"),
        (None, Some(authority)) => Ok(authority.as_str().as_bytes()),
        (None, None) => Err("it names no host"),
    }
}

/// Writes the head as HTTP/2 has it: an authority in place of Host, no fields about the connection.
fn head<B: RequestBody>(outgoing: &Outgoing<B>, authority: &[u8], out: &mut BytesMut) {
    let request = &outgoing.request;
    let path = request.uri().path_and_query().map_or("/", |target| target.as_str());
    hpack::request(out, request.method(), authority, path.as_bytes());
    let mut sized = false;
    for (name, value) in request.headers() {
        if is_passed(name, value) {
            sized |= *name == CONTENT_LENGTH;
            hpack::field(out, name, value.as_bytes(), value.is_sensitive());
        }
    }
    for (name, value) in &outgoing.added {
        hpack::field(out, name, value.as_bytes(), value.is_sensitive());
    }
    if let Some(len) = outgoing.exact_len().filter(|_| !sized)
        && (len > 0 || expects_body(request.method()))
    {
        let mut digits = BytesMut::with_capacity(20);
        number(len, 10, &mut digits);
        hpack::field(out, &CONTENT_LENGTH, &digits, false);
    }
}

/// Whether a field says something to the instance, and not about one connection. `:authority` takes Host's place.
fn is_passed(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str().len() {
        2 if *name == TE => value == "trailers",
        4 => *name != HOST,
        7 => *name != UPGRADE,
        10 => *name != CONNECTION && name != "keep-alive",
        14 => name != "http2-settings",
        16 => name != "proxy-connection",
        17 => *name != TRANSFER_ENCODING,
        _ => true,
    }
}

enum Failure {
    Body(BoxError),
    Interim,
    Over(Over),
}

struct Exchange<B> {
    place: Place,
    upload: Upload<B>,
    uploading: bool,
}

impl<B: RequestBody> Exchange<B> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failure>> {
        let (line, stream) = (self.place.line(), &self.place.stream);
        if self.uploading {
            match self.upload.poll_drive(cx, line, stream) {
                Poll::Ready(Ok(())) => self.uploading = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Body(error))),
                Poll::Pending => {}
            }
        }
        line.send();
        if let Some(head) = stream.take_head() {
            return Poll::Ready(Ok(head));
        }
        if stream.interim() as usize > MAX_INTERIM {
            return Poll::Ready(Err(Failure::Interim));
        }
        if let Some(over) = stream.over() {
            return Poll::Ready(Err(Failure::Over(over)));
        }
        stream.park_reader(cx);
        Poll::Pending
    }

    fn into_response(mut self, head: Response<()>) -> Result<Response<UpstreamBody>, ProtocolError> {
        let limits = self.place.seat.channel.common.head_limits();
        if head.headers().len() > limits.max_headers {
            return Err(ProtocolError::TooManyHeaders(limits.max_headers));
        }
        let body = if let Some(data) = self.place.stream.take_whole() {
            self.place.line().took(&self.place.stream, data.len());
            // Dropping an upload that is not done resets the stream.
            UpstreamBody::whole((!data.is_empty()).then_some(data))
        } else {
            self.upload.forget();
            let upload = self.uploading.then(|| Box::new(self.upload) as Box<dyn Drive>);
            UpstreamBody::h2(H2Body::new(self.place, upload))
        };
        Ok(head.map(|()| body))
    }
}

pub(super) enum Fault {
    Reset(Reset),
    Protocol(ProtocolError),
}

/// Who is to blame: the connection, or a peer that broke the rules.
pub(super) fn fault(over: Over, reused: bool) -> Fault {
    Fault::Reset(match over {
        Over::Broken(why) => return Fault::Protocol(ProtocolError::H2(Arc::from(why))),
        Over::Reset(reason) | Over::Unprocessed(reason) => Reset::stream(reason, reused),
        Over::Lost | Over::Ours(_) => Reset::eof(reused),
    })
}
