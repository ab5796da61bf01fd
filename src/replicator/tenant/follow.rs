//! Batch after batch into an open target.

use crate::apply::{Applied, Identity, Move, Rows, Target, TargetError, plan_rows};
use crate::clock::now;
use crate::model::{Change, Lsn, ResyncReason, RetryCause};
use crate::replicator::error::ServiceError;
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::outcome::StopReason;
use crate::route::Batch;
use crate::status::metrics::Visible;
use std::time::Duration;
use tokio::time::{Instant, timeout};

impl Worker {
    /// Applies what comes, until something ends it.
    pub(crate) async fn follow(&mut self, target: &mut Target, who: &Identity) -> StopReason {
        let context = self.context.clone();
        let lane = context.lanes.get(self.index());
        loop {
            if let Err(stop) = self.purge(target, who).await {
                return stop;
            }
            let stop = tokio::select! {
                step = self.step(target, who) => step.err(),
                why = lane.mailbox.interrupted() => Some(why.into()),
            };
            if let Some(stop) = stop {
                return stop;
            }
            if target.is_replaced() {
                return StopReason::Rejoin(ResyncReason::TableReplaced);
            }
            if self.failing_since.is_some()
                && let Err(error) = self.works().await
            {
                return error.into();
            }
            if let Err(error) = self.note_rejected().await {
                return error.into();
            }
        }
    }

    async fn step(&mut self, target: &mut Target, who: &Identity) -> Result<(), StopReason> {
        let mut batch = match self.pending.take() {
            Some(batch) => batch,
            None => self.next_batch(Some(self.idle_time())).await?,
        };
        if batch.end.is_none() {
            return self.write_chunks(target, who, batch).await;
        }
        let begun = Instant::now();
        match self.write(target, who, &mut batch).await {
            Ok(end) => {
                self.lane().mailbox.finish(batch.bytes);
                self.reached(end);
                self.count(batch.entries.len(), &batch, begun);
                self.context.live.user_watch.arrived(self.id(), batch.entries.keys());
                Ok(())
            }
            Err(stop) => {
                self.pending = Some(batch);
                Err(stop)
            }
        }
    }

    /// A batch as one statement; gives its end, which may have moved on.
    async fn write(&mut self, target: &mut Target, who: &Identity, batch: &mut Batch) -> Result<Lsn, StopReason> {
        self.resolve(batch).await?;
        if self.has_rejected(batch) {
            return self.write_apart(target, who, batch).await;
        }
        loop {
            let to = batch.end.unwrap_or(self.position);
            let moving = Move { from: self.position, to };
            match self.answer(target.apply(who, moving, &rows(batch))).await {
                Ok(Applied::Yes) => return Ok(to),
                Ok(Applied::Refused) => self.mend(target, who, batch).await?,
                Err(StopReason::Refused(_)) => return self.write_apart(target, who, batch).await,
                Err(stop) => return Err(stop),
            }
        }
    }

    /// The batches of a transaction that is too large for one statement, in one transaction of the target.
    async fn write_chunks(&mut self, target: &mut Target, who: &Identity, first: Batch) -> Result<(), StopReason> {
        let from = self.position;
        let started = Instant::now();
        let begun = self.answer(target.begin_chunks(who, from)).await;
        if !matches!(begun, Ok(Applied::Yes)) {
            self.pending = Some(first);
            return Err(begun.err().unwrap_or_else(checkpoint_changed));
        }
        let mut batch = first;
        if let Err(stop) = self.write_chunk(target, who, &mut batch).await {
            self.pending = Some(batch);
            return Err(stop);
        }
        let (mut rows, oldest) = (0, batch.oldest);
        // From here on earlier chunks are no longer in memory.
        while batch.end.is_none() {
            self.lane().mailbox.finish(batch.bytes);
            rows += batch.entries.len();
            batch = self.next_batch(None).await?;
            self.write_chunk(target, who, &mut batch).await.map_err(too_large_to_repeat)?;
        }
        self.lane().mailbox.finish(batch.bytes);
        let Some(end) = batch.end else { return Ok(()) };
        self.unanswered = Some(end);
        let moved = self.answer(target.commit_chunks(who, Move { from, to: end })).await?;
        self.unanswered = None;
        match moved {
            Applied::Yes => {
                self.reached(end);
                batch.oldest = oldest;
                self.count(rows + batch.entries.len(), &batch, started);
                self.context.live.user_watch.notify_all(self.id());
                Ok(())
            }
            Applied::Refused => Err(too_large_to_repeat(checkpoint_changed())),
        }
    }

    async fn write_chunk(&mut self, target: &mut Target, who: &Identity, batch: &mut Batch) -> Result<(), StopReason> {
        self.resolve(batch).await?;
        if self.has_rejected(batch) {
            return self.write_rows_apart(target, batch).await;
        }
        self.answer(target.set_savepoint()).await?;
        loop {
            match self.answer(target.apply_chunk(&rows(batch))).await {
                Ok(Applied::Yes) => return Ok(()),
                Ok(Applied::Refused) => self.mend(target, who, batch).await?,
                Err(StopReason::Refused(_)) => {
                    self.answer(target.roll_back_to_savepoint()).await?;
                    return self.write_rows_apart(target, batch).await;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// After a refusal: where the checkpoint is as expected, rows to be patched were missing, and their users are
    /// read as a whole. Otherwise the target has to be looked at anew.
    async fn mend(&mut self, target: &mut Target, who: &Identity, batch: &mut Batch) -> Result<(), StopReason> {
        let checkpoint = self.answer(target.checkpoint()).await?;
        let as_expected = checkpoint.is_some_and(|checkpoint| {
            checkpoint.tenant == who.tenant
                && checkpoint.target_id == who.target_id
                && checkpoint.generation == who.generation
                && checkpoint.epoch <= who.epoch
                && checkpoint.position == self.position
        });
        match as_expected && read_instead_of_patching(batch) > 0 {
            true => self.resolve(batch).await,
            false => Err(checkpoint_changed()),
        }
    }

    /// Counts a batch that is visible in the target now.
    fn count(&self, rows: usize, batch: &Batch, begun: Instant) {
        let micros = batch.oldest.map_or(0, |oldest| now().0.saturating_sub(oldest.0));
        let visible = Visible {
            rows,
            transactions: batch.transactions,
            took: begun.elapsed(),
            // By two clocks: never less than nothing.
            age: Duration::from_micros(u64::try_from(micros).unwrap_or(0)),
        };
        self.context.live.metrics.applied(&self.lane().counts, visible);
    }

    fn reached(&mut self, end: Lsn) {
        self.position = end;
        tracing::trace!(tenant = %self.id(), position = %end, "its target holds more");
        self.forget_readings_before(end);
        self.context.acknowledge(self.id(), end);
    }

    /// A target that does not answer for as long as one may be away is taken to be away.
    pub(crate) async fn answer<T>(&self, work: impl Future<Output = Result<T, TargetError>>) -> Result<T, StopReason> {
        if self.context.lease_has_lapsed() {
            return Err(ServiceError::LeaseLapsed.into());
        }
        match timeout(self.context.config.limits.park_after, work).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(RetryCause::NoAnswer.into()),
        }
    }
}

/// Patches become readings of the whole row; gives how many there were.
pub(crate) fn read_instead_of_patching(batch: &mut Batch) -> usize {
    let mut patches = 0;
    for entry in batch.entries.values_mut() {
        if let Change::Patch(patch) = &entry.change {
            entry.change = Change::Reread { id: patch.id.clone(), xid: patch.xid, at: patch.at };
            patches += 1;
        }
    }
    patches
}

fn rows(batch: &Batch) -> Rows<'_> {
    // Rereads have been resolved: none is left.
    plan_rows(batch.entries.values().map(|entry| &entry.change)).0
}

pub(crate) fn checkpoint_changed() -> StopReason {
    RetryCause::CheckpointMoved.into()
}

/// What was applied before is gone with the transaction, and not in memory any more: only a snapshot brings it back.
fn too_large_to_repeat(stop: StopReason) -> StopReason {
    match stop {
        StopReason::Retry { .. } => StopReason::Rejoin(ResyncReason::TransactionLost),
        other => other,
    }
}
