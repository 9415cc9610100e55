//! Waiting for a slot of a service that is at its limit.
//!
//! Each worker keeps its own lines, one for each service and choice among its instances, first come first served.
//! Only the first in a line tries; it listens at the line's bell, which whoever frees a slot rings, on any worker.
//! Each tick it tries anyway: an instance may have come meanwhile, or the limit moved.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::call::Call;
use super::context::ProxyContext;
use super::error::ProxyError;
use super::forward::Routed;
use crate::model::{InstanceChoice, ServiceName};
use crate::table::{Lease, PickRequest, Shed, Upstream};

/// The lines of one worker.
#[derive(Debug, Default)]
pub(super) struct Lines(RefCell<HashMap<(usize, usize), Rc<Line>>>);

#[derive(Debug, Default)]
struct Line {
    next: Cell<u64>,
    waiting: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

/// A request in a line.
struct Standing<'l> {
    lines: &'l Lines,
    key: (usize, usize),
    line: Rc<Line>,
    number: u64,
}

impl Lines {
    fn stand(&self, key: (usize, usize)) -> Standing<'_> {
        let line = Rc::clone(self.0.borrow_mut().entry(key).or_default());
        let number = line.next.replace(line.next.get() + 1);
        line.waiting.borrow_mut().push_back((number, None));
        Standing { lines: self, key, line, number }
    }
}

impl Standing<'_> {
    fn is_first(&self) -> bool {
        self.is_first_of(&self.line.waiting.borrow())
    }

    fn is_first_of(&self, waiting: &VecDeque<(u64, Option<Waker>)>) -> bool {
        waiting.front().is_some_and(|(number, _)| *number == self.number)
    }

    /// Returns when everybody before it has gone.
    async fn turn(&self) {
        poll_fn(|cx| {
            let mut waiting = self.line.waiting.borrow_mut();
            match waiting.iter_mut().position(|(number, _)| *number == self.number) {
                Some(at) if at > 0 => {
                    waiting[at].1 = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.waiting.borrow_mut();
        let first = self.is_first_of(&waiting);
        waiting.retain(|(number, _)| *number != self.number);
        match waiting.front_mut() {
            Some((_, waker)) if first => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            Some(_) => {}
            None => _ = self.lines.0.borrow_mut().remove(&self.key),
        }
    }
}

/// Stands in line for a request where its service is at a limit; `None` where that would not help.
pub(super) async fn slot(call: &Call, routed: &Routed, tried: &[u64]) -> Result<Option<Lease>, ProxyError> {
    let context: &ProxyContext = &call.client.context;
    let (service, choice) = (&routed.service, routed.instances);
    let is_limited = |upstream: &Arc<Upstream>| upstream.limits().is_some();
    if !context.with_table(|table, _| table.upstream(service.as_str()).is_some_and(is_limited)) {
        return Ok(None);
    }
    let pick = || {
        context.with_table(|table, rng| {
            let (worker, key, now) = (context.worker, routed.key.as_deref(), context.clock.now());
            let request = PickRequest { rng, worker, key, tried, now };
            table.upstream(service.as_str())?.pick_next(choice, request)
        })
    };
    // Boxed: few requests wait, and all would carry the room for it.
    Box::pin(wait(context, (service, choice), tried, pick)).await
}

/// Waits for a lease where the service is at a limit; `None` where nobody would do anyway.
///
/// `pick` looks at the table of then.
async fn wait(
    context: &ProxyContext,
    (service, choice): (&ServiceName, InstanceChoice),
    tried: &[u64],
    mut pick: impl FnMut() -> Option<Lease>,
) -> Result<Option<Lease>, ProxyError> {
    let found = context.with_table(|table, _| {
        let upstream = table.upstream(service.as_str())?;
        let (plan, limiter) = upstream.limits()?;
        let worth = upstream.is_worth_waiting(choice, tried);
        worth.then(|| (plan.clone(), limiter.clone()))
    });
    let Some((plan, limiter)) = found else { return Ok(None) };
    let shed = |reason: Shed| {
        limiter.shed(reason);
        ProxyError::Overloaded
    };
    let place = limiter.join(plan.queue, context.worker, choice).map_err(shed)?;
    let clock = &context.clock;
    // Not by the worker's clock: it may be a tick behind, and a short wait would not even begin.
    let until = std::time::Instant::now() + plan.queue.timeout;
    let standing = context.lines.stand(place.line());
    loop {
        if standing.is_first()
            && let Some(lease) = pick()
        {
            drop(standing);
            place.served(&plan);
            return Ok(Some(lease));
        }
        if clock.now() >= until {
            return Err(shed(Shed::Timeout));
        }
        let _ = if standing.is_first() {
            let tick = clock.now() + Duration::from_nanos(1);
            clock.within(Some(tick.min(until)), pin!(place.called())).await
        } else {
            clock.within(Some(until), pin!(standing.turn())).await
        };
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    #[test]
    fn a_line_moves_up_whoever_leaves_it() {
        let lines = Lines::default();
        let first = lines.stand((1, 1));
        let second = lines.stand((1, 1));
        let third = lines.stand((1, 1));
        let other = lines.stand((1, 2));
        assert!(first.is_first() && !second.is_first() && other.is_first());
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut turn = pin!(third.turn());
            assert!(turn.as_mut().poll(&mut cx).is_pending());
            drop(second);
            assert!(turn.as_mut().poll(&mut cx).is_pending());
            drop(first);
            assert!(turn.as_mut().poll(&mut cx).is_ready());
        }
        drop((third, other));
        assert!(lines.0.borrow().is_empty(), "a line that is empty is forgotten");
    }
}
