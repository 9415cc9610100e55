//! The standby: takes the primary's whole contents, then each of its writes, and says so.
//!
//! What it had before serves until the snapshot is whole, and is then replaced in one step: a former primary's writes
//! that nobody else has do not survive that.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;

use crate::BoxError;
use crate::cluster::Primary;
use crate::store::{Position, Store, blocking};
use crate::wire::{self, Ack, Batch, Stage};

/// Acknowledgements on their way; each says what the one before said, and more.
const ACKS: usize = 64;

/// Follows until something breaks. Its caller stops it when there is another primary.
pub async fn follow(number: u32, store: &Arc<Store>, primary: &Primary) -> Result<Infallible, BoxError> {
    let address = primary.address.as_deref().ok_or("the primary is not registered")?;
    let (acks, waiting) = mpsc::channel(ACKS);
    let ack = |sequence| acks.send(Ack { number, store: store.id(), sequence });
    ack(0).await?;
    let mut batches = wire::follow(address, waiting).await?;

    let mut fresh = store.rewrite()?;
    let position = loop {
        let batch = batches.next().await.ok_or("the primary ended the snapshot")??;
        let epoch = checked(&batch, primary)?;
        match batch.stage() {
            Stage::Snapshot => {
                fresh = blocking(move || fresh.add(batch.records).map(|()| fresh)).await?;
            }
            Stage::SnapshotEnd => {
                let mark = batch.records.first().ok_or("a snapshot without an end")?;
                break Position { epoch, sequence: mark.sequence };
            }
            Stage::Tail => return Err("writes before a snapshot".into()),
        }
    };
    let adopting = Arc::clone(store);
    blocking(move || adopting.adopt(fresh, position)).await?;
    println!("has everything up to {} of server {}", position.sequence, primary.number);
    // 0 is the first message's.
    ack(position.sequence).await?;

    loop {
        let batch = batches.next().await.ok_or("the primary ended the stream")??;
        checked(&batch, primary)?;
        store.append(batch.records).await?;
        ack(store.position().sequence).await?;
    }
}

/// Refuses what a former primary sends.
fn checked(batch: &Batch, primary: &Primary) -> Result<i64, BoxError> {
    if batch.epoch < primary.epoch {
        return Err(format!("refused a write of epoch {}: it is {} now", batch.epoch, primary.epoch).into());
    }
    Ok(batch.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_primary_is_refused_and_a_later_one_is_not() {
        let primary = Primary { number: 2, epoch: 9, address: None };
        let batch = |epoch| Batch { epoch, ..Batch::default() };
        assert!(checked(&batch(8), &primary).is_err());
        assert_eq!(checked(&batch(9), &primary).unwrap(), 9);
        assert_eq!(checked(&batch(12), &primary).unwrap(), 12);
    }
}
