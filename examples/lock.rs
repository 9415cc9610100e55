//! A fair lock: of all that run this, one at a time does its work, in the order in which they came.
//!
//! ```text
//! cargo run --example lock -- 127.0.0.1:2181                         # some of these at the same time
//! ```

use std::env::args;
use std::error::Error;
use std::time::Duration;

use zoogate::recipes::{ConnectOptions, Lock, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let connect = args().nth(1).ok_or("usage: lock CONNECT")?;
    let session = Session::connect(&ConnectOptions::new(connect), Duration::from_secs(10)).await?;
    let lock = Lock::new(session, "/examples/lock");
    let guard = lock.acquire(Duration::from_secs(60)).await?;
    println!("locked with fence {}", guard.fence());
    tokio::select! {
        () = work() => {
            guard.release().await?;
            println!("released");
            Ok(())
        }
        // The work is dropped: it must not go on without the lock.
        doubt = guard.doubted() => Err(format!("stopped: {doubt}").into()),
    }
}

async fn work() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}
