//! Barriers: hold others back while something goes on; begin and end together.
//!
//! ```text
//! cargo run --example barriers -- 127.0.0.1:2181 hold                # raises the barrier until Enter is pressed
//! cargo run --example barriers -- 127.0.0.1:2181 pass                # waits for it
//! cargo run --example barriers -- 127.0.0.1:2181 together 2          # start two of these
//! ```

use std::env::args;
use std::error::Error;
use std::time::Duration;

use zoogate::recipes::{Barrier, ConnectOptions, DoubleBarrier, Session};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: barriers CONNECT hold|pass|together N";
    let (connect, what) = (args().nth(1).ok_or(usage)?, args().nth(2).ok_or(usage)?);
    let session = Session::connect(&ConnectOptions::new(connect), Duration::from_secs(10)).await?;
    let barrier = Barrier::new(session.clone(), "/examples/barrier");
    match what.as_str() {
        "hold" => {
            barrier.raise().await?;
            println!("raised");
            std::io::stdin().read_line(&mut String::new())?;
            barrier.lift().await?;
            println!("lifted");
        }
        "pass" => {
            println!("waiting");
            barrier.wait(MINUTE).await?;
            println!("passed");
        }
        "together" => {
            let size = args().nth(3).ok_or(usage)?.parse()?;
            let inside = DoubleBarrier::new(session, "/examples/double-barrier", size).enter(MINUTE).await?;
            println!("all of us are in");
            inside.leave(MINUTE).await?;
            println!("all of us are out");
        }
        _ => return Err(usage.into()),
    }
    Ok(())
}
