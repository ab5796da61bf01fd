//! The interface through which the status reads a session. The session implements [`SessionView`], so that `status` does
//! not import it.

use crate::clock::{age, before};
use crate::config::Tenant;
use crate::model::{Generation, Lsn, ParkCause, Reason, TenantId, Timestamp};
use crate::state::{Pause, TenantRow, TenantState, TroubleRow};
use crate::status::metrics::TenantCounts;
use crate::status::report::PauseReport;
use std::sync::Arc;
use std::time::SystemTime;

/// A running session, as the status reads it.
pub(crate) trait SessionView: Send + Sync {
    fn identity(&self) -> SessionIdentity;
    /// What it has found at the source and a person has to fix.
    fn findings(&self) -> Vec<TroubleRow>;

    /// Whether another process may have taken over.
    fn lease_has_lapsed(&self) -> bool;

    /// The source's log was received up to this position.
    fn received(&self) -> Lsn;

    /// Every target has all changes up to this position.
    fn confirmed(&self) -> Lsn;

    /// Bytes that wait for all targets together.
    fn queued_bytes(&self) -> usize;

    /// Bytes of users of snapshots that wait for targets, in memory and in files.
    fn spool_bytes(&self) -> (usize, u64);

    /// Reads the tenants of the session, in the configuration's order: one at a time, as there may be tens of thousands.
    fn visit_tenants(&self, visit: &mut dyn FnMut(TenantReading));

    /// The share of the tenant's snapshot that has been read, from 0 to 1; `None` while it does not join.
    fn snapshot_share(&self, tenant: &TenantId) -> Option<f64>;
}

/// What does not change while a session runs.
pub(crate) struct SessionIdentity {
    pub(crate) slot: String,
    pub(crate) generation: Generation,
    pub(crate) holder: String,
    /// `limits.source_wal`.
    pub(crate) source_wal: u64,
}

/// A tenant at one moment.
pub(crate) struct TenantReading {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) view: TenantView,
    pub(crate) pause: Option<PauseView>,
    /// Its target has all changes up to this position. Meaningful only for a tenant that follows.
    pub(crate) applied: Lsn,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_users: usize,
    /// The commit time of the oldest transaction in its queue.
    pub(crate) oldest_queued: Option<Timestamp>,
    pub(crate) counts: Arc<TenantCounts>,
    /// Whether the session has connected to its target.
    pub(crate) contacted: bool,
}

/// The state of a tenant as it was recorded last.
#[derive(Clone)]
pub(crate) struct TenantView {
    pub(crate) state: TenantState,
    pub(crate) since: SystemTime,
    pub(crate) reason: Option<String>,
    pub(crate) remedy: Option<String>,
    pub(crate) reason_code: Option<Reason>,
    pub(crate) rejected: u64,
    pub(crate) failures: u64,
    /// Since when attempts have failed.
    pub(crate) failing_since: Option<SystemTime>,
}

/// The pause of a tenant.
#[derive(Clone)]
pub(crate) struct PauseView {
    reason: String,
    by: String,
    since: SystemTime,
}

impl PauseView {
    pub(crate) fn of(pause: &Pause) -> PauseView {
        PauseView { reason: pause.reason.clone(), by: pause.by.clone(), since: before(pause.since_seconds) }
    }

    pub(crate) fn is_of(&self, pause: &Pause) -> bool {
        (&self.reason, &self.by) == (&pause.reason, &pause.by)
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn into_report(self, wal_held_bytes: Option<u64>, wal_limit_bytes: u64) -> PauseReport {
        let PauseView { reason, by, since } = self;
        PauseReport { reason, by, since_seconds: age(since), wal_held_bytes, wal_limit_bytes }
    }
}

impl TenantView {
    /// The view of a row of the state.
    pub(crate) fn of(row: &TenantRow) -> TenantView {
        TenantView {
            state: row.state,
            since: before(row.since_seconds),
            reason: row.reason.clone(),
            remedy: row.remedy.clone(),
            reason_code: row.reason_code,
            rejected: row.rejected,
            failures: row.failures,
            failing_since: row.failing_seconds.map(before),
        }
    }

    /// Why the tenant is parked; `None` if it is not.
    pub(crate) fn park_cause(&self) -> Option<ParkCause> {
        match (self.state, self.reason_code) {
            (TenantState::Parked, Some(Reason::Park(cause))) => Some(cause),
            // Parked by an older version, which wrote no code, or by a newer one with a code of its own.
            (TenantState::Parked, _) => Some(ParkCause::Other),
            (TenantState::Joining | TenantState::Following, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ResyncReason;

    #[test]
    fn a_parked_tenant_keeps_its_cause_over_a_restart() {
        let check = |state, reason_code, expected| {
            let row = TenantRow {
                state,
                reason_code,
                reason: None,
                remedy: None,
                target: String::new(),
                target_id: None,
                generation: Generation(1),
                position: Lsn::ZERO,
                since_seconds: 0.0,
                relation: None,
                signed: false,
                failures: 0,
                failing_seconds: None,
                opened_as: None,
                purge_due: None,
                rejected: 0,
            };
            assert_eq!(TenantView::of(&row).park_cause(), expected, "{reason_code:?}");
        };
        for cause in ParkCause::ALL {
            check(TenantState::Parked, Some(Reason::Park(*cause)), Some(*cause));
        }
        // Written by an older or a newer version.
        check(TenantState::Parked, None, Some(ParkCause::Other));
        check(TenantState::Joining, Some(Reason::Resync(ResyncReason::NewTarget)), None);
    }
}
