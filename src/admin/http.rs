//! A small HTTP/1.1 server and client for everything beside the data path: the admin, and the demo's instances.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

/// Connections served at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;
/// From a connection's start to the end of a request's head, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer that [`get`] takes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Pause after an accept that failed, for lack of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an answer carries: a whole text, or pieces as they come.
#[derive(Debug)]
pub enum Body {
    /// All of it.
    Whole(Full<Bytes>),
    /// Until their sender is dropped.
    Pieces(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|p| Ok(Frame::data(p)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Accepts and answers for as long as it is polled. Dropping it closes the listener; connections that are open end
/// with the runtime.
pub async fn serve<H, F>(listener: TcpListener, handler: H) -> Infallible
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and complete: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}

/// An answer with this body.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What went wrong with a [`get`].
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody listens there.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    /// Something listens, but what it says is no HTTP.
    #[error("no valid answer from {0}: {1}")]
    Answer(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It takes too long.
    #[error("no answer from {0} within {1:?}")]
    Timeout(SocketAddr, Duration),
}

/// One GET, its answer whole. `target` is path and query.
pub async fn get(
    address: SocketAddr,
    target: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), GetError> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|e| GetError::Connect(address, e))?;
        let bad = |e: Box<dyn std::error::Error + Send + Sync>| GetError::Answer(address, e);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| bad(e.into()))?;
        let driver = tokio::spawn(connection);
        let request = Request::get(target)
            .header(header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|e| bad(e.into()))?;
        let response = sender.send_request(request).await.map_err(|e| bad(e.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(bad)?.to_bytes();
        driver.abort();
        Ok((status, body))
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| GetError::Timeout(address, limit))?
}
