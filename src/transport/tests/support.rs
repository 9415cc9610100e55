//! A runtime like a worker's, raw servers, and bodies that tests steer.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::model::{Address, Host, Protocol};
use crate::transport::{BoxError, Target, Transport, TransportOptions, UpstreamBody};

/// Runs a test on a local runtime, under a generous deadline.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    })
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

thread_local!(static NEXT_ID: Cell<u64> = const { Cell::new(1) });

pub(crate) fn target_of(address: SocketAddr, protocol: Protocol) -> Target {
    let id = NEXT_ID.replace(NEXT_ID.get() + 1);
    let host = match address.ip() {
        IpAddr::V4(ip) => Host::Ip(ip.into()),
        IpAddr::V6(ip) => Host::Ip(ip.into()),
    };
    Target {
        id,
        address: Address { host, port: address.port() },
        protocol,
        connect_timeout: Duration::from_secs(5),
        dns_ttl: Duration::from_secs(30),
        deny: Arc::default(),
        gone: Arc::default(),
    }
}

pub(crate) fn transport() -> Transport<TestBody> {
    Transport::new(TransportOptions::default())
}

/// A body that gives what a test puts into it, when the test does.
#[derive(Debug)]
pub(crate) struct TestBody {
    frames: VecDeque<Frame<Bytes>>,
    length: Option<u64>,
    more: Option<mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>>,
}

impl TestBody {
    pub(crate) fn empty() -> Self {
        Self { frames: VecDeque::new(), length: Some(0), more: None }
    }

    /// All of it at once, with its length.
    pub(crate) fn sized(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        let length = Some(data.len() as u64);
        Self { frames: [Frame::data(data)].into(), length, more: None }
    }

    /// All of it at once, its length unknown.
    pub(crate) fn frames(frames: Vec<Frame<Bytes>>) -> Self {
        Self { frames: frames.into(), length: None, more: None }
    }

    /// Fed by the test as it goes; `length` is what it claims.
    pub(crate) fn fed(length: Option<u64>) -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, Self) {
        let (feed, more) = mpsc::unbounded_channel();
        (feed, Self { frames: VecDeque::new(), length, more: Some(more) })
    }
}

impl Default for TestBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.frames.pop_front() {
            let polled = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.length = self.length.map(|left| left.saturating_sub(polled));
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.more {
            Some(more) => more.poll_recv(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.more.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(crate) fn get(path: &str) -> Request<TestBody> {
    Request::get(path).header("host", "test").body(TestBody::empty()).unwrap()
}

pub(crate) fn post(body: TestBody) -> Request<TestBody> {
    Request::post("/").header("host", "test").body(body).unwrap()
}

pub(crate) fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

/// Reads an answer to its end.
pub(crate) async fn read(response: Response<UpstreamBody>) -> (Vec<u8>, Option<HeaderMap>) {
    let collected = response.into_body().collect().await.expect("a whole body");
    let trailers = collected.trailers().cloned();
    (collected.to_bytes().to_vec(), trailers)
}

/// One accepted connection of a raw server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Everything up to and with `end`. What comes behind stays for the next call.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            let mut buf = [0; 4096];
            let len = self.stream.read(&mut buf).await.unwrap();
            assert_ne!(len, 0, "the client closed; it had sent {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&buf[..len]);
        }
    }

    /// Like [`Peer::until`], for bytes that are no text.
    pub(crate) async fn until_bytes(&mut self, end: &[u8]) {
        while !self.read.windows(end.len()).any(|w| w == end) {
            let len = self.stream.read_buf(&mut self.read).await.unwrap();
            assert_ne!(len, 0, "the client closed");
        }
    }

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, len: usize) -> String {
        while self.read.len() < len {
            let len = self.stream.read_buf(&mut self.read).await.unwrap();
            assert_ne!(len, 0, "the client closed");
        }
        let rest = self.read.split_off(len);
        String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap()
    }

    /// A request's head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// What was read behind the last answer of [`Peer::until`].
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Waits until the client has closed the connection, whatever it sends before.
    pub(crate) async fn closed(&mut self) {
        let mut buf = [0; 4096];
        while matches!(self.stream.read(&mut buf).await, Ok(len) if len > 0) {}
    }
}

/// A server that runs `serve` on each connection; counts them.
pub(crate) async fn serve<F>(mut serve: impl FnMut(Peer) -> F + 'static) -> (SocketAddr, Rc<Cell<usize>>)
where
    F: Future<Output = ()> + 'static,
{
    let (listener, address) = listener().await;
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        loop {
            let peer = Peer::accept(&listener).await;
            count.set(count.get() + 1);
            tokio::task::spawn_local(serve(peer));
        }
    });
    (address, accepted)
}

/// Lets everything that is ready to run do so, until `done`.
pub(crate) async fn eventually(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
