//! Compares the source with what the targets' rows were read with, and restarts the tenants whose rows may differ.

use crate::capture::shape::{ShapeChange, ShapeReader, outdates_slot};
use crate::model::{RestartSignal, SourceTrouble};
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::mapping::{check_identities, compile_current, fingerprint};
use crate::replicator::source::shape::{ReadColumns, record};
use std::sync::Arc;

/// Reads the shape of the session's tables.
pub(crate) async fn shape_reader(context: &SessionContext, client: &PgClient) -> Result<ShapeReader, ServiceError> {
    let (source, tables) = (&context.config.source, context.config.users.tables());
    Ok(ShapeReader::new(client, &source.publication, &tables).await?)
}

/// Compares shape and mapping with those of the session. The stream calls it for a new relation version, the watch for a
/// new shape: the first of them that sees a change handles it.
///
/// # Errors
/// If changes would be missed from now on: the session ends until that is fixed.
pub(crate) async fn reassess(
    context: &SessionContext,
    client: &PgClient,
    reader: &ShapeReader,
) -> Result<(), ServiceError> {
    let rules = &context.config.users;
    let mut known = context.shape.lock().await;
    let now = reader.read(client).await?;
    let columns = ReadColumns::of(client, rules).await?;
    columns.refuse_faults(&now, &context.config.source.publication)?;
    match check_identities(client, rules).await {
        Ok(()) => {
            if context.findings.clear(SourceTrouble::ReplicaIdentity) {
                tracing::info!("replica identity has all columns again");
            }
        }
        // Each change that this makes unattributable causes a resync, and a few of them end the session.
        Err(error @ ServiceError::Identity { .. }) => {
            let code = error.trouble();
            if context.findings.note(code, error.to_string()) {
                tracing::error!(%error, reason_code = code.code(), "replica identity lacks columns");
            }
        }
        Err(error) => return Err(error),
    }
    let mut reason = "its columns were altered".to_owned();
    if now != known.shape {
        if outdates_slot(&known.shape, &now) {
            // The next session finds the same change, and makes a new slot.
            return Err(ServiceError::SlotOutdated);
        }
        let change = columns.compare(&known.shape, &now);
        if let ShapeChange::Rows(why) = &change {
            reason.clone_from(why);
        }
        let handles = context.tenants.all();
        let served = handles.iter().map(|(_, handle)| &*handle.tenant);
        let tenants: Vec<_> = served.chain(context.config.applied_elsewhere().iter().map(Arc::as_ref)).collect();
        *known = record(&context.config, &context.state, &tenants, known.version, now, &change).await?;
    }
    let mapping = known.fingerprint(&fingerprint(rules, &compile_current(client, rules).await?));
    if mapping != *context.mapping() {
        tracing::warn!(table = %rules.table, reason, "table altered at the source: resyncing every tenant");
        context.set_mapping(&mapping);
        context.interrupt_all(RestartSignal::Altered);
    }
    Ok(())
}
