//! One request and its answer's head on a stream, polled by whoever asked.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::h2::client::ResponseFuture;
use ::h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};

use super::body::H2Body;
use super::channel::Seat;
use super::upload::{Drive, Upload};
use crate::transport::h1::{MAX_INTERIM, expects_body};
use crate::transport::{BoxError, Outgoing, ProtocolError, RequestBody, Reset, SendError, UpstreamBody};

/// Sends `outgoing` on a stream of its own and waits for the head of the answer.
pub(crate) async fn send<B: RequestBody>(
    seat: Seat,
    outgoing: &mut Outgoing<B>,
) -> Result<Response<UpstreamBody>, SendError> {
    let head = head(outgoing).map_err(|why| SendError::Protocol(ProtocolError::Request(why)))?;
    let bodiless = outgoing.is_bodiless();
    let asked_head = *head.method() == Method::HEAD;
    let opened = match seat.sender() {
        Some(mut sender) => sender.send_request(head, bodiless),
        // It went away while this request was on its way here.
        None => return Err(SendError::Unsent { refused: false }),
    };
    let (answer, stream) = match opened {
        Ok(pair) => pair,
        Err(error) if error.is_io() || error.is_go_away() => {
            return Err(SendError::Unsent { refused: false });
        }
        Err(_) => {
            let why = "it is no valid http/2 request";
            return Err(SendError::Protocol(ProtocolError::Request(why)));
        }
    };
    let (body, taken) = outgoing.take_body();
    let upload = Upload::new(body, stream, taken, bodiless);
    let mut exchange = Exchange { answer, upload, uploading: !bodiless, interim: 0 };
    let polled = poll_fn(|cx| exchange.poll_head(cx)).await;
    match polled {
        Ok(response) => exchange.into_response(response, seat, asked_head).map_err(SendError::Protocol),
        Err(Failure::Body(error)) => Err(SendError::RequestBody(error)),
        Err(Failure::Interim) => Err(SendError::Protocol(ProtocolError::TooManyInterim(MAX_INTERIM))),
        Err(Failure::H2(error)) if is_unprocessed(&error) => match exchange.upload.into_unsent() {
            Some((body, taken)) => {
                outgoing.give_back(body, taken);
                Err(SendError::Unsent { refused: true })
            }
            None => Err(SendError::Reset(Reset { unprocessed: true, ..Reset::h2(error, seat.reused) })),
        },
        Err(Failure::H2(error)) => Err(match fault(error, seat.reused) {
            Fault::Protocol(error) => SendError::Protocol(error),
            Fault::Reset(reset) => SendError::Reset(reset),
        }),
    }
}

/// The head as HTTP/2 has it: an authority in place of Host, no fields about the connection.
fn head<B: RequestBody>(outgoing: &Outgoing<B>) -> Result<Request<()>, &'static str> {
    let request = &outgoing.request;
    let host = request.headers().get(HOST);
    let authority = match (host, request.uri().authority()) {
        (Some(host), _) => Authority::try_from(host.as_bytes()).map_err(|_| "its host is no authority")?,
        (None, Some(authority)) => authority.clone(),
        (None, None) => return Err("it names no host"),
    };
    if request.method() == Method::CONNECT {
        return Err("CONNECT makes a tunnel, not a request");
    }
    let target = request.uri().path_and_query().cloned();
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    uri.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let uri = Uri::from_parts(uri).map_err(|_| "its target is malformed")?;

    let mut headers = request.headers().clone();
    strip_connection_fields(&mut headers);
    headers.extend(outgoing.added.iter().cloned());
    if let Some(len) = outgoing.exact_len()
        && !headers.contains_key(CONTENT_LENGTH)
        && (len > 0 || expects_body(request.method()))
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    Ok(head)
}

/// Fields about one connection, and Host, whose place `:authority` takes.
const STRIPPED: [HeaderName; 7] = [
    HOST,
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

fn strip_connection_fields(headers: &mut HeaderMap) {
    // Mostly there is Host alone: one look at the names is cheaper than to look each of these up.
    let (mut others, mut te) = (false, false);
    for name in headers.keys() {
        match name.as_str().len() {
            2 => te |= *name == TE,
            7 | 10 | 14 | 16 | 17 => others |= STRIPPED.contains(name),
            _ => {}
        }
    }
    headers.remove(HOST);
    if others {
        for name in STRIPPED {
            headers.remove(name);
        }
    }
    if te && headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

enum Failure {
    Body(BoxError),
    Interim,
    H2(::h2::Error),
}

struct Exchange<B> {
    answer: ResponseFuture,
    upload: Upload<B>,
    uploading: bool,
    interim: usize,
}

impl<B: RequestBody> Exchange<B> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Failure>> {
        if self.uploading {
            match self.upload.poll_drive(cx) {
                Poll::Ready(Ok(())) => self.uploading = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Body(error))),
                Poll::Pending => {}
            }
        }
        loop {
            match self.answer.poll_informational(cx) {
                Poll::Ready(Some(Ok(_))) => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Poll::Ready(Err(Failure::Interim));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Failure::H2(error))),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Pin::new(&mut self.answer).poll(cx).map_err(Failure::H2)
    }

    fn into_response(
        mut self,
        response: Response<RecvStream>,
        seat: Seat,
        asked_head: bool,
    ) -> Result<Response<UpstreamBody>, ProtocolError> {
        let limits = seat.channel.common.head_limits();
        if response.headers().len() > limits.max_headers {
            return Err(ProtocolError::TooManyHeaders(limits.max_headers));
        }
        let (parts, stream) = response.into_parts();
        let body = if stream.is_end_stream() {
            // Dropping an upload that is not done resets the stream.
            UpstreamBody::whole(None)
        } else {
            let length = parts.headers.get(CONTENT_LENGTH).filter(|_| !asked_head);
            let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
            self.upload.forget();
            let upload = self.uploading.then(|| Box::new(self.upload) as Box<dyn Drive>);
            UpstreamBody::h2(H2Body::new(stream, seat, upload, length))
        };
        Ok(Response::from_parts(parts, body))
    }
}

/// Whether the peer says that it never looked at the stream (RFC 9113, section 8.7).
///
/// A GOAWAY from the peer fails only the streams above the last that it processed.
fn is_unprocessed(error: &::h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
}

pub(super) enum Fault {
    Reset(Reset),
    Protocol(ProtocolError),
}

/// Who is to blame: the connection, or a peer that broke the rules.
pub(super) fn fault(error: ::h2::Error, reused: bool) -> Fault {
    if error.is_library() {
        Fault::Protocol(ProtocolError::H2(Arc::from(error.to_string())))
    } else {
        Fault::Reset(Reset::h2(error, reused))
    }
}
