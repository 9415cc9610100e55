//! Whether a request goes out again, as a pure function of what became of its last attempt.
//!
//! What was never sent goes to another instance whatever its method. What was sent may have been acted on: it
//! goes out again only if its method is one that may reach two instances, all of its body is still at hand,
//! and the service's budget has room.

use super::body::BoxError;
use super::error::ProxyError;
use super::probe::Verdict;
use crate::transport::{ConnectError, SendError};

/// How often a request that was never sent may move on: connects that failed, and connections that handed it back.
const MAX_UNSENT: u32 = 64;

/// How often one instance may hand a request back before that counts as being out of reach. Its idle
/// connections die together, and each hands back what it gets.
pub(super) const HAND_BACKS: u32 = 3;

/// Why there is no answer that is to be passed on as it is.
#[derive(Debug)]
pub(super) enum Failed {
    /// No connection came about.
    Connect(ConnectError),
    /// The connection had died before a byte was written.
    Unsent {
        /// It was made for this request.
        fresh: bool,
    },
    /// HTTP/2: the instance says that it has not looked at the request.
    Refused(String),
    /// The connection broke after something was written.
    Reset {
        /// What happened.
        cause: String,
        /// The connection had served a request before: it may have been closed before this one reached it.
        stale: bool,
        /// It was this request's stream alone, of many on the connection.
        stream: bool,
    },
    /// An answer that the route lists as being as good as none.
    Status,
    /// No head of an answer in the time for one attempt.
    TryTimeout,
    /// The instance was ejected while the request waited for it.
    Ejected,
    /// What came is no valid answer.
    Protocol(String),
    /// The client's own body failed.
    Body(BoxError),
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unsent { refused: false } => Self::Unsent { fresh: false },
            SendError::Unsent { refused: true } => Self::Refused("the instance refused the stream".into()),
            SendError::Reset(reset) if reset.unprocessed => Self::Refused(reset.to_string()),
            SendError::Reset(reset) => {
                Self::Reset { cause: reset.to_string(), stale: reset.reused, stream: reset.reason.is_some() }
            }
            SendError::Protocol(cause) => Self::Protocol(cause.to_string()),
            SendError::RequestBody(cause) => Self::Body(cause),
        }
    }
}

/// What is known of a request when an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its method is one that may reach two instances.
    pub(super) repeatable: bool,
    /// Its body, where there is one, can be sent from the start.
    pub(super) whole: bool,
    /// How often it may go out again at all once it was sent.
    pub(super) attempts: u32,
}

/// How often a request has moved on so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spent {
    /// Without having been sent.
    pub(super) unsent: u32,
    /// After it was sent.
    pub(super) sent: u32,
    /// Of those, after a connection out of the pool broke.
    pub(super) stale: u32,
}

/// Why a request goes out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    ConnectFailed,
    Unsent,
    RefusedStream,
    Reset,
    Status,
    Timeout,
    Silent,
    /// It is beside the last attempt, not after it.
    Hedge,
}

impl Reason {
    /// The value of the label `reason`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::Unsent => "unsent",
            Self::RefusedStream => "refused_stream",
            Self::Reset => "reset",
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Silent => "silent",
            Self::Hedge => "hedge",
        }
    }
}

/// What another attempt costs the service's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Price {
    /// Nothing: the instance has done nothing.
    Free,
    /// Counted, and made even where there is no room.
    Charged,
    /// Only where there is room.
    Budgeted,
}

/// Another attempt, if there is an instance for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) reason: Reason,
    pub(super) price: Price,
    /// Where nobody else is left, the same instance will do.
    pub(super) same: bool,
}

/// The decision. `None`: the client gets what there is.
pub(super) fn decide(failed: &Failed, facts: Facts, spent: Spent) -> Option<Again> {
    let free = |reason, same| {
        let fits = facts.whole && spent.unsent < MAX_UNSENT;
        fits.then_some(Again { reason, price: Price::Free, same })
    };
    let paid = |reason, price, same| {
        let fits = facts.repeatable && facts.whole && spent.sent < facts.attempts;
        fits.then_some(Again { reason, price, same })
    };
    match failed {
        // Another instance would take a descriptor, too.
        Failed::Connect(cause) if cause.is_ours() => None,
        Failed::Connect(_) => free(Reason::ConnectFailed, false),
        Failed::Unsent { .. } => free(Reason::Unsent, spent.unsent < HAND_BACKS),
        Failed::Refused(_) => free(Reason::RefusedStream, spent.unsent < HAND_BACKS),
        // A restart looks like this: every idle connection of the instance closes, and what had just been
        // written to one is lost. That is not the client's problem, but only once.
        Failed::Reset { stale: true, .. } if spent.stale == 0 => paid(Reason::Reset, Price::Charged, true),
        Failed::Reset { .. } => paid(Reason::Reset, Price::Budgeted, false),
        Failed::Status => paid(Reason::Status, Price::Budgeted, false),
        Failed::TryTimeout => paid(Reason::Timeout, Price::Budgeted, false),
        // One that nobody gets an answer from does not work for them either.
        Failed::Ejected => paid(Reason::Silent, Price::Charged, false),
        Failed::Protocol(_) | Failed::Body(_) => None,
    }
}

impl Spent {
    /// Counts an attempt that is about to be made.
    pub(super) fn count(&mut self, again: Again) {
        match again.reason {
            Reason::ConnectFailed | Reason::Unsent | Reason::RefusedStream => self.unsent += 1,
            Reason::Reset | Reason::Status | Reason::Timeout | Reason::Silent | Reason::Hedge => {
                self.sent += 1;
            }
        }
        self.stale += u32::from(again.reason == Reason::Reset && again.price == Price::Charged);
    }
}

impl Again {
    /// The same, whatever the budget has left: the request served the gateway, not its client.
    pub(super) fn owed(self) -> Self {
        Self { price: if self.price == Price::Budgeted { Price::Charged } else { self.price }, ..self }
    }
}

impl Failed {
    /// What it tells of the instance.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            // A connect is judged by itself, a status by the head that it stood in.
            Self::Connect(_) | Self::Status | Self::Refused(_) | Self::Body(_) | Self::Ejected => {
                Verdict::Nothing
            }
            // A pooled connection may have been about to close, and a stream alone says little of the rest.
            Self::Unsent { fresh } => {
                if *fresh {
                    Verdict::Broken
                } else {
                    Verdict::Nothing
                }
            }
            Self::Reset { stale, stream, .. } => {
                if *stale || *stream {
                    Verdict::Failed
                } else {
                    Verdict::Broken
                }
            }
            Self::TryTimeout | Self::Protocol(_) => Verdict::Failed,
        }
    }

    /// What the client is told of it. A status is an answer, and a body of the client's is the caller's to tell.
    pub(super) fn into_error(self) -> ProxyError {
        match self {
            Self::Connect(cause) if cause.is_ours() => ProxyError::Overloaded,
            Self::Connect(cause) => ProxyError::ConnectFailed(cause.to_string()),
            Self::Unsent { .. } => ProxyError::ConnectFailed("the connection ended at once".into()),
            Self::Refused(cause) | Self::Reset { cause, .. } => ProxyError::UpstreamReset(cause),
            Self::TryTimeout | Self::Ejected => ProxyError::UpstreamTimeout,
            Self::Protocol(cause) => ProxyError::UpstreamProtocol(cause),
            Self::Status | Self::Body(_) => ProxyError::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALL: Facts = Facts { repeatable: true, whole: true, attempts: 2 };

    fn reset(stale: bool) -> Failed {
        Failed::Reset { cause: String::new(), stale, stream: false }
    }

    fn no_connection() -> Failed {
        Failed::Connect(ConnectError::Timeout { address: "a:1".into(), within: Duration::from_secs(1) })
    }

    fn each() -> [(Failed, &'static str); 10] {
        [
            (no_connection(), "connect_failed"),
            (Failed::Unsent { fresh: false }, "unsent"),
            (Failed::Refused(String::new()), "refused_stream"),
            (reset(false), "reset"),
            (reset(true), "reset"),
            (Failed::Status, "status"),
            (Failed::TryTimeout, "timeout"),
            (Failed::Ejected, "silent"),
            (Failed::Protocol(String::new()), ""),
            (Failed::Body("".into()), ""),
        ]
    }

    fn reasons(facts: Facts, spent: Spent) -> Vec<&'static str> {
        let reason =
            |(failed, _): (Failed, _)| decide(&failed, facts, spent).map(|again| again.reason.as_str());
        each().into_iter().filter_map(reason).collect()
    }

    #[test]
    fn each_failure_has_its_reason_and_an_invalid_answer_is_the_end() {
        for (failed, reason) in each() {
            let again = decide(&failed, ALL, Spent::default());
            assert_eq!(again.map_or("", |again| again.reason.as_str()), reason, "{failed:?}");
        }
    }

    #[test]
    fn what_must_not_be_repeated_moves_on_only_while_it_was_never_sent() {
        let facts = Facts { repeatable: false, ..ALL };
        assert_eq!(reasons(facts, Spent::default()), ["connect_failed", "unsent", "refused_stream"]);
        let off = Facts { attempts: 0, ..ALL };
        assert_eq!(reasons(off, Spent::default()), ["connect_failed", "unsent", "refused_stream"]);
    }

    #[test]
    fn a_body_that_is_not_at_hand_any_more_is_the_end() {
        assert_eq!(reasons(Facts { whole: false, ..ALL }, Spent::default()), [""; 0]);
    }

    #[test]
    fn attempts_end_each_kind_for_itself() {
        let spent = Spent { sent: 2, ..Spent::default() };
        assert_eq!(reasons(ALL, spent), ["connect_failed", "unsent", "refused_stream"]);
        let spent = Spent { unsent: MAX_UNSENT, ..Spent::default() };
        assert_eq!(reasons(ALL, spent), ["reset", "reset", "status", "timeout", "silent"]);
    }

    #[test]
    fn the_budget_holds_back_all_but_the_first_stale_connection_and_a_silent_instance() {
        let price = |failed, spent| decide(&failed, ALL, spent).map(|again| (again.price, again.same));
        let first = Spent::default();
        assert_eq!(price(reset(true), first), Some((Price::Charged, true)));
        let mut spent = first;
        spent.count(decide(&reset(true), ALL, first).unwrap());
        assert_eq!((spent.stale, spent.sent, spent.unsent), (1, 1, 0));
        assert_eq!(price(reset(true), spent), Some((Price::Budgeted, false)));
        assert_eq!(price(Failed::Ejected, spent), Some((Price::Charged, false)));
        for failed in [reset(false), Failed::Status, Failed::TryTimeout] {
            assert_eq!(price(failed, first), Some((Price::Budgeted, false)));
        }
        for failed in [no_connection(), Failed::Unsent { fresh: true }, Failed::Refused(String::new())] {
            assert_eq!(price(failed, first).unwrap().0, Price::Free);
        }
    }
}
