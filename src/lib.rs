//! users-sync: an auth database's users, in every tenant's `neon_auth.users_sync`.
//!
//! The flow is `capture -> map -> route -> apply`, with one bounded queue per tenant, and a task while something waits. No
//! stage imports another: only `replicator` knows them all. docs/ARCHITECTURE.md has the tasks, the path of a change, and the locks.
//!
//! # Layout
//!
//! Before the flow:
//! - `cli`: the command line, one file per command; `cli::run` starts everything else
//! - [`config`]: YAML files to `Config`
//! - `diagnostic`: how a failed command explains itself
//! - [`model`]: the types that all stages share
//! - [`pg`]: connections to PostgreSQL, TLS, SQLSTATEs, quoting
//! - `tenant_table`: the tenants in a database of the operator, if the configuration names one
//!
//! Along the flow:
//! - [`capture`]: a replication slot's stream to decoded rows
//! - [`map`]: a row to a user and a tenant
//! - `route`: a change to its tenant's mailbox, within a memory budget
//! - [`apply`]: a batch and its checkpoint to a target, in one statement
//! - `tee`: instead of the last two, a change to Kafka messages (feature `kafka`)
//! - `snapshot`: whole tenants, read from the source and merged into a target
//!
//! Around the flow:
//! - `progress`: which position is safe to confirm
//! - [`state`]: what outlives a process, in PostgreSQL
//! - [`replicator`]: the tasks that connect the stages; its header has their diagram
//! - [`status`]: what a process shows of itself; metrics
//! - `admin`: the HTTP API and the console
//! - `operations`: one-shot work that commands and the API share: resync, verify, dry run
//! - `check`: whether `run` has everything it needs
//! - `setup`: SQL for roles and privileges
//! - `init`: a configuration for the tables of a source
//! - `demo`, [`throwaway`]: replication on temporary servers, for a look and for the tests
//! - `telemetry`, `otlp`: spans, and their export with the metrics (feature `otlp`)
//! - `http_client`: requests to the servers of `otlp` and to schema registries (features `otlp`, `kafka`)
//! - `clock`, `sync`: the wall clock, and locking

pub mod config;
mod diagnostic;
pub mod model;
pub mod pg;
mod tenant_table;

pub mod apply;
pub mod capture;
pub mod map;
mod route;

#[cfg(feature = "kafka")]
mod tee;

mod snapshot;

mod clock;
#[cfg(any(feature = "kafka", feature = "otlp"))]
mod http_client;
mod progress;
pub mod state;
pub mod status;
mod sync;
mod telemetry;

pub mod replicator;

mod operations;

pub mod admin;

#[cfg(feature = "otlp")]
mod otlp;

mod check;
mod init;
mod setup;

pub mod cli;
mod demo;

pub mod throwaway;
