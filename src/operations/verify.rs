//! Compares source and targets at one position, with or without a running process. Changes nothing.
//!
//! The source is read once, under one snapshot. Each target is compared once it has reached that position. It may be ahead
//! by then, so users that differ are read again: a difference is confirmed if the source still has the same row.

use crate::clock;
use crate::config::{Config, Tenant};
use crate::map::tenants_condition;
use crate::model::{ByConfigured, ConfiguredIdx, Lsn, TenantId, UnusedKey, User};
use crate::pg::{PgClient, connect, connect_state, connect_target};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::FailureAction;
use crate::replicator::snapshotter::partition::{Partitioner, ScanMember};
use crate::replicator::snapshotter::progress_bar::{ScanProgress, expected_rows};
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::mapping::{MappedRelation, compile_current, resolve_layout};
use crate::replicator::source::point_read::{ReadUser, Rereader};
use crate::replicator::source::user_counts::count_users;
use crate::route::Memory;
use crate::snapshot::{Comparison, Differences, LoadError, ProgressWatch, RowReceiver, Spool, source_session};
use crate::state::{Snapshot, StateStore, TenantState};
use crate::status::progress_handle::ProgressHandle;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::PgLsn;
use tracing::{Instrument, info_span};

/// Targets compared in one pass over the source: each holds a connection meanwhile.
const MAX_CONCURRENT_TARGETS: usize = 64;
/// Users whose source rows are read again in one query.
const RECHECK_BATCH: i64 = 1_000;
/// Passes over the differing users; a user who changed during each of them is reported as still changing.
const MAX_RECHECKS: usize = 6;
/// Time limit for counting the users of all keys.
const COUNT_LIMIT: Duration = Duration::from_secs(60);
/// Interval between reads of a target's checkpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Options of a comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verifying {
    /// The number of example ids per kind of difference.
    pub examples: usize,
    /// How long a target may take to reach the position.
    pub timeout: Duration,
    /// Whether the targets are those of tenants that follow. Others are compared as they are.
    pub follows: bool,
}

/// The outcome of a tenant's comparison.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The number of compared users, and the differences.
    Compared(u64, Differences),
    /// Why the tenant could not be compared.
    Failed(String),
}

/// Compares these tenants. `progress` receives the share of the source that has been read.
pub(crate) async fn verify(
    config: &Config,
    tenants: &[TenantId],
    how: Verifying,
    progress: &ProgressHandle,
) -> Result<Vec<(TenantId, Verdict)>, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    let config = Arc::new(resolve_layout(&client, config).await?);
    let context = Arc::new(VerifyContext {
        rereader: Rereader::new(Some(config.source.url.clone()), Default::default()),
        state: Mutex::new(connect_state(&config.state_url).await?),
        spool: Arc::new(Spool::new(&config.spool, Arc::new(Memory::new(config.limits.memory)))),
        config: config.clone(),
        how,
    });
    let mut verdicts = Vec::with_capacity(tenants.len());
    for tenants in tenants.chunks(MAX_CONCURRENT_TARGETS) {
        let mut again = Vec::new();
        for (tenant, compared) in compare_all(&client, &context, tenants, false, progress).await? {
            match compared {
                Err(LoadError::Target(error)) if error.refusal().is_some() => again.push(tenant),
                compared => verdicts.push((tenant, verdict(compared))),
            }
        }
        // Copies in parts are slower, and rarely needed: a user who does not fit is rejected, and left out.
        if !again.is_empty() {
            progress.reset();
            let compared = compare_all(&client, &context, &again, true, progress).await?;
            verdicts.extend(compared.into_iter().map(|(tenant, compared)| (tenant, verdict(compared))));
        }
    }
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(verdicts)
}

/// A tenant without users on both sides: what is wrong with its key, and the remedy.
pub(crate) struct NoUsers {
    pub(crate) why: String,
    pub(crate) remedy: String,
}

/// Why these tenants have no users.
///
/// # Errors
/// The source cannot be read.
pub(crate) async fn why_without_users(
    config: &Config,
    tenants: &[TenantId],
) -> Result<BTreeMap<TenantId, NoUsers>, ServiceError> {
    if tenants.is_empty() {
        return Ok(BTreeMap::new());
    }
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    let config = resolve_layout(&client, config).await?;
    let keys: Vec<&str> = config.tenants.iter().map(|tenant| tenant.key.as_str()).collect();
    let watch = LockWatch::begin(&config.source.url, &[&client]).await?;
    let counted = watch.run(count_users(&client, &config.users, &keys, COUNT_LIMIT)).await?;
    client.close().await;
    let unused = counted.map(|counts| counts.unused).unwrap_or_default();
    let found = config.tenants.iter().filter(|tenant| tenants.contains(&tenant.id)).map(|tenant| {
        let known = unused.iter().find(|unused| unused.key == tenant.key.as_str());
        // Without any user at the source there is no key to compare with.
        let unknown = UnusedKey { key: tenant.key.as_str().to_owned(), nearest: None };
        let unused = known.unwrap_or(&unknown);
        (tenant.id.clone(), NoUsers { why: unused.describe(), remedy: unused.remedy(&tenant.id) })
    });
    Ok(found.collect())
}

struct VerifyContext {
    config: Arc<Config>,
    how: Verifying,
    spool: Arc<Spool>,
    rereader: Rereader,
    state: Mutex<PgClient>,
}

/// Compares up to [`MAX_CONCURRENT_TARGETS`] tenants in one pass over the source. `isolates`: see [`Comparison::begin`].
async fn compare_all(
    client: &PgClient,
    context: &Arc<VerifyContext>,
    tenants: &[TenantId],
    isolates: bool,
    progress: &ProgressHandle,
) -> Result<Vec<(TenantId, Result<Verdict, LoadError>)>, ServiceError> {
    let config = &context.config;
    let spool = context.spool.begin(context.how.timeout, true);
    let watch = LockWatch::begin(&config.source.url, &[client]).await?;
    let begun = watch.run(begin(client, config));
    let (position, mapped) = begun.await?;
    let mut comparing = JoinSet::new();
    let mut members = Vec::new();
    let configured: ByConfigured<&Tenant> = config.tenants.iter().map(Arc::as_ref).collect();
    for (index, &tenant) in configured.iter().filter(|(_, tenant)| tenants.contains(&tenant.id)) {
        let (rows, receiver) = spool.queue();
        members.push(ScanMember { tenant: index, rows });
        let (tenant, context) = (tenant.clone(), context.clone());
        let span = info_span!("tenant", id = %tenant.id);
        let compare = async move {
            let limits = &context.config.limits;
            let watch = ProgressWatch::new(limits.park_after);
            let compared = watch.bound(context.compare(&tenant, isolates, position, receiver, &watch));
            let verdict = timeout(limits.snapshot_age, compared).await;
            let verdict = verdict.unwrap_or_else(|_| {
                let why = "the comparison took longer than limits.snapshot_age: the target does not answer, or is slow";
                Ok(Verdict::Failed(why.to_owned()))
            });
            (tenant.id, verdict)
        };
        comparing.spawn(compare.instrument(span));
    }
    let keys = members.iter().map(|member| &configured[member.tenant].key);
    let condition = tenants_condition(&config.users, &mapped.relation, keys);
    let mut partitioner = Partitioner::new(configured.iter().map(|(index, tenant)| (index, *tenant)), members, spool);
    watch.run(read(client, config, &mapped, &condition, progress, &mut partitioner)).await?;
    client.batch_execute("COMMIT").await?;
    drop(watch);
    partitioner.finish().await;
    Ok(comparing.join_all().await)
}

/// Begins a transaction of the source. Returns a position that its snapshot has reached.
async fn begin(client: &PgClient, config: &Config) -> Result<(Lsn, MappedRelation), ServiceError> {
    client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    // The snapshot is older than this position.
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await?;
    let position = Lsn(u64::from(row.try_get::<_, PgLsn>(0)?));
    let mapped = compile_current(client, &config.users).await?.within(config.limits.tenant_memory);
    Ok((position, mapped))
}

/// Reads the users of all members.
async fn read(
    client: &PgClient,
    config: &Config,
    mapped: &MappedRelation,
    condition: &str,
    progress: &ProgressHandle,
    partitioner: &mut Partitioner<ConfiguredIdx>,
) -> Result<(), ServiceError> {
    let purged_before = config.purge_after.and_then(clock::ago);
    let expected = expected_rows(client, &config.users, mapped, condition).await?;
    let mut scanned = ScanProgress::new(expected, progress.clone());
    let mut rows = mapped.rows(client, condition).await?;
    while rows.advance().await? {
        let mut cells = Vec::with_capacity(mapped.relation.columns.len());
        rows.cells(&mut cells)?;
        // A row that cannot be mapped says nothing about the target's row.
        let row = mapped.plan.insert(&cells).unwrap_or_else(|why| mapped.plan.identify(None, &cells, &why));
        let full = match row {
            Some((_, user)) if user.deleted_at.is_some_and(|at| Some(at) < purged_before) => None,
            Some((tenant, user)) => partitioner.find(&tenant).filter(|member| partitioner.add(*member, user)),
            None => None,
        };
        drop(cells);
        if let Some(member) = full {
            partitioner.send(member).await;
        }
        scanned.add_row();
    }
    scanned.finish();
    Ok(())
}

impl VerifyContext {
    async fn compare(
        &self,
        tenant: &Tenant,
        isolates: bool,
        mut position: Lsn,
        mut rows: RowReceiver,
        watch: &ProgressWatch,
    ) -> Result<Verdict, LoadError> {
        let mut client = match connect_target(&tenant.target).await {
            Ok(client) => client,
            Err(error) => return Ok(Verdict::Failed(error.to_string())),
        };
        let mut comparison = Comparison::begin(&mut client, self.config.deletes, isolates, watch).await?;
        comparison.stage(&mut rows).await?;
        for round in 0..MAX_RECHECKS {
            if self.how.follows
                && let Err(why) = self.wait_until_reached(tenant, &comparison, position, watch).await?
            {
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
                let now = match self.read_again(tenant, &ids, &mut position, watch).await {
                    Ok(now) => now,
                    Err(error) => return Ok(Verdict::Failed(error.to_string())),
                };
                comparison.confirm(&ids, &now).await?;
            }
            let unstaged = comparison.unstaged();
            if !unstaged.is_empty() {
                let now = match self.read_again(tenant, &unstaged, &mut position, watch).await {
                    Ok(now) => now,
                    Err(error) => return Ok(Verdict::Failed(error.to_string())),
                };
                comparison.stage_again(&now).await?;
            }
            if unstaged.is_empty() && comparison.unconfirmed("", 1).await?.is_empty() {
                break;
            }
        }
        let examples = i64::try_from(self.how.examples).unwrap_or(i64::MAX);
        let (rows, differences) = comparison.outcome(examples).await?;
        Ok(Verdict::Compared(rows, differences))
    }

    /// The tenant's users among these, as the source has them now. `position` is raised to that of the read.
    async fn read_again(
        &self,
        tenant: &Tenant,
        ids: &[String],
        position: &mut Lsn,
        watch: &ProgressWatch,
    ) -> Result<Vec<User>, ServiceError> {
        let mut users = Vec::with_capacity(ids.len());
        for ids in ids.chunks(RECHECK_BATCH as usize) {
            let read = watch.pause(self.rereader.read_ids(&self.config, ids)).await?;
            let is_ours = |read: &ReadUser| read.tenant.as_ref().is_none_or(|key| *key == tenant.key.as_str());
            users.extend(read.users.into_iter().filter(is_ours).map(|read| read.user));
            *position = (*position).max(read.position);
        }
        Ok(users)
    }

    /// Waits until the target has everything up to the position. The inner error says why it does not.
    async fn wait_until_reached(
        &self,
        tenant: &Tenant,
        comparison: &Comparison<'_>,
        position: Lsn,
        watch: &ProgressWatch,
    ) -> Result<Result<(), String>, LoadError> {
        let deadline = Instant::now() + self.how.timeout;
        loop {
            let read = async { StateStore::read(&*self.state.lock().await, &self.config.source.slot).await };
            let state = watch.pause(read).await;
            let state: Snapshot = match state {
                Ok(state) => state,
                Err(error) => return Ok(Err(format!("the state cannot be read: {error}"))),
            };
            let row = state.tenants.get(&tenant.id).filter(|row| row.state == TenantState::Following);
            let (Some(row), Some(source)) = (row, &state.source) else {
                let Some(row) = state.tenants.get(&tenant.id) else {
                    return Ok(Err("the tenant has never been started".to_owned()));
                };
                let reason = row.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                return Ok(Err(format!("the tenant is {}{reason}", row.state.as_str())));
            };
            // A target that needed nothing of the received WAL has reached its end, too.
            let applied = comparison.position().await?.max(source.applied_by(&tenant.id)).max(row.position);
            // Without a process no target moves: missing rows are differences.
            if applied >= position || !source.is_held() {
                return Ok(Ok(()));
            }
            if deadline <= Instant::now() {
                return Ok(Err(format!("the target is at {applied} and did not reach {position} in time")));
            }
            watch.pause(sleep(POLL_INTERVAL)).await;
        }
    }
}

fn verdict(compared: Result<Verdict, LoadError>) -> Verdict {
    compared.unwrap_or_else(|error| Verdict::Failed(message(&error)))
}

fn message(error: &LoadError) -> String {
    match failure_policy::of_load(error, &TenantId::new(""), false) {
        FailureAction::Retry { reason, .. } | FailureAction::Park { reason, .. } => reason,
        FailureAction::Refused(refusal) => format!("SQLSTATE {}", refusal.sqlstate),
    }
}
