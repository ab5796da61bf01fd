//! A target's own record of its tenant and position.

use crate::model::{Epoch, Generation, Lsn, TargetId, TenantId};

/// The single row of `users_sync.checkpoint` in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tenant whose users the target holds.
    pub tenant: TenantId,
    /// The target's random id, which the state records too.
    pub target_id: TargetId,
    /// The history of the position.
    pub generation: Generation,
    /// The target has every transaction that committed before this position.
    pub position: Lsn,
    /// The process that wrote last.
    pub epoch: Epoch,
    /// Fingerprint of the mapping that produced the rows.
    pub mapping: String,
}

/// An operator writes this id into a checkpoint to allow that the existing rows are taken over and merged.
pub(crate) const NIL_TARGET_ID: &str = "00000000-0000-0000-0000-000000000000";
