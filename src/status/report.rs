//! The report on a process and its tenants: what `status` prints and the API returns. Pure.

use crate::capture::SourceLog;
use crate::config::{Config, Tenant};
use crate::model::{Lsn, Reason};
use crate::state::{Snapshot, TeeRow, TenantState};
use serde::Serialize;

/// While the source's WAL has no changes of ours, positions are recorded in steps of this many bytes, because recording
/// writes WAL itself. A smaller lag counts as none.
pub(crate) const IDLE_STEP: u64 = 64 << 10;

/// The process and the slot.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The replication slot.
    pub slot: String,
    /// The number of the current history of positions. A break in the history begins a new one.
    pub generation: i64,
    /// The process that renewed the lease last.
    pub holder: String,
    /// Whether its lease is still valid.
    pub is_held: bool,
    /// Every target has all changes up to this position.
    pub confirmed: String,
    /// The end of the source's log.
    pub source_position: Option<String>,
    /// What the creation of a replication slot waits for: an open or prepared transaction.
    pub waiting: Vec<String>,
    /// Every tenant of the configuration.
    pub tenants: Vec<TenantReport>,
    /// The Kafka output, if it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tee: Option<TeeReport>,
}

/// The Kafka output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TeeReport {
    /// Its replication slot.
    pub slot: String,
    /// `parked`, `joining` (it takes a snapshot, or waits for Kafka) or `following`.
    pub state: &'static str,
    /// Seconds since it entered this state.
    pub since_seconds: f64,
    /// Bytes of the source's WAL that its slot retains.
    pub wal_held_bytes: Option<u64>,
    /// What is wrong.
    pub last_error: Option<String>,
    /// How to fix it.
    pub remedy: Option<String>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Tenant))]
pub struct TenantReport {
    /// Its name.
    pub tenant: String,
    /// `parked`, `joining`, `following`, or `unknown` if `run` has never started the tenant.
    #[cfg_attr(feature = "openapi", schema(pattern = "^(parked|joining|following|unknown)$"))]
    pub state: &'static str,
    /// Seconds since it entered this state.
    pub since_seconds: Option<f64>,
    /// Its target has all changes up to this position.
    pub position: Option<String>,
    /// Bytes of the source's WAL after this position, including changes of other tables.
    pub lag_bytes: Option<u64>,
    /// Seconds for which its target has lacked a change; 0 if it lacks none.
    pub lag_seconds: Option<f64>,
    /// Bytes in memory that wait for its target. Known only to the process that replicates.
    pub queue_bytes: Option<u64>,
    /// Number of users in the queue.
    pub queue_users: Option<u64>,
    /// Number of users that its target rejects.
    pub rejected: u64,
    /// The last error, or the reason for joining.
    pub last_error: Option<String>,
    /// The stable code of `last_error`, such as `login` or `mapping_changed`.
    pub reason_code: Option<&'static str>,
    /// How to fix it.
    pub remedy: Option<String>,
    /// Host, port and database.
    pub target: String,
}

impl TeeReport {
    /// The report from the state that a process has recorded.
    pub fn of_state(tee: &TeeRow) -> TeeReport {
        TeeReport {
            slot: tee.slot.clone(),
            state: tee.state.as_str(),
            since_seconds: tee.since_seconds,
            wal_held_bytes: None,
            last_error: tee.reason.clone(),
            remedy: tee.remedy.clone(),
        }
    }
}

impl TenantReport {
    /// A tenant that `run` has never started.
    pub fn unknown(tenant: &Tenant) -> TenantReport {
        TenantReport {
            tenant: tenant.id.to_string(),
            state: "unknown",
            since_seconds: None,
            position: None,
            lag_bytes: None,
            lag_seconds: None,
            queue_bytes: None,
            queue_users: None,
            rejected: 0,
            last_error: None,
            reason_code: None,
            remedy: None,
            target: tenant.target.to_string(),
        }
    }
}

impl Report {
    /// The report from the recorded state: every configured tenant, in the order of the configuration.
    pub fn of_state(config: &Config, state: &Snapshot, log: &SourceLog) -> Report {
        let source = state.source.as_ref();
        let tenants = config.tenants.iter().map(|tenant| {
            let Some(row) = state.tenants.get(&tenant.id) else { return TenantReport::unknown(tenant) };
            // A following target has everything up to the confirmed position. If its own position is older, it had no changes
            // in between.
            let confirmed = source.map_or(Lsn::ZERO, |source| source.confirmed);
            let position = (row.state == TenantState::Following).then(|| row.position.max(confirmed));
            let lag_bytes = position.zip(log.end).map(|(position, end)| end.bytes_since(position));
            let lags = row.reason.is_some() || lag_bytes.is_none_or(|bytes| bytes >= IDLE_STEP);
            TenantReport {
                state: row.state.as_str(),
                since_seconds: Some(row.since_seconds),
                position: position.map(|position| position.to_string()),
                lag_bytes,
                lag_seconds: position.map(|_| if lags { row.position_age_seconds } else { 0.0 }),
                rejected: row.rejected,
                last_error: row.reason.clone(),
                reason_code: row.reason_code.map(Reason::code),
                remedy: row.remedy.clone(),
                ..TenantReport::unknown(tenant)
            }
        });
        Report {
            slot: config.source.slot.clone(),
            generation: source.map_or(0, |source| source.generation.0),
            holder: source.map(|source| source.holder.clone()).unwrap_or_default(),
            is_held: source.is_some_and(|source| source.is_held()),
            confirmed: source.map_or(Lsn::ZERO, |source| source.confirmed).to_string(),
            source_position: log.end.map(|end| end.to_string()),
            waiting: waiting(log),
            tenants: tenants.collect(),
            tee: state.tee.as_ref().map(|tee| TeeReport {
                wal_held_bytes: log.held_back.get(&tee.slot).copied(),
                ..TeeReport::of_state(tee)
            }),
        }
    }
}

/// What the creation of slots waits for, with the remedies.
pub(crate) fn waiting(log: &SourceLog) -> Vec<String> {
    log.waits.iter().map(|wait| format!("{wait}: {}", wait.remedy())).collect()
}
