//! A queue: work is handed out in order, and comes back when whoever took it dies.
//!
//! ```text
//! cargo run --example queue -- 127.0.0.1:2181 put one two three
//! cargo run --example queue -- 127.0.0.1:2181 work                   # kill it while it works, and start it again
//! ```

use std::env::args;
use std::error::Error;
use std::time::Duration;

use zoogate::recipes::{ConnectOptions, Queue, RecipeError, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: queue CONNECT put ITEM … | work";
    let (connect, what) = (args().nth(1).ok_or(usage)?, args().nth(2).ok_or(usage)?);
    let session = Session::connect(&ConnectOptions::new(connect), Duration::from_secs(10)).await?;
    let queue = Queue::new(session, "/examples/queue");
    if what == "put" {
        for item in args().skip(3) {
            queue.put(item.as_bytes()).await?;
        }
        println!("{} wait", queue.len().await?);
        return Ok(());
    }
    loop {
        let item = match queue.take(Duration::from_secs(1)).await {
            Ok(item) => item,
            Err(RecipeError::TimedOut { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        println!("working on {}", String::from_utf8_lossy(item.data()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        match item.done().await {
            Ok(()) => {}
            // Our session was lost while we worked: another has the item, and does it again.
            Err(error @ RecipeError::Gone { .. }) => println!("not ours any more: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("nothing left");
    Ok(())
}
