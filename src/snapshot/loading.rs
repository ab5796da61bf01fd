//! The parameters of a load.

use crate::apply::{Checkpoint, Identity, StatementSize};
use crate::config::MaxDeletes;
use crate::model::{Deletes, ExtraRows, Lsn};
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
    /// How many rows a statement may write then.
    pub(crate) size: &'a StatementSize,
    /// How long the target may make no progress.
    pub(crate) park_after: Duration,
    /// How rows that users-sync did not write are taken over; `None` if there are none.
    pub(crate) adoption: Option<Adoption>,
}

/// How the rows of a target are taken over.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    /// What is done with users that only the target has.
    pub(crate) extra: ExtraRows,
    /// The checkpoint of the installation that wrote there before.
    pub(crate) replaces: Option<Checkpoint>,
    /// Whether the tenant's later snapshots delete rows. This one never does.
    pub(crate) deletes_later: bool,
}
