//! WebSocket and every other Upgrade: after a 101 that matches, the connection is a tunnel.

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::response::Parts;
use http::{Response, Version};

use super::body::Body;
use super::call::Call;
use super::error::ProxyError;
use super::headers;
use crate::telemetry::Outcome;
use crate::transport::UpstreamBody;

/// Takes an instance's 101: it must be asked for, and be for one of the protocols that the client named.
pub(super) fn switch(
    call: &mut Call,
    mut parts: Parts,
    body: UpstreamBody,
    asked: Option<&HeaderValue>,
) -> Result<Response<Body>, ProxyError> {
    let granted = parts.headers.get(UPGRADE).cloned();
    let matches = match (asked, &granted) {
        (Some(asked), Some(granted)) => {
            headers::has_token(&parts.headers, &CONNECTION, "upgrade") && names(asked, granted)
        }
        _ => false,
    };
    let upgraded = if matches { body.into_upgraded() } else { None };
    let (Some(upgraded), Some(granted)) = (upgraded, granted) else {
        call.settle(Outcome::Reset);
        return Err(ProxyError::UpstreamProtocol("a switch of protocols that was not asked for".into()));
    };
    let context = &call.client.context;
    headers::answered(&mut parts.headers);
    parts.headers.extend(headers::stamp(&context.via, parts.version, &call.request_id));
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, granted.clone());
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    call.websocket = granted.as_bytes().eq_ignore_ascii_case(b"websocket");
    call.tunnel = Some(upgraded);
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Whether the protocol granted is among those asked for.
fn names(asked: &HeaderValue, granted: &HeaderValue) -> bool {
    let (Ok(asked), Ok(granted)) = (asked.to_str(), granted.to_str()) else { return false };
    asked.split(',').any(|one| one.trim().eq_ignore_ascii_case(granted.trim()))
}
