//! Watches the source while a session runs: what the stream does not say, or says only with the next change.

use crate::capture::publication::{read_version, table_in_publication};
use crate::capture::shape::ShapeReader;
use crate::model::{Lsn, SourceTrouble, TableName};
use crate::pg::{PgClient, connect, connect_state};
use crate::replicator::error::ServiceError;
use crate::replicator::session::alteration::{reassess, shape_reader};
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::publication::{add_again, dropped};
use crate::replicator::source::synchronous::refuse_synchronous;
use crate::snapshot::{resolve_family, source_session};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;

/// How often the shape is read.
const SHAPE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the publication's version and the preset's tables are read.
const PUBLICATION_INTERVAL: Duration = Duration::from_secs(10);

/// Watches the source until the session ends.
///
/// # Errors
/// If changes would be missed: a table is no longer published, or only a part of it. What a removed table lost in between was
/// never sent, so a new generation begins even if the table is added again by hand.
pub(crate) async fn watch_source(context: &SessionContext) -> Result<(), ServiceError> {
    let mut connected: Option<(PgClient, ShapeReader)> = None;
    let mut checked = Instant::now();
    loop {
        tokio::select! {
            () = sleep(SHAPE_INTERVAL) => {}
            () = context.drain.cancelled() => return Ok(()),
        }
        let (client, reader) = match connected.take().filter(|(client, _)| !client.is_closed()) {
            Some(connected) => connected,
            // The stream reports a source that cannot be reached.
            None => match open(context).await {
                Ok(opened) => opened,
                Err(_) => continue,
            },
        };
        // Read before the shape, which may take a while: what was written by then is safely older than now.
        if context.config.purge_after.is_some()
            && let Ok(row) = client.query_typed_one("SELECT pg_catalog.pg_current_wal_flush_lsn()", &[]).await
            && let Ok(position) = row.try_get::<_, PgLsn>(0)
        {
            context.note_written(Lsn(position.into()));
        }
        match reader.read(&client).await {
            // Outside a transaction a failed query leaves the connection usable, or closed.
            Err(_) => {}
            Ok(shape) if shape == context.shape.lock().await.shape => {}
            Ok(_) => reassess(context, &client, &reader).await?,
        }
        if checked.elapsed() >= PUBLICATION_INTERVAL {
            checked = Instant::now();
            // One that cannot be read is not a conflict.
            if let Err(error @ ServiceError::Unready { .. }) = refuse_synchronous(&client).await {
                return Err(error);
            }
            look_for_other_tables(context, &client).await;
            check_publication(context, &client).await?;
        }
        connected = Some((client, reader));
    }
}

async fn open(context: &SessionContext) -> Result<(PgClient, ShapeReader), ServiceError> {
    let client = connect(&context.config.source.url).await?;
    source_session(&client).await?;
    let reader = shape_reader(context, &client).await?;
    Ok((client, reader))
}

/// Finds out whether the auth store was upgraded to tables of other names. Nothing is found while that cannot be read.
async fn look_for_other_tables(context: &SessionContext, client: &PgClient) {
    let config = &context.config;
    let Ok(Some(current)) = resolve_family(client, &config.families).await else { return };
    let code = SourceTrouble::StoreUpgraded;
    if current.rules == config.users {
        context.findings.clear(code);
        return;
    }
    let tables: Vec<String> = current.rules.tables().into_iter().map(TableName::to_string).collect();
    let text = format!(
        "the auth store has new tables ({}), and may no longer change {}",
        tables.join(", "),
        config.users.table
    );
    if context.findings.note(code, text) {
        tracing::error!(
            found = current.found,
            ?tables,
            reason_code = code.code(),
            "auth store has new tables and may no longer change the old ones: \
             publish them (`users-sync setup` prints the SQL) and restart"
        );
    }
}

/// Whether every table is still published and was not removed in between. DROP COLUMN ... CASCADE on a listed column and
/// ALTER PUBLICATION remove a table silently, and the stream has no more changes of it.
async fn check_publication(context: &SessionContext, client: &PgClient) -> Result<(), ServiceError> {
    let (config, source, tables) = (&context.config, &context.config.source, context.config.users.tables());
    let version = read_version(client, &source.publication, &tables).await;
    // One that cannot be read is not known to be missing.
    if matches!(version, Ok(None)) {
        return Err(dropped(client, config).await);
    }
    for table in &tables {
        if matches!(table_in_publication(client, &source.publication, table).await, Ok(false)) {
            let state = connect_state(&config.state_url).await.map_err(ServiceError::StateConnect)?;
            let (publication, table) = (source.publication.clone(), (*table).clone());
            add_again(client, &state, config, &table).await?;
            return Err(ServiceError::NotPublished { publication, table });
        }
    }
    // A table may have been removed and added again between two checks.
    match version {
        Ok(Some(version)) if version.rows != context.publication => Err(ServiceError::Republished),
        _ => Ok(()),
    }
}
