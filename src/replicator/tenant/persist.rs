//! What a tenant's task writes down, always before anything depends on it.

use crate::model::{Lsn, ParkCause, Reason, ResyncReason, RetryCause, TargetId};
use crate::replicator::backoff::Backoff;
use crate::replicator::error::ServiceError;
use crate::replicator::tenant::Worker;
use crate::state::{TenantRow, TenantState};

/// Why a tenant is in its state, as the state holds it.
pub(crate) struct Why {
    code: Reason,
    reason: String,
    remedy: Option<String>,
}

impl Why {
    /// A reason whose text has details of this case.
    pub(crate) fn of(cause: RetryCause, reason: String) -> Why {
        Why { code: Reason::Retry(cause), reason, remedy: None }
    }
}

impl From<ResyncReason> for Why {
    fn from(reason: ResyncReason) -> Why {
        Why { code: Reason::Resync(reason), reason: reason.to_string(), remedy: None }
    }
}

impl From<ParkCause> for Why {
    fn from(cause: ParkCause) -> Why {
        Why { code: Reason::Park(cause), reason: cause.to_string(), remedy: None }
    }
}

impl Worker {
    /// Written down before anything depends on it; the next `open` then leads to a snapshot.
    pub(crate) async fn has_to_join(&mut self, reason: ResyncReason) -> Result<(), ServiceError> {
        let target_id = self.row.as_ref().and_then(|row| row.target_id.clone());
        self.forget_what_waits();
        self.gathered_since_creation = false;
        self.has_to_join = Some(reason);
        self.on_its_way = Some(self.context.on_their_way.clone());
        self.put(TenantState::Joining, Some(reason.into()), target_id, Lsn::ZERO).await?;
        // Closed until the snapshot is asked for; the interrupt that may have led here is done with. Until then it wants nothing
        // of the log, however long its target is away.
        self.lane().mailbox.close();
        self.context.release(self.id());
        Ok(())
    }

    /// First the state, then the slot may move on; and after a while it is looked at again.
    pub(crate) async fn park(
        &mut self,
        cause: ParkCause,
        reason: &str,
        remedy: &str,
        parked: &mut Backoff,
    ) -> Result<(), ServiceError> {
        let target_id = self.row.as_ref().and_then(|row| row.target_id.clone());
        let wait = parked.step();
        tracing::warn!(tenant = %self.id(), reason, reason_code = cause.code(), remedy, ?wait, "parked");
        let why = Why { code: Reason::Park(cause), reason: reason.to_owned(), remedy: Some(remedy.to_owned()) };
        self.put(TenantState::Parked, Some(why), target_id, Lsn::ZERO).await?;
        // Left open, it would admit deletes some day when nobody thinks of it any more.
        self.answer_request().await?;
        self.forget_what_waits();
        self.gathered_since_creation = false;
        self.worked();
        self.lane().mailbox.close();
        self.context.release(self.id());
        // What came too late for this attempt is not kept waiting.
        if self.lane.asked().is_none() {
            self.wait(wait).await;
        }
        Ok(())
    }

    /// What was asked for is done, or the tenant is parked over it: whoever asked need not wait any more.
    pub(crate) async fn answer_request(&mut self) -> Result<(), ServiceError> {
        if let Some(request) = self.attempted.take() {
            self.context.state.finish_requests(self.id(), request).await?;
            self.lane.answered(request);
        }
        Ok(())
    }

    /// Writes down how many users are refused, where that has changed: `status` asks no target.
    pub(crate) async fn note_rejected(&mut self) -> Result<(), ServiceError> {
        let changed = |row: &&TenantRow| row.rejected != self.rejected.len() as u64;
        let Some(row) = self.row.as_ref().filter(changed) else { return Ok(()) };
        let (target_id, position) = (row.target_id.clone(), row.position.max(self.position));
        self.put(TenantState::Following, None, target_id, position).await
    }

    /// Writes down what is wrong with the target of a tenant that is not parked, once, and when it is over.
    pub(crate) async fn note(&mut self, why: Option<Why>) -> Result<(), ServiceError> {
        let ours = self.row.as_ref().filter(|row| row.generation == self.context.generation);
        match ours {
            Some(row) if row.state == TenantState::Following => {
                if row.reason.is_some() == why.is_some() {
                    return Ok(());
                }
                // Everything else stays: what the target has been seen to hold decides at the next look whether it is still that.
                let position = row.position.max(self.position);
                let (reason_code, reason) = why.map(|why| (why.code, why.reason)).unzip();
                let row = TenantRow { reason_code, reason, position, ..row.clone() };
                self.write_down(row).await
            }
            // It was not configured for a while, and is again.
            Some(row)
                if row.state == TenantState::Parked
                    && row.reason_code != Some(Reason::Park(ParkCause::NotConfigured)) =>
            {
                Ok(())
            }
            // Why it joins is in its place until something goes wrong, and again once it asks for its snapshot.
            joining => {
                let Some(why) = why else { return Ok(()) };
                if joining.and_then(|row| row.reason.as_ref()) == Some(&why.reason) {
                    return Ok(());
                }
                let target_id = self.row.as_ref().and_then(|row| row.target_id.clone());
                self.put(TenantState::Joining, Some(why), target_id, Lsn::ZERO).await
            }
        }
    }

    pub(crate) async fn put(
        &mut self,
        state: TenantState,
        why: Option<Why>,
        target_id: Option<TargetId>,
        position: Lsn,
    ) -> Result<(), ServiceError> {
        let (reason_code, reason) = why.as_ref().map(|why| (why.code, why.reason.clone())).unzip();
        let row = TenantRow {
            state,
            reason_code,
            reason,
            remedy: why.and_then(|why| why.remedy),
            target: self.lane().tenant.target.to_string(),
            target_id,
            generation: self.context.generation,
            position,
            since_seconds: 0.0,
            position_age_seconds: 0.0,
            rejected: self.rejected.len() as u64,
            relation: self.relation,
        };
        self.write_down(row).await
    }

    async fn write_down(&mut self, row: TenantRow) -> Result<(), ServiceError> {
        self.context.state.put_tenant(self.id(), &row).await?;
        self.lane().show(&row);
        self.row = Some(row);
        Ok(())
    }
}
