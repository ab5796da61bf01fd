//! Checks periodically that every table is still published and was not removed in between. DROP COLUMN ... CASCADE on a
//! listed column and ALTER PUBLICATION remove a table silently, and the stream has no more changes of it.

use crate::capture::publication::{read_version, table_in_publication};
use crate::config::Config;
use crate::pg::{connect, connect_state};
use crate::replicator::error::ServiceError;
use crate::replicator::source::publication::add_again;
use crate::replicator::source::synchronous::refuse_synchronous;
use crate::snapshot::resolve_family;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Each check opens a connection to the source.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Watches the publication until the session ends.
///
/// # Errors
/// If a table was removed. The break is recorded first: what changed in between was never sent, so a new generation
/// begins even if the table is added again by hand.
pub(crate) async fn watch_publication(
    config: &Config,
    publication: &str,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let (source, tables) = (&config.source, config.users.tables());
    let mut has_other_tables = false;
    loop {
        tokio::select! {
            () = sleep(CHECK_INTERVAL) => {}
            () = stop.cancelled() => return Ok(()),
        }
        // The stream reports a source that cannot be reached.
        let Ok(client) = connect(&source.url).await else { continue };
        // The session ends with the server's error; one that cannot be read is not a conflict.
        if let Err(error @ ServiceError::Unready { .. }) = refuse_synchronous(&client).await {
            return Err(error);
        }
        if !has_other_tables && let Ok(Some(current)) = resolve_family(&client, &config.families).await {
            has_other_tables = current.rules != config.users;
            if has_other_tables {
                let tables = current.rules.tables();
                tracing::error!(
                    found = current.found,
                    ?tables,
                    "auth store has new tables and may no longer change the old ones: \
                     publish them (`users-sync setup` prints the SQL) and restart"
                );
            }
        }
        for table in &tables {
            if matches!(table_in_publication(&client, &source.publication, table).await, Ok(false)) {
                let state = connect_state(&config.state_url).await?;
                let (publication, table) = (source.publication.clone(), (*table).clone());
                add_again(&client, &state, config, &table).await?;
                return Err(ServiceError::NotPublished { publication, table });
            }
        }
        // A table may have been removed and added again between two checks.
        match read_version(&client, &source.publication, &tables).await {
            Ok(Some(version)) if version.rows != publication => return Err(ServiceError::Republished),
            _ => {}
        }
    }
}
