//! What a tenant without a task consists of.

use crate::model::{Lsn, Oid, TenantIdx};
use crate::replicator::tenant::purge_schedule::PurgeSchedule;
use crate::state::TenantRow;
use tokio::time::Instant;

/// What is kept of the worker of an idle tenant until something waits for its target.
pub(crate) struct Sleeper {
    pub(crate) index: TenantIdx,
    /// The position that the target holds.
    pub(super) position: Lsn,
    pub(super) row: Option<TenantRow>,
    pub(super) relation: Option<Oid>,
    /// `None` if deleted users stay.
    pub(super) purges: Option<Box<PurgeSchedule>>,
    pub(super) follows_since: Option<Instant>,
    /// The version of the tenant's configuration that it has used.
    pub(crate) config_version: u32,
}

impl Sleeper {
    /// When users are to be removed from the target.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.purges.as_ref()?.due
    }
}
