//! One request and its answer's head, polled by whoever asked.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode};

use super::body::H1Body;
use super::decode::{Decoder, Step};
use super::encode::{self, Outbound};
use super::head::{self, Answer, Asked, Framing, HeadParser};
use super::io::{Conn, Io};
use super::upload::{Drive, Upload, UploadError};
use crate::transport::pool::TargetPool;
use crate::transport::upgraded::Upgraded;
use crate::transport::{BoxError, Outgoing, ProtocolError, RequestBody, Reset, SendError, UpstreamBody};

/// Interim answers read for one request before the instance is thought hostile.
pub(crate) const MAX_INTERIM: usize = 16;

/// Sends `outgoing` over `conn` and waits for the head of the answer.
pub(crate) async fn send<B: RequestBody>(
    conn: Conn,
    pool: Rc<TargetPool>,
    outgoing: &mut Outgoing<B>,
) -> Result<Response<UpstreamBody>, SendError> {
    if outgoing.request.method() == Method::CONNECT {
        return Err(SendError::Protocol(ProtocolError::Request("CONNECT makes a tunnel, not a request")));
    }
    // Nobody may repeat this one once it is written: look again whether the connection still lives. That is
    // a system call, which a connection that was at work in this very tick is spared: the runtime has looked
    // when it last polled, and its instance has been seen to keep connections for longer than that.
    if !conn.warm && !outgoing.request.method().is_idempotent() && !conn.is_quiet_now() {
        return Err(SendError::Unsent { refused: false });
    }
    let framing = outbound(outgoing);
    let io = Io::new(conn, pool);
    let request = &outgoing.request;
    io.write(|out| {
        let (uri, headers) = (request.uri(), request.headers());
        encode::request_head(request.method(), uri, headers, &outgoing.added, framing, out);
    });
    let asked = asked(request);
    let parser = HeadParser::with(io.common().maps.take());
    let (body, taken) = outgoing.take_body();
    let mut exchange = Exchange {
        io,
        upload: Upload::new(body, framing, taken),
        uploading: Uploading::Yes,
        asked,
        parser,
        interim: 0,
    };
    match poll_fn(|cx| exchange.poll_head(cx)).await {
        Ok(answer) => exchange.into_response(answer).map_err(SendError::Protocol),
        Err(Failure::Unsent) => {
            let (body, taken) = exchange.upload.into_unsent(&exchange.io);
            outgoing.give_back(body, taken);
            Err(SendError::Unsent { refused: false })
        }
        Err(Failure::Reset(reset)) => Err(SendError::Reset(reset)),
        Err(Failure::Protocol(error)) => Err(SendError::Protocol(error)),
        Err(Failure::Body(error)) => Err(SendError::RequestBody(error)),
    }
}

/// The framing of the request: what the body knows of its length, else what the header says.
fn outbound<B: RequestBody>(outgoing: &Outgoing<B>) -> Outbound {
    if outgoing.is_bodiless() {
        return Outbound::None;
    }
    let headers = outgoing.request.headers();
    let announced = || {
        let value = headers.get(CONTENT_LENGTH).filter(|_| !headers.contains_key(TRANSFER_ENCODING))?;
        crate::model::decimal(value.as_bytes())
    };
    match outgoing.exact_len().or_else(announced) {
        Some(0) => Outbound::None,
        Some(len) => Outbound::Length(len),
        None => Outbound::Chunked,
    }
}

fn asked<B>(request: &Request<B>) -> Asked {
    let mut asked = Asked { head: request.method() == Method::HEAD, ..Asked::default() };
    for value in request.headers().get_all(CONNECTION) {
        for token in head::tokens(value) {
            asked.close |= token.eq_ignore_ascii_case(b"close");
            if token.eq_ignore_ascii_case(b"upgrade") {
                asked.upgrade = request.headers().get(UPGRADE).cloned();
            }
        }
    }
    asked
}

enum Failure {
    Unsent,
    Reset(Reset),
    Protocol(ProtocolError),
    Body(BoxError),
}

enum Uploading {
    Yes,
    Done,
    /// The instance stopped reading; its answer may be there all the same.
    Failed(Option<std::io::Error>),
}

struct Exchange<B> {
    io: Io,
    upload: Upload<B>,
    uploading: Uploading,
    asked: Asked,
    parser: HeadParser,
    interim: usize,
}

impl<B: RequestBody> Exchange<B> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        if matches!(self.uploading, Uploading::Yes) {
            match self.upload.poll_drive(&self.io, cx) {
                Poll::Ready(Ok(())) => self.uploading = Uploading::Done,
                Poll::Ready(Err(UploadError::Body(error))) => return Poll::Ready(Err(Failure::Body(error))),
                Poll::Ready(Err(UploadError::Io(_))) if !self.io.written() => {
                    return Poll::Ready(Err(Failure::Unsent));
                }
                Poll::Ready(Err(UploadError::Io(error))) => {
                    self.io.discard_output();
                    self.uploading = Uploading::Failed(Some(error));
                }
                // What can be read before we wrote anything is no answer to us.
                Poll::Pending if !self.io.written() => {
                    self.io.await_answer(cx);
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
        }
        loop {
            let limits = self.io.common().head_limits();
            match self.parser.parse(&mut self.io.input, limits, &self.asked) {
                Ok(Some(answer)) if answer.is_interim() => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Poll::Ready(Err(Failure::Protocol(ProtocolError::TooManyInterim(
                            MAX_INTERIM,
                        ))));
                    }
                    self.asked.close |= !answer.keep_alive;
                    continue;
                }
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Failure::Protocol(error))),
            }
            let reused = self.io.reused();
            match ready!(self.io.poll_fill(cx)) {
                Ok(0) => {
                    let reset = match &mut self.uploading {
                        Uploading::Failed(error) => error.take().map(|error| Reset::io(error, reused)),
                        _ => None,
                    };
                    return Poll::Ready(Err(Failure::Reset(reset.unwrap_or_else(|| Reset::eof(reused)))));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Failure::Reset(Reset::io(error, reused)))),
            }
        }
    }

    fn into_response(mut self, answer: Answer) -> Result<Response<UpstreamBody>, ProtocolError> {
        let uploaded = matches!(self.uploading, Uploading::Done);
        let body = if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            if !uploaded {
                return Err(ProtocolError::Upgrade);
            }
            let Some((stream, early)) = self.io.into_stream() else {
                return Err(ProtocolError::Upgrade);
            };
            UpstreamBody::upgraded(Upgraded::new(stream, early))
        } else {
            let mut decoder = Decoder::new(answer.framing, self.io.common().head_limits());
            if let Some(data) = whole(&mut decoder, answer.framing, &mut self.io.input) {
                self.io.finish(uploaded && answer.keep_alive);
                UpstreamBody::whole(data)
            } else {
                self.io.release_input();
                let upload =
                    matches!(self.uploading, Uploading::Yes).then(|| Box::new(self.upload) as Box<dyn Drive>);
                // Who answers before it has all of the request may never read the rest: on a connection that is used
                // again that would be the next request.
                UpstreamBody::h1(H1Body::new(self.io, decoder, upload, uploaded && answer.keep_alive))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        *response.version_mut() = answer.version;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

/// The body, where all of it came with the head: the connection need not wait for the client then.
#[expect(clippy::option_option, reason = "no body and a body that is not whole are two things")]
fn whole(decoder: &mut Decoder, framing: Framing, input: &mut BytesMut) -> Option<Option<bytes::Bytes>> {
    match framing {
        Framing::None | Framing::Length(0) => Some(None),
        Framing::Length(len) if input.len() as u64 >= len => match decoder.decode(input) {
            Ok(Step::Data(data)) => Some(Some(data)),
            _ => None,
        },
        _ => None,
    }
}
