//! Soft deletes become deletes for good after `deletes.purge_after`.

use crate::apply::{Applied, Bisection, Identity, Move, Refusal, Target};
use crate::clock::now;
use crate::model::{RetryCause, UserId};
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::outcome::StopReason;
use std::time::Duration;
use tokio::time::Instant;

/// A target is looked through at most this often; what its application does not let go is tried again then.
const AT_MOST_EVERY: Duration = Duration::from_secs(3600);
/// So many at once.
const TOGETHER: usize = 10_000;
/// Changes that wait for longer, in microseconds, were not just made.
const CAUGHT_UP: i64 = 60_000_000;

impl Worker {
    /// Deletes for good what is due, at the beginning of a connection and when its time has come.
    pub(crate) async fn purge(&mut self, target: &mut Target, who: &Identity) -> Result<(), StopReason> {
        let Some(after) = self.context.config.purge_after else { return Ok(()) };
        if self.purge_due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        // Somebody may have been brought back while the target was away, and what says so still waits.
        let oldest = self.lane().mailbox.waiting().2;
        if self.pending.is_some() || oldest.is_some_and(|at| now().0 - at.0 > CAUGHT_UP) {
            return Ok(());
        }
        let ids = self.answer(target.expired(after, TOGETHER)).await?;
        let gone = match ids.is_empty() {
            true => 0,
            false => self.delete_for_good(target, who, &ids).await?,
        };
        let wait = match ids.len() == TOGETHER && gone > 0 {
            true => Duration::ZERO,
            // Whoever is deleted from now on is not due earlier than that.
            false => self.answer(target.next_expiry(after)).await?.unwrap_or(after).max(AT_MOST_EVERY.min(after)),
        };
        self.purge_due = Some(Instant::now() + wait);
        Ok(())
    }

    /// Gives how many are gone.
    async fn delete_for_good(
        &mut self,
        target: &mut Target,
        who: &Identity,
        ids: &[String],
    ) -> Result<usize, StopReason> {
        let stays = Move { from: self.position, to: self.position };
        if self.answer(target.begin_chunks(who, self.position)).await? == Applied::Refused {
            return Err(RetryCause::CheckpointMoved.into());
        }
        let mut refused: Vec<(UserId, Refusal)> = Vec::new();
        let mut bisection = Bisection::new(ids.len());
        while let Some(range) = bisection.next_part() {
            self.answer(target.set_savepoint()).await?;
            match self.answer(target.delete_rows(&ids[range.clone()])).await {
                Ok(()) => {}
                Err(StopReason::Refused(refusal)) => {
                    self.answer(target.roll_back_to_savepoint()).await?;
                    refused.extend(bisection.refused(range).map(|at| (ids[at].as_str().into(), refusal)));
                }
                Err(stop) => return Err(stop),
            }
        }
        self.answer(target.write_rejected(&refused, &[])).await?;
        self.answer(target.commit_chunks(who, stays)).await?;
        let gone = ids.len() - refused.len();
        tracing::info!(tenant = %self.id(), count = gone, "deleted for good");
        self.say_who_is_refused(&refused);
        self.rejected.extend(refused.into_iter().map(|(id, _)| id));
        Ok(gone)
    }
}
