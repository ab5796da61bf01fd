//! The rows of the state's tables.

use crate::model::{
    Anchor, CheckpointKey, Epoch, ExtraRows, Generation, Lsn, Oid, Reason, SourceTrouble, TargetId, TenantId,
    Timestamp, TopicTrouble, UserCount, WhyLeftOut,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A process that has not renewed its lease for this long has lost it. It stops writing, and a standby ends its connections
/// and takes over.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// The row of the source and its slot.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceRow {
    /// The current generation.
    pub generation: Generation,
    /// System identifier of the server on which the slot was created; empty once the history was marked as broken.
    pub system_identifier: String,
    /// Timeline of that server when the generation began.
    pub timeline: i32,
    /// The position that was confirmed last.
    pub confirmed: Lsn,
    /// The position up to which the source's log was received.
    pub received: Lsn,
    /// The tenants that lack changes before `received`.
    pub behind: Vec<TenantId>,
    /// Age in seconds of the oldest change that each of them lacks, where it is known.
    pub behind_seconds: BTreeMap<TenantId, f64>,
    /// Why the last session on the source ended or could not begin; `None` while one works.
    pub trouble: Option<TroubleRow>,
    /// What the session that works, or worked last, has found at the source.
    pub findings: Vec<TroubleRow>,
    /// The users without a tenant, as they were counted last; `None` before that.
    pub user_count: Option<UserCountRow>,
    /// The publication as the newest process found it (`PublicationVersion::rows`); empty before it was first read.
    pub publication: String,
    /// The source's shape as the targets' rows were read with it, as JSON; `None` before it was first read.
    pub shape: Option<String>,
    /// Grows with each change of the shape that changes rows. Part of every tenant's mapping.
    pub shape_version: i64,
    /// The last transaction that was received in this generation.
    pub anchor: Anchor,
    /// Epoch of the newest process.
    pub epoch: Epoch,
    /// Description of that process.
    pub holder: String,
    /// Seconds until the lease of that process ends; negative once it has lapsed.
    pub lease_seconds: f64,
}

impl SourceRow {
    /// Whether the row may describe the server with this identifier. A broken history fits every server.
    pub fn is_of(&self, system_identifier: &str) -> bool {
        self.system_identifier.is_empty() || self.system_identifier == system_identifier
    }

    /// The position up to which the target of a following tenant holds everything, at least.
    pub fn applied_by(&self, tenant: &TenantId) -> Lsn {
        if self.behind.contains(tenant) { self.confirmed } else { self.confirmed.max(self.received) }
    }

    /// Whether the lease of a process is still valid.
    pub fn is_held(&self) -> bool {
        self.lease_seconds > 0.0
    }
}

/// A partition of the users' topic that a process of `users-sync apply` has applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionRow {
    /// The topic.
    pub topic: String,
    /// The number of the partition.
    pub number: i32,
    /// What its newest process has recorded, as one that reads the source does. `received`: what the tenants of the partition were sent.
    pub source: SourceRow,
    /// How far it has been applied; `None` until its process has looked.
    pub place: Option<PartitionPlace>,
    /// Seconds since its process has looked.
    pub place_seconds: f64,
}

/// How far a partition has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The number of partitions of its topic.
    pub partitions: i32,
    /// Every tenant of the partition holds what is before this offset.
    pub committed_offset: i64,
    /// The offset after its last committed record.
    pub end_offset: i64,
}

/// Why no session on the source works, or what one that works has found.
#[derive(Clone, Debug, PartialEq)]
pub struct TroubleRow {
    /// The kind of trouble; `None` for a code of a newer version.
    pub code: Option<SourceTrouble>,
    /// The error's text.
    pub text: String,
    /// Seconds since a session failed with this code first, or found it first.
    pub since_seconds: f64,
}

/// A finding as the state stores it.
#[derive(Serialize, Deserialize)]
struct StoredFinding {
    code: String,
    text: String,
    since_seconds: f64,
}

/// The findings as JSON.
pub(super) fn findings_to_json(findings: &[TroubleRow]) -> String {
    let stored = findings.iter().filter_map(|row| {
        Some(StoredFinding {
            code: row.code?.code().to_owned(),
            text: row.text.clone(),
            since_seconds: row.since_seconds,
        })
    });
    // Texts and finite numbers always become JSON.
    serde_json::to_string(&stored.collect::<Vec<_>>()).unwrap_or_default()
}

/// The findings that [`findings_to_json`] wrote. What another program wrote counts as none.
pub(super) fn findings_from_json(text: &str) -> Vec<TroubleRow> {
    let stored: Vec<StoredFinding> = serde_json::from_str(text).unwrap_or_default();
    let row = |StoredFinding { code, text, since_seconds }| TroubleRow {
        code: SourceTrouble::parse(&code),
        text,
        since_seconds,
    };
    stored.into_iter().map(row).collect()
}

/// The last count of the users without a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct UserCountRow {
    /// The outcome.
    pub counted: UserCount,
    /// Seconds since then.
    pub age_seconds: f64,
}

/// The state of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantState {
    /// The tenant takes a snapshot, or waits for one.
    Joining,
    /// The target follows the stream.
    Following,
    /// Replication to the target is suspended until the target recovers or an operator acts.
    Parked,
}

impl TenantState {
    /// The name in the state's tables and in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            TenantState::Joining => "joining",
            TenantState::Following => "following",
            TenantState::Parked => "parked",
        }
    }

    pub(super) fn parse(text: &str) -> TenantState {
        match text {
            "joining" => TenantState::Joining,
            "following" => TenantState::Following,
            // A check constraint of the table allows no fourth name.
            _ => TenantState::Parked,
        }
    }
}

/// The row of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantRow {
    /// Parked, joining or following.
    pub state: TenantState,
    /// Code of the reason why the tenant is parked, joins or is retried. `None` without a reason, and for a code of a
    /// newer version.
    pub reason_code: Option<Reason>,
    /// Text of that reason.
    pub reason: Option<String>,
    /// How to fix it.
    pub remedy: Option<String>,
    /// Number of failed attempts in a row; 0 if the last one succeeded.
    pub failures: u64,
    /// Seconds since the first of them.
    pub failing_seconds: Option<f64>,
    /// Host, port and database of the target.
    pub target: String,
    /// The target's id, once it has one.
    pub target_id: Option<TargetId>,
    /// The generation of `position`.
    pub generation: Generation,
    /// The position that the target held when the slot was confirmed last.
    pub position: Lsn,
    /// Seconds since the tenant entered its state.
    pub since_seconds: f64,
    /// `pg_relation_filenode` of `users_sync` in the target when this row was written.
    pub relation: Option<Oid>,
    /// Number of users in the target's `users_sync.rejected`.
    pub rejected: u64,
    /// Whether the target's checkpoint has been signed, so that one without a signature was changed.
    pub signed: bool,
    /// What decided, besides the target, what its last assessment found: mapping, address, the start of the source's server,
    /// `deletes.purge_after`. If one of them is another now, the target is assessed at the start of a session.
    pub opened_as: Option<String>,
    /// When users in the target are to be removed next.
    pub purge_due: Option<Timestamp>,
}

/// The row of the Kafka output. Its position is stored in Kafka, next to the published messages.
#[derive(Clone, Debug, PartialEq)]
pub struct TeeRow {
    /// Its replication slot.
    pub slot: String,
    /// Joining while it takes a snapshot.
    pub state: TenantState,
    /// Seconds since it entered that state.
    pub since_seconds: f64,
    /// Why it waits or is parked.
    pub reason: Option<String>,
    /// How to fix it.
    pub remedy: Option<String>,
    /// Stable code of the reason, if it is one that the topics show.
    pub reason_code: Option<TopicTrouble>,
    /// What was published. `None` before it was first recorded.
    pub published: Option<TeePublished>,
    /// Whether a snapshot of every tenant was requested.
    pub requested: bool,
    /// Number of users that it leaves out.
    pub rejected: u64,
}

impl TeeRow {
    /// Why it waits or is parked.
    pub fn failure(&self) -> Option<TeeFailure<'_>> {
        let reason = self.reason.as_deref()?;
        Some(TeeFailure { reason, code: self.reason_code, remedy: self.remedy.as_deref() })
    }
}

/// Why the Kafka output waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct TeeFailure<'a> {
    /// The sentence for people.
    pub reason: &'a str,
    /// Its stable code, if it has one.
    pub code: Option<TopicTrouble>,
    /// How to fix it.
    pub remedy: Option<&'a str>,
}

/// What the Kafka output has published, at least. The records of the positions topic are compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeePublished {
    /// Everything before this position.
    pub position: Lsn,
    /// System identifier of the server that `position` belongs to.
    pub system: String,
    /// The tenants whose users are in their topics.
    pub tenants: HashSet<TenantId>,
}

/// Number of a request. It grows from request to request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub i64);

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A new snapshot of the tenant.
    Resync {
        /// Whether it may delete any number of users: `limits.max_deletes` does not apply.
        allow_deletes: bool,
        /// Whether a target with rows of others is taken over, and what is done with users that only it has.
        adopt: Option<ExtraRows>,
    },
    /// Another attempt at once, whatever the tenant waits for.
    Resume,
    /// Another attempt with the users that the target rejects.
    RetryRejected,
    /// This user as the source has it now.
    User(String),
}

/// A request for a tenant to the process that replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// The tenant.
    pub tenant: TenantId,
    /// What it asks for.
    pub kind: RequestKind,
}

impl RequestKind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            RequestKind::Resync { .. } => "resync",
            RequestKind::Resume => "resume",
            RequestKind::RetryRejected => "retry_rejected",
            RequestKind::User(_) => "user",
        }
    }

    /// The kind of a row; `None` for one of a newer version.
    pub(super) fn of_row(
        name: &str,
        allow_deletes: bool,
        adopt: Option<ExtraRows>,
        user: Option<String>,
    ) -> Option<RequestKind> {
        match (name, user) {
            ("resync", _) => Some(RequestKind::Resync { allow_deletes, adopt }),
            ("resume", _) => Some(RequestKind::Resume),
            ("retry_rejected", _) => Some(RequestKind::RetryRejected),
            ("user", Some(user)) => Some(RequestKind::User(user)),
            _ => None,
        }
    }
}

/// The paused tenants.
pub(crate) type Pauses = BTreeMap<TenantId, Pause>;

/// Why and since when nothing is written to a tenant's target.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Pause {
    /// The operator's reason.
    pub(crate) reason: String,
    /// Where it was asked for.
    pub(crate) by: String,
    pub(crate) since_seconds: f64,
    /// The process that replicates has closed its connection to the target.
    pub(crate) is_effective: bool,
}

/// What a running process learns when it records its progress.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The open requests, the oldest first.
    pub(crate) requests: Vec<Request>,
    pub(crate) pauses: Pauses,
}

/// The progress of a running process.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The position that is safe to confirm to the source.
    pub confirmed: Lsn,
    /// The position up to which the log was received.
    pub received: Lsn,
    /// The tenants that lack changes before `received`.
    pub behind: Vec<TenantId>,
    /// The commit time of the oldest change that waits for each of them, in the same order.
    pub behind_since: Vec<Option<Timestamp>>,
    /// The last transaction.
    pub anchor: Anchor,
    /// What the session has found at the source.
    pub findings: Vec<TroubleRow>,
}

/// A user whom the Kafka output leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeeRejected {
    /// The tenant.
    pub tenant: TenantId,
    /// The user's id.
    pub user: String,
    /// Why.
    pub why: WhyLeftOut,
    /// A batch with the user was to be committed: whether it was is unknown.
    pub may_be_published: bool,
}

/// A user of a tenant whom the topic may lack: left out, or published again a short time ago.
#[cfg(feature = "kafka")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOutUser {
    /// The tenant.
    pub(crate) tenant: TenantId,
    /// The user's id.
    pub(crate) user: String,
    /// Why; `None` once a batch with the user may have been committed.
    pub(crate) why: Option<WhyLeftOut>,
}

/// A process that has shown within the length of a lease that it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenProcess {
    /// Its description.
    pub(crate) name: String,
    /// Whether it replicates.
    pub(crate) holds_lease: bool,
    /// Another text each time it shows that it is alive.
    pub(crate) mark: String,
}

/// All rows of one slot.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The source; `None` if no process has held the slot yet.
    pub source: Option<SourceRow>,
    /// The tenants.
    pub tenants: BTreeMap<TenantId, TenantRow>,
    /// The epochs of the slot's processes, with the end of the source's log when each of them began.
    pub epochs: BTreeMap<Epoch, Lsn>,
    /// The Kafka output, if there is or was one.
    pub tee: Option<TeeRow>,
    /// The partitions of the users' topic that processes of `users-sync apply` have applied.
    pub(crate) partitions: Vec<PartitionRow>,
    /// The tenants that are paused.
    pub(crate) pauses: Pauses,
    /// The processes that run without replicating.
    pub(crate) idle_processes: Vec<String>,
    /// Verifies the checkpoints in the targets; `None` before a version that signs them was started.
    pub(crate) key: Option<CheckpointKey>,
}

impl Snapshot {
    /// Whether a session has worked on the slot.
    pub(crate) fn was_replicated(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.generation > Generation(0))
    }
}
