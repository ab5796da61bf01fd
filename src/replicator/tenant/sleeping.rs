//! How a worker begins, and when it ends its task. A session does not connect to a target for which nothing waits, so that the
//! target can sleep: the state holds its position. The first connection assesses the checkpoint, as one at the start of the
//! session would.
//!
//! Most tenants of a large installation are idle. Such a tenant has neither connection nor task, only a [`Sleeper`].

use crate::clock::now;
use crate::model::{Lsn, Oid, TenantIdx};
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::tenant::persist::is_not_configured;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::purge_schedule::PurgeSchedule;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::{STABLE_AFTER, Worker};
use crate::state::{StateAccess, TenantRow, TenantState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What is kept of the worker of an idle tenant until something waits for its target.
pub(crate) struct Sleeper {
    pub(crate) index: TenantIdx,
    /// The position that the target holds.
    position: Lsn,
    row: Option<TenantRow>,
    relation: Option<Oid>,
    /// `None` if deleted users stay.
    purges: Option<Box<PurgeSchedule>>,
    follows_since: Option<Instant>,
    /// The version of the tenant's configuration that it has used.
    pub(crate) configured: u32,
}

impl Sleeper {
    /// When users are to be removed from the target.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.purges.as_ref()?.due
    }
}

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// The worker of a tenant for which something waits, and its phase.
    pub(crate) fn roused(
        context: Arc<SessionContext<S>>,
        connector: C,
        joins: mpsc::Sender<JoinRequest>,
        sleeper: Sleeper,
    ) -> (Box<Worker<S, C>>, Phase) {
        let Sleeper { index, position, row, relation, purges, follows_since, configured } = sleeper;
        let mut worker = Worker::new(context, connector, index, joins, row);
        (worker.relation, worker.configured, worker.follows_since) = (relation, configured, follows_since);
        if let Some(purges) = purges {
            worker.purges = *purges;
        }
        (worker, Phase::Idle(ApplyState::at(position)))
    }

    /// The position of a tenant that needs no task: nothing waits for it, no attempt is due but the next purge, and nothing has to be
    /// remembered of earlier failures.
    pub(crate) fn may_sleep(&self, phase: &Phase) -> Option<Lsn> {
        let Phase::Idle(ApplyState { position, pending: None, unanswered: None, seen }) = phase else { return None };
        let is_stable = self.follows_since.is_some_and(|since| since.elapsed() >= STABLE_AFTER);
        let has_pauses = !is_stable && !(self.parked_retries.is_fresh() && self.rejoin_retry.is_fresh());
        let has_failed = has_pauses || !self.retry.is_fresh() || self.size.is_limited();
        let purges = self.context.config.purge_after.is_some();
        let has_work = has_failed || !seen.is_empty() || !self.rejected.is_empty() || purges && self.purges.is_due();
        (!has_work && !self.handle.needs_worker(self.configured)).then_some(*position)
    }

    /// Ends the worker of a tenant that [needs no task](Worker::may_sleep).
    pub(crate) fn into_sleeper(self, position: Lsn) -> Sleeper {
        let purges = self.context.config.purge_after.is_some();
        let Worker { index, row, relation, follows_since, configured, .. } = self;
        let purges = purges.then(|| Box::new(self.purges));
        Sleeper { index, position, row, relation, purges, follows_since, configured }
    }

    /// The phase in which a session begins. `since_creation` as in [`Phase::Starting`].
    pub(crate) fn first_phase(&mut self, since_creation: bool) -> Phase {
        if let Some(position) = self.recorded_position() {
            return self.sleep_at(position);
        }
        let is_parked = |row: &TenantRow| row.state == TenantState::Parked && !is_not_configured(row);
        if self.current_row().is_some_and(is_parked) {
            return Phase::Parked { reason: None };
        }
        Phase::Starting { expected_join: Some(self.context.expected_joins.clone()), since_creation }
    }

    /// What decides, besides the target, what its assessment finds.
    pub(super) fn opens_as(&self, mapping: &str) -> String {
        let (start, purge_after) = (&self.context.source_start, self.context.config.purge_after);
        let target = &self.handle.configured().target;
        format!("mapping {mapping}, target {target}, source started {start}, purge after {purge_after:?}")
    }

    /// The tenant's row, unless it is of an earlier generation.
    fn current_row(&self) -> Option<&TenantRow> {
        self.row.as_ref().filter(|row| row.generation == self.context.generation)
    }

    /// The position that the target holds as far as the state knows; `None` if the target has to be opened first: it does
    /// not follow, something is wrong with it, it holds rejected users, or its last assessment may not hold any more.
    fn recorded_position(&self) -> Option<Lsn> {
        let is_well = |row: &&TenantRow| {
            row.state == TenantState::Following
                && row.reason.is_none()
                && row.failures == 0
                && row.rejected == 0
                && row.signed
                && row.target_id.is_some()
        };
        let row = self.current_row().filter(is_well)?;
        let is_current = row.opened_as == Some(self.opens_as(&self.context.mapping_of(self.index)));
        (is_current && row.position > Lsn::ZERO && self.handle.open_resync_request().is_none()).then_some(row.position)
    }

    /// Begins without a connection. What the slot sends again up to `position` is not applied once more.
    fn sleep_at(&mut self, position: Lsn) -> Phase {
        tracing::debug!(%position, "not connected until something waits for the target");
        if let Some(due) = self.row.as_ref().and_then(|row| row.purge_due) {
            let wait = due.0.saturating_sub(now().0);
            self.purges.set(Duration::from_micros(u64::try_from(wait).unwrap_or(0)));
        }
        self.discard_applied(position);
        self.context.acknowledge(self.id(), position);
        Phase::Idle(ApplyState::at(position))
    }
}
