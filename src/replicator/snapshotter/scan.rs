//! One pass over the source's table under a snapshot, its users sorted to the tenants that take part.

use crate::clock;
use crate::map::tenants_condition;
use crate::pg::connect;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::partition::{Member, Sorter};
use crate::replicator::snapshotter::progress_bar::{HowFar, Progress, expected_rows};
use crate::replicator::source::mapping::compile_current;
use crate::snapshot::{Export, RowStream};
use tokio::time::Instant;

/// Reads the table once; ends when every member has all its users, or has dropped out.
pub(crate) async fn run(context: &SessionContext, export: &Export, members: Vec<Member>) -> Result<(), ServiceError> {
    let client = connect(&context.config.source.url).await?;
    export.import(&client).await?;
    let mapped = compile_current(&client, &context.config.users).await?;
    let lanes = context.lanes.all();
    let keys = members.iter().map(|member| &lanes[member.tenant].tenant.key);
    let condition = tenants_condition(&context.config.users, &mapped.relation, keys);
    let how_far = HowFar::default();
    for member in &members {
        lanes[member.tenant].is_read(&how_far);
    }
    let mut progress =
        Progress::new(expected_rows(&client, &context.config.users, &mapped, &condition).await?, how_far);
    tracing::info!(tenants = members.len(), position = %export.position, "snapshot begins");

    let tenants: Vec<_> = lanes.iter().map(|lane| (!lane.retired.is_cancelled()).then_some(&lane.tenant)).collect();
    let mut sorter = Sorter::new(&tenants, members);
    let begun = Instant::now();
    let gone = context.config.purge_after.and_then(clock::ago);
    let mut rows = RowStream::open(&client, &mapped.from, &mapped.relation, mapped.plan.decoded(), &condition).await?;
    while rows.advance().await? {
        let full = {
            let mut cells = Vec::with_capacity(mapped.relation.columns.len());
            rows.cells(&mut cells)?;
            match mapped.plan.insert(&cells) {
                Ok(Some((_, user))) if user.deleted_at.is_some_and(|at| Some(at) < gone) => None,
                Ok(Some((tenant, user))) => sorter.find(&tenant).and_then(|place| {
                    context.fingerprints().learn(sorter.tenant(place)?, &user);
                    sorter.add(place, user)
                }),
                Ok(None) => None,
                Err(unmappable) => {
                    if let Some(so_far) = context.count_unmappable() {
                        tracing::error!(so_far, reason = %unmappable, "a row is left out of the snapshot");
                    }
                    None
                }
            }
        };
        if let Some(index) = full {
            sorter.send(index, context.config.limits.stall).await;
            if sorter.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > context.config.limits.snapshot_age {
                tracing::warn!("the snapshot is older than limits.snapshot_age: who has not got all of it tries again");
                return Ok(());
            }
        }
        progress.row();
    }
    sorter.finish(context.config.limits.stall).await;
    progress.finish();
    Ok(())
}
