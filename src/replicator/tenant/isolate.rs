//! Batches with rows that the target refuses: the other rows are applied, and the refused ones recorded in the target.

use crate::apply::{Applied, MAX_REJECTED, Move, Refusal, RefusedUser, RejectReason, too_many_refused};
use crate::model::{Change, Lsn, ParkCause, StatusFinding};
use crate::replicator::tenant::follow::{Answers, checkpoint_moved, replace_patches};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess};
use crate::replicator::tenant::worker::Worker;
use crate::route::Batch;
use crate::state::StateAccess;
use std::collections::HashSet;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Whether a user of the batch was rejected before, or cannot be mapped. If its row is accepted now, the record has to
    /// go.
    pub(super) fn has_rejected(&self, batch: &Batch) -> bool {
        let mut changes = batch.entries.values().map(|entry| &entry.change);
        changes.any(|change| change.why_unmappable().is_some())
            || !self.rejected.is_empty() && batch.entries.keys().any(|id| self.rejected.contains(id))
    }

    /// Writes a batch in a transaction of its own, from which single rows can be rolled back. Returns its end.
    pub(super) async fn write_isolated(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        batch: &mut Batch,
    ) -> Result<Lsn, StopReason> {
        let Connection { target, who } = connection;
        let from = apply.position;
        if self.await_answer(target.begin_chunks(who, from)).await? == Applied::Refused {
            return Err(checkpoint_moved());
        }
        self.isolate_rejected(target, apply, batch).await?;
        // Point reads may have moved the end of the batch.
        let moving = Move { from, to: batch.end.unwrap_or(from) };
        match self.await_answer(target.commit_chunks(who, moving)).await? {
            Applied::Yes => Ok(moving.to),
            Applied::Refused => Err(checkpoint_moved()),
        }
    }

    /// Writes the rows of a batch into the open transaction, without those that the target refuses.
    pub(super) async fn isolate_rejected(
        &mut self,
        target: &mut C::Target,
        apply: &mut ApplyState,
        batch: &mut Batch,
    ) -> Result<(), StopReason> {
        // The target never stored the refused row, so a patch cannot be applied; read the whole row.
        if replace_patches(batch) > 0 {
            self.resolve(apply, batch).await?;
        }
        self.await_answer(target.check_constraints_immediately()).await?;
        let changes: Vec<&Change> = batch.entries.values().map(|entry| &entry.change).collect();
        let answers = Answers::default();
        let (unmappable, changes): (Vec<&Change>, Vec<&Change>) =
            changes.into_iter().partition(|change| change.why_unmappable().is_some());
        let progressed = || answers.add();
        let isolated = self.await_answers(&answers, target.isolate(&changes, &self.size, &progressed)).await;
        let mut refused = isolated.inspect_err(|stop| self.note_no_answer(stop))?;
        let foreign = changes.iter().filter(|change| cannot_be_there(change)).map(|change| change.id());
        let foreign: HashSet<&str> = foreign.collect();
        refused.retain(|user| user.refusal.reason != RejectReason::Encoding || !foreign.contains(&*user.id));
        refused.extend(unmappable.into_iter().filter_map(|change| {
            let refusal = Refusal::unmappable(change.why_unmappable()?);
            Some(RefusedUser { id: change.id().into(), refusal })
        }));
        let is_refused: HashSet<&str> = refused.iter().map(|user| &*user.id).collect();
        let known = changes.iter().map(|change| change.id()).filter(|id| self.rejected.contains(id));
        let accepted: Vec<&str> = known.filter(|id| !is_refused.contains(id)).collect();
        self.await_answer(target.write_rejected(&refused, &accepted)).await?;
        for id in accepted {
            self.rejected.remove(id);
        }
        self.remember_rejected(refused)
    }

    fn remember_rejected(&mut self, refused: Vec<RefusedUser>) -> Result<(), StopReason> {
        let first = refused.first().map(|user| user.refusal.reason.clone());
        let new: Vec<RefusedUser> = refused.iter().filter(|user| !self.rejected.contains(&user.id)).cloned().collect();
        self.log_rejected(&new);
        {
            let mut fingerprints = self.context.fingerprints();
            // The next change is written even if it makes the same row.
            refused.iter().for_each(|user| fingerprints.forget(self.index, &user.id));
        }
        self.rejected.add(&refused);
        match first {
            Some(first) if self.rejected.len() > MAX_REJECTED => Err(too_many(&first)),
            _ => Ok(()),
        }
    }

    /// Logs rejected users once for all of them, without their values.
    pub(super) fn log_rejected(&self, refused: &[RefusedUser]) {
        // The reader has logged these.
        let refused: Vec<&RefusedUser> =
            refused.iter().filter(|user| !matches!(user.refusal.reason, RejectReason::Unmappable(_))).collect();
        let (gave_way, refused): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|user| user.refusal.reason == RejectReason::GaveWay);
        if !gave_way.is_empty() {
            tracing::info!(count = gave_way.len(), "deleted users gave unique values to live ones");
        }
        if let Some(RefusedUser { refusal: Refusal { sqlstate, reason }, .. }) = refused.first() {
            tracing::error!(
                count = refused.len(),
                sqlstate,
                %reason,
                reason_code = StatusFinding::Rejects.code(),
                "the target rejects users: they are skipped, see users_sync.rejected there"
            );
        }
    }
}

/// The cause is not in single rows.
fn too_many(first: &RejectReason) -> StopReason {
    StopReason::Park { cause: ParkCause::Refuses, reason: too_many_refused(first), remedy: first.remedy() }
}

/// Whether the change deletes a user whose id the target's encoding may not express.
fn cannot_be_there(change: &Change) -> bool {
    matches!(change, Change::Delete { id, .. } if !id.is_ascii())
}
