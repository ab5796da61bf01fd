//! users-sync: an auth database's users, in every tenant's `neon_auth.users_sync`.
//!
//! The flow is `capture -> map -> route -> apply`, with one bounded queue and one task per tenant.
//! The modules below stand in reading order; no stage imports another, only `replicator` knows them all.

pub mod config;
mod diagnostic;
pub mod model;
pub mod pg;

pub mod apply;
pub mod capture;
pub mod map;
pub mod route;

pub mod tee;

mod snapshot;

mod clock;
pub mod progress;
pub mod state;
pub mod status;
mod sync;

pub mod replicator;

pub(crate) mod operations;

pub mod admin;

mod check;
mod setup;

pub mod cli;
pub mod demo;

pub mod throwaway;
