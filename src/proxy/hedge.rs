//! A second attempt beside one that takes too long: the first good answer wins.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};

use super::attempts::{Tries, is_listed, next, settle, timed};
use super::body::Body;
use super::call::Call;
use super::clock::is_out;
use super::forward::Routed;
use super::retry::{Again, Failed, Price, Reason};
use crate::table::Endpoint;
use crate::telemetry::Outcome;
use crate::transport::{Outgoing, UpstreamBody};

type Attempted = Result<Response<UpstreamBody>, Failed>;

/// Makes a request's first attempt, and another elsewhere once `delay` is over without an answer. The request has
/// no body. What is returned is the attempt that `call` and `endpoint` tell of then.
pub(super) async fn hedged(
    call: &mut Call,
    routed: &mut Routed,
    tries: &mut Tries,
    request: &mut Outgoing<Body>,
    endpoint: &mut Arc<Endpoint>,
    delay: Duration,
) -> Attempted {
    let client = Rc::clone(&call.client);
    let (context, limit) = (&client.context, routed.retry.per_try_timeout);
    let dials = [Cell::new(None), Cell::new(None)];
    let mut copy = Outgoing::from(copy_of(request.request()));
    copy.set_added(request.added().to_vec());
    let (one, at) = (Arc::clone(endpoint), call.attempt_since.checked_add(delay));
    let mut first = pin!(timed(context, &one, request, false, limit, &dials[0]));
    let waited = {
        let waiting = pin!(context.clock.within(at, first.as_mut()));
        context.clock.unless_ejected(&one, true, waiting).await
    };
    if let Some(Ok(done)) = waited {
        dials[0].take().inspect(|took| context.connected(&routed.service, *took));
        return done;
    }
    // The time is over; or the instance was seen to answer nobody, and there is nothing to wait for.
    let (reason, price) =
        if waited.is_none() { (Reason::Silent, Price::Charged) } else { (Reason::Hedge, Price::Budgeted) };
    let again = Again { reason, price, same: false };
    let Some(lease) = next(call, routed, tries, again, &one).await else { return first.await };
    let (other, since) = (Arc::clone(lease.endpoint()), Instant::now());
    tries.exclude(&other);
    call.hedge = Some(lease);
    let mut second = pin!(timed(context, &other, &mut copy, false, limit, &dials[1]));
    let mut ended: [Option<Attempted>; 2] = [None, None];
    let good = |ended: &Option<Attempted>| matches!(ended, Some(Ok(answer)) if !is_listed(answer, routed, call.grpc));
    let both_silent = {
        let mut race = pin!(poll_fn(|cx| {
            if ended[0].is_none()
                && let Poll::Ready(done) = first.as_mut().poll(cx)
            {
                ended[0] = Some(done);
            }
            if ended[1].is_none()
                && !good(&ended[0])
                && let Poll::Ready(done) = second.as_mut().poll(cx)
            {
                ended[1] = Some(done);
            }
            let over = ended.iter().any(good) || ended.iter().all(Option::is_some);
            if over { Poll::Ready(()) } else { Poll::Pending }
        }));
        loop {
            let watched = if is_out(&other) { &one } else { &other };
            if context.clock.unless_ejected(watched, true, race.as_mut()).await.is_some() {
                break false;
            } else if is_out(&one) && is_out(&other) {
                break true;
            }
        }
    };
    if both_silent {
        // Somebody else may have it.
        ended = [Some(Err(Failed::Ejected)), Some(Err(Failed::Ejected))];
    }
    for took in dials.iter().filter_map(Cell::take) {
        context.connected(&routed.service, took);
    }
    // Where neither is good, an answer is better than none.
    let second_wins = good(&ended[1]) || !good(&ended[0]) && !matches!(ended[0], Some(Ok(_)));
    let [first, second] = ended;
    let (winner, loser) = if second_wins { (second, first) } else { (first, second) };
    let left = if second_wins { &one } else { &other };
    if !second_wins {
        std::mem::swap(&mut call.lease, &mut call.hedge);
    }
    // The loser's lease is the call's now.
    match loser {
        None => call.settle(Outcome::Cancelled),
        Some(Ok(_)) => call.settle(Outcome::Error),
        Some(Err(failed)) => settle(call, left, &failed),
    }
    call.lease = call.hedge.take();
    if second_wins {
        (call.instance, call.attempt_since) = (Some(Arc::clone(&other.id)), since);
        *endpoint = Arc::clone(&other);
    }
    winner.unwrap_or(Err(Failed::TryTimeout))
}

/// The same head, and no body.
fn copy_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}
