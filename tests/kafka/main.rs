//! Tests of the tee against a real broker.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(feature = "kafka")]

#[path = "../support/mod.rs"]
mod support;

mod adopt;
mod apply;
mod apply_chaos;
mod apply_compaction;
mod bed;
mod broker;
mod connect;
mod consumer;
mod delivery;
mod faults;
mod formats;
mod lights;
mod open;
mod oversized;
mod ownership;
mod partitions;
mod poison;
mod publish_only;
mod query;
mod recipes;
mod registry;
mod registry_server;
mod remedies;
mod security;
mod sinks;
mod snapshots;
mod topics;
