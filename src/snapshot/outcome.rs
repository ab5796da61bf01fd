//! The outcome of loading a snapshot into a target.

use super::spool::Interruption;
use crate::apply::{RefusedUser, TargetError};
use std::time::Duration;

/// What a load changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Users in the snapshot.
    pub(crate) read: u64,
    /// Users that were missing in the target.
    pub(crate) inserted: u64,
    /// Users whose row differed.
    pub(crate) updated: u64,
    /// Users that the snapshot does not have.
    pub(crate) deleted: u64,
    /// Users that the target refused; `users_sync.rejected` lists them.
    pub(crate) rejected: Vec<RefusedUser>,
}

/// Why a snapshot was not loaded. The target is unchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The target refused, or the connection was lost.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its users did not all arrive.
    #[error(transparent)]
    Interrupted(#[from] Interruption),
    /// More users would be deleted than `limits.max_deletes` allows.
    #[error("the merge would delete {absent} of {live} users, more than limits.max_deletes allows ({allowed})")]
    TooManyDeletes {
        /// Live users that the snapshot does not have.
        absent: u64,
        /// All live users.
        live: u64,
        /// The limit.
        allowed: u64,
    },
    /// The target took no rows and answered nothing for `limits.park_after`.
    #[error("its target has made no progress with the snapshot for {within:?} (limits.park_after)")]
    NoProgress {
        /// The limit.
        within: Duration,
    },
    /// The target counts other rows than were sent.
    #[error("{sent} users were sent to the target, but {counted} arrived")]
    Count {
        /// Rows that were sent.
        sent: u64,
        /// Rows that arrived.
        counted: u64,
    },
    /// A later process has written the checkpoint.
    #[error("another process has taken over the target's checkpoint")]
    Fenced,
}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> Self {
        LoadError::Target(TargetError::Sql(error))
    }
}
