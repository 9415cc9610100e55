//! The integration tests: one binary, so that they share their servers.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "helpers of tests"
)]
#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../faults/mod.rs"]
mod faults;
#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod balancing;
mod barriers;
mod commands;
mod demo;
mod departures;
mod descriptors;
mod directory;
mod discovery;
mod documentation;
mod documentation_formats;
mod elect;
mod events;
mod examples;
mod failover;
mod fleet;
mod flood_neighbours;
mod foreign_registrars;
mod formats;
mod forwarding;
mod fuzz_corpus;
mod grpc;
mod health;
mod health_checks;
mod health_checks_long;
mod hedges;
mod histories;
mod kvstore;
mod kvstore_gateway;
mod layouts;
mod lifecycle;
mod memory;
mod observability;
mod primaries;
mod recipes;
mod registrars;
mod registration;
mod reload_listeners;
mod reload_settings;
mod retries;
mod retries_h2;
mod roles;
mod roles_zookeeper;
mod service_manager;
mod simulation;
mod snapshot_on_disk;
mod snapshots;
mod spread;
mod stops;
mod tunnels;
mod vanish_guard_protocols;
mod wire_floods;
mod wire_h2;
mod wire_h2_client;
mod wire_h2_errors;
mod wire_h2_heads;
mod wire_h2_rules;
mod wire_h2_windows;
mod wire_http1;
mod wire_idle;
mod wire_refusals;
mod wire_support;
mod wire_tunnel;
mod zookeeper;
mod zookeeper_faults;
mod zookeeper_hostile;
mod zookeeper_register;
mod zookeeper_sim;
