//! What goes wrong toward an instance, told apart by what may be done about it.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::http2::frame::Reason;

/// Any error, as bodies hand them up.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// No connection came about. Nothing of a request was touched: another instance may have it.
///
/// Cloned to all who waited for the same dial.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("{address} refused the connection")]
    Refused {
        /// The registered address, and what it resolved to where that differs.
        address: Arc<str>,
        /// What the system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// No answer in time.
    #[error("{address} did not answer within {within:?}")]
    Timeout {
        /// The registered address, and what it resolved to where that differs.
        address: Arc<str>,
        /// The limit.
        within: Duration,
    },
    /// Anything else between here and there, or a want of descriptors or ports here.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable {
        /// The registered address, and what it resolved to where that differs.
        address: Arc<str>,
        /// What the system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The name has no address.
    #[error("{address} does not resolve: {cause}")]
    Dns {
        /// The registered address.
        address: Arc<str>,
        /// What the resolver said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// The deny list forbids every address there is.
    #[error("{address} leads to {ip}, which the deny list forbids")]
    Denied {
        /// The registered address.
        address: Arc<str>,
        /// The address that it leads to.
        ip: IpAddr,
    },
}

/// Whether a connection did not come about for want of descriptors or memory here: that tells nothing of who was dialled.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let raw = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].iter().any(|no| raw == Some(no.raw_os_error()))
}

impl ConnectError {
    /// Whether it is for want of something here: see [`is_shortage`].
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Unreachable { cause, .. } | Self::Dns { cause, .. } if is_shortage(cause))
    }
}

/// No answer's head came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The instance has not processed any of it: it may go again, elsewhere, whatever the method. The request
    /// is whole.
    #[error("the connection ended before the request was taken")]
    Unsent {
        /// The HTTP/2 peer said that it had not looked at the stream. Otherwise not one byte was written.
        refused: bool,
    },
    /// The connection or the stream broke; whether the instance acted on the request is unknown.
    #[error("the instance broke the exchange off: {0}")]
    Reset(#[source] Reset),
    /// The instance answered with something that is no valid HTTP.
    #[error("the instance's answer is not valid: {0}")]
    Protocol(#[source] ProtocolError),
    /// The request's own body failed; the exchange was given up for that.
    #[error("the request's body failed: {0}")]
    RequestBody(#[source] BoxError),
}

/// The answer's body will not be whole. The head has been delivered: nothing can be sent again.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamBodyError {
    /// The connection or the stream broke.
    #[error("the instance broke its answer off: {0}")]
    Reset(#[source] Reset),
    /// The rest of the answer is no valid HTTP.
    #[error("the instance's answer is not valid: {0}")]
    Protocol(#[source] ProtocolError),
    /// The request's own body failed while the answer was already coming.
    #[error("the request's body failed: {0}")]
    RequestBody(#[source] BoxError),
}

/// A connection or stream that ended too soon.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Reset {
    #[source]
    pub(crate) cause: BoxError,
    /// HTTP/2: the code of the `RST_STREAM` or `GOAWAY` frame.
    pub reason: Option<u32>,
    /// The connection had served another request before.
    pub reused: bool,
    /// The peer declared that it did not process the request, but its body can't be given back.
    ///
    /// Who has a copy of the body may send it again, whatever the method.
    pub unprocessed: bool,
}

impl Reset {
    pub(crate) fn io(cause: io::Error, reused: bool) -> Self {
        Self { cause: cause.into(), reason: None, reused, unprocessed: false }
    }

    pub(crate) fn eof(reused: bool) -> Self {
        Self::io(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection closed too soon"), reused)
    }

    pub(crate) fn stream(reason: Reason, reused: bool) -> Self {
        let cause = format!("the stream was reset with {reason}");
        Self { cause: cause.into(), reason: Some(reason.0), reused, unprocessed: false }
    }
}

/// What is wrong with an answer. The connection that brought it is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The head does not parse.
    #[error("{0} in the head")]
    Head(&'static str),
    /// More header lines than the limit.
    #[error("more than {0} header lines")]
    TooManyHeaders(usize),
    /// A head, or trailers, larger than the limit.
    #[error("a head of more than {0} bytes")]
    HeadTooLarge(usize),
    /// Both framings at once.
    #[error("content-length beside transfer-encoding")]
    LengthAndEncoding,
    /// A Content-Length that is no number, or more than one.
    #[error("a content-length that is not exactly one number")]
    Length,
    /// A Transfer-Encoding that is not exactly `chunked`, or one in HTTP/1.0.
    #[error("a transfer-encoding that is not exactly one `chunked`")]
    Encoding,
    /// More interim answers than anybody needs.
    #[error("more than {0} interim answers")]
    TooManyInterim(usize),
    /// 101 to a request that did not ask, or to another protocol than it asked for.
    #[error("a switch of protocols that was not asked for")]
    Upgrade,
    /// Broken chunked framing.
    #[error("{0} in the chunked body")]
    Chunk(&'static str),
    /// HTTP/2: the peer broke the rules of the protocol.
    #[error("http/2: {0}")]
    H2(Arc<str>),
    /// The request itself can't be sent this way.
    #[error("the request cannot be sent: {0}")]
    Request(&'static str),
}
