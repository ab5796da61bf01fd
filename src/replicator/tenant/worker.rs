//! The loop over the phases of a tenant: runs one, and decides what follows when it stops.

use crate::apply::{Obstacle, Refusal, StatementSize};
use crate::model::{Lsn, Oid, ParkCause, ResyncReason, RetryCause, TenantId, TenantIdx};
use crate::replicator::backoff::{Backoff, Backoffs};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::purge_schedule::PurgeSchedule;
use crate::replicator::tenant::recorded_reason::RecordedReason;
use crate::replicator::tenant::rejected_users::RejectedUsers;
use crate::replicator::tenant::sleeper::Sleeper;
use crate::replicator::tenant::target::{Connector, Postgres};
use crate::route::Batch;
use crate::state::{RequestId, StateAccess, StateStore, TenantRow, TenantState};
use crate::sync::{Panicked, catch_panic};
use crate::telemetry::failed;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Span;

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The first retry of a parked tenant. Later ones wait longer, as most causes need a person.
const PARKED_RETRY_MIN: Duration = Duration::from_secs(1);
const PARKED_RETRY_MAX: Duration = Duration::from_secs(60);
/// A target that needs one snapshot after another makes the source's table be read.
const REJOIN_MAX: Duration = Duration::from_secs(300);
/// A target that has followed for this long starts the pauses over. Opening it, or a snapshot, proves nothing about the
/// step that failed.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(60);
/// A connection without writes for this long is closed, so that the target can sleep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const INTERNAL_ERROR_REMEDY: &str =
    "report the log line \"internal error\" with its location; the tenant is tried again with growing pauses";
const PARKED_AWAY_REMEDY: &str = "it recovers on its own once the target is reachable";

/// What one tenant's task works with.
pub(crate) struct Worker<S = StateStore, C = Postgres> {
    pub(super) context: Arc<SessionContext<S>>,
    pub(super) connector: C,
    pub(super) index: TenantIdx,
    pub(super) handle: Arc<TenantHandle>,
    pub(super) joins: mpsc::Sender<JoinRequest>,
    /// The version of the tenant's configuration that is in use.
    pub(super) config_version: u32,
    /// The tenant's row in the state, as written last.
    pub(super) row: Option<TenantRow>,
    /// `pg_relation_filenode` of `users_sync` in the target.
    pub(super) relation: Option<Oid>,
    /// Whether the target's checkpoint has been signed.
    pub(super) signed: bool,
    /// As [`TenantRow::opened_as`].
    pub(super) opened_as: Option<String>,
    /// The users in the target's `users_sync.rejected`.
    pub(super) rejected: RejectedUsers,
    /// When the connection began or something was written last.
    pub(super) active_at: Instant,
    /// The last snapshot was refused as a whole; the next one isolates the rejected rows.
    pub(super) isolates_rejected_rows: bool,
    /// The status says that the target does not answer, though the row does not.
    pub(super) shows_no_answer: AtomicBool,
    /// How many rows a statement may write. A new connection does not begin with large ones again.
    pub(super) size: StatementSize,
    pub(super) purges: PurgeSchedule,
    /// The newest resync request that the current attempt takes into account.
    pub(super) attempted_request: Option<RequestId>,
    pub(super) retry: Backoffs<RetryCause>,
    pub(super) parked_retries: Backoffs<ParkCause>,
    /// Before a snapshot that the target makes necessary soon after the last one.
    pub(super) rejoin_retry: Backoff,
    /// The batch or snapshot that is being written.
    pub(super) trace: Span,
    pub(super) failing_since: Option<Instant>,
    /// Since when the target has refused each login.
    login_refused_since: Option<Instant>,
    /// Since when the target has followed without being parked and without another snapshot.
    pub(super) follows_since: Option<Instant>,
    /// Failed attempts since then.
    pub(super) failures: u64,
}

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// `row`: the tenant's row in the state.
    pub(crate) fn new(
        context: Arc<SessionContext<S>>,
        connector: C,
        index: TenantIdx,
        joins: mpsc::Sender<JoinRequest>,
        row: Option<TenantRow>,
    ) -> Box<Worker<S, C>> {
        let handle = context.tenants.get(index);
        Box::new(Worker {
            config_version: handle.configured_version().1,
            handle,
            context,
            connector,
            index,
            joins,
            signed: row.as_ref().is_some_and(|row| row.signed),
            opened_as: row.as_ref().and_then(|row| row.opened_as.clone()),
            row,
            relation: None,
            rejected: RejectedUsers::new(),
            active_at: Instant::now(),
            isolates_rejected_rows: false,
            shows_no_answer: AtomicBool::new(false),
            size: StatementSize::default(),
            purges: PurgeSchedule::new(),
            attempted_request: None,
            retry: Backoffs::new(RETRY_MIN, RETRY_MAX),
            parked_retries: Backoffs::new(PARKED_RETRY_MIN, PARKED_RETRY_MAX),
            rejoin_retry: Backoff::new(RETRY_MIN, REJOIN_MAX),
            trace: Span::none(),
            failing_since: None,
            login_refused_since: None,
            follows_since: None,
            failures: 0,
        })
    }

    /// Ends the span of a batch or snapshot.
    pub(super) fn end_trace<T>(&mut self, done: &Result<T, StopReason>) {
        let span = std::mem::replace(&mut self.trace, Span::none());
        if let Some(code) = done.as_ref().err().and_then(StopReason::code) {
            failed(&span, code);
        }
    }

    pub(crate) fn id(&self) -> &TenantId {
        &self.handle.tenant.id
    }

    /// Runs from this phase until the session drains, the tenant is removed, or nothing waits for it. A removal may come at any
    /// point, as a crash may. Returns what the next task of the tenant begins with; `None` if there is no next one.
    ///
    /// # Errors
    /// The session has to end.
    pub(crate) async fn run(mut self: Box<Self>, mut phase: Phase) -> Result<Option<Sleeper>, ServiceError> {
        let handle = self.handle.clone();
        let asleep = tokio::select! {
            biased;
            asleep = self.run_phases(&mut phase) => asleep?,
            () = handle.retired() => {
                Box::pin(self.retire()).await?;
                None
            }
        };
        if asleep.is_none() {
            handle.end();
        }
        Ok(asleep.map(|position| self.into_sleeper(position)))
    }

    /// A future has room for the largest one that it awaits. Many tenants may only wait, paused, parked or for `wake_after`: the futures
    /// that those do not need are boxed.
    ///
    /// Returns the position of a tenant that needs no task, and `None` when the worker is done.
    async fn run_phases(&mut self, phase: &mut Phase) -> Result<Option<Lsn>, ServiceError> {
        if matches!(phase, Phase::Parked { .. }) {
            Box::pin(self.wait_parked(Duration::ZERO)).await;
            if self.context.drain.is_cancelled() {
                return Ok(None);
            }
        }
        loop {
            let asleep = self.sleep_position(phase);
            if asleep.is_some() {
                return Ok(asleep);
            }
            let stop = if self.handle.is_paused() {
                if self.context.drain.is_cancelled() {
                    return Ok(None);
                }
                let Some(stop) = Box::pin(self.stay_paused(phase)).await? else { continue };
                stop
            } else {
                catch_panic(self.run_phase(phase)).await.unwrap_or_else(|Panicked| self.internal_error())
            };
            if Box::pin(self.after(stop, phase)).await?.is_break() {
                return Ok(None);
            }
            if self.context.drain.is_cancelled() && self.handle.state() != TenantState::Following {
                return Ok(None);
            }
        }
    }

    /// A panic is a bug, and concerns this tenant only. Parking it drops what the panic may have left unfinished.
    fn internal_error(&self) -> StopReason {
        self.context.status.metrics.internal_errors.inc();
        StopReason::Park {
            cause: ParkCause::Internal,
            reason: ParkCause::Internal.to_string(),
            remedy: INTERNAL_ERROR_REMEDY.to_owned(),
        }
    }

    /// Works in a phase and those that follow it, until something stops that.
    async fn run_phase(&mut self, phase: &mut Phase) -> StopReason {
        if let Phase::Idle(apply) = phase {
            if let Err(stop) = self.wait_idle(apply).await {
                return stop;
            }
            phase.wake();
        }
        // Boxed: 54 kB, which a waiting tenant does not need.
        Box::pin(self.open_and_follow(phase)).await
    }

    async fn open_and_follow(&mut self, phase: &mut Phase) -> StopReason {
        // A target that never answers while it is opened or fenced retains WAL, too.
        let handle = self.handle.clone();
        let opened = tokio::select! {
            biased;
            signal = handle.mailbox.interrupted() => Err(signal.into()),
            () = handle.paused(true) => Err(StopReason::Paused),
            opened = self.open(phase) => opened,
        };
        let (mut connection, apply) = match opened {
            Ok(opened) => opened,
            Err(stop) => {
                phase.take_expected_join();
                return stop;
            }
        };
        self.follows_since.get_or_insert_with(Instant::now);
        self.active_at = Instant::now();
        self.handle.set_unavailable(false);
        // A full target can be opened, too: it has recovered once the pending batch is written.
        if apply.pending.is_none()
            && let Err(error) = self.note_recovery(apply.position).await
        {
            return error.into();
        }
        self.follow(&mut connection, apply).await
    }

    /// Decides what follows when a phase has stopped. Breaks when the worker is done.
    async fn after(&mut self, stop: StopReason, phase: &mut Phase) -> Result<ControlFlow<()>, ServiceError> {
        let limit = self.context.config.limits.park_after;
        if !matches!(stop, StopReason::Retry { cause: RetryCause::LoginRefused, .. }) {
            self.login_refused_since = None;
        }
        let stop = match stop {
            StopReason::Retry { cause: RetryCause::TooSlow, reason, .. } if self.failing_for() > limit => {
                self.too_slow(&reason)
            }
            StopReason::Retry { cause: RetryCause::LoginRefused, reason, remedy } => {
                let since = self.login_refused_since.get_or_insert_with(Instant::now).elapsed();
                let followed = self.row.as_ref().is_some_and(|row| row.state == TenantState::Following);
                failure_policy::of_refused_login(reason, remedy, since, followed).into()
            }
            stop => stop,
        };
        match stop {
            StopReason::Drained => return Ok(ControlFlow::Break(())),
            StopReason::Session(error) => return Err(error),
            StopReason::Idle => phase.idle(),
            StopReason::Paused => {}
            StopReason::Moved => {
                tracing::info!("connecting to the target as it is configured now");
                self.retry.reset();
            }
            StopReason::Rejoin(reason) => {
                self.require_snapshot(phase, reason).await?;
                self.pause_before_rejoin(reason).await;
            }
            StopReason::Retry { .. } if self.context.drain.is_cancelled() => return Ok(ControlFlow::Break(())),
            StopReason::Retry { cause: cause @ RetryCause::ScanAborted, reason, .. } => {
                // It says nothing about the target, so it never parks the tenant.
                let pause = self.context.scan_aborts.pause();
                let reason = pause.map_or(reason, |pause| pause.to_string());
                let at_least = pause.map_or(Duration::ZERO, |pause| pause.left);
                self.retry(RecordedReason::of(cause, reason), cause, phase, at_least).await?;
            }
            StopReason::Retry { cause, reason, remedy } => {
                if self.failing_for() > limit {
                    self.park(phase, ParkCause::Away, &reason, PARKED_AWAY_REMEDY).await?;
                } else {
                    let why = RecordedReason { remedy, ..RecordedReason::of(cause, reason) };
                    self.retry(why, cause, phase, Duration::ZERO).await?;
                }
            }
            StopReason::Park { cause, reason, remedy } => {
                let Obstacle { cause, message, remedy } =
                    self.find_obstacle(cause).await.unwrap_or(Obstacle { cause, message: reason, remedy });
                self.park(phase, cause, &message, &remedy).await?;
            }
            StopReason::Refused(refusal) => {
                // Rows that can be isolated are. This was not a row of ours.
                let Refusal { sqlstate, reason } = refusal;
                let remedy = reason.remedy();
                let reason = format!("its target refuses what is written to it (SQLSTATE {sqlstate}): {reason}");
                self.park(phase, ParkCause::Refuses, &reason, &remedy).await?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What a look at the target finds, where the error of a statement does not tell the cause.
    async fn find_obstacle(&self, cause: ParkCause) -> Option<Obstacle> {
        if !failure_policy::is_found_by_inspection(cause) {
            return None;
        }
        let url = self.handle.configured().target.clone();
        tokio::select! {
            found = self.connector.find_obstacle(&url, self.context.config.deletes_rows()) => found,
            () = self.context.drain.cancelled() => None,
        }
    }

    async fn retry(
        &mut self,
        why: RecordedReason,
        cause: RetryCause,
        phase: &Phase,
        at_least: Duration,
    ) -> Result<(), ServiceError> {
        let wait = self.retry.step(cause).max(at_least);
        tracing::warn!(reason = why.text, reason_code = cause.code(), remedy = why.remedy, ?wait, "retrying target");
        self.handle.counts.reconnects();
        self.failures += 1;
        self.handle.set_unavailable(true);
        self.note_trouble(why, phase.position()).await?;
        match phase {
            Phase::Parked { .. } => self.wait_parked(wait).await,
            _ => self.wait(wait).await,
        }
        Ok(())
    }

    /// A target that breaks the sequence of changes again and again does not make the source's table be read without end.
    async fn pause_before_rejoin(&mut self, reason: ResyncReason) {
        let is_of_target =
            matches!(reason, ResyncReason::TableReplaced | ResyncReason::TransactionLost | ResyncReason::NoTargetId);
        if self.end_following() {
            self.rejoin_retry.reset();
        } else if is_of_target {
            let wait = self.rejoin_retry.step();
            self.wait(wait).await;
        }
    }

    /// The target does not follow any more. Returns whether it had followed long enough for the backoffs to start over.
    pub(super) fn end_following(&mut self) -> bool {
        self.follows_since.take().is_some_and(|since| since.elapsed() >= STABLE_AFTER)
    }

    /// The pause of a tenant that is parked for this cause.
    pub(super) fn parked_pause(&mut self, cause: ParkCause) -> Duration {
        if self.end_following() {
            self.parked_retries.reset();
        }
        self.parked_retries.step(cause)
    }

    /// Waits before the next attempt of a parked tenant: for `time`, then for its turn among all parked tenants.
    pub(super) async fn wait_parked(&self, time: Duration) {
        let turn = async {
            sleep(time).await;
            sleep_until(self.context.parked_turns.take(Instant::now())).await;
        };
        self.wait_for(turn).await;
    }

    async fn retire(&mut self) -> Result<(), ServiceError> {
        let target_id = self.target_id();
        let cause = ParkCause::NotConfigured;
        self.put(TenantState::Parked, Some(cause.into()), target_id, Lsn::ZERO).await?;
        tracing::info!(reason = %cause, reason_code = cause.code(), "parked");
        self.handle.mailbox.close();
        self.context.release(self.id());
        Ok(())
    }

    /// Waits without a connection until there is something to write.
    async fn wait_idle(&mut self, apply: &mut ApplyState) -> Result<(), StopReason> {
        if let Some(wake_after) = self.handle.configured().wake_after {
            self.handle.mailbox.gather(true);
            tokio::select! {
                biased;
                () = self.handle.mailbox.wait_until_wake_due(wake_after) => {}
                () = self.moved() => {}
                () = self.handle.paused(true) => return Err(StopReason::Paused),
                () = self.handle.row_requests.arrived() => {}
                () = self.purge_is_due(apply) => {}
                () = self.rejected.due_asleep() => {}
                () = self.context.drain.cancelled() => {}
            }
        }
        tokio::select! {
            biased;
            () = self.handle.paused(true) => return Err(StopReason::Paused),
            next = self.next_batch(apply, None) => apply.pending = Some(next?),
            () = self.handle.row_requests.arrived() => {}
            () = self.moved() => {}
            () = self.purge_is_due(apply) => {}
            () = self.rejected.due_asleep() => {}
        }
        Ok(())
    }

    /// How long a connection is kept while nothing waits. A target with `wake_after` loses it at once, as the next login of
    /// a user would come before any idle time ends.
    pub(super) fn idle_time(&self) -> Duration {
        if self.handle.configured().wake_after.is_some() {
            return Duration::ZERO;
        }
        IDLE_TIMEOUT.saturating_sub(self.active_at.elapsed())
    }

    /// Waits for the next batch, at most for `idle`.
    pub(super) async fn next_batch(&self, apply: &ApplyState, idle: Option<Duration>) -> Result<Batch, StopReason> {
        let mailbox = &self.handle.mailbox;
        let next = match mailbox.try_next() {
            Some(next) => next,
            None => tokio::select! {
                biased;
                next = timeout(idle.unwrap_or(Duration::MAX), mailbox.next()) => next.map_err(|_| StopReason::Idle)?,
                () = self.context.drain.cancelled() => mailbox.try_next().ok_or(StopReason::Drained)?,
            },
        };
        let mut batch = next?;
        apply.drop_seen(&mut batch);
        Ok(batch)
    }

    /// Whether the configuration reaches the target in another way than the last connection.
    pub(super) fn is_moved(&self) -> bool {
        self.handle.is_reconfigured(self.config_version)
    }

    /// Waits for that.
    pub(super) async fn moved(&self) {
        self.handle.reconfigured(self.config_version).await;
    }

    /// The target holds everything up to `position`: drops what waits of it.
    pub(super) fn discard_applied(&self, position: Lsn) {
        let mut fingerprints = self.context.fingerprints();
        let dropped = self.handle.mailbox.discard_applied(position);
        dropped.iter().for_each(|id| fingerprints.forget(self.index, id));
    }

    /// The target works: the next failure is a first one.
    pub(super) fn mark_healthy(&mut self) {
        self.failing_since = None;
        self.failures = 0;
        self.retry.reset();
    }

    fn failing_for(&mut self) -> Duration {
        self.failing_since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Waits before the next attempt, unless a signal, a request, another configuration or the end of the session is there
    /// first.
    pub(super) async fn wait(&self, time: Duration) {
        self.wait_for(sleep(time)).await;
    }

    async fn wait_for(&self, next: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.moved() => {}
            _ = self.handle.mailbox.interrupted() => {}
            () = self.context.drain.cancelled() => {}
            () = self.handle.paused(true) => {}
            () = self.handle.woken() => {}
            () = next => {}
        }
    }
}
