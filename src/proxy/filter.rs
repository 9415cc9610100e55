//! Filters of an embedding program: tower layers around the forwarding of every request.
//!
//! Filters live on the worker's thread and need not be `Send`; a gateway without filters boxes nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::util::UnsyncBoxService;
use tower::{Layer, Service};

use super::body::{Body, BoxError};
use super::call::Call;
use super::error::ProxyError;
use super::forward::forward;

/// A service as filters see it: the next filter, or the forwarding itself.
///
/// Its error may be a [`ProxyError`], which is answered as such; any other is answered as `internal`.
pub type FilterService = UnsyncBoxService<Request<Body>, Response<Body>, BoxError>;

/// What a filter's `call` may return, and what the next one's does: a filter that only looks, or answers itself, needs
/// no future of its own. Stays on the worker's thread.
pub type FilterFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>>>>;

type Wrap = dyn Fn(FilterService) -> FilterService + Send + Sync;

/// The filters of a gateway, the first outermost. Each worker builds its own chain of them.
#[derive(Clone, Default)]
pub struct Filters(Vec<Arc<Wrap>>);

impl Filters {
    /// Adds a filter inside those added before.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<FilterService> + Send + Sync + 'static,
        L::Service: Service<Request<Body>, Response = Response<Body>> + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<Body>>>::Future: 'static,
    {
        use tower::ServiceExt;
        self.0.push(Arc::new(move |inner| {
            UnsyncBoxService::new(layer.layer(inner).map_err(Into::<BoxError>::into))
        }));
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filters").field(&self.0.len()).finish()
    }
}

/// Names a request's record within the worker: records are not `Send`, which extensions ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CallId(u64);

/// The records of requests that are inside filters.
#[derive(Default)]
struct Parked {
    next: u64,
    calls: HashMap<CallId, Box<Call>>,
}

/// A worker's filters, in place around the forwarding.
pub(super) struct Chain {
    outermost: RefCell<FilterService>,
    parked: Rc<RefCell<Parked>>,
}

impl Chain {
    /// `None` where there is nothing to chain.
    pub(super) fn new(filters: &Filters) -> Option<Self> {
        if filters.is_empty() {
            return None;
        }
        let parked = Rc::<RefCell<Parked>>::default();
        let innermost = UnsyncBoxService::new(Innermost(Rc::clone(&parked)));
        let outermost = filters.0.iter().rev().fold(innermost, |inner, wrap| wrap(inner));
        Some(Self { outermost: RefCell::new(outermost), parked })
    }

    /// Puts a request's record where the forwarding finds it.
    pub(super) fn park(&self, call: Box<Call>) -> Ticket {
        Ticket::park(&self.parked, call)
    }

    /// Runs a request through the filters.
    pub(super) async fn run(
        &self,
        ticket: &Ticket,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ProxyError> {
        request.extensions_mut().insert(ticket.id);
        let ready = poll_fn(|cx| self.outermost.borrow_mut().poll_ready(cx)).await;
        let answer = match ready {
            Ok(()) => {
                let answer = self.outermost.borrow_mut().call(request);
                answer.await
            }
            Err(error) => Err(error),
        };
        answer.map_err(|error| match error.downcast::<ProxyError>() {
            Ok(error) => *error,
            Err(error) => {
                tracing::warn!(%error, "a filter failed");
                ProxyError::Internal
            }
        })
    }
}

/// Holds a parked record's place; dropping it drops the record.
pub(super) struct Ticket {
    parked: Rc<RefCell<Parked>>,
    id: CallId,
}

impl Ticket {
    fn park(parked: &Rc<RefCell<Parked>>, call: Box<Call>) -> Self {
        let mut inner = parked.borrow_mut();
        let id = CallId(inner.next);
        inner.next += 1;
        inner.calls.insert(id, call);
        Self { parked: Rc::clone(parked), id }
    }

    fn take(&self) -> Option<Box<Call>> {
        self.parked.borrow_mut().calls.remove(&self.id)
    }

    /// The record, when no future of the chain is left.
    pub(super) fn redeem(self) -> Box<Call> {
        self.take().expect("the forwarding puts a record back before it answers")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Not while the map is borrowed: the record's own drop counts and logs.
        drop(self.take());
    }
}

/// Puts a record back where the filters' end will look for it.
struct Borrowed {
    parked: Rc<RefCell<Parked>>,
    id: CallId,
    call: Option<Box<Call>>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.parked.borrow_mut().calls.insert(self.id, call);
        }
    }
}

/// The forwarding, as the last service of the chain.
struct Innermost(Rc<RefCell<Parked>>);

impl Service<Request<Body>> for Innermost {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = FilterFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let parked = Rc::clone(&self.0);
        Box::pin(async move {
            let id = request.extensions().get::<CallId>().copied();
            let call = id.and_then(|id| parked.borrow_mut().calls.remove(&id).map(|call| (id, call)));
            // A filter that lost the extension, or sends one request twice at a time, is broken.
            let Some((id, call)) = call else { return Err(ProxyError::Internal.into()) };
            let mut borrowed = Borrowed { parked, id, call: Some(call) };
            let call = borrowed.call.as_mut().expect("put there above");
            forward(call, request.into()).await.map_err(Into::into)
        })
    }
}
