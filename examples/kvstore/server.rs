//! The front: `/kv/KEY` over HTTP and the `Kv` service over gRPC, on one port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::feed;
use crate::node::{Node, Refused};
use crate::wire::{self, DeleteRequest, GetReply, GetRequest, PutRequest, WriteReply};

pub const MAX_KEY: usize = 1024;
pub const MAX_VALUE: usize = 1 << 20;
const FIRST_BYTES: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Accepts for ever.
pub async fn serve(listener: TcpListener, node: Arc<Node>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => _ = tokio::spawn(connection(stream, Arc::clone(&node))),
            // Out of descriptors, most likely: some must close first.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, node: Arc<Node>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let node = Arc::clone(&node);
        async move {
            let number = node.number;
            let mut response = answer(node, request).await;
            response.headers_mut().insert("x-server", number.into());
            Ok::<_, Infallible>(response)
        }
    });
    // A client that breaks off is no news here.
    match timeout(FIRST_BYTES, speaks_http2(&stream)).await {
        Ok(Ok(true)) => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        }
        Ok(Ok(false)) => {
            let mut builder = http1::Builder::new();
            let _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        }
        _ => {}
    }
}

/// HTTP/2 begins with `PRI`, and no method of HTTP/1.1 does.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count if first[..count] != b"PRI"[..count] => return Ok(false),
            3 => return Ok(true),
            _ => sleep(PAUSE).await,
        }
    }
}

async fn answer(node: Arc<Node>, request: Request<Incoming>) -> Response<tonic::body::Body> {
    let grpc =
        request.headers().get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return call(node, request).await;
    }
    let path = request.uri().path();
    if path == "/status" {
        return text(StatusCode::OK, describe(&node));
    }
    let Some(key) = path.strip_prefix("/kv/") else {
        return text(StatusCode::NOT_FOUND, "there are /kv/KEY and /status\n".into());
    };
    let Ok(key) = percent_decode_str(key).decode_utf8() else {
        return text(StatusCode::BAD_REQUEST, "a key is UTF-8\n".into());
    };
    if let Err(why) = check_key(&key) {
        return text(StatusCode::BAD_REQUEST, format!("{why}\n"));
    }
    let key = key.into_owned();
    let value = match *request.method() {
        Method::GET | Method::HEAD => {
            return match read(&node, &key) {
                Ok(Some(value)) => Response::new(tonic::body::Body::new(Full::new(value))),
                Ok(None) => text(StatusCode::NOT_FOUND, "no such key\n".into()),
                Err(status) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.message())),
            };
        }
        Method::PUT => match Limited::new(request.into_body(), MAX_VALUE).collect().await {
            Ok(body) => Some(body.to_bytes()),
            Err(_) => return text(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {MAX_VALUE} bytes\n")),
        },
        Method::DELETE => None,
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT and DELETE\n".into()),
    };
    match node.write(key, value).await {
        Ok(sequence) => {
            let mut done = text(StatusCode::NO_CONTENT, String::new());
            done.headers_mut().insert("x-sequence", sequence.into());
            done
        }
        Err(refused) => {
            let code = match refused {
                Refused::NotPrimary { .. } => StatusCode::CONFLICT,
                Refused::Unknown => StatusCode::SERVICE_UNAVAILABLE,
            };
            let mut answer = text(code, format!("{}\n", status(&refused).message()));
            if let Some(address) = primary_of(&refused) {
                answer.headers_mut().insert("x-primary", address);
            }
            answer
        }
    }
}

async fn call(node: Arc<Node>, request: Request<Incoming>) -> Response<tonic::body::Body> {
    match request.uri().path() {
        wire::GET => {
            let get = tower::service_fn(move |request: tonic::Request<GetRequest>| {
                let node = Arc::clone(&node);
                async move {
                    let value = read(&node, &request.into_inner().key)?;
                    Ok::<_, Status>(tonic::Response::new(GetReply { value }))
                }
            });
            wire::serving().unary(get, request).await
        }
        wire::PUT => {
            let put = tower::service_fn(move |request: tonic::Request<PutRequest>| {
                let PutRequest { key, value } = request.into_inner();
                write(Arc::clone(&node), key, Some(value))
            });
            wire::serving().unary(put, request).await
        }
        wire::DELETE => {
            let delete = tower::service_fn(move |request: tonic::Request<DeleteRequest>| {
                write(Arc::clone(&node), request.into_inner().key, None)
            });
            wire::serving().unary(delete, request).await
        }
        wire::FOLLOW => {
            let follow = tower::service_fn(move |request| feed::follow(Arc::clone(&node), request));
            wire::serving().streaming(follow, request).await
        }
        _ => Status::unimplemented("see kv.proto").into_http(),
    }
}

async fn write(
    node: Arc<Node>,
    key: String,
    value: Option<Bytes>,
) -> Result<tonic::Response<WriteReply>, Status> {
    check_key(&key).map_err(Status::invalid_argument)?;
    if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
        return Err(Status::invalid_argument(format!("at most {MAX_VALUE} bytes")));
    }
    let sequence = node.write(key, value).await.map_err(|refused| status(&refused))?;
    Ok(tonic::Response::new(WriteReply { sequence }))
}

/// From the index and the file's page in memory, as a rule; a cold one makes this thread wait for the disk.
fn read(node: &Node, key: &str) -> Result<Option<Bytes>, Status> {
    if !node.in_sync() {
        return Err(Status::unavailable("this server is not in sync"));
    }
    node.store.get(key).map_err(|error| Status::internal(error.to_string()))
}

fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        _ => Err(format!("a key has 1 to {MAX_KEY} bytes")),
    }
}

/// As gRPC tells it.
pub fn status(refused: &Refused) -> Status {
    let Refused::NotPrimary { primary } = refused else {
        return Status::unavailable("it is not known whether this will be seen");
    };
    let mut status = Status::failed_precondition(match primary {
        Some(primary) => format!("not the primary, which is server {}", primary.number),
        None => "not the primary, and nobody is".to_owned(),
    });
    if let Some(address) = primary_of(refused) {
        let mut metadata = http::HeaderMap::new();
        metadata.insert("x-primary", address);
        *status.metadata_mut() = tonic::metadata::MetadataMap::from_headers(metadata);
    }
    status
}

fn primary_of(refused: &Refused) -> Option<http::HeaderValue> {
    match refused {
        Refused::NotPrimary { primary: Some(primary) } => primary.address.as_deref()?.parse().ok(),
        _ => None,
    }
}

/// For people and scripts.
fn describe(node: &Node) -> String {
    let (position, view) = (node.store.position(), node.view());
    let status = serde_json::json!({
        "number": node.number,
        "store": format!("{:016x}", node.store.id()),
        "sequence": position.sequence,
        "epoch": position.epoch,
        "leads": node.leads(),
        "in_sync": node.in_sync(),
        "primary": view.primary.map(|primary| primary.number),
        "set": view.in_sync.map(|(set, _)| set.members.into_keys().collect::<Vec<_>>()),
    });
    format!("{status}\n")
}

fn text(status: StatusCode, text: String) -> Response<tonic::body::Body> {
    let mut response = Response::new(tonic::body::Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response
}
