//! Sends of one turn of the event loop, one behind the other.

use std::task::{Context, Poll};

/// Lets every other task that is ready go first, once for each message that is to be sent: for h2, which writes by
/// itself. What that is good for is told by the transport's list of sends, which costs no second poll.
#[derive(Debug, Default)]
pub(super) struct Turn {
    waited: bool,
}

impl Turn {
    /// Pending once, with the task woken already; then ready until [`Turn::end`].
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The message has been handed over: the next one waits again.
    pub(super) fn end(&mut self) {
        self.waited = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::ready;

    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn those_who_are_ready_think_before_the_first_sends() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (told, log) = std::sync::mpsc::channel();
        LocalSet::new().block_on(&runtime, async move {
            let tasks = ["a", "b", "c"].map(|name| {
                let told = told.clone();
                tokio::task::spawn_local(async move {
                    let mut turn = Turn::default();
                    for message in 1..=2 {
                        told.send(format!("{name} thinks of {message}")).unwrap();
                        poll_fn(|cx| {
                            ready!(turn.poll(cx));
                            told.send(format!("{name} sends {message}")).unwrap();
                            Poll::Ready(())
                        })
                        .await;
                        turn.end();
                    }
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
        });
        let log: Vec<String> = log.try_iter().collect();
        let expected = [
            ["a thinks of 1", "b thinks of 1", "c thinks of 1"],
            // Whoever has sent goes on at once, until it has something to send again.
            ["a sends 1", "a thinks of 2", "b sends 1"],
            ["b thinks of 2", "c sends 1", "c thinks of 2"],
            ["a sends 2", "b sends 2", "c sends 2"],
        ];
        assert_eq!(log, expected.concat());
    }
}
