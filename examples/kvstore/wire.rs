//! The messages of `kv.proto`, and gRPC over the connections that hyper makes.
//!
//! What `protoc` would generate for five methods is little enough to write: a message is a struct that prost derives
//! the encoding of, a call is a path and tonic's codec.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::BoxError;

pub const GET: &str = "/zoogate.kv.v1.Kv/Get";
pub const PUT: &str = "/zoogate.kv.v1.Kv/Put";
pub const DELETE: &str = "/zoogate.kv.v1.Kv/Delete";
pub const FOLLOW: &str = "/zoogate.kv.v1.Replication/Follow";

/// Of one message: a batch of the longest writes fits.
pub const MAX_MESSAGE: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetReply {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub value: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PutRequest {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteRequest {
    #[prost(string, tag = "1")]
    pub key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteReply {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Ack {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(fixed64, tag = "2")]
    pub store: u64,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Stage {
    Tail = 0,
    Snapshot = 1,
    SnapshotEnd = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    #[prost(int64, tag = "1")]
    pub epoch: i64,
    #[prost(enumeration = "Stage", tag = "2")]
    pub stage: i32,
    #[prost(message, repeated, tag = "3")]
    pub records: Vec<Record>,
}

/// A write, as it is sent and as it stands in the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(int64, tag = "2")]
    pub epoch: i64,
    #[prost(string, tag = "3")]
    pub key: String,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub value: Option<Bytes>,
}

/// The server's side of a method.
pub fn serving<In, Out>() -> tonic::server::Grpc<ProstCodec<Out, In>>
where
    In: prost::Message + Default + 'static,
    Out: prost::Message + Default + 'static,
{
    tonic::server::Grpc::new(ProstCodec::default())
}

/// Asks a primary for its contents and its writes. The connection ends with the stream.
pub async fn follow(address: &str, acks: mpsc::Receiver<Ack>) -> Result<Streaming<Batch>, BoxError> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream))
        .await?;
    // Ends when the last stream and the sender are gone.
    tokio::spawn(connection);
    let origin = http::Uri::builder().scheme("http").authority(address).path_and_query("/").build()?;
    let send = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = tonic::client::Grpc::with_origin(send, origin).max_decoding_message_size(MAX_MESSAGE);
    let path = PathAndQuery::from_static(FOLLOW);
    let codec = ProstCodec::<Ack, Batch>::default();
    let answer = client.streaming(Request::new(ReceiverStream::new(acks)), path, codec);
    Ok(timeout(CONNECT, answer).await.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}
