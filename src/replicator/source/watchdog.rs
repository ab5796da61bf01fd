//! Looks now and then whether the table is still published, and has been all the time: DROP COLUMN ... CASCADE on a listed
//! column, or somebody's ALTER PUBLICATION, takes it out without a word, and the stream just falls silent.

use crate::capture::publication::{read_version, table_in_publication};
use crate::pg::connect;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::publication::put_back;
use crate::snapshot::resolve_family;
use std::time::Duration;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(10);

/// Ends with an error once the table is out. That is written down first, so that whoever puts it back gets a new
/// generation: what was changed in between was never sent.
pub(crate) async fn membership(context: &SessionContext) -> Result<(), ServiceError> {
    let (source, tables) = (&context.config.source, context.config.users.tables());
    let mut said = false;
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = context.drain.cancelled() => return Ok(()),
        }
        // A source that is away is the stream's to notice.
        let Ok(client) = connect(&source.url).await else { continue };
        if !said && let Ok(Some(now)) = resolve_family(&client, &context.config.families).await {
            said = now.rules != context.config.users;
            if said {
                let tables = now.rules.tables();
                tracing::error!(
                    found = now.found,
                    ?tables,
                    "the store has other tables now, and the old ones may not change any more: \
                     publish them (`users-sync setup` has the SQL) and restart"
                );
            }
        }
        for table in &tables {
            if matches!(table_in_publication(&client, &source.publication, table).await, Ok(false)) {
                let state = connect(&context.config.state_url).await?;
                let (publication, table) = (source.publication.clone(), (*table).clone());
                put_back(&client, &state, &context.config, &table).await?;
                return Err(ServiceError::NotPublished { publication, table });
            }
        }
        // It may have been out of it for a moment.
        match read_version(&client, &source.publication, &tables).await {
            Ok(Some(version)) if version.rows != context.publication => return Err(ServiceError::Republished),
            _ => {}
        }
    }
}
