//! Leader election: of all that run this, one leads; the next takes over when it ends or is cut off.
//!
//! ```text
//! cargo run --example election -- 127.0.0.1:2181 machine-1
//! cargo run --example election -- 127.0.0.1:2181 machine-2           # in another terminal; then end the first
//! ```

use std::env::args;
use std::error::Error;

use tokio::signal::unix::{SignalKind, signal};
use zoogate::recipes::{ConnectOptions, Election};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (Some(connect), Some(id)) = (args().nth(1), args().nth(2)) else {
        return Err("usage: election CONNECT ID".into());
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let election = Election::new(ConnectOptions::new(connect), "/examples/election").id(id.as_str());
    loop {
        let stop = async {
            terminate.recv().await;
        };
        // Stands in line; told to stop, it leaves the line first.
        let Some(leadership) = election.campaign_until(stop).await? else { return Ok(()) };
        // The number goes along with every write, so that what is written to can refuse a leader of the past.
        println!("{id} leads with fence {}", leadership.fence());
        tokio::select! {
            doubt = leadership.doubted() => {
                // Here the work is stopped, and must have ended before `ours_until`. Only then is it let go.
                println!("{id} leads no longer: {doubt}");
                drop(leadership);
            }
            _ = terminate.recv() => {
                leadership.resign().await?;
                println!("{id} resigned");
                return Ok(());
            }
        }
    }
}
