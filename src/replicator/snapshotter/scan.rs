//! One scan of the source's table under a snapshot. Its users are partitioned among the members.

use crate::clock;
use crate::map::tenants_condition;
use crate::model::{TenantIdx, Timestamp};
use crate::pg::connect;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::partition::{MemberIdx, Partitioner, ScanMember};
use crate::replicator::snapshotter::progress_bar::{ScanProgress, expected_rows};
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use crate::snapshot::{Export, RowStream};
use crate::status::progress_handle::ProgressHandle;
use tokio::time::Instant;

/// Scans the table once, until every member has all its users or has dropped out.
pub(crate) async fn run(
    context: &SessionContext,
    export: &Export,
    members: Vec<ScanMember<TenantIdx>>,
) -> Result<(), ServiceError> {
    let client = connect(&context.config.source.url).await?;
    export.import(&client).await?;
    let mapped = compile_current(&client, &context.config.users).await?.within(context.config.limits.tenant_memory);
    let tenants = context.tenants.all();
    let keys = members.iter().map(|member| &tenants[member.tenant].tenant.key);
    let condition = tenants_condition(&context.config.users, &mapped.relation, keys);
    let handle = ProgressHandle::default();
    for member in &members {
        tenants[member.tenant].set_scan_progress(&handle);
    }
    let expected = expected_rows(&client, &context.config.users, &mapped, &condition).await?;
    let mut progress = ScanProgress::new(expected, handle);
    tracing::info!(tenants = members.len(), position = %export.position, "snapshot started");

    let current = tenants.iter().filter(|(_, handle)| !handle.retired.is_cancelled());
    let mut partitioner = Partitioner::new(current.map(|(index, handle)| (index, &*handle.tenant)), members);
    let begun = Instant::now();
    let purged_before = context.config.purge_after.and_then(clock::ago);
    let mut rows = RowStream::open(&client, &mapped.from, &mapped.relation, mapped.plan.decoded(), &condition).await?;
    while rows.advance().await? {
        if let Some(member) = add_row(context, &mapped, &mut rows, &mut partitioner, purged_before)? {
            context.status.metrics.stripped_escapes.inc_by(mapped.plan.take_stripped_escapes());
            partitioner.send(member, context.config.limits.stall).await;
            if partitioner.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > context.config.limits.snapshot_age {
                tracing::warn!("snapshot exceeded limits.snapshot_age; unfinished tenants will retry");
                return Ok(());
            }
        }
        progress.add_row();
    }
    context.status.metrics.stripped_escapes.inc_by(mapped.plan.take_stripped_escapes());
    partitioner.finish(context.config.limits.stall).await;
    progress.finish();
    Ok(())
}

/// Maps the current row and adds its user. Returns the member whose chunk is full.
fn add_row(
    context: &SessionContext,
    mapped: &MappedRelation,
    rows: &mut RowStream,
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
            return Ok(None);
        }
    };
    if user.deleted_at.is_some_and(|at| Some(at) < purged_before) {
        return Ok(None);
    }
    let Some(member) = partitioner.find(&tenant) else { return Ok(None) };
    let Some(index) = partitioner.tenant(member) else { return Ok(None) };
    context.fingerprints().learn(index, &user);
    Ok(partitioner.add(member, user).then_some(member))
}
