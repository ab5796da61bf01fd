//! The parameters of a load.

use crate::apply::Identity;
use crate::config::MaxDeletes;
use crate::model::{Deletes, Lsn};
use std::time::Duration;

/// The parameters of a load.
pub(crate) struct Loading<'a> {
    /// The writer, for the checkpoint.
    pub(crate) who: &'a Identity,
    /// The snapshot's position.
    pub(crate) position: Lsn,
    /// What is done with users that the snapshot does not have.
    pub(crate) deletes: Deletes,
    /// The limit for deleting such users; `None` if the deletes have been confirmed.
    pub(crate) max_deletes: Option<MaxDeletes>,
    /// Whether rows that the target refuses are left out one by one, which is slower.
    pub(crate) isolates_rejected_rows: bool,
    /// How long the target may make no progress.
    pub(crate) park_after: Duration,
}
