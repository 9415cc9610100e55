//! Errors become answers here, and nowhere else.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use super::body::Body;
use super::error::ProxyError;
use super::grpc;
use super::headers::X_REQUEST_ID;

pub(super) const X_ZOOGATE_ERROR: HeaderName = HeaderName::from_static("x-zoogate-error");

/// How an error is to be told.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "four questions, each answered yes or no")]
pub(super) struct Manner {
    /// As a trailers-only answer.
    pub(super) grpc: bool,
    /// Without a body and its headers: the request was no request.
    pub(super) bare: bool,
    /// Without a body, but with its headers: the request is HEAD.
    pub(super) head: bool,
    /// HTTP/1: this is the connection's last answer.
    pub(super) close: bool,
    /// Seconds, for those that are turned away.
    pub(super) retry_after: u32,
}

/// The answer for an error.
pub(super) fn error(error: &ProxyError, request_id: &HeaderValue, manner: Manner) -> Response<Body> {
    let mut response = if manner.grpc { trailers_only(error) } else { problem(error, request_id, manner) };
    let headers = response.headers_mut();
    headers.insert(X_ZOOGATE_ERROR, HeaderValue::from_static(error.code()));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if manner.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn trailers_only(error: &ProxyError) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    grpc::set_status(response.headers_mut(), error);
    response
}

fn problem(error: &ProxyError, request_id: &HeaderValue, manner: Manner) -> Response<Body> {
    let status = error.status();
    let body = json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": error.to_string(),
        "request_id": request_id.to_str().unwrap_or_default(),
    })
    .to_string();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from(manner.retry_after));
    }
    if manner.bare {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if !manner.head {
            *response.body_mut() = Body::full(body);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: HeaderValue = HeaderValue::from_static("id-1");

    #[test]
    fn an_error_is_a_problem_with_its_code_in_a_header() {
        let answer = error(
            &ProxyError::NoInstances,
            &ID,
            Manner { grpc: false, bare: false, head: false, close: false, retry_after: 1 },
        );
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-zoogate-error"], "no_instances");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["retry-after"], "1");
        assert!(!answer.headers().contains_key("connection"));
    }

    #[test]
    fn a_grpc_client_gets_a_trailers_only_answer() {
        let answer = error(
            &ProxyError::NoRoute,
            &ID,
            Manner { grpc: true, bare: false, head: false, close: false, retry_after: 1 },
        );
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], "12");
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert!(http_body::Body::is_end_stream(answer.body()));
    }
}
