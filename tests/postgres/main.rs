//! The tests that need PostgreSQL servers and nothing else. They are one binary, because linking two dozen took most of
//! the build time. `cargo test --test postgres losses::` runs one module.

// Clippy recognises only functions marked as tests; every function here is part of one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod administrator;
mod adopt;
mod chaos;
mod check;
mod connection;
mod ddl;
mod demo;
mod faults;
mod guard;
mod handover;
mod handover_random;
mod harmless;
mod hostile;
mod init;
mod isolation;
mod json_casts;
mod kill;
mod large;
mod life;
mod logs;
mod losses;
mod majors;
mod mapping;
mod mistakes;
mod neon_auth;
mod ops;
mod pause;
mod poison;
mod prepared;
mod proxy;
mod purge;
mod query;
mod quiet;
mod recovery;
mod redaction;
mod rejected;
mod reload;
mod remedies;
mod resync;
mod roles;
mod search_path;
mod setup;
mod shape;
mod signup;
mod sleeping_targets;
mod slow_targets;
mod spool;
mod standby;
mod stream;
mod target_losses;
mod teardown;
mod tenant_table;
mod tenants;
mod terminal;
mod throwaway;
mod to_jsonb;
mod unmappable;
mod untrusted;
mod upgrade;
mod verify;
