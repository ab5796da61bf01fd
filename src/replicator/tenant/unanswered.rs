//! Shows that the target of a tenant that follows does not answer, long before it is parked for that: a lock on its table,
//! for example. It stands beside the tenant's row until an answer comes, or until the row is written again.

use crate::model::{Reason, RetryCause};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy::NO_PROGRESS;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::Worker;
use crate::state::{StateAccess, TenantRow, TenantState};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// After this time without an answer it is shown. An ordinary statement takes milliseconds.
pub(super) const SHOWN_AFTER: Duration = Duration::from_secs(10);

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Shows it, unless the tenant's row already says that something is wrong.
    pub(super) async fn show_no_answer(&self) -> Result<(), ServiceError> {
        let is_well = |row: &&TenantRow| row.state == TenantState::Following && row.reason.is_none();
        let Some(row) = self.row.as_ref().filter(is_well) else { return Ok(()) };
        let cause = RetryCause::NoAnswer;
        let shown = TenantRow {
            reason_code: Some(Reason::Retry(cause)),
            reason: Some(cause.to_string()),
            remedy: Some(NO_PROGRESS.to_owned()),
            failing_seconds: Some(SHOWN_AFTER.as_secs_f64()),
            ..row.clone()
        };
        self.shows_no_answer.store(true, Ordering::Relaxed);
        tracing::info!(reason_code = cause.code(), remedy = NO_PROGRESS, "target does not answer");
        self.note_reason_only(&shown).await
    }

    /// An answer came.
    pub(super) async fn show_answer(&self) -> Result<(), ServiceError> {
        if self.shows_no_answer.swap(false, Ordering::Relaxed)
            && let Some(row) = &self.row
        {
            self.note_reason_only(row).await?;
        }
        Ok(())
    }

    async fn note_reason_only(&self, row: &TenantRow) -> Result<(), ServiceError> {
        self.context.state.note_reason(self.id(), row).await?;
        self.handle.set_view(row);
        Ok(())
    }
}
