//! A batch with rows that the target refuses: the others are applied, and the refused ones written down there.

use crate::apply::{Applied, Bisection, Identity, MAX_REJECTED, Move, Refusal, Target, plan_rows};
use crate::model::{Change, Lsn, ParkCause, UserId};
use crate::replicator::failure_policy;
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::follow::{checkpoint_changed, read_instead_of_patching};
use crate::replicator::tenant::outcome::StopReason;
use crate::route::Batch;
use std::collections::HashSet;

impl Worker {
    /// Whether a user is among them that was refused before: the row is to be taken off the list, if it is taken now.
    pub(crate) fn has_rejected(&self, batch: &Batch) -> bool {
        !self.rejected.is_empty() && batch.entries.keys().any(|id| self.rejected.contains(id))
    }

    /// A batch in a transaction of its own, whose rows can be taken back one by one.
    pub(crate) async fn write_apart(
        &mut self,
        target: &mut Target,
        who: &Identity,
        batch: &mut Batch,
    ) -> Result<Lsn, StopReason> {
        let from = self.position;
        if self.answer(target.begin_chunks(who, from)).await? == Applied::Refused {
            return Err(checkpoint_changed());
        }
        self.write_rows_apart(target, batch).await?;
        // Rows that had to be read may have brought on what came after them.
        let moving = Move { from, to: batch.end.unwrap_or(from) };
        match self.answer(target.commit_chunks(who, moving)).await? {
            Applied::Yes => Ok(moving.to),
            Applied::Refused => Err(checkpoint_changed()),
        }
    }

    /// The rows of a batch into the open transaction.
    pub(crate) async fn write_rows_apart(&mut self, target: &mut Target, batch: &mut Batch) -> Result<(), StopReason> {
        // What the target refused it does not have as it was: a part of a row is of no use there.
        if read_instead_of_patching(batch) > 0 {
            self.resolve(batch).await?;
        }
        self.answer(target.check_constraints_immediately()).await?;
        let changes: Vec<&Change> = batch.entries.values().map(|entry| &entry.change).collect();
        let mut refused: Vec<(UserId, Refusal)> = Vec::new();
        let mut bisection = Bisection::new(changes.len());
        while let Some(range) = bisection.next_part() {
            self.answer(target.set_savepoint()).await?;
            let part = changes[range.clone()].iter().copied();
            match self.answer(target.apply_chunk(&plan_rows(part).0)).await {
                Ok(Applied::Yes) => {}
                Ok(Applied::Refused) => return Err(checkpoint_changed()),
                Err(StopReason::Refused(refusal)) => {
                    self.answer(target.roll_back_to_savepoint()).await?;
                    if let Some(at) = bisection.refused(range) {
                        refused.push((changes[at].id().into(), refusal));
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
        let is_refused: HashSet<&str> = refused.iter().map(|(id, _)| &**id).collect();
        let known = changes.iter().map(|change| change.id()).filter(|id| self.rejected.contains(*id));
        let accepted: Vec<&str> = known.filter(|id| !is_refused.contains(id)).collect();
        self.answer(target.write_rejected(&refused, &accepted)).await?;
        accepted.iter().for_each(|id| {
            self.rejected.remove(*id);
        });
        self.remember(refused)
    }

    fn remember(&mut self, refused: Vec<(UserId, Refusal)>) -> Result<(), StopReason> {
        self.say_who_is_refused(&refused);
        let mut fingerprints = self.context.fingerprints();
        for (id, _) in refused {
            // The next change is tried, also where it makes the same row.
            fingerprints.forget(self.index(), &id);
            self.rejected.insert(id);
        }
        match self.rejected.len() {
            ..=MAX_REJECTED => Ok(()),
            count => Err(StopReason::Park {
                cause: ParkCause::Refuses,
                reason: format!("its target refuses {count} users, more than the limit of {MAX_REJECTED}"),
                remedy: failure_policy::REFUSES.to_owned(),
            }),
        }
    }

    /// Once for all of them, without their values.
    pub(crate) fn say_who_is_refused(&self, refused: &[(UserId, Refusal)]) {
        if let Some((_, first)) = refused.first() {
            let Refusal { sqlstate, constraint, .. } = first;
            tracing::error!(
                tenant = %self.id(), count = refused.len(), sqlstate, constraint,
                "its target refuses users: they are left out, see users_sync.rejected there"
            );
        }
    }
}
