//! zoogate: a gateway in front of services that announce themselves in Apache ZooKeeper.

pub mod admin;
pub mod balance;
pub mod config {
    #![allow(missing_docs)]
    pub mod plan;
}
pub mod gateway;
pub mod model;
pub mod registry;
pub mod telemetry;
pub mod transport;
