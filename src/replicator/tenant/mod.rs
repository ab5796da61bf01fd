//! A tenant's task: opens its target, decides how it stands, lets it join, follow or park, and begins again.

mod follow;
mod isolate;
mod join;
mod open;
mod outcome;
mod persist;
mod purge;
mod reread;

use crate::apply::RecordedTarget;
use crate::model::{Lsn, Oid, ParkCause, ResyncReason, TenantId, UserId};
use crate::replicator::backoff::Backoff;
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::session::arriving::OnTheirWay;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::source::point_read::PointReadResult;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::persist::Why;
use crate::route::Batch;
use crate::state::{TenantRow, TenantState};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// A parked tenant is looked at again after this long, and then ever more seldom.
const PARKED_FIRST: Duration = Duration::from_secs(1);
const PARKED_LAST: Duration = Duration::from_secs(300);
/// A target that nothing is written to for this long loses its connection, so that it can fall asleep.
const IDLE: Duration = Duration::from_secs(60);

/// What the state remembers of a tenant, as far as its standing depends on it.
pub(crate) fn recorded_target(row: &TenantRow) -> RecordedTarget {
    RecordedTarget {
        following: row.state == TenantState::Following,
        target_id: row.target_id.clone(),
        position: row.position,
        generation: row.generation,
        relation: row.relation,
    }
}

/// One tenant's task.
pub(crate) struct Worker {
    context: Arc<SessionContext>,
    index: usize,
    lane: Arc<TenantHandle>,
    joins: mpsc::Sender<JoinRequest>,
    /// The state's row, as it was written last.
    row: Option<TenantRow>,
    /// What the target's checkpoint says, while it follows.
    position: Lsn,
    /// Taken from the mailbox and not yet in the target.
    pending: Option<Batch>,
    /// The last statement of a chunked transaction was sent up to here, and no answer came: the checkpoint tells.
    unanswered: Option<Lsn>,
    /// Why it has to join, where that is known better than from state and checkpoint.
    has_to_join: Option<ResyncReason>,
    /// Until it is known whether it has to join, and then until it has asked for its snapshot.
    on_its_way: Option<OnTheirWay>,
    /// The stream has been gathered since the slot was made, so that the slot's own snapshot will do.
    gathered_since_creation: bool,
    /// What the newest re-read of a user saw: older changes of that user are in it.
    seen: HashMap<UserId, Arc<PointReadResult>>,
    /// When deletes of its target become due for good.
    purge_due: Option<Instant>,
    /// The file of `users_sync` in its target.
    relation: Option<Oid>,
    /// The users that its target refuses.
    rejected: HashSet<UserId>,
    /// The last snapshot was refused where rows could not be told apart.
    isolates_rejected_rows: bool,
    /// The newest request that this attempt takes into account.
    attempted: Option<i64>,
    /// The connection was given up because nothing waited.
    idle: bool,
    retry: Backoff,
    failing_since: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(
        context: Arc<SessionContext>,
        index: usize,
        joins: mpsc::Sender<JoinRequest>,
        row: Option<TenantRow>,
        gathered_since_creation: bool,
    ) -> Worker {
        Worker {
            lane: context.lanes.get(index),
            on_its_way: Some(context.on_their_way.clone()),
            context,
            index,
            joins,
            row,
            position: Lsn::ZERO,
            pending: None,
            unanswered: None,
            has_to_join: None,
            gathered_since_creation,
            seen: HashMap::new(),
            purge_due: None,
            relation: None,
            rejected: HashSet::new(),
            isolates_rejected_rows: false,
            attempted: None,
            idle: false,
            retry: Backoff::new(RETRY_FIRST, RETRY_LAST),
            failing_since: None,
        }
    }

    fn index(&self) -> usize {
        self.index
    }

    fn lane(&self) -> &TenantHandle {
        &self.lane
    }

    fn id(&self) -> &TenantId {
        &self.lane().tenant.id
    }

    /// Works until the session drains, or the configuration does not have the tenant any more. That comes at any point,
    /// as a crash would: the state says so before the log is let go.
    pub(crate) async fn run(mut self) -> Result<(), ServiceError> {
        let lane = self.lane.clone();
        let ended = lane.ended.clone().drop_guard();
        let done = tokio::select! {
            done = self.go_on() => return done,
            () = lane.retired.cancelled() => self.retire().await,
        };
        drop(ended);
        done
    }

    async fn retire(mut self) -> Result<(), ServiceError> {
        let target_id = self.row.as_ref().and_then(|row| row.target_id.clone());
        let cause = ParkCause::NotConfigured;
        self.put(TenantState::Parked, Some(cause.into()), target_id, Lsn::ZERO).await?;
        tracing::info!(tenant = %self.id(), reason = %cause, reason_code = cause.code(), "parked");
        self.lane.mailbox.close();
        self.context.release(self.id());
        Ok(())
    }

    async fn go_on(&mut self) -> Result<(), ServiceError> {
        let mut parked = Backoff::new(PARKED_FIRST, PARKED_LAST);
        loop {
            match self.work(&mut parked).await {
                StopReason::Drained => return Ok(()),
                StopReason::Session(error) => return Err(error),
                StopReason::Idle => self.idle = true,
                StopReason::Retry { .. } if self.context.drain.is_cancelled() => return Ok(()),
                StopReason::Rejoin(reason) => self.has_to_join(reason).await?,
                StopReason::Retry { cause, reason } => match self.failing_for() {
                    long if long > self.context.config.limits.park_after => {
                        let remedy = "it comes back by itself once its target does";
                        self.park(ParkCause::Away, &reason, remedy, &mut parked).await?;
                    }
                    _ => {
                        let wait = self.retry.step();
                        tracing::warn!(
                            tenant = %self.id(), reason, reason_code = cause.code(), ?wait, "its target is tried again"
                        );
                        self.lane.counts.reconnects();
                        self.lane.set_away(true);
                        self.note(Some(Why::of(cause, reason))).await?;
                        self.wait(wait).await;
                    }
                },
                StopReason::Park { cause, reason, remedy } => self.park(cause, &reason, &remedy, &mut parked).await?,
                StopReason::Refused(refusal) => {
                    // Where rows are told apart, that is done; here it was no row of ours.
                    let reason = format!("its target refuses what is written to it (SQLSTATE {})", refusal.sqlstate);
                    self.park(ParkCause::Refuses, &reason, failure_policy::REFUSES, &mut parked).await?;
                }
            }
            if self.context.drain.is_cancelled() && self.lane().state() != TenantState::Following {
                return Ok(());
            }
        }
    }

    /// From an open target to whatever ends that.
    async fn work(&mut self, parked: &mut Backoff) -> StopReason {
        if std::mem::take(&mut self.idle)
            && let Err(stop) = self.doze().await
        {
            return stop;
        }
        // Most tenants are idle most of the time: they do not keep the room that this needs.
        Box::pin(self.open_and_follow(parked)).await
    }

    /// Waits without a connection until there is something to write.
    async fn doze(&mut self) -> Result<(), StopReason> {
        if let Some(wake_after) = self.lane.tenant.wake_after {
            self.lane.mailbox.gather(true);
            tokio::select! {
                () = self.lane.mailbox.worth_waking(wake_after) => {}
                () = self.context.drain.cancelled() => {}
            }
        }
        let due = self.purge_due;
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = self.next_batch(None) => self.pending = Some(next?),
            () = is_due => {}
        }
        Ok(())
    }

    async fn open_and_follow(&mut self, parked: &mut Backoff) -> StopReason {
        let opened = self.open().await;
        self.on_its_way = None;
        let (mut target, who) = match opened {
            Ok(opened) => opened,
            Err(stop) => return stop,
        };
        parked.reset();
        self.lane.set_away(false);
        // A target that is full, say, can be looked at: it works once what waits has been written.
        if self.pending.is_none()
            && let Err(error) = self.works().await
        {
            return error.into();
        }
        self.follow(&mut target, &who).await
    }

    /// Its target does what it should, again.
    async fn works(&mut self) -> Result<(), ServiceError> {
        self.worked();
        self.note(None).await
    }

    /// How long a target keeps its connection while nothing waits for it. One that is to sleep loses it at once: the next
    /// login of somebody would come before any idle time is over.
    fn idle_time(&self) -> Duration {
        let until_purge = self.purge_due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        match self.lane.tenant.wake_after {
            Some(_) => Duration::ZERO,
            None => IDLE.min(until_purge),
        }
    }

    /// The target holds everything up to here.
    fn hold(&self, position: Lsn) {
        let mut fingerprints = self.context.fingerprints();
        let dropped = self.lane().mailbox.discard_applied(position);
        dropped.iter().for_each(|id| fingerprints.forget(self.index, id));
    }

    /// The next batch; without an `idle` time it is waited for as long as it takes.
    async fn next_batch(&mut self, idle: Option<Duration>) -> Result<Batch, StopReason> {
        let mailbox = &self.lane().mailbox;
        let next = match mailbox.try_next() {
            Some(next) => next,
            None => tokio::select! {
                next = timeout(idle.unwrap_or(Duration::MAX), mailbox.next()) => next.map_err(|_| StopReason::Idle)?,
                () = self.context.drain.cancelled() => mailbox.try_next().ok_or(StopReason::Drained)?,
            },
        };
        let mut batch = next?;
        self.drop_what_was_seen(&mut batch);
        Ok(batch)
    }

    fn worked(&mut self) {
        self.failing_since = None;
        self.retry.reset();
    }

    fn failing_for(&mut self) -> Duration {
        self.failing_since.get_or_insert_with(Instant::now).elapsed()
    }

    fn forget_what_waits(&mut self) {
        self.pending = None;
        self.unanswered = None;
        self.seen.clear();
        self.position = Lsn::ZERO;
    }

    /// Waits before the next attempt; an interrupt is met there.
    async fn wait(&self, how_long: Duration) {
        tokio::select! {
            () = sleep(how_long) => {}
            _ = self.lane().mailbox.interrupted() => {}
            () = self.context.drain.cancelled() => {}
        }
    }
}
