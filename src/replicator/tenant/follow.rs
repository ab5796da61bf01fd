//! Applies batch after batch to an open target.

use crate::apply::{Applied, Move, Rows, plan_rows};
use crate::clock::now;
use crate::model::{Change, Lsn, ParkCause, ResyncReason, RetryCause};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy::NO_PROGRESS;
use crate::replicator::session::apply_turns::{Turn, within};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess};
use crate::replicator::tenant::unanswered::SHOWN_AFTER;
use crate::replicator::tenant::worker::Worker;
use crate::route::{Batch, Entry};
use crate::state::StateAccess;
use crate::status::metrics::Visible;
use crate::telemetry::{batch_span, counted};
use std::ops::AddAssign;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What batches wrote.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    rows: usize,
    sign_ups: usize,
}

impl Written {
    pub(super) fn of(batch: &Batch) -> Written {
        let is_sign_up = |entry: &&Entry| match (&entry.change, batch.oldest) {
            (Change::Upsert(user), Some(committed)) => user.is_sign_up(committed),
            _ => false,
        };
        Written { rows: batch.entries.len(), sign_ups: batch.entries.values().filter(is_sign_up).count() }
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        (self.rows, self.sign_ups) = (self.rows + other.rows, self.sign_ups + other.sign_ups);
    }
}

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Applies what waits, until something stops it.
    pub(super) async fn follow(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
    ) -> StopReason {
        let handle = self.handle.clone();
        loop {
            if handle.is_paused() {
                return StopReason::Paused;
            }
            if let Err(stop) = self.purge(connection, apply).await {
                return stop;
            }
            if let Err(stop) = self.serve_requests(connection, apply).await {
                return stop;
            }
            if let Err(stop) = self.retry_rejected(connection, apply).await {
                return stop;
            }
            // Before the next change, which may be hours away.
            if let Err(error) = self.note_rejected(apply.position).await {
                return error.into();
            }
            let stop = tokio::select! {
                biased;
                signal = handle.mailbox.interrupted() => Some(signal.into()),
                step = self.step(connection, apply) => step.err(),
            };
            if let Some(stop) = stop {
                return stop;
            }
            if self.is_moved() {
                return StopReason::Moved;
            }
            if connection.target.is_replaced() {
                return StopReason::Rejoin(ResyncReason::TableReplaced);
            }
            if self.failing_since.is_some()
                && let Err(error) = self.note_recovery(apply.position).await
            {
                return error.into();
            }
        }
    }

    async fn step(&mut self, connection: &mut Connection<C::Target>, apply: &mut ApplyState) -> Result<(), StopReason> {
        let (batch, turn) = match apply.pending.take() {
            Some(batch) => (batch, None),
            None => tokio::select! {
                biased;
                next = self.next_in_turn(apply) => next?,
                () = self.purge_is_due(apply) => return Ok(()),
                () = self.rejected.due() => return Ok(()),
                () = self.handle.row_requests.arrived() => return Ok(()),
                () = self.handle.paused(true) => return Err(StopReason::Paused),
                () = self.moved() => return Err(StopReason::Moved),
            },
        };
        self.active_at = Instant::now();
        self.rejected.others_changed();
        self.trace = batch_span(&self.context.trace(), self.id());
        let done = within(turn, self.write_next(connection, apply, batch)).await;
        self.end_trace(&done);
        done
    }

    /// Waits for the next batch, and for a turn to write it. More changes join it until then.
    async fn next_in_turn(&self, apply: &ApplyState) -> Result<(Batch, Option<Turn>), StopReason> {
        let idle_time = self.idle_time();
        let turn = async {
            timeout(idle_time, self.handle.mailbox.arrived()).await.map_err(|_| StopReason::Idle)?;
            // Nothing more would join a full batch.
            if self.handle.mailbox.next_is_full() {
                return Ok(None);
            }
            Ok(self.context.turns.take().await)
        };
        let turn: Result<_, StopReason> = tokio::select! {
            biased;
            turn = turn => turn,
            () = self.context.drain.cancelled() => Ok(None),
        };
        let turn = turn?;
        // It is there, unless the session ends.
        Ok((self.next_batch(apply, Some(idle_time)).await?, turn))
    }

    /// Writes a batch, or the transaction that begins with it.
    async fn write_next(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        mut batch: Batch,
    ) -> Result<(), StopReason> {
        if batch.end.is_none() {
            return self.write_chunks(connection, apply, batch).await;
        }
        let started = Instant::now();
        match self.write(connection, apply, &mut batch).await {
            Ok(end) => {
                self.handle.mailbox.finish(batch.bytes);
                self.acknowledge(apply, end);
                self.count(Written::of(&batch), &batch, started);
                self.context.status.user_watch.notify(self.id(), batch.entries.keys());
                Ok(())
            }
            Err(stop) => {
                apply.pending = Some(batch);
                Err(stop)
            }
        }
    }

    /// Writes a batch as one statement. Returns its end, which point reads may have moved on.
    async fn write(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        batch: &mut Batch,
    ) -> Result<Lsn, StopReason> {
        self.resolve(apply, batch).await?;
        if self.has_rejected(batch) || batch.entries.len() > self.size.rows() {
            return self.write_isolated(connection, apply, batch).await;
        }
        loop {
            let moving = Move { from: apply.position, to: batch.end.unwrap_or(apply.position) };
            let Connection { target, who } = &mut *connection;
            match self.await_answer(target.apply(who, moving, &rows(batch))).await {
                Ok(Applied::Yes) => {
                    self.size.fitted(batch.entries.len());
                    return Ok(moving.to);
                }
                Ok(Applied::Refused) => self.recover_refused_batch(connection, apply, batch).await?,
                Err(StopReason::Refused(_)) => return self.write_isolated(connection, apply, batch).await,
                Err(stop) if self.is_too_slow(&stop, batch) => {
                    return match self.write_isolated(connection, apply, batch).await {
                        // The limit has also ended the connection.
                        Err(StopReason::Retry { cause: RetryCause::TargetError, .. }) => Err(stop),
                        written => written,
                    };
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Writes the batches of a transaction that is too large for one statement, in one transaction of the target.
    async fn write_chunks(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        first: Batch,
    ) -> Result<(), StopReason> {
        let from = apply.position;
        let started = Instant::now();
        let begun = self.await_answer(connection.target.begin_chunks(&connection.who, from)).await;
        if !matches!(begun, Ok(Applied::Yes)) {
            apply.pending = Some(first);
            return Err(begun.err().unwrap_or_else(checkpoint_moved));
        }
        let mut batch = first;
        if let Err(stop) = self.write_chunk(connection, apply, &mut batch).await {
            apply.pending = Some(batch);
            return Err(stop);
        }
        let (mut written, oldest) = (Written::default(), batch.oldest);
        // From here on earlier chunks are no longer in memory.
        while batch.end.is_none() {
            self.handle.mailbox.finish(batch.bytes);
            written += Written::of(&batch);
            batch = self.next_batch(apply, None).await?;
            self.write_chunk(connection, apply, &mut batch).await.map_err(transaction_lost)?;
        }
        self.handle.mailbox.finish(batch.bytes);
        let Some(end) = batch.end else { return Ok(()) };
        apply.unanswered = Some(end);
        let Connection { target, who } = &mut *connection;
        let moved = self.await_answer(target.commit_chunks(who, Move { from, to: end })).await?;
        apply.unanswered = None;
        match moved {
            Applied::Yes => {
                self.acknowledge(apply, end);
                batch.oldest = oldest;
                written += Written::of(&batch);
                self.count(written, &batch, started);
                self.context.status.user_watch.notify_all(self.id());
                Ok(())
            }
            Applied::Refused => Err(transaction_lost(checkpoint_moved())),
        }
    }

    async fn write_chunk(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        batch: &mut Batch,
    ) -> Result<(), StopReason> {
        self.resolve(apply, batch).await?;
        if self.has_rejected(batch) || batch.entries.len() > self.size.rows() {
            return self.isolate_rejected(&mut connection.target, apply, batch).await;
        }
        self.await_answer(connection.target.set_savepoint()).await?;
        loop {
            match self.await_answer(connection.target.apply_chunk(&rows(batch))).await {
                Ok(Applied::Yes) => {
                    self.size.fitted(batch.entries.len());
                    return Ok(());
                }
                Ok(Applied::Refused) => self.recover_refused_batch(connection, apply, batch).await?,
                Err(stop) if matches!(stop, StopReason::Refused(_)) || self.is_too_slow(&stop, batch) => {
                    self.await_answer(connection.target.roll_back_to_savepoint()).await?;
                    return self.isolate_rejected(&mut connection.target, apply, batch).await;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Prepares a refused batch for another attempt. If the checkpoint is as expected, rows to patch were missing: their users
    /// are read as a whole. Otherwise the target has to be assessed again.
    async fn recover_refused_batch(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        batch: &mut Batch,
    ) -> Result<(), StopReason> {
        let Connection { target, who } = connection;
        let checkpoint = self.await_answer(target.checkpoint()).await?;
        let as_expected = checkpoint.is_some_and(|checkpoint| who.may_write(&checkpoint, apply.position));
        if as_expected && replace_patches(batch) > 0 {
            self.resolve(apply, batch).await
        } else {
            Err(checkpoint_moved())
        }
    }

    /// Counts a batch that is visible in the target.
    pub(super) fn count(&self, written: Written, batch: &Batch, started: Instant) {
        let micros = batch.oldest.map_or(0, |oldest| now().0.saturating_sub(oldest.0));
        let visible = Visible {
            rows: written.rows,
            sign_ups: written.sign_ups,
            transactions: batch.transactions,
            took: started.elapsed(),
            // The difference of two clocks may be negative.
            age: Duration::from_micros(u64::try_from(micros).unwrap_or(0)),
        };
        counted(&self.trace, "rows", written.rows as u64);
        counted(&self.trace, "transactions", batch.transactions);
        self.context.status.metrics.applied(&self.handle.counts, visible);
    }

    pub(super) fn acknowledge(&self, apply: &mut ApplyState, end: Lsn) {
        apply.reached(end);
        tracing::trace!(position = %end, "position applied");
        self.context.acknowledge(self.id(), end);
    }

    /// Waits for an answer of the target, as long as a target may be away.
    pub(super) async fn await_answer<T>(
        &self,
        work: impl Future<Output = Result<T, StopReason>>,
    ) -> Result<T, StopReason> {
        self.await_answers(&Answers::default(), work).await
    }

    /// Waits for a work of many statements; for each of its answers as long as a target may be away.
    pub(super) async fn await_answers<T>(
        &self,
        answers: &Answers,
        work: impl Future<Output = Result<T, StopReason>>,
    ) -> Result<T, StopReason> {
        if self.context.lease_has_lapsed() {
            return Err(ServiceError::LeaseLapsed.into());
        }
        let (mut work, limit) = (pin!(work), self.context.config.limits.park_after);
        loop {
            let before = answers.count();
            let soon = timeout(SHOWN_AFTER.min(limit), &mut work).await;
            let done = match soon {
                Ok(done) => Some(done),
                Err(_) if answers.count() != before => continue,
                Err(_) => {
                    self.show_no_answer().await?;
                    timeout(limit.saturating_sub(SHOWN_AFTER), &mut work).await.ok()
                }
            };
            let is_answered = done.is_some() || answers.count() != before;
            if is_answered {
                self.show_answer().await?;
            }
            match done {
                Some(done) => return done,
                None if is_answered => {}
                None => {
                    return Err(StopReason::Park {
                        cause: ParkCause::Away,
                        reason: format!("{} for longer than limits.park_after", RetryCause::NoAnswer),
                        remedy: NO_PROGRESS.to_owned(),
                    });
                }
            }
        }
    }
}

/// Counts the answers to a work of many statements.
#[derive(Default)]
pub(super) struct Answers(AtomicU64);

impl Answers {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Turns patches into point reads of the whole row. Returns their number.
pub(super) fn replace_patches(batch: &mut Batch) -> usize {
    let mut patches = 0;
    for entry in batch.entries.values_mut() {
        if let Change::Patch(patch) = &entry.change {
            entry.change =
                Change::Reread { id: patch.id.clone(), xid: patch.xid, at: patch.at, deleted_if_absent: false };
            patches += 1;
        }
    }
    patches
}

fn rows(batch: &Batch) -> Rows<'_> {
    // Point reads have been resolved: none is left.
    plan_rows(batch.entries.values().map(|entry| &entry.change)).rows
}

pub(super) fn checkpoint_moved() -> StopReason {
    RetryCause::CheckpointMoved.into()
}

/// Earlier chunks are lost with the target's transaction and no longer in memory, so only a snapshot restores them.
fn transaction_lost(stop: StopReason) -> StopReason {
    match stop {
        StopReason::Retry { .. } => StopReason::Rejoin(ResyncReason::TransactionLost),
        other => other,
    }
}
