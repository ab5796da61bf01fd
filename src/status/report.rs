//! The report on a process and its tenants: what `status` prints and the API returns. Pure.

use crate::capture::{SlotState, SourceLog};
use crate::config::{Config, Tenant};
use crate::model::{
    KeyCount, Lsn, Reason, SourceTrouble, StatusFinding, TenantId, TopicTrouble, UserCount, UserCounts,
};
use crate::state::{PartitionRow, Pause, Snapshot, SourceRow, TeeRow, TenantState, TroubleRow, UserCountRow};
use serde::Serialize;
use std::collections::BTreeMap;

/// While the source's WAL has no changes of ours, positions are recorded in steps of this many bytes, because recording
/// writes WAL itself. A smaller lag counts as none.
pub(crate) const IDLE_STEP: u64 = 64 << 10;

/// An older number of records behind is not shown: the process looks every 5 s.
const PLACE_FRESH_SECONDS: f64 = 20.0;

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
    /// Processes that run without replicating: standbys, and those that begin.
    pub idle_processes: Vec<String>,
    /// Every target has all changes up to this position.
    pub confirmed: String,
    /// Seconds since the lease expired; `None` while it is valid.
    pub unheld_seconds: Option<f64>,
    /// Why the last session on the source ended or could not begin; `None` while one works.
    pub trouble: Option<TroubleReport>,
    /// What the session that works has found at the source.
    pub findings: Vec<TroubleReport>,
    /// The end of the source's log; `None` if it cannot be read.
    pub source_position: Option<String>,
    /// The slot as the source describes it; `None` if it does not exist or the source cannot be read.
    pub slot_state: Option<SlotState>,
    /// What the creation of a replication slot waits for: an open or prepared transaction.
    pub waiting: Vec<String>,
    /// Users of the source that belong to no tenant of the configuration; `None` before they were first counted.
    pub users_without_tenant: Option<UsersWithoutTenant>,
    /// With `kafka.group`: the partitions of the users' topic that processes of `users-sync apply` have applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionReport>,
    /// Every tenant of the configuration.
    pub tenants: Vec<TenantReport>,
    /// The Kafka output, if it is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tee: Option<TeeReport>,
}

/// Why no session on the source works, or what one that works has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TroubleReport {
    /// The stable code, such as `source_unreachable`.
    pub code: &'static str,
    /// The error's text.
    pub text: String,
    /// Seconds since sessions have failed with this code, or since it was found.
    pub since_seconds: f64,
}

/// Users of the source that belong to no tenant of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsersWithoutTenant {
    /// Number of users; null if the last count failed.
    pub users: Option<u64>,
    /// Those whose key is null or empty, or who are a member of no tenant.
    pub without_key: Option<u64>,
    /// Those with a key that no tenant of the configuration has.
    pub with_unknown_key: Option<u64>,
    /// Number of different unknown keys.
    pub unknown_keys: Option<u64>,
    /// The unknown keys with the most users: at most 20.
    pub keys: Vec<KeyCount>,
    /// Why the last count failed.
    pub error: Option<String>,
    /// Seconds since the last count.
    pub counted_seconds_ago: f64,
}

/// The key of a tenant that no user of the source has.
#[derive(Clone, Debug, PartialEq)]
pub struct WithoutUsers {
    /// What is wrong.
    pub text: String,
    /// The key that was probably meant.
    pub remedy: String,
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
    /// Number of users that it leaves out: their messages are too large, or their rows cannot be mapped.
    pub rejected: u64,
    /// What is wrong.
    pub last_error: Option<String>,
    /// The stable code of `last_error`, such as `tee_foreign`; null if nothing is wrong.
    pub reason_code: Option<&'static str>,
    /// How to fix it.
    pub remedy: Option<String>,
}

/// A partition of the users' topic, which a process of `users-sync apply` applies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: i32,
    /// The process that has the partition, or had it last.
    pub worker: String,
    /// Whether that process is alive.
    pub is_held: bool,
    /// Number of the configuration's tenants in the partition; `None` until its process has looked at the topic.
    pub tenants: Option<usize>,
    /// Records that were committed before this offset are applied.
    pub committed_offset: Option<i64>,
    /// Number of records after it; `None` if the process has not looked for 20 s.
    pub lag_records: Option<i64>,
    /// The longest lag in seconds of a tenant of the partition.
    pub lag_seconds: Option<f64>,
}

/// The pause of a tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Pause))]
pub struct PauseReport {
    /// The operator's reason.
    pub reason: String,
    /// Where it was asked for.
    pub by: String,
    /// Seconds since it began.
    pub since_seconds: f64,
    /// Bytes of the source's WAL that are retained for the tenant; null if none wait for it.
    pub wal_held_bytes: Option<u64>,
    /// The bound on these bytes, `limits.source_wal`: past it the tenant is parked, and resynced once it is resumed.
    pub wal_limit_bytes: u64,
}

impl PauseReport {
    fn of_state(pause: &Pause, wal_held_bytes: Option<u64>, wal_limit_bytes: u64) -> PauseReport {
        let Pause { reason, by, since_seconds, .. } = pause.clone();
        PauseReport { reason, by, since_seconds, wal_held_bytes, wal_limit_bytes }
    }
}

/// The state of a tenant as it is shown: one that is paused is neither following nor joining.
pub(crate) fn shown_state(state: TenantState, is_paused: bool) -> &'static str {
    match state {
        TenantState::Following | TenantState::Joining if is_paused => "paused",
        state => state.as_str(),
    }
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Tenant))]
pub struct TenantReport {
    /// Its name.
    pub tenant: String,
    /// `parked`, `paused`, `joining`, `following`, or `unknown` if `run` has never started the tenant.
    #[cfg_attr(feature = "openapi", schema(pattern = "^(parked|paused|joining|following|unknown)$"))]
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
    /// Seconds for which attempts have failed, or for which the tenant has been parked; null if its last attempt succeeded.
    pub error_since_seconds: Option<f64>,
    /// Number of failed attempts in a row.
    pub failures: u64,
    /// The stable code of `last_error`, such as `login` or `mapping_changed`.
    pub reason_code: Option<&'static str>,
    /// How to fix it.
    pub remedy: Option<String>,
    /// Its pause; a paused tenant may be parked, too. Null if it is not paused.
    pub paused: Option<PauseReport>,
    /// Set if no user of the source has its key. The verdict has a reason for it.
    #[serde(skip)]
    pub without_users: Option<WithoutUsers>,
    /// Whether the session has opened its target. False for a tenant that follows means that nothing has waited for it: its
    /// position is the one that the state recorded. Known only to the process that replicates.
    pub contacted: Option<bool>,
    /// Host, port and database.
    pub target: String,
    /// With `kafka.group`: the partition of the users' topic that it belongs to. Known to `users-sync status` only.
    pub partition: Option<i32>,
}

impl TeeReport {
    /// The report from the state that a process has recorded.
    pub fn of_state(tee: &TeeRow) -> TeeReport {
        TeeReport {
            slot: tee.slot.clone(),
            state: tee.state.as_str(),
            since_seconds: tee.since_seconds,
            wal_held_bytes: None,
            rejected: tee.rejected,
            last_error: tee.reason.clone(),
            reason_code: (tee.reason.is_some() || tee.state == TenantState::Parked).then(|| tee_code(tee.reason_code)),
            remedy: tee.remedy.clone(),
        }
    }
}

/// The code of a failure of the Kafka output. `trouble`: what the topics show.
pub(crate) fn tee_code(trouble: Option<TopicTrouble>) -> &'static str {
    trouble.map_or(StatusFinding::Kafka.code(), TopicTrouble::code)
}

impl UsersWithoutTenant {
    pub(crate) fn of(counted: &UserCount, age: f64) -> UsersWithoutTenant {
        let (counts, error) = match counted {
            UserCount::Counted(counts) => (Some(counts), None),
            UserCount::Unknown(why) => (None, Some(why.clone())),
        };
        UsersWithoutTenant {
            users: counts.map(UserCounts::without_tenant),
            without_key: counts.map(|counts| counts.without_key),
            with_unknown_key: counts.map(|counts| counts.with_unknown_key),
            unknown_keys: counts.map(|counts| counts.unknown_keys),
            keys: counts.map(|counts| counts.listed.clone()).unwrap_or_default(),
            error,
            counted_seconds_ago: age,
        }
    }
}

impl WithoutUsers {
    /// `None` if users have the tenant's key, or if that is unknown.
    pub(crate) fn of(counted: &UserCount, tenant: &Tenant) -> Option<WithoutUsers> {
        let UserCount::Counted(counts) = counted else { return None };
        let unused = counts.unused.iter().find(|unused| unused.key == tenant.key.as_str())?;
        Some(WithoutUsers { text: unused.describe(), remedy: unused.remedy(&tenant.id) })
    }
}

impl TroubleReport {
    pub(crate) fn of_state(trouble: &TroubleRow) -> TroubleReport {
        let TroubleRow { code, text, since_seconds } = trouble;
        // A newer version may have a code of its own.
        let code = code.map_or("unknown", SourceTrouble::code);
        TroubleReport { code, text: text.clone(), since_seconds: *since_seconds }
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
            error_since_seconds: None,
            failures: 0,
            reason_code: None,
            remedy: None,
            paused: None,
            without_users: None,
            contacted: None,
            target: tenant.target.to_string(),
            partition: None,
        }
    }
}

impl Report {
    /// The report from the recorded state: every configured tenant, in the order of the configuration.
    pub fn of_state(config: &Config, state: &Snapshot, log: &SourceLog) -> Report {
        let source = state.source.as_ref();
        let counted = source.and_then(|source| source.user_count.as_ref());
        let without_users =
            |tenant: &Tenant| counted.and_then(|UserCountRow { counted, .. }| WithoutUsers::of(counted, tenant));
        let partitions = Partitions::of(config, &state.partitions);
        let tenants = config.tenants.iter().map(|tenant| {
            let without_users = without_users(tenant);
            let applying = partitions.of_tenant(&tenant.id);
            let partition = applying.map(|applying| applying.number);
            let Some(row) = state.tenants.get(&tenant.id) else {
                return TenantReport { without_users, partition, ..TenantReport::unknown(tenant) };
            };
            // What the process that writes the target has recorded.
            let (publisher, source) = (source, applying.map(|applying| &applying.source).or(source));
            // A following target that lacks nothing has everything that was received. If its own position is older, it had no
            // changes in between.
            let applied = source.map_or(Lsn::ZERO, |source| source.applied_by(&tenant.id));
            let position = (row.state == TenantState::Following).then(|| row.position.max(applied));
            let lag_bytes = position.zip(log.end).map(|(position, end)| end.bytes_since(position));
            let seconds = |of: Option<&SourceRow>| of.map_or(0.0, |of| lag_seconds(of, &tenant.id, lag_bytes));
            let lag_seconds = seconds(source).max(seconds(publisher));
            let paused = state.pauses.get(&tenant.id);
            let paused = paused.map(|pause| PauseReport::of_state(pause, lag_bytes, config.limits.source_wal));
            TenantReport {
                state: shown_state(row.state, paused.is_some()),
                paused,
                since_seconds: Some(row.since_seconds),
                position: position.map(|position| position.to_string()),
                lag_bytes,
                lag_seconds: position.map(|_| lag_seconds),
                rejected: row.rejected,
                last_error: row.reason.clone(),
                error_since_seconds: error_since(row.state, row.since_seconds, row.failing_seconds),
                failures: row.failures,
                reason_code: row.reason_code.map(Reason::code),
                remedy: row.remedy.clone(),
                without_users,
                partition,
                ..TenantReport::unknown(tenant)
            }
        });
        let tenants: Vec<TenantReport> = tenants.collect();
        // Those of a session that has ended may no longer hold.
        let held = source.into_iter().chain(partitions.rows.values().map(|row| &row.source));
        let mut findings: Vec<&TroubleRow> = Vec::new();
        for finding in held.filter(|source| source.is_held()).flat_map(|source| &source.findings) {
            // Each worker may have found the same.
            if !findings.iter().any(|known| (known.code, &known.text) == (finding.code, &finding.text)) {
                findings.push(finding);
            }
        }
        Report {
            slot: config.source.slot.clone(),
            generation: source.map_or(0, |source| source.generation.0),
            holder: source.map(|source| source.holder.clone()).unwrap_or_default(),
            is_held: source.is_some_and(|source| source.is_held()),
            idle_processes: state.idle_processes.clone(),
            unheld_seconds: source.map(|source| -source.lease_seconds).filter(|seconds| *seconds >= 0.0),
            trouble: source.and_then(|source| source.trouble.as_ref()).map(TroubleReport::of_state),
            findings: findings.into_iter().map(TroubleReport::of_state).collect(),
            slot_state: log.slots.get(&config.source.slot).copied(),
            confirmed: source.map_or(Lsn::ZERO, |source| source.confirmed).to_string(),
            source_position: log.end.map(|end| end.to_string()),
            waiting: waiting(log),
            users_without_tenant: counted.map(|row| UsersWithoutTenant::of(&row.counted, row.age_seconds)),
            partitions: partitions.report(&tenants),
            tenants,
            tee: state.tee.as_ref().map(|tee| TeeReport {
                wal_held_bytes: log.held_back.get(&tee.slot).copied(),
                ..TeeReport::of_state(tee)
            }),
        }
    }
}

/// The partitions of the configured topic; empty without `kafka.group`.
struct Partitions<'a> {
    rows: BTreeMap<i32, &'a PartitionRow>,
    /// The number of partitions of the topic, once a process has looked.
    count: Option<i32>,
}

impl<'a> Partitions<'a> {
    fn of(config: &Config, rows: &'a [PartitionRow]) -> Partitions<'a> {
        let topic = if config.publishes_only() { config.shared_topic() } else { None };
        // Rows of a former topic may be left.
        let rows = rows.iter().filter(|row| topic.as_ref().is_some_and(|topic| *topic == row.topic));
        let rows: BTreeMap<i32, &PartitionRow> = rows.map(|row| (row.number, row)).collect();
        let count = rows.values().find_map(|row| Some(row.place.as_ref()?.partitions));
        Partitions { rows, count }
    }

    #[cfg(feature = "kafka")]
    fn of_tenant(&self, tenant: &TenantId) -> Option<&'a PartitionRow> {
        self.rows.get(&crate::tee::kafka::partition_of(tenant.as_str(), self.count?)).copied()
    }

    #[cfg(not(feature = "kafka"))]
    fn of_tenant(&self, _: &TenantId) -> Option<&'a PartitionRow> {
        None
    }

    fn report(&self, tenants: &[TenantReport]) -> Vec<PartitionReport> {
        let mut held: BTreeMap<i32, (usize, Option<f64>)> = BTreeMap::new();
        for TenantReport { partition, lag_seconds, .. } in tenants {
            let Some(partition) = partition else { continue };
            let (count, longest) = held.entry(*partition).or_default();
            *count += 1;
            *longest = longest.iter().copied().chain(*lag_seconds).max_by(f64::total_cmp);
        }
        let report = |(number, row): (&i32, &&PartitionRow)| {
            let PartitionRow { topic, source, place, place_seconds, .. } = row;
            let (tenants, lag_seconds) = held.get(number).copied().unwrap_or_default();
            let is_fresh = *place_seconds < PLACE_FRESH_SECONDS;
            PartitionReport {
                topic: topic.clone(),
                partition: *number,
                worker: source.holder.clone(),
                is_held: source.is_held(),
                tenants: self.count.map(|_| tenants),
                committed_offset: place.as_ref().map(|place| place.committed_offset),
                lag_records: place
                    .as_ref()
                    .filter(|_| is_fresh)
                    .map(|place| (place.end_offset - place.committed_offset).max(0)),
                lag_seconds,
            }
        };
        self.rows.iter().map(report).collect()
    }
}

/// As [`TenantReport::error_since_seconds`], from the seconds in the state and the seconds for which attempts have failed.
pub(crate) fn error_since(state: TenantState, since: f64, failing: Option<f64>) -> Option<f64> {
    match state {
        TenantState::Parked => Some(since),
        TenantState::Joining | TenantState::Following => failing,
    }
}

/// The age of the oldest change that a target lacks. While no process receives, any change since may be missing.
fn lag_seconds(source: &SourceRow, tenant: &TenantId, lag_bytes: Option<u64>) -> f64 {
    let lacked = source.behind_seconds.get(tenant).copied().unwrap_or(0.0);
    let is_unreceived = !source.is_held() && lag_bytes.is_none_or(|bytes| bytes >= IDLE_STEP);
    if is_unreceived { lacked.max(-source.lease_seconds) } else { lacked }
}

/// What the creation of slots waits for, with the remedies.
pub(crate) fn waiting(log: &SourceLog) -> Vec<String> {
    log.waits.iter().map(|wait| format!("{wait}: {}", wait.remedy())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Report {
        /// A process that replicates without any tenant.
        pub(crate) fn sample() -> Report {
            Report {
                slot: "users_sync".into(),
                generation: 1,
                holder: "process 1 on h".into(),
                is_held: true,
                idle_processes: Vec::new(),
                unheld_seconds: None,
                trouble: None,
                findings: Vec::new(),
                confirmed: "0/1".into(),
                source_position: Some("0/1".into()),
                slot_state: Some(SlotState::Active),
                waiting: Vec::new(),
                users_without_tenant: None,
                partitions: Vec::new(),
                tenants: Vec::new(),
                tee: None,
            }
        }
    }
}
