//! The running process: one session on the source, one task per tenant, and what is confirmed in between.
//!
//! `supervisor` reconnects; `session` prepares a session and owns its tasks: `reader` reads and routes, `tenant` applies,
//! `snapshotter` takes snapshots, `tee` publishes to Kafka. Any error of the session ends all of its tasks; the next
//! session starts from what the slot, the state and the checkpoints say.

pub(crate) mod backoff;
pub(crate) mod error;
pub(crate) mod failure_policy;
pub(crate) mod reader;
pub(crate) mod session;
#[cfg(test)]
mod simulation;
pub(crate) mod snapshotter;
pub(crate) mod source;
mod supervisor;
#[cfg(feature = "kafka")]
mod tee;
pub(crate) mod tenant;

pub use error::ServiceError;
pub use supervisor::{run, run_reloading};
