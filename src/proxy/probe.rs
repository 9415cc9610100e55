//! Looking after ejected endpoints: a bare connect, at the times that their health names, until one succeeds
//! or the registration is gone. A client's request never serves as a probe.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::context::ProxyContext;
use crate::table::Endpoint;
use crate::transport::ConnectError;

/// Records that an endpoint could not be connected to; where that ejects it, starts probing it.
pub(super) fn connect_failed(
    context: &Rc<ProxyContext>,
    service: &str,
    endpoint: &Arc<Endpoint>,
    error: &ConnectError,
) {
    if endpoint.connect_failed(Instant::now()) {
        tracing::warn!(service, instance = &*endpoint.id, %error, "instance ejected: it cannot be connected to");
        tokio::task::spawn_local(probe(Rc::clone(context), service.to_owned(), Arc::clone(endpoint)));
    }
}

/// Ends with the ejection. The worker that ejected an endpoint probes it; its runtime owns the task.
async fn probe(context: Rc<ProxyContext>, service: String, endpoint: Arc<Endpoint>) {
    while let Some(at) = endpoint.next_probe() {
        tokio::time::sleep_until(at.into()).await;
        // It may have gone, or come back, meanwhile.
        if endpoint.next_probe().is_none() {
            return;
        }
        match context.transport.dial(&endpoint.target).await {
            Ok(_) => {
                if endpoint.readmit() {
                    tracing::info!(service, instance = &*endpoint.id, "instance readmitted");
                }
            }
            Err(_) => endpoint.probe_failed(Instant::now()),
        }
    }
}
