//! A counter: members of a group take numbers, each its own.
//!
//! ```text
//! cargo run --example counter -- 127.0.0.1:2181
//! ```

use std::env::args;
use std::error::Error;
use std::time::Duration;

use zoogate::recipes::{ConnectOptions, Counter, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let connect = args().nth(1).ok_or("usage: counter CONNECT")?;
    let session = Session::connect(&ConnectOptions::new(connect), Duration::from_secs(10)).await?;
    // Where the numbered layout keeps the highest number of the group zdata1.
    let counter = Counter::new(session, "/data/zdata1/top");
    println!("I am number {}", counter.next().await?);
    Ok(())
}
