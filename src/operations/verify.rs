//! Source and targets compared at one position, beside a running process and without one. Changes nothing.
//!
//! The source's rows are read once, under one snapshot, and compared where the target is, once it holds what the snapshot
//! has. The target may hold more by then: whoever differs is read again, and is different indeed if the source has the
//! same as before.

use crate::clock;
use crate::config::{Config, Tenant};
use crate::map::tenants_condition;
use crate::model::{Lsn, TenantId, User};
use crate::pg::{PgClient, connect};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::FailureAction;
use crate::replicator::snapshotter::partition::{Partitioner, ScanMember};
use crate::replicator::snapshotter::progress_bar::{ScanProgress, expected_rows};
use crate::replicator::source::mapping::compile_current;
use crate::replicator::source::mapping::resolve_layout;
use crate::replicator::source::point_read::{ReadUser, Rereader};
use crate::snapshot::{Comparison, Differences, LoadError, RowStream, source_session};
use crate::state::{Snapshot, StateStore, TenantState};
use crate::status::progress_handle::ProgressHandle;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;
use tracing::{Instrument, info_span};

/// Targets compared in one pass over the source: each holds a connection meanwhile.
const MAX_CONCURRENT_TARGETS: usize = 64;
/// Chunks of rows that may wait for one target.
const CHANNEL_CHUNKS: usize = 8;
/// Users whose source rows are read again in one query.
const RECHECK_BATCH: i64 = 1_000;
/// Passes over the differing users; a user who changed during each of them is reported as still changing.
const MAX_RECHECKS: usize = 6;
/// Interval between reads of a target's checkpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct Verifying {
    /// So many ids of each kind are given.
    pub examples: usize,
    /// How long a target may take to get to the position.
    pub timeout: Duration,
}

/// What became of a tenant's comparison.
#[derive(Debug)]
pub enum Verdict {
    /// It was compared: so many users, and what differs.
    Compared(u64, Differences),
    /// It could not be compared, and why.
    Failed(String),
}

/// Compares these tenants; `how_far` shows how much of the source has been read.
pub async fn verify(
    config: &Config,
    tenants: &[TenantId],
    how: Verifying,
    how_far: &ProgressHandle,
) -> Result<Vec<(TenantId, Verdict)>, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    let config = Arc::new(resolve_layout(&client, config).await?);
    let context = Arc::new(VerifyContext {
        rereader: Rereader::new(config.source.url.clone(), Default::default()),
        state: Mutex::new(connect(&config.state_url).await?),
        config: config.clone(),
        how,
    });
    let mut verdicts = Vec::with_capacity(tenants.len());
    for tenants in tenants.chunks(MAX_CONCURRENT_TARGETS) {
        verdicts.extend(together(&client, &context, tenants, how_far).await?);
    }
    Ok(verdicts)
}

/// What the comparisons share.
struct VerifyContext {
    config: Arc<Config>,
    how: Verifying,
    rereader: Rereader,
    state: Mutex<PgClient>,
}

async fn together(
    client: &PgClient,
    context: &Arc<VerifyContext>,
    tenants: &[TenantId],
    how_far: &ProgressHandle,
) -> Result<Vec<(TenantId, Verdict)>, ServiceError> {
    let config = &context.config;
    client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // Whatever the snapshot sees was written before this.
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await?;
    let position = Lsn(u64::from(row.get::<_, PgLsn>(0)));
    let mapped = compile_current(client, &config.users).await?;
    let mut comparing = JoinSet::new();
    let mut members = Vec::new();
    for (at, tenant) in config.tenants.iter().enumerate().filter(|(_, tenant)| tenants.contains(&tenant.id)) {
        let (rows, receiver) = mpsc::channel(CHANNEL_CHUNKS);
        members.push(ScanMember { tenant: at, rows });
        let (tenant, context) = (tenant.clone(), context.clone());
        let span = info_span!("tenant", id = %tenant.id);
        let compare = async move {
            let verdict = context.compare(&tenant, position, receiver).await;
            (tenant.id, verdict.unwrap_or_else(|error| Verdict::Failed(message(&error))))
        };
        comparing.spawn(compare.instrument(span));
    }
    let keys = members.iter().map(|member| &config.tenants[member.tenant].key);
    let condition = tenants_condition(&config.users, &mapped.relation, keys);
    let all: Vec<Option<&Tenant>> = config.tenants.iter().map(Some).collect();
    let mut sorter = Partitioner::new(&all, members);
    let gone = config.purge_after.and_then(clock::ago);
    let expected = expected_rows(client, &config.users, &mapped, &condition).await?;
    let mut progress = ScanProgress::new(expected, how_far.clone());
    let mut rows = RowStream::open(client, &mapped.from, &mapped.relation, mapped.plan.decoded(), &condition).await?;
    while rows.advance().await? {
        let mut cells = Vec::with_capacity(mapped.relation.columns.len());
        rows.cells(&mut cells)?;
        // A row that cannot be mapped is in no target.
        let full = match mapped.plan.insert(&cells) {
            Ok(Some((_, user))) if user.deleted_at.is_some_and(|at| Some(at) < gone) => None,
            Ok(Some((tenant, user))) => sorter.find(&tenant).filter(|place| sorter.add(*place, user)),
            Ok(None) | Err(_) => None,
        };
        drop(cells);
        if let Some(place) = full {
            sorter.send(place, context.how.timeout).await;
        }
        progress.add_row();
    }
    sorter.finish(context.how.timeout).await;
    progress.finish();
    client.batch_execute("COMMIT").await?;
    let mut verdicts: Vec<(TenantId, Verdict)> = comparing.join_all().await;
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(verdicts)
}

impl VerifyContext {
    async fn compare(
        &self,
        tenant: &Tenant,
        mut position: Lsn,
        mut rows: mpsc::Receiver<Option<Vec<User>>>,
    ) -> Result<Verdict, LoadError> {
        let mut client = match connect(&tenant.target).await {
            Ok(client) => client,
            Err(error) => return Ok(Verdict::Failed(error.to_string())),
        };
        let mut comparison = Comparison::begin(&mut client, self.config.deletes).await?;
        comparison.stage(&mut rows).await?;
        for round in 0..MAX_RECHECKS {
            if let Err(why) = self.reaches(tenant, &comparison, position).await? {
                return Ok(Verdict::Failed(why));
            }
            if round == 0 {
                comparison.find_differences().await?;
            } else {
                comparison.recheck().await?;
            }
            let mut after = String::new();
            loop {
                let ids = comparison.unconfirmed(&after, RECHECK_BATCH).await?;
                let Some(last) = ids.last() else { break };
                after.clone_from(last);
                let read = match self.rereader.read_ids(&self.config, &ids).await {
                    Ok(read) => read,
                    Err(error) => return Ok(Verdict::Failed(error.to_string())),
                };
                let is_ours = |read: &ReadUser| read.tenant.as_ref().is_none_or(|key| *key == tenant.key.as_str());
                let ours = read.users.into_iter().filter(is_ours).map(|read| read.user).collect();
                comparison.confirm(&ids, ours).await?;
                position = position.max(read.position);
            }
            if comparison.unconfirmed("", 1).await?.is_empty() {
                break;
            }
        }
        let rows = comparison.rows();
        let examples = i64::try_from(self.how.examples).unwrap_or(i64::MAX);
        Ok(Verdict::Compared(rows, comparison.outcome(examples).await?))
    }

    /// Waits until the target holds everything up to the position.
    async fn reaches(
        &self,
        tenant: &Tenant,
        comparison: &Comparison<'_>,
        position: Lsn,
    ) -> Result<Result<(), String>, LoadError> {
        let deadline = Instant::now() + self.how.timeout;
        loop {
            let state = StateStore::read(&*self.state.lock().await, &self.config.source.slot).await;
            let state: Snapshot = match state {
                Ok(state) => state,
                Err(error) => return Ok(Err(format!("the state cannot be read: {error}"))),
            };
            let row = state.tenants.get(&tenant.id).filter(|row| row.state == TenantState::Following);
            let (Some(row), Some(source)) = (row, &state.source) else {
                let found = state.tenants.get(&tenant.id);
                let word = found.map_or("unknown", |row| row.state.as_str());
                let why = found.and_then(|row| row.reason.clone()).map_or(String::new(), |why| format!(": {why}"));
                return Ok(Err(format!("it does not follow, it is {word}{why}")));
            };
            // Also where nothing of what was received was for it.
            let held = comparison.position().await?.max(source.applied_by(&tenant.id)).max(row.position);
            // Without a process nothing moves: what is not there yet is a difference.
            if held >= position || !source.is_held() {
                return Ok(Ok(()));
            }
            if deadline <= Instant::now() {
                return Ok(Err(format!("its target is at {held}, and did not get to {position} in time")));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn message(error: &LoadError) -> String {
    match failure_policy::of_load(error, &TenantId::new("")) {
        FailureAction::Retry { reason, .. } | FailureAction::Park { reason, .. } => reason,
        FailureAction::Refused(refusal) => format!("SQLSTATE {}", refusal.sqlstate),
    }
}
