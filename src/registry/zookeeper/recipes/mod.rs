//! Recipes over ZooKeeper: leader election, lock, barriers, queue, counter.
//!
//! | to | use |
//! | --- | --- |
//! | let one process at a time do something, for as long as it lives | [`Election`] |
//! | let one at a time do something short, in the order in which they come | [`Lock`] |
//! | hold everybody back while something goes on | [`Barrier`] |
//! | begin together, and end together | [`DoubleBarrier`] |
//! | hand out work | [`Queue`] |
//! | hand out numbers | [`Counter`] |
//! | keep the primaries of a replicated store | [`Primaries`] |
//!
//! The repository's `examples/` hold a program for each.
//!
//! # What all of them keep to
//!
//! - Every call has a deadline. A request that is made without a connection would wait for ever.
//! - An answer that is lost says nothing of its request. What may have been created is found again, by a name that nobody
//!   else uses or by its owner; what nobody wants any more is deleted, in the background where it must be. No orphan stays
//!   in a line that others stand in for longer than its session.
//! - What is held is in doubt from the moment that the connection is: long before the ensemble can have given it to
//!   somebody else, and never again certain.
//!
//! # What none of them can promise
//!
//! A process that does not run (stopped, swapped out, its machine suspended) cannot notice that its time is over, and may
//! act when it runs again. A leader and a lock's holder therefore have a *fencing number* that grows with each of them:
//! whatever they write to must refuse numbers lower than one that it has seen. For what stands in ZooKeeper itself, a
//! transaction that checks for the holder's node does it.

mod barrier;
mod counter;
mod election;
mod error;
mod lock;
mod place;
mod primaries;
mod proof;
mod queue;
mod session;

pub use self::barrier::{Barrier, DoubleBarrier, Inside};
pub use self::counter::Counter;
pub use self::election::{Election, Leadership};
pub use self::error::RecipeError;
pub use self::lock::{Lock, LockGuard};
pub use self::primaries::{Primaries, Step};
pub use self::proof::Doubt;
pub use self::queue::{Queue, Taken};
pub use self::session::Session;
pub use super::session::ConnectOptions;
