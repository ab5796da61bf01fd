//! What a worker writes to the state, always before anything that depends on it.

use crate::clock::now;
use crate::model::{Lsn, ParkCause, Reason, ResyncReason, TargetId, Timestamp};
use crate::replicator::error::ServiceError;
use crate::replicator::tenant::phase::Phase;
use crate::replicator::tenant::recorded_reason::RecordedReason;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::Worker;
use crate::state::{StateAccess, TenantRow, TenantState};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Restarts the tenant: its next connection leads to a snapshot.
    pub(super) async fn require_snapshot(
        &mut self,
        phase: &mut Phase,
        reason: ResyncReason,
    ) -> Result<(), ServiceError> {
        phase.restart(reason, self.context.expected_joins.clone());
        self.put(TenantState::Joining, Some(reason.into()), self.target_id(), Lsn::ZERO).await?;
        // Closing also clears the signal. Until it requests the snapshot, the tenant retains no WAL, however long its target
        // is away.
        self.handle.mailbox.close();
        self.context.release(self.id());
        Ok(())
    }

    /// Parks the tenant, then waits before the next attempt. The state is written before the log is released.
    pub(super) async fn park(
        &mut self,
        phase: &mut Phase,
        cause: ParkCause,
        reason: &str,
        remedy: &str,
    ) -> Result<(), ServiceError> {
        let wait = self.parked_pause(cause);
        tracing::warn!(reason, reason_code = cause.code(), remedy, ?wait, "parked");
        let why = RecordedReason::of_park(cause, reason, remedy);
        self.put(TenantState::Parked, Some(why), self.target_id(), Lsn::ZERO).await?;
        // A stale request would permit mass deletes at the next resync.
        self.finish_request().await?;
        self.finish_row_requests(&self.handle.row_requests.open()).await?;
        phase.park();
        self.mark_healthy();
        self.handle.mailbox.close();
        self.context.release(self.id());
        // A request that came too late for this attempt is served at once.
        if self.handle.open_resync_request().is_none() {
            self.wait_parked(wait).await;
        }
        Ok(())
    }

    /// The request of this attempt is done, or the tenant was parked by it.
    pub(super) async fn finish_request(&mut self) -> Result<(), ServiceError> {
        if let Some(request) = self.attempted_request.take() {
            self.context.state.finish_resyncs(self.id(), request).await?;
            self.handle.finish_resync_requests(request);
        }
        Ok(())
    }

    /// Records the number of rejected users if it has changed, as `status` does not ask the target.
    pub(super) async fn note_rejected(&mut self, position: Lsn) -> Result<(), ServiceError> {
        let has_changed = |row: &&TenantRow| row.rejected != self.rejected.len() as u64;
        let Some(row) = self.row.as_ref().filter(has_changed) else { return Ok(()) };
        let (target_id, position) = (row.target_id.clone(), row.position.max(position));
        self.put(TenantState::Following, None, target_id, position).await
    }

    /// Records what is wrong with the target of a tenant that is not parked.
    pub(super) async fn note_trouble(&mut self, why: RecordedReason, position: Lsn) -> Result<(), ServiceError> {
        let row = self.row.as_ref().filter(|row| row.generation == self.context.generation);
        match row.map(|row| row.state) {
            Some(TenantState::Following) => self.note_reason(Some(why), position).await,
            // A tenant that was added again is not parked any more.
            Some(TenantState::Parked) if row.is_some_and(|row| !is_not_configured(row)) => Ok(()),
            // The text of the failure replaces the reason for joining, until the snapshot is requested.
            Some(TenantState::Parked | TenantState::Joining) | None => {
                self.put(TenantState::Joining, Some(why), self.target_id(), Lsn::ZERO).await
            }
        }
    }

    /// The target works again: resets the backoff, and clears the failure of a tenant that follows.
    pub(super) async fn note_recovery(&mut self, position: Lsn) -> Result<(), ServiceError> {
        self.mark_healthy();
        let follows =
            |row: &&TenantRow| row.generation == self.context.generation && row.state == TenantState::Following;
        match self.row.as_ref().filter(follows) {
            Some(_) => self.note_reason(None, position).await,
            None => Ok(()),
        }
    }

    /// Records that the target's checkpoint was assessed, as what, and whether it is signed: from now on one without a signature
    /// was changed.
    pub(super) async fn note_checkpoint(
        &mut self,
        position: Lsn,
        is_signed: bool,
        opened_as: String,
    ) -> Result<(), ServiceError> {
        self.signed |= is_signed;
        self.opened_as = Some(opened_as);
        let (signed, opened_as) = (self.signed, self.opened_as.clone());
        let Some(row) = self.row.clone().filter(|row| row.signed != signed || row.opened_as != opened_as) else {
            return Ok(());
        };
        self.write_row(TenantRow { signed, opened_as, position: row.position.max(position), ..row }).await
    }

    /// Records when users are to be removed next, so that a later session does not open the target for that before.
    pub(super) async fn note_purge(&mut self, wait: Duration, position: Lsn) -> Result<(), ServiceError> {
        let Some(row) = self.row.clone() else { return Ok(()) };
        let due = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        let purge_due = Some(Timestamp(now().0.saturating_add(due)));
        self.write_row(TenantRow { purge_due, position: row.position.max(position), ..row }).await
    }

    /// Sets or clears the reason in the row of a tenant that follows. The rest stays: the next assessment compares the target
    /// with it.
    async fn note_reason(&mut self, why: Option<RecordedReason>, position: Lsn) -> Result<(), ServiceError> {
        let Some(row) = self.row.as_ref().filter(|row| row.reason.is_some() || why.is_some()) else { return Ok(()) };
        let position = row.position.max(position);
        let remedy = why.as_ref().and_then(|why| why.remedy.clone());
        let (reason_code, reason) = why.map(|why| (why.code, why.text)).unzip();
        let (failures, failing_seconds) = (self.failures, self.failing_seconds());
        let row = TenantRow { reason_code, reason, remedy, position, failures, failing_seconds, ..row.clone() };
        self.write_row(row).await
    }

    pub(super) async fn put(
        &mut self,
        state: TenantState,
        why: Option<RecordedReason>,
        target_id: Option<TargetId>,
        position: Lsn,
    ) -> Result<(), ServiceError> {
        // An attempt that has only begun says nothing about the failure of the last one.
        let why = match why {
            Some(new) if state == TenantState::Joining && matches!(new.code, Reason::Resync(_)) => {
                Some(self.last_failure().unwrap_or(new))
            }
            why => why,
        };
        let is_well = why.is_none();
        let (reason_code, reason) = why.as_ref().map(|why| (why.code, why.text.clone())).unzip();
        let row = TenantRow {
            state,
            reason_code,
            reason,
            remedy: why.and_then(|why| why.remedy),
            target: self.handle.configured().target.to_string(),
            target_id,
            generation: self.context.generation,
            position,
            since_seconds: 0.0,
            rejected: self.rejected.len() as u64,
            relation: self.relation,
            signed: self.signed,
            failures: if is_well { 0 } else { self.failures },
            failing_seconds: self.failing_seconds().filter(|_| !is_well),
            opened_as: self.opened_as.clone(),
            purge_due: self.row.as_ref().and_then(|row| row.purge_due),
        };
        self.write_row(row).await
    }

    /// Why the last attempt of a tenant that does not follow failed.
    fn last_failure(&self) -> Option<RecordedReason> {
        let row = self.row.as_ref().filter(|row| row.state != TenantState::Following && !is_not_configured(row))?;
        let code = row.reason_code.filter(|code| !matches!(code, Reason::Resync(_)))?;
        Some(RecordedReason { code, text: row.reason.clone()?, remedy: row.remedy.clone() })
    }

    fn failing_seconds(&self) -> Option<f64> {
        self.failing_since.map(|since| since.elapsed().as_secs_f64())
    }

    async fn write_row(&mut self, row: TenantRow) -> Result<(), ServiceError> {
        self.context.state.put_tenant(self.id(), &row).await?;
        self.shows_no_answer.store(false, Ordering::Relaxed);
        self.handle.set_view(&row);
        self.row = Some(row);
        Ok(())
    }

    /// The target's id in the state.
    pub(super) fn target_id(&self) -> Option<TargetId> {
        self.row.as_ref().and_then(|row| row.target_id.clone())
    }
}

/// Whether a row says that its tenant was not in the configuration.
pub(super) fn is_not_configured(row: &TenantRow) -> bool {
    row.reason_code == Some(Reason::Park(ParkCause::NotConfigured))
}
