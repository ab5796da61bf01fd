//! When a tenant's deleted users are removed next.

use crate::model::Lsn;
use crate::replicator::backoff::Backoff;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::Instant;

const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// When a tenant's deleted users are removed next.
pub(super) struct PurgeSchedule {
    /// When the next users are due; `None` until the target was searched.
    pub(super) due: Option<Instant>,
    /// What the tenant has to hold before that, fixed when the time has come: a busy source never stops writing.
    pub(super) position: OnceLock<Lsn>,
    pub(super) retry: Backoff,
}

impl PurgeSchedule {
    pub(super) fn new() -> PurgeSchedule {
        PurgeSchedule { due: None, position: OnceLock::new(), retry: Backoff::new(RETRY_MIN, RETRY_MAX) }
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    pub(super) fn set(&mut self, wait: Duration) {
        self.due = Some(Instant::now() + wait);
        self.position = OnceLock::new();
    }
}
