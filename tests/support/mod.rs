//! What integration tests share: real servers, a proxy that breaks connections, a simulated directory.

pub mod background;
pub mod example;
pub mod fault;
pub mod forked;
pub mod gateway;
pub mod hostile;
pub mod http;
pub mod instance;
pub mod kvstore;
pub mod load;
pub mod moody;
pub mod network;
pub mod process;
pub mod script;
pub mod seen;
pub mod sim;
pub mod wait;
pub mod zk;
