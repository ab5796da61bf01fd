//! One scan of the source's table under a snapshot. Its users are partitioned among the members.

use crate::clock;
use crate::map::tenants_condition;
use crate::model::{TenantIdx, TenantKey, Timestamp};
use crate::pg::{PgClient, connect};
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::partition::{MemberIdx, Partitioner, ScanMember};
use crate::replicator::snapshotter::progress_bar::{ScanProgress, expected_rows};
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use crate::snapshot::{Export, Interruption, RowStream, SpooledScan};
use crate::status::progress_handle::ProgressHandle;
use tokio::time::timeout;

/// Scans the table once, at the source's pace. Returns when every member can take all its users from the spool, or has
/// dropped out.
///
/// # Errors
/// [`ServiceError::LockAwaited`] if another session waited for it. Members are interrupted by any error.
pub(crate) async fn run(
    context: &SessionContext,
    export: Export,
    members: Vec<ScanMember<TenantIdx>>,
    spool: SpooledScan,
) -> Result<(), ServiceError> {
    let client = connect(&context.config.source.url).await?;
    let watch = LockWatch::begin(&context.config.source.url, &[&client, export.holder()]).await?;
    tracing::info!(tenants = members.len(), position = %export.position, "snapshot started");
    let tenants = context.tenants.all();
    let keys: Vec<&TenantKey> = members.iter().map(|member| &tenants[member.tenant].tenant.key).collect();
    let handle = ProgressHandle::default();
    for member in &members {
        tenants[member.tenant].set_scan_progress(&handle);
    }
    let current = tenants.iter().filter(|(_, handle)| !handle.is_retired());
    let mut partitioner = Partitioner::new(current.map(|(index, handle)| (index, &*handle.tenant)), members, spool);
    let limit = context.config.limits.snapshot_age;
    let read = timeout(limit, watch.run(read(context, &client, &export, &keys, handle, &mut partitioner))).await;
    // Members may take their time now: nothing is held at the source any more.
    drop((client, export, watch));
    match read {
        Ok(Ok(())) => partitioner.finish().await,
        Ok(Err(error)) => {
            if matches!(error, ServiceError::LockAwaited) {
                // First, as the members look at the pause.
                context.scan_aborts.add();
                partitioner.interrupt(&Interruption::LockAwaited);
            }
            return Err(error);
        }
        Err(_) => tracing::warn!("snapshot exceeded limits.snapshot_age; unfinished tenants will retry"),
    }
    Ok(())
}

/// Reads all rows. Ends early once every member has dropped out.
async fn read(
    context: &SessionContext,
    client: &PgClient,
    export: &Export,
    keys: &[&TenantKey],
    handle: ProgressHandle,
    partitioner: &mut Partitioner<TenantIdx>,
) -> Result<(), ServiceError> {
    let rules = &context.config.users;
    export.import(client).await?;
    let mapped = compile_current(client, rules).await?.within(context.config.limits.tenant_memory);
    let condition = tenants_condition(rules, &mapped.relation, keys.iter().copied());
    let mut progress = ScanProgress::new(expected_rows(client, rules, &mapped, &condition).await?, handle);
    let purged_before = context.config.purge_after.and_then(clock::ago);
    let mut rows = mapped.rows(client, &condition).await?;
    while rows.advance().await? {
        if let Some(member) = add_row(context, &mapped, &mut rows, partitioner, purged_before)? {
            count_values(context, &mapped);
            partitioner.send(member).await;
            if partitioner.is_empty() {
                return Ok(());
            }
        }
        progress.add_row();
    }
    count_values(context, &mapped);
    progress.finish();
    Ok(())
}

fn count_values(context: &SessionContext, mapped: &MappedRelation) {
    context.status.metrics.stripped_escapes.inc_by(mapped.plan.take_stripped_escapes());
    context.status.metrics.unparsed_values.inc_by(mapped.plan.take_unparsed_values());
}

/// Maps the current row and adds its user. Returns the member whose chunk is full.
fn add_row(
    context: &SessionContext,
    mapped: &MappedRelation,
    rows: &mut RowStream<'_>,
    partitioner: &mut Partitioner<TenantIdx>,
    purged_before: Option<Timestamp>,
) -> Result<Option<MemberIdx>, ServiceError> {
    let mut cells = Vec::with_capacity(mapped.relation.columns.len());
    rows.cells(&mut cells)?;
    let (tenant, user) = match mapped.plan.insert(&cells) {
        Ok(Some(mapped)) => mapped,
        Ok(None) => return Ok(None),
        Err(unmappable) => {
            if let Some(so_far) = context.count_unmappable() {
                tracing::error!(so_far, reason = %unmappable, "row skipped in the snapshot, it cannot be mapped");
            }
            // The user is there, and must not look deleted.
            let Some(known) = mapped.plan.identify(None, &cells, &unmappable) else { return Ok(None) };
            known
        }
    };
    if user.deleted_at.is_some_and(|at| Some(at) < purged_before) {
        return Ok(None);
    }
    let Some(member) = partitioner.find(&tenant) else { return Ok(None) };
    let Some(index) = partitioner.tenant(member) else { return Ok(None) };
    if user.why_unmappable().is_some() {
        context.fingerprints().forget(index, &user.id);
    } else {
        context.fingerprints().learn(index, &user);
    }
    Ok(partitioner.add(member, user).then_some(member))
}
