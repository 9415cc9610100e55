//! What goes out again over HTTP/2, where an instance can say that it has not looked at a request.

use std::sync::{Arc, Mutex};

use zoogate::model::{MethodSet, RetrySpec};

use crate::retries::retried;
use crate::wire_support::*;

/// Runs a client's side of HTTP/2: one request with a body, and the answer's head with its trailers.
fn call(worker: &Worker, body: &'static str) -> (u16, Option<String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(worker.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request =
            http::Request::post("http://a/o/").header("content-type", "application/grpc").body(()).unwrap();
        let (answer, mut up) = client.send_request(request, false).unwrap();
        up.send_data(body.into(), true).unwrap();
        let (head, mut down) = answer.await.unwrap().into_parts();
        let mut text = Vec::new();
        while let Some(data) = down.data().await {
            text.extend_from_slice(&data.unwrap());
        }
        let trailers = down.trailers().await.unwrap().unwrap_or(head.headers);
        let status = trailers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
        (head.status.as_u16(), status, String::from_utf8(text).unwrap())
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await.unwrap() })
}

/// An instance that speaks HTTP/2: says what it does with each call, counted from 0.
#[derive(Clone, Copy)]
enum Does {
    Echo,
    Refuse,
    Unavailable,
}

struct H2Instance {
    address: std::net::SocketAddr,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl H2Instance {
    fn start(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let (theirs, does) = (Arc::clone(&bodies), Arc::new(does));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, does) = (Arc::clone(&theirs), Arc::clone(&does));
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        tokio::spawn(Self::serve(request, answer, Arc::clone(&seen), Arc::clone(&does)));
                    }
                });
            }
        };
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve);
        });
        Self { address, bodies }
    }

    async fn serve(
        request: http::Request<h2::RecvStream>,
        mut answer: h2::server::SendResponse<bytes::Bytes>,
        seen: Arc<Mutex<Vec<String>>>,
        does: Arc<impl Fn(usize) -> Does>,
    ) {
        // All of the body first: it has gone out when the stream is refused.
        let mut body = request.into_body();
        let mut text = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            text.extend_from_slice(&data);
        }
        let text = String::from_utf8(text).unwrap();
        let count = {
            let mut seen = seen.lock().unwrap();
            seen.push(text.clone());
            seen.len() - 1
        };
        let head = http::Response::builder().header("content-type", "application/grpc");
        match does(count) {
            Does::Refuse => answer.send_reset(h2::Reason::REFUSED_STREAM),
            Does::Unavailable => {
                answer.send_response(head.header("grpc-status", "14").body(()).unwrap(), true).unwrap();
            }
            Does::Echo => {
                let mut down = answer.send_response(head.body(()).unwrap(), false).unwrap();
                down.send_data(text.into(), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                down.send_trailers(trailers).unwrap();
            }
        }
    }

    fn count(&self) -> usize {
        self.bodies.lock().unwrap().len()
    }
}

fn h2(retry: RetrySpec) -> Setup {
    Setup { protocol: zoogate::model::Protocol::H2, retry, ..Setup::default() }
}

#[test]
fn a_stream_that_is_refused_goes_elsewhere_whatever_the_method() {
    for retry in [RetrySpec::default(), RetrySpec::OFF] {
        let (refusing, good) = (H2Instance::start(|_| Does::Refuse), H2Instance::start(|_| Does::Echo));
        let worker = Worker::start(h2(retry), &[refusing.address, good.address]);
        for _ in 0..4 {
            assert_eq!(call(&worker, "ping"), (200, Some("0".into()), "ping".into()));
        }
        assert!(refusing.count() > 0 && good.count() == 4);
        assert_eq!(retried(&worker, "refused_stream") as usize, refusing.count());
    }
    // Where there is nobody else, the same one is asked again, and not for ever.
    let once = H2Instance::start(|count| if count == 0 { Does::Refuse } else { Does::Echo });
    let worker = Worker::start(h2(RetrySpec::default()), &[once.address]);
    assert_eq!(call(&worker, "ping"), (200, Some("0".into()), "ping".into()));
    let never = H2Instance::start(|_| Does::Refuse);
    let worker = Worker::start(h2(RetrySpec::default()), &[never.address]);
    assert_eq!(call(&worker, "ping").1.as_deref(), Some("14"));
    assert_eq!(never.count(), 4);
}

#[test]
fn a_goaway_below_the_stream_sends_it_elsewhere_whatever_the_method() {
    let leaving = Recorder::scripted(|wire, seen| {
        wire.read_until("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        while let Some(head) = wire.read_exact(9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            wire.read_exact(length);
            if head[3] == 1 {
                seen.lock().unwrap().push(Message { head: String::new(), body: Vec::new() });
                wire.send([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                wire.close_write();
                return;
            }
        }
    });
    let good = H2Instance::start(|_| Does::Echo);
    let worker = Worker::start(h2(RetrySpec::default()), &[leaving.address, good.address]);
    for n in 1..=4 {
        assert_eq!(call(&worker, "ping"), (200, Some("0".into()), "ping".into()));
        assert_eq!(good.count(), n);
    }
    assert!(!leaving.seen().is_empty());
    assert_eq!(retried(&worker, "refused_stream") as usize, leaving.seen().len());
}

#[test]
fn a_call_that_is_unavailable_goes_elsewhere_only_where_the_route_says_so() {
    let mut methods = MethodSet::IDEMPOTENT;
    methods.insert(&http::Method::POST);
    for (retry, repeated) in
        [(RetrySpec::default(), false), (RetrySpec { methods, ..RetrySpec::default() }, true)]
    {
        let (down, good) = (H2Instance::start(|_| Does::Unavailable), H2Instance::start(|_| Does::Echo));
        let worker = Worker::start(h2(retry), &[down.address, good.address]);
        let statuses: Vec<_> = (0..4).map(|_| call(&worker, "ping").1.unwrap()).collect();
        assert_eq!(statuses.iter().any(|status| status == "14"), !repeated, "{statuses:?}");
        assert_eq!(retried(&worker, "status") as usize, if repeated { down.count() } else { 0 });
        assert!(down.count() > 0);
    }
}
