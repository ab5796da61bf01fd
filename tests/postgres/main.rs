//! Everything that needs PostgreSQL's servers and nothing else. One binary: two dozen of them took most of the time that it
//! took to build the tests. `cargo test --release --test postgres losses::` runs one file.

// Every function here is a test's; clippy knows only those that are marked so.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod chaos;
mod check;
mod connection;
mod faults;
mod guard;
mod isolation;
mod kill;
mod large;
mod logs;
mod losses;
mod majors;
mod mapping;
mod ops;
mod proxy;
mod query;
mod quiet;
mod rejected;
mod reload;
mod remedies;
mod resync;
mod setup;
mod signup;
mod standby;
mod stream;
mod target_losses;
mod tenants;
mod throwaway;
mod to_jsonb;
mod verify;
