//! The durable state: schema `users_sync` of the state database, with one row per slot and per tenant, and the requests to a
//! running process.
//!
//! Every write is conditional on the epoch, so a process that was replaced cannot write. Readers such as `status` use
//! [`StateStore::read`], which changes nothing.

mod access;
mod error;
mod events;
mod left_out;
mod made;
#[cfg(feature = "kafka")]
mod partitions;
mod pauses;
mod processes;
mod read;
mod read_source;
mod requests;
mod rows;
mod schema;
mod store;
mod tee;

pub(crate) use access::StateAccess;
pub(crate) use error::StateError;
pub(crate) use events::Event;
pub(crate) use rows::{
    LEASE, PartitionRow, Pause, Pauses, Reached, Recorded, Request, RequestId, RequestKind, Snapshot, SourceRow,
    TeeRow, TroubleRow, UserCountRow,
};
#[cfg(feature = "kafka")]
pub(crate) use rows::{LeftOutUser, PartitionPlace, TeeFailure, TeePublished, TeeRejected};
pub use rows::{TenantRow, TenantState};
pub use store::StateStore;
