//! What can go wrong with a request, and what that is called on the wire.

use http::StatusCode;

/// Why a head is refused before it is a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It breaks the grammar, or its framing is ambiguous.
    Malformed,
    /// Too many bytes or lines.
    HeadTooLarge,
    /// The request target is too long.
    UriTooLong,
    /// It did not end in time.
    Slow,
}

/// Whose fault an error is: decides how loud it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client's.
    Client,
    /// An instance's, or the lack of one.
    Upstream,
    /// Ours, or a limit of ours.
    Gateway,
}

/// Why the gateway answers a request itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Nothing in the routing table matches.
    #[error("no route matches this request")]
    NoRoute,
    /// The service has no instance that may be used.
    #[error("the service has no instance")]
    NoInstances,
    /// No instance could be connected to.
    #[error("no instance could be reached: {0}")]
    ConnectFailed(String),
    /// The instance broke off.
    #[error("the instance closed the exchange: {0}")]
    UpstreamReset(String),
    /// The instance answered something that is not HTTP.
    #[error("the instance broke the protocol: {0}")]
    UpstreamProtocol(String),
    /// The route's time was over before the answer's head.
    #[error("no answer within the route's timeout")]
    UpstreamTimeout,
    /// A cap is reached.
    #[error("the gateway is at its limit")]
    Overloaded,
    /// Memory is short.
    #[error("the gateway is at its limit of memory")]
    MemoryShort,
    /// The route's barrier stands, and did not go in time; or it holds back as many requests as it may.
    #[error("the route is held back by its barrier")]
    HeldBack,
    /// A rate limit is reached (filters use it).
    #[error("too many requests")]
    RateLimited,
    /// The client did not send its request in time.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The body is longer than `max_body`.
    #[error("the request body is larger than allowed")]
    BodyTooLarge,
    /// The request target is longer than 8 KiB.
    #[error("the request target is longer than 8 KiB")]
    UriTooLong,
    /// Too many header bytes or lines.
    #[error("the request head is larger than allowed")]
    HeadersTooLarge,
    /// The request breaks a rule.
    #[error("{0}")]
    BadRequest(&'static str),
    /// CONNECT is not served.
    #[error("CONNECT is not served here")]
    ConnectRefused,
    /// The request passed here before.
    #[error("the request has been through this gateway already")]
    Loop,
    /// A stream's instance was removed, and its time to go on is over.
    #[error("the instance of this stream was removed")]
    InstanceRemoved,
    /// A stream's key belongs to another instance by now.
    #[error("the key of this stream belongs to another instance now")]
    KeyMoved,
    /// The gateway stops, and a stream's time to go on is over.
    #[error("the gateway stops")]
    Stopping,
    /// A fault of our own (or of a filter).
    #[error("internal error")]
    Internal,
}

impl ProxyError {
    /// The value of `x-zoogate-error`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoInstances => "no_instances",
            Self::ConnectFailed(_) => "connect_failed",
            Self::UpstreamReset(_) => "upstream_reset",
            Self::UpstreamProtocol(_) => "upstream_protocol",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Overloaded | Self::MemoryShort | Self::HeldBack => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BadRequest(_) | Self::ConnectRefused => "bad_request",
            Self::Loop => "loop",
            Self::InstanceRemoved => "instance_removed",
            Self::KeyMoved => "key_moved",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoInstances
            | Self::Overloaded
            | Self::MemoryShort
            | Self::HeldBack
            | Self::InstanceRemoved
            | Self::KeyMoved
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed(_) | Self::UpstreamReset(_) | Self::UpstreamProtocol(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status that a gRPC client gets instead.
    pub fn grpc_status(&self) -> u8 {
        match self {
            Self::UpstreamTimeout => 4,
            Self::RateLimited | Self::BodyTooLarge => 8,
            Self::NoRoute => 12,
            Self::BadRequest(_) | Self::ConnectRefused | Self::Internal => 13,
            Self::NoInstances
            | Self::ConnectFailed(_)
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_)
            | Self::Overloaded
            | Self::MemoryShort
            | Self::HeldBack
            | Self::RequestTimeout
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::InstanceRemoved
            | Self::KeyMoved
            | Self::Stopping
            | Self::Loop => 14,
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NoRoute
            | Self::RateLimited
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::BadRequest(_)
            | Self::ConnectRefused
            | Self::Loop => Blame::Client,
            Self::NoInstances
            | Self::ConnectFailed(_)
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_)
            | Self::UpstreamTimeout => Blame::Upstream,
            Self::Overloaded
            | Self::MemoryShort
            | Self::HeldBack
            | Self::InstanceRemoved
            | Self::KeyMoved
            | Self::Stopping
            | Self::Internal => Blame::Gateway,
        }
    }

    /// Whether an HTTP/1 connection ends with this answer: what follows on it is not to be believed.
    pub(super) fn closes(&self) -> bool {
        match self {
            Self::BadRequest(_)
            | Self::ConnectRefused
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge
            | Self::MemoryShort => true,
            Self::NoRoute
            | Self::NoInstances
            | Self::ConnectFailed(_)
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol(_)
            | Self::UpstreamTimeout
            | Self::Overloaded
            | Self::HeldBack
            | Self::RateLimited
            | Self::InstanceRemoved
            | Self::KeyMoved
            | Self::Stopping
            | Self::Loop
            | Self::Internal => false,
        }
    }
}

impl From<Fault> for ProxyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Self::BadRequest("the request head is malformed"),
            Fault::HeadTooLarge => Self::HeadersTooLarge,
            Fault::UriTooLong => Self::UriTooLong,
            Fault::Slow => Self::RequestTimeout,
        }
    }
}
