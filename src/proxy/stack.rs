//! The layers of a request, in their order: log → metrics → limits → filters → deadline.
//!
//! Log and metrics are the [`Call`]: made first, counted when it goes. Limits are [`check`]. Filters wrap the
//! rest where there are any. The deadline, the attempts and the upstream are [`forward`]'s.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};

use super::answer::Answer;
use super::body::{Body, Incoming};
use super::call::Call;
use super::error::{Fault, ProxyError};
use super::forward::forward;
use super::grpc::is_grpc;
use super::listener::Client;
use super::memory::Pressure;
use super::request::check;
use super::respond::{self, Manner};
use crate::transport::Outgoing;

/// Serves one request of a client. Never fails: what goes wrong is an answer.
pub(super) fn serve(
    client: Rc<Client>,
    request: Box<Outgoing<Body>>,
    incoming: Incoming,
) -> impl Future<Output = Response<Answer>> {
    // The part that waits for nothing comes first, so that the future is small.
    let begun = begin(&client, request, incoming);
    async move {
        let (mut call, request) = match begun {
            Ok(begun) => begun,
            Err(refused) => return *refused,
        };
        // filters → deadline → attempts
        let answer = match &client.context.chain {
            None => guarded(&client, pin!(forward(&mut call, request))).await,
            Some(chain) => {
                let ticket = chain.park(call);
                let answer = guarded(&client, pin!(chain.run(&ticket, request.into_request()))).await;
                call = ticket.redeem();
                answer
            }
        };
        match answer {
            Err(error) => refuse(call, &error, false),
            Ok(response) => pass(call, response),
        }
    }
}

/// The answer to a head that must not go further: counted and logged like any other.
pub(super) fn refuse_head(client: &Rc<Client>, fault: Fault) -> Response<Answer> {
    let mut request = Request::new(());
    if client.http2 {
        *request.version_mut() = Version::HTTP_2;
    }
    let mut call = Call::new(client, &request, false);
    call.is_no_request();
    refuse(call, &fault.into(), true)
}

type Begun = (Box<Call>, Box<Outgoing<Body>>);

/// The record of a request, and what is to be forwarded; or the refusal.
fn begin(
    client: &Rc<Client>,
    mut outgoing: Box<Outgoing<Body>>,
    incoming: Incoming,
) -> Result<Begun, Box<Response<Answer>>> {
    let request = outgoing.request_mut();
    // log → metrics
    let mut call = Call::new(client, request, is_grpc(request.headers()));
    // limits; it counts itself.

    if client.context.clock.pressure() != Pressure::None {
        client.context.metrics().shed_for_memory("request", 1);
        return Err(Box::new(refuse(call, &ProxyError::MemoryShort, false)));
    }
    match admit(client, &mut call, request) {
        Ok(length) => {
            *request.body_mut() = Body::upload(incoming, length, &call.received, client.limits().max_body);
        }
        Err(error) => return Err(Box::new(refuse(call, &error, false))),
    }
    Ok((call, outgoing))
}

/// Holds the request against the rules and puts it into the one shape that routing and forwarding know:
/// origin form, one Host, a clean path. Returns the length that an HTTP/2 head gives the body.
fn admit(client: &Client, call: &mut Call, request: &mut Request<Body>) -> Result<Option<u64>, ProxyError> {
    let checked = check(request, client.limits())?;
    call.host = checked.host;
    call.authority = checked.authority;
    if let Some(path) = checked.path {
        let text = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let target = PathAndQuery::from_maybe_shared(text.into_bytes());
        *request.uri_mut() = Uri::from(target.map_err(|_| ProxyError::BadRequest("a malformed path"))?);
    } else if request.uri().authority().is_some() {
        let target = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        *request.uri_mut() = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    if !checked.given {
        request.headers_mut().insert(HOST, call.authority.clone());
    }
    *request.extensions_mut() = http::Extensions::new();
    Ok(checked.length)
}

/// A panic costs the request, not the connection, and never the worker.
async fn guarded<F>(client: &Client, mut future: Pin<&mut F>) -> Result<Response<Body>, ProxyError>
where
    F: Future<Output = Result<Response<Body>, ProxyError>>,
{
    poll_fn(|cx| {
        // Whatever the panic left half-done belongs to this request, which ends here.
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))).unwrap_or_else(|_| {
            client.context.metrics().panicked();
            Poll::Ready(Err(ProxyError::Internal))
        })
    })
    .await
}

fn refuse(mut call: Box<Call>, error: &ProxyError, no_request: bool) -> Response<Answer> {
    call.fails(error);
    let client = Rc::clone(&call.client);
    let manner = Manner {
        grpc: call.grpc,
        // A head that can't be parsed, or did not end, gets no words. One that is too large does.
        bare: no_request && matches!(error, ProxyError::BadRequest(_) | ProxyError::RequestTimeout),
        head: call.method == Method::HEAD,
        close: !client.http2 && (error.closes() || client.context.is_draining()),
        retry_after: call.retry_after,
    };
    let (parts, body) = respond::error(error, &call.request_id, manner).into_parts();
    call.answers(parts.status);
    Response::from_parts(parts, Answer::new(body, call))
}

fn pass(mut call: Box<Call>, response: Response<Body>) -> Response<Answer> {
    let client = Rc::clone(&call.client);
    let (mut parts, body) = response.into_parts();
    call.answers(parts.status);
    if call.tunnel.is_some() {
        client.tunnel.borrow_mut().replace(call);
        return Response::from_parts(parts, Answer::uncounted());
    }
    if client.context.is_draining() && !client.http2 {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(parts, Answer::new(body, call))
}
