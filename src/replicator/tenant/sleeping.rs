//! How a worker begins. A session does not connect to a target for which nothing waits, so that the target can sleep: the
//! state holds its position. The first connection assesses the checkpoint, as one at the start of the session would.

use crate::clock::now;
use crate::model::Lsn;
use crate::replicator::tenant::persist::is_not_configured;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::Worker;
use crate::state::{StateAccess, TenantRow, TenantState};
use std::time::Duration;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// The phase in which a session begins. `since_creation` as in [`Phase::Starting`].
    pub(super) fn first_phase(&mut self, since_creation: bool) -> Phase {
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
