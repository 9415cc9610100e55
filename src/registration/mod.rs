//! Registering an instance, and keeping it registered.
//!
//! [`Registrar`] is the whole of it: a node in a registry that is there while a health check passes, comes back after a
//! lost session, and goes before the instance does. Below it, [`Registration`] holds one ephemeral node in ZooKeeper and
//! [`register_in_directory`] one file in a directory registry; [`Announcement`] says how an instance is written.
//!
//! ```no_run
//! use zoogate::model::{FormatName, Instance};
//! use zoogate::registration::{Announcement, ConnectOptions, Place, Registrar, RegistrarOptions, State};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let instance = Instance::new("orders-1".into(), "10.0.0.7:8080".parse()?);
//! let announcement = Announcement::new(FormatName::Json, "/services/orders", &instance, false)?;
//! let place = Place::ZooKeeper(ConnectOptions::new("zk1:2181,zk2:2181"), Default::default());
//! let mut registrar = Registrar::start(RegistrarOptions::new(place, announcement));
//! registrar.registered().await?;
//!
//! let mut states = registrar.states();
//! while states.changed().await.is_ok() {
//!     if *states.borrow_and_update() == State::Lost {
//!         // From here on another may be what we were: stop being it.
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Certainty
//!
//! A process that is cut off from ZooKeeper is the last to learn that its node is gone. [`State::Lost`] therefore comes
//! from a clock of our own: two thirds of the session timeout after the last question that the ensemble answered through
//! its leader, which is before the ensemble can have given the session up. [`State::InDoubt`] comes with the
//! connection's loss. Neither is an end: the registrar goes on trying, and tells [`State::Registered`] when the node is
//! there again. A process that was itself asleep learns it when it wakes; only the resource that it writes to can
//! fence it, by a number that grows.

mod announcement;
mod check;
mod gate;
mod registrar;

pub use announcement::{Announcement, NotWritable};
pub use check::{Check, InvalidCheck};
pub use gate::GateOptions;
pub use registrar::{Place, Registrar, RegistrarError, RegistrarOptions, State};

pub use crate::registry::directory::{DirectoryRegistration, register_in_directory};
pub use crate::registry::zookeeper::{
    Access, ConnectOptions, Holding, Parents, RegisterError, RegisterOptions, Registration,
};
