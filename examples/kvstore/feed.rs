//! The primary's side of a standby's connection: sends the snapshot and then the writes, hears the acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::BoxError;
use crate::node::Node;
use crate::primary::{Feed, Join};
use crate::server::status;
use crate::store::blocking;
use crate::wire::{Ack, Batch, Record, Stage};

const FIRST: Duration = Duration::from_secs(5);
/// Batches under way.
const UNDER_WAY: usize = 4;

pub type Batches = ReceiverStream<Result<Batch, Status>>;

pub async fn follow(node: Arc<Node>, request: Request<Streaming<Ack>>) -> Result<Response<Batches>, Status> {
    let mut acks = request.into_inner();
    let first =
        timeout(FIRST, acks.message()).await.map_err(|_| Status::deadline_exceeded("no first message"))??;
    let Ack { number, store, .. } = first.ok_or_else(|| Status::invalid_argument("no first message"))?;
    if number == node.number {
        return Err(Status::invalid_argument(format!("there are two servers {number} in this group")));
    }
    let (acked, seen) = watch::channel(0);
    let (reply, feed) = oneshot::channel();
    node.join(Join::Follow { number, store, acked: seen, reply })
        .await
        .map_err(|refused| status(&refused))?;
    let feed = feed.await.map_err(|_| Status::unavailable("it leads no longer"))?;

    let (out, batches) = mpsc::channel(UNDER_WAY);
    tokio::spawn(async move {
        tokio::select! {
            sent = send(feed, &out) => if let Err(error) = sent {
                println!("can not feed server {number}: {error}");
            },
            () = hear(&node, number, acks, acked) => {}
        }
    });
    Ok(Response::new(ReceiverStream::new(batches)))
}

/// Ends with the standby's stream, or when the primary's loop lets go of it.
async fn send(feed: Feed, out: &mpsc::Sender<Result<Batch, Status>>) -> Result<(), BoxError> {
    let Feed { epoch, mut snapshot, mut tail } = feed;
    let end = Record { sequence: snapshot.position.sequence, epoch, key: String::new(), value: None };
    loop {
        let (next, rest) = blocking(move || (snapshot.next(), snapshot)).await;
        snapshot = rest;
        let Some(records) = next? else { break };
        out.send(Ok(Batch { epoch, stage: Stage::Snapshot.into(), records })).await?;
    }
    out.send(Ok(Batch { epoch, stage: Stage::SnapshotEnd.into(), records: vec![end] })).await?;
    while let Some(batch) = tail.recv().await {
        out.send(Ok(batch)).await?;
    }
    Ok(())
}

async fn hear(node: &Node, number: u32, mut acks: Streaming<Ack>, acked: watch::Sender<u64>) {
    let mut caught_up = false;
    while let Ok(Some(ack)) = acks.message().await {
        acked.send_replace(ack.sequence);
        if !std::mem::replace(&mut caught_up, true) && node.join(Join::CaughtUp { number }).await.is_err() {
            return;
        }
    }
}
