//! Looks now and then whether the table is still published: DROP COLUMN ... CASCADE on a listed column, or somebody's
//! ALTER PUBLICATION, takes it out without a word, and the stream just falls silent.

use super::ServiceError;
use super::plans::published;
use super::shared::Shared;
use crate::capture::publication::{add_table, table_in_publication};
use crate::config::Config;
use crate::model::TableName;
use crate::pg::{PgClient, connect};
use crate::snapshot::settle;
use crate::state::StateStore;
use std::time::Duration;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(10);

/// Puts the table back where that is ours to do; else somebody is told how, and waited for.
async fn put_back(client: &PgClient, config: &Config, table: &TableName) {
    let added = async {
        let all = published(client, config).await?;
        for published in all.iter().filter(|published| published.table == *table) {
            add_table(client, &config.source.publication, published).await?;
        }
        Ok::<(), ServiceError>(())
    };
    match added.await {
        Ok(()) => tracing::warn!(%table, "somebody has taken the table out of the publication: it was put back"),
        Err(error) => tracing::error!(%table, %error, "somebody has taken the table out of the publication: put it back"),
    }
}

/// Ends with an error once the table is out. That is written down first, so that whoever puts it back gets a new
/// generation: what was changed in between was never sent.
pub(super) async fn membership(shared: &Shared) -> Result<(), ServiceError> {
    let (source, tables) = (&shared.config.source, shared.config.users.tables());
    let mut said = false;
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = shared.drain.cancelled() => return Ok(()),
        }
        // A source that is away is the stream's to notice.
        let Ok(client) = connect(&source.url).await else { continue };
        if !said && let Ok(Some(now)) = settle(&client, &shared.config.families).await {
            said = now.rules != shared.config.users;
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
                let state = connect(&shared.config.state_url).await?;
                StateStore::break_history(&state, &source.slot).await?;
                let (publication, table) = (source.publication.clone(), (*table).clone());
                put_back(&client, &shared.config, &table).await;
                return Err(ServiceError::NotPublished { publication, table });
            }
        }
    }
}
