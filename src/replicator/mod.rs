//! The running process: one session on the source, one task per tenant, and what is confirmed in between.
//!
//! `supervisor` reconnects; `prepare` prepares a session and `tasks` owns its tasks: `reader` reads and routes, `tenant`
//! applies, `snapshotter` takes snapshots, `tee` publishes to Kafka. Any error of the session ends all of its tasks; the
//! next session starts from what the slot, the state and the checkpoints say.

// In the order of dependency: a module imports only from those above it.
pub(crate) mod error;

mod backoff;

pub(crate) mod failure_policy;

pub(crate) mod source;

pub(crate) mod session;

pub(crate) mod snapshotter;

mod reader;

pub(crate) mod tenant;

#[cfg(feature = "kafka")]
mod tee;

pub(crate) mod prepare;

pub(crate) mod tasks;

mod supervisor;

#[cfg(test)]
mod simulation;

pub use error::ServiceError;
pub use supervisor::{run, run_reloading};
