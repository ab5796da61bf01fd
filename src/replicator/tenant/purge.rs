//! Removes soft-deleted users from the target after `deletes.purge_after`.

use crate::apply::{Applied, Bisection, Move, RefusedUser};
use crate::clock::now;
use crate::model::RetryCause;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess};
use crate::replicator::tenant::worker::Worker;
use crate::state::StateAccess;
use std::time::Duration;
use tokio::time::Instant;

/// Minimum time between two searches of a target. Users that its application still refers to are tried again then.
const MIN_PURGE_INTERVAL: Duration = Duration::from_secs(3600);
/// Maximum number of users that one transaction removes.
const PURGE_BATCH: usize = 10_000;
/// A target whose oldest waiting change is older than this many microseconds is not up to date.
const CAUGHT_UP_AGE: i64 = 60_000_000;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Removes the users that are due. Called when a connection begins, and when the next users become due.
    pub(super) async fn purge(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &ApplyState,
    ) -> Result<(), StopReason> {
        let Some(after) = self.context.config.purge_after else { return Ok(()) };
        if self.purge_due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        // A waiting change may restore a user that looks due.
        let oldest = self.handle.mailbox.waiting().oldest;
        if apply.pending.is_some() || oldest.is_some_and(|at| now().0 - at.0 > CAUGHT_UP_AGE) {
            return Ok(());
        }
        let ids = self.await_answer(connection.target.expired(after, PURGE_BATCH)).await?;
        let removed = if ids.is_empty() { 0 } else { self.remove_expired(connection, apply, &ids).await? };
        let wait = if ids.len() == PURGE_BATCH && removed > 0 {
            Duration::ZERO
        } else {
            // A user that is deleted from now on is not due before `after` has passed.
            let next = self.await_answer(connection.target.next_expiry(after)).await?;
            next.unwrap_or(after).max(MIN_PURGE_INTERVAL.min(after))
        };
        self.purge_due = Some(Instant::now() + wait);
        Ok(())
    }

    /// Removes users in one transaction, without those that the target refuses to remove. Returns the number of removed users.
    async fn remove_expired(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &ApplyState,
        ids: &[String],
    ) -> Result<usize, StopReason> {
        let Connection { target, who } = connection;
        let unmoved = Move { from: apply.position, to: apply.position };
        if self.await_answer(target.begin_chunks(who, apply.position)).await? == Applied::Refused {
            return Err(RetryCause::CheckpointMoved.into());
        }
        let mut refused: Vec<RefusedUser> = Vec::new();
        let mut bisection = Bisection::new(ids.len());
        while let Some(range) = bisection.next_part() {
            self.await_answer(target.set_savepoint()).await?;
            match self.await_answer(target.delete_rows(&ids[range.clone()])).await {
                Ok(()) => {}
                Err(StopReason::Refused(refusal)) => {
                    self.await_answer(target.roll_back_to_savepoint()).await?;
                    refused.extend(
                        bisection.refused(range).map(|at| RefusedUser { id: ids[at].as_str().into(), refusal }),
                    );
                }
                Err(stop) => return Err(stop),
            }
        }
        self.await_answer(target.write_rejected(&refused, &[])).await?;
        self.await_answer(target.commit_chunks(who, unmoved)).await?;
        let removed = ids.len() - refused.len();
        tracing::info!(count = removed, "deleted permanently");
        self.log_rejected(&refused);
        self.rejected.extend(refused.into_iter().map(|user| user.id));
        Ok(removed)
    }
}
