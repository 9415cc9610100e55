//! Asking again and again until there is an answer: for what gives no event of its own.

use std::time::{Duration, Instant};

/// However slow the machine: an event that has not come by then will not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Not a guess about time: only to leave the processor to what we wait for.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The same without keeping a runtime from its other tasks, such as a ZooKeeper client's pings.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
