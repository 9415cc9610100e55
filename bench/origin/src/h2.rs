//! HTTP/2 with prior knowledge: the answer of a unary gRPC call to everything.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

/// A message of 64 bytes with its five-byte prefix.
static MESSAGE: [u8; 69] = {
    let mut message = [b'.'; 69];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 64);
    message
};

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

pub fn serve(ports: &[u16]) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut tasks = Vec::new();
        for port in ports {
            let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))).await?;
            tasks.push(spawn_local(accept(listener)));
        }
        for task in tasks {
            let _ = task.await;
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        spawn_local(async move {
            let mut builder = hyper::server::conn::http2::Builder::new(Local);
            builder.max_concurrent_streams(1000);
            let _ = builder.serve_connection(TokioIo::new(stream), service_fn(call)).await;
        });
    }
}

async fn call(request: Request<Incoming>) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(&MESSAGE)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(answer)
}
