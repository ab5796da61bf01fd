//! The running process: sessions on the source, the tenants' tasks, and the positions that are confirmed to the slot.
//!
//! # Tasks
//!
//! A child in the diagram is spawned by its parent, unless it says otherwise. All run on one tokio runtime.
//!
//! ```text
//! supervisor::run_reloading   runs in the task of its caller: one session after another, with backoff
//! |-- heartbeat               future of the same task: shows in the state that the process is alive without a session
//! `-- session                 prepare::prepare, then tasks::SessionTasks, futures of the same task
//!     |-- reader              `source` set       reader::Stream with a TenantSink; one for all tenants
//!     |-- snapshotter         `source` set       snapshotter::coordinator::serve; runs the scans itself
//!     |-- source watch        `source` set       session::source_watch::watch_source
//!     |-- workers             `tenants` set      workers::Workers::run
//!     |   `-- tenant, many    its own set        tenant::Worker::run; none for a tenant for which nothing waits
//!     |-- start_added         `tenants` set      one per change of the tenant list; starts the workers of added tenants
//!     |-- tee                 `tenants` set      tee::run; ends at once without `kafka` in the configuration
//!     |   |-- session         future of the tee  tee::session::session: reader with a TeeSink, reporter,
//!     |   |                                      watch_acknowledgements; one session after another, with backoff
//!     |   |-- watchdog        future of the tee  tee::watchdog::slot, beside the session
//!     |   `-- publisher       a thread           tee::kafka::Publisher, one per session of the tee
//!     |-- recorder            `confirming` set   session::positions::record
//!     `-- reporter            `confirming` set   session::positions::report
//! ```
//!
//! The first error of any task ends the session: dropping the sets aborts the others. The next session starts from the
//! slot, the state and the checkpoints. A failure of a target or of Kafka is retried within its own task.
//!
//! # Ownership
//!
//! - `SessionContext` is shared by all tasks of a session: configuration, state, `Progress`, tenants, fingerprints.
//!   `ProcessStatus` outlives sessions, and reads the context of the current one.
//! - The reader owns the receiving half of the replication connection, the reporter the sending half. The tee's session
//!   has a connection and a slot of its own.
//! - A worker owns its phase, its connection to the target, and the pending batch. `TenantHandle` is what other tasks see:
//!   mailbox, view, resync requests.
//! - The snapshotter owns the exported snapshot and the connection that scans. Members own the receivers of their rows.
//! - The recorder alone confirms positions in `Progress`. It writes them to the state first.
//!
//! # Lock order
//!
//! Within a task, locks are taken in this order. Two locks of one line are held together only where it says
//! "then", and none of these is held across an await.
//!
//! 1. `ProcessStatus`: `current`, then `source` or the session's `lease`; `tee`; `user_count`, then `source` and those of a session
//! 2. `TenantRegistry`: `all`, then `current` or those of a handle; `SessionContext`: `progress`
//! 3. `SessionContext`: `fingerprints`
//! 4. `TenantHandle`: `scan_progress`, then `view`; `resync_requests`; `control`; `Mailbox`: `inner`; `rouse`
//!
//! All other locks are taken alone. docs/ARCHITECTURE.md lists them, and the asynchronous ones.
//!
//! # Shutdown order
//!
//! 1. `stop` is cancelled, or the configuration changes beyond tenants: `SessionTasks` cancels `drain`.
//! 2. Reader and source watch end. Tenants apply what waits and end; those that join end at once, which ends their scan.
//! 3. The tee gives Kafka 3 s for messages in flight. The whole `tenants` set has 7 s (`DRAIN_TIMEOUT`).
//! 4. The recorder records and confirms once more, releases the lease, and ends.
//! 5. The reporter sends the confirmed position, ends the stream, and ends. Steps 4 and 5 have 2 s.
//! 6. Dropping `SessionTasks` aborts the snapshotter, and workers that exceeded the limit.

// In the order of dependency: a module imports only from those above it.
pub(crate) mod error;

mod backoff;

pub(crate) mod failure_policy;

pub(crate) mod source;

pub(crate) mod session;

pub(crate) mod snapshotter;

mod reader;

pub(crate) mod tenant;
mod workers;

#[cfg(feature = "kafka")]
mod tee;

pub(crate) mod prepare;

pub(crate) mod tasks;

mod heartbeat;

mod supervisor;

#[cfg(feature = "kafka")]
mod consumer;

#[cfg(test)]
mod simulation;

#[cfg(feature = "kafka")]
pub use consumer::run as run_consumer;
pub use error::ServiceError;
pub use supervisor::{run, run_reloading};
