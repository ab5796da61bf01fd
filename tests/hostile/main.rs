//! Targets whose owners are hostile, beside honest ones: only the hostile tenants are affected.

// Clippy recognises only functions marked as tests; every function here is part of one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod fake;
mod owners;
mod rows;
mod waits;
mod wires;
