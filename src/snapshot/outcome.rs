//! What loading a snapshot into a target came to: what changed, or why nothing did.

use crate::apply::{MAX_REJECTED, Refusal, TargetError};
use crate::model::UserId;

/// What a snapshot changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Users in the snapshot.
    pub read: u64,
    /// Users that were missing in the target.
    pub inserted: u64,
    /// Users that differed.
    pub updated: u64,
    /// Users that the snapshot does not have.
    pub deleted: u64,
    /// Users that the target refuses; they are in `users_sync.rejected`.
    pub rejected: Vec<(UserId, Refusal)>,
}

/// Why a snapshot was not taken over. The target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The target refused, or the connection was lost.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The rows ended before the snapshot did.
    #[error("the snapshot was broken off")]
    BrokenOff,
    /// More users would be deleted than `limits.max_deletes` admits.
    #[error("the merge would delete {absent} of {live} users, more than limits.max_deletes admits ({allowed})")]
    TooManyDeletes {
        /// How many the snapshot does not have.
        absent: u64,
        /// How many live users there are.
        live: u64,
        /// How many may go.
        allowed: u64,
    },
    /// The target refuses more users than may be left out.
    #[error("the target refuses {count} users, more than are left out ({MAX_REJECTED})")]
    TooManyRefused {
        /// How many.
        count: usize,
    },
    /// The staging table lost rows on the way.
    #[error("{sent} users were sent to the target, but it counts {counted}")]
    Count {
        /// By us.
        sent: u64,
        /// By the target.
        counted: u64,
    },
    /// A later process has written the checkpoint.
    #[error("the target's checkpoint was taken over by another process")]
    Fenced,
}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> Self {
        LoadError::Target(TargetError::Sql(error))
    }
}
