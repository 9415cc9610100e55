//! A runtime on a thread of its own, so that what runs in it, such as a session's pings, goes on while a test waits.

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Ends, with its tasks, when dropped.
pub struct Background {
    handle: Handle,
    _running: oneshot::Sender<()>,
}

impl Background {
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ = runtime.block_on(ended);
        });
        Self { handle, _running: running }
    }

    /// Runs this on the calling thread, and what it spawns in the background.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}
