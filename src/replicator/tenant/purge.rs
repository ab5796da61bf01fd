//! Removes soft-deleted users from the target after `deletes.purge_after`.

use crate::apply::{Applied, Bisection, Move, Refusal, RefusedUser};
use crate::model::{ParkCause, RetryCause, UserId};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess};
use crate::replicator::tenant::worker::Worker;
use crate::state::StateAccess;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{sleep, sleep_until};

/// Minimum time between two searches of a target. Users that its application still refers to are tried again then.
const MIN_PURGE_INTERVAL: Duration = Duration::from_secs(3600);
/// Maximum number of users that one transaction removes.
const PURGE_BATCH: usize = 10_000;
/// How often a due purge looks whether its tenant has caught up.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(1);

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Waits until users may be due and the tenant has caught up; for ever without `deletes.purge_after`.
    pub(super) async fn purge_is_due(&self, apply: &ApplyState) {
        if self.context.config.purge_after.is_none() {
            std::future::pending::<()>().await;
        }
        if let Some(due) = self.purges.due {
            sleep_until(due).await;
        }
        while !self.has_caught_up(apply) {
            sleep(CATCH_UP_INTERVAL).await;
        }
    }

    /// Whether the target holds everything that the source had written when the purge became due. A waiting change may
    /// restore a user that looks due, also one that was made while no process ran.
    fn has_caught_up(&self, apply: &ApplyState) -> bool {
        let written = *self.purges.position.get_or_init(|| self.context.written());
        apply.pending.is_none() && self.context.progress().applied_by(self.id()) >= written
    }

    /// Removes the users that are due, once the tenant has caught up. A target that refuses this affects no change: the
    /// purge alone is tried again later.
    pub(super) async fn purge(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &ApplyState,
    ) -> Result<(), StopReason> {
        let Some(after) = self.context.config.purge_after else { return Ok(()) };
        if !self.purges.is_due() || !self.has_caught_up(apply) {
            return Ok(());
        }
        // Before the attempt, so that a lost connection does not repeat it at once.
        let pause = self.purges.retry.step();
        self.purges.set(pause);
        match self.remove_due(connection, apply, after).await {
            Ok(wait) => {
                self.purges.retry.reset();
                self.purges.set(wait);
                Ok(())
            }
            Err(StopReason::Refused(refusal)) => {
                self.await_answer(connection.target.roll_back()).await?;
                let remedy = "fix what its table, its triggers or its constraints report for a DELETE";
                let sqlstate = &*refusal.sqlstate;
                tracing::warn!(sqlstate, remedy, wait = ?pause, "could not remove users that were deleted long ago");
                Ok(())
            }
            Err(StopReason::Retry { cause: RetryCause::TooSlow, reason, .. }) => {
                self.await_answer(connection.target.roll_back()).await?;
                tracing::warn!(reason, wait = ?pause, "could not remove users that were deleted long ago");
                Ok(())
            }
            Err(StopReason::Park { cause, reason, remedy })
                if !matches!(cause, ParkCause::Away | ParkCause::Internal) =>
            {
                self.await_answer(connection.target.roll_back()).await?;
                tracing::warn!(reason, remedy, wait = ?pause, "could not remove users that were deleted long ago");
                Ok(())
            }
            Err(stop) => Err(stop),
        }
    }

    /// Removes one batch of due users. Returns the time until the next one.
    async fn remove_due(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &ApplyState,
        after: Duration,
    ) -> Result<Duration, StopReason> {
        let due = self.await_answer(connection.target.expired(after, PURGE_BATCH)).await?;
        let (found, is_full) = (due.len() as u64, due.len() == PURGE_BATCH);
        // Changes that have come in since wait for their turn.
        let ids = self.handle.mailbox.without_waiting(due);
        let ids = self.without_returned(ids).await;
        let removed = if ids.is_empty() { 0 } else { self.remove(connection, apply, &ids, after).await? };
        if is_full && removed > 0 {
            return Ok(Duration::ZERO);
        }
        let next = self.await_answer(connection.target.next_expiry(after)).await?;
        let wait = next.max(MIN_PURGE_INTERVAL.min(after));
        // A new session tries refused users again at once.
        if removed == found {
            self.note_purge(wait, apply.position).await?;
        }
        Ok(wait)
    }

    /// These users without the rejected ones that the source has again: only their new rows are not in the target.
    async fn without_returned(&self, mut ids: Vec<String>) -> Vec<String> {
        let rejected: Vec<String> = ids.iter().filter(|id| self.rejected.contains(id)).cloned().collect();
        if rejected.is_empty() {
            return ids;
        }
        match self.context.rereader.read_ids(&self.context.config, &rejected).await {
            Ok(read) => {
                let key = self.handle.tenant.key.as_str();
                let ours =
                    read.users.into_iter().filter(|read| read.tenant.as_ref().is_none_or(|tenant| *tenant == key));
                let live = ours.filter(|read| read.user.deleted_at.is_none());
                let live: HashSet<UserId> = live.map(|read| read.user.id).collect();
                ids.retain(|id| !live.contains(id.as_str()));
            }
            // The other users are purged.
            Err(error) => {
                tracing::info!(%error, "could not read rejected users from the source");
                ids.retain(|id| !self.rejected.contains(id));
            }
        }
        ids
    }

    /// Removes users in one transaction, without those that the target refuses to remove. Returns the number of removed users.
    async fn remove(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &ApplyState,
        ids: &[String],
        after: Duration,
    ) -> Result<u64, StopReason> {
        let Connection { target, who } = connection;
        let unmoved = Move { from: apply.position, to: apply.position };
        if self.await_answer(target.begin_chunks(who, apply.position)).await? == Applied::Refused {
            return Err(RetryCause::CheckpointMoved.into());
        }
        let mut removed = 0;
        let mut refused: Vec<RefusedUser> = Vec::new();
        let mut bisection = Bisection::new(ids.len(), usize::MAX);
        while let Some(range) = bisection.next_part(self.size.rows()) {
            self.await_answer(target.set_savepoint()).await?;
            match self.await_answer(target.delete_expired(&ids[range.clone()], after)).await {
                Ok((count, skipped)) => {
                    self.size.fitted(range.len());
                    removed += count;
                    let skipped =
                        skipped.into_iter().map(|id| RefusedUser { id: id.into(), refusal: Refusal::skipped() });
                    refused.extend(skipped);
                }
                Err(StopReason::Retry { cause: RetryCause::TooSlow, .. }) if range.len() > 1 => {
                    self.size.too_slow(range.len());
                    self.await_answer(target.roll_back_to_savepoint()).await?;
                    bisection.too_slow();
                }
                Err(StopReason::Refused(refusal)) => {
                    self.await_answer(target.roll_back_to_savepoint()).await?;
                    refused.extend(
                        bisection.refused(range).map(|at| RefusedUser { id: ids[at].as_str().into(), refusal }),
                    );
                }
                Err(stop) => return Err(stop),
            }
        }
        let is_refused: HashSet<&str> = refused.iter().map(|user| &*user.id).collect();
        let known = ids.iter().map(String::as_str).filter(|id| self.rejected.contains(id));
        let accepted: Vec<&str> = known.filter(|id| !is_refused.contains(id)).collect();
        self.await_answer(target.write_rejected(&refused, &accepted)).await?;
        if self.await_answer(target.commit_chunks(who, unmoved)).await? == Applied::Refused {
            return Err(RetryCause::CheckpointMoved.into());
        }
        if removed > 0 {
            tracing::info!(count = removed, "deleted permanently");
        }
        accepted.into_iter().for_each(|id| self.rejected.remove(id));
        let new: Vec<RefusedUser> = refused.iter().filter(|user| !self.rejected.contains(&user.id)).cloned().collect();
        self.log_rejected(&new);
        self.rejected.add(&refused);
        Ok(removed)
    }
}
