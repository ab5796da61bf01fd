//! How a worker begins, and when it ends its task. A session does not connect to a target for which nothing waits, so that the
//! target can sleep: the state holds its position. The first connection assesses the checkpoint, as one at the start of the
//! session would.
//!
//! Most tenants of a large installation are idle. Such a tenant has neither connection nor task, only a [`Sleeper`].

use crate::clock::now;
use crate::model::Lsn;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::coordinator::JoinRequest;
use crate::replicator::tenant::persist::is_not_configured;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::sleeper::Sleeper;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::{STABLE_AFTER, Worker};
use crate::state::{StateAccess, TenantRow, TenantState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// The worker of a tenant for which something waits, and its phase.
    pub(crate) fn roused(
        context: Arc<SessionContext<S>>,
        connector: C,
        joins: mpsc::Sender<JoinRequest>,
        sleeper: Sleeper,
    ) -> (Box<Worker<S, C>>, Phase) {
        let Sleeper { index, position, row, relation, purges, follows_since, config_version } = sleeper;
        let mut worker = Worker::new(context, connector, index, joins, row);
        (worker.relation, worker.config_version, worker.follows_since) = (relation, config_version, follows_since);
        if let Some(purges) = purges {
            worker.purges = *purges;
        }
        (worker, Phase::Idle(ApplyState::at(position)))
    }

    /// The position of a tenant that needs no task, else `None`: nothing waits for it, nothing is scheduled except a purge that is not
    /// due yet, and nothing has to be remembered of earlier failures. A tenant that failed a short time ago keeps its task until the
    /// next change.
    pub(crate) fn sleep_position(&self, phase: &Phase) -> Option<Lsn> {
        let Phase::Idle(ApplyState { position, pending: None, unanswered: None, seen }) = phase else { return None };
        let is_stable = self.follows_since.is_some_and(|since| since.elapsed() >= STABLE_AFTER);
        let has_pauses = !(is_stable || self.parked_retries.is_fresh() && self.rejoin_retry.is_fresh());
        let has_failed = has_pauses || !self.retry.is_fresh() || self.size.is_limited();
        let must_purge = self.context.config.purge_after.is_some() && self.purges.is_due();
        let has_work = has_failed || must_purge || !seen.is_empty() || !self.rejected.is_empty();
        (!has_work && !self.handle.needs_worker(self.config_version)).then_some(*position)
    }

    /// What remains of the worker of a tenant that [needs no task](Worker::sleep_position).
    pub(crate) fn into_sleeper(self, position: Lsn) -> Sleeper {
        let purges_users = self.context.config.purge_after.is_some();
        let Worker { index, row, relation, follows_since, config_version, .. } = self;
        let purges = purges_users.then(|| Box::new(self.purges));
        Sleeper { index, position, row, relation, purges, follows_since, config_version }
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
