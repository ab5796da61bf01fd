//! What a target says of itself: whose it is and how far it is.

use crate::model::{Epoch, Generation, Lsn, TargetId, TenantId};

/// The one row of `users_sync.checkpoint` in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tenant whose users the target holds.
    pub tenant: TenantId,
    /// The target's random id; the state knows it too.
    pub target_id: TargetId,
    /// The history that the position belongs to.
    pub generation: Generation,
    /// Everything that committed before this is in the target.
    pub position: Lsn,
    /// The process that wrote last.
    pub epoch: Epoch,
    /// Fingerprint of the mapping that its rows were made with.
    pub mapping: String,
}

/// A person writes this id into a checkpoint to say: the rows here may be taken over and merged.
pub const NIL_TARGET_ID: &str = "00000000-0000-0000-0000-000000000000";
