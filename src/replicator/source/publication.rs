//! The publication: made where it is missing, and kept whole.

use crate::capture::publication;
use crate::config::{Config, Publish};
use crate::model::{Generation, TableName};
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::published;
use crate::state::StateStore;

/// The publication comes before the slot: a slot knows only what was published when the change was made.
/// Whether it had to be made.
pub(crate) async fn publish(client: &PgClient, state: &PgClient, config: &Config) -> Result<bool, ServiceError> {
    require_column_lists(client, config.source.publish).await?;
    let (name, tables) = (&config.source.publication, config.users.tables());
    let missing = publication::read_publication(client, name).await?.is_none();
    if missing {
        publication::create_publication(client, name, &published(client, config).await?).await?;
        tracing::info!(publication = name, ?tables, "created");
    }
    for table in tables {
        if !publication::table_in_publication(client, name, table).await? {
            let known = StateStore::read(state, &config.source.slot).await?;
            // At the first start nobody has taken it out: it was never in.
            let was_in = known.source.is_some_and(|source| source.generation > Generation(0));
            if !was_in || !put_back(client, state, config, table).await? {
                return Err(ServiceError::NotPublished { publication: name.clone(), table: table.clone() });
            }
        }
    }
    Ok(missing)
}

/// An error where `source.publish` asks for what the server does not have yet.
pub(crate) async fn require_column_lists(client: &PgClient, publish: Publish) -> Result<(), ServiceError> {
    if publish == Publish::Rows || publication::has_column_lists(client).await? {
        return Ok(());
    }
    let (what, remedy) = (publication::NEEDS_COLUMN_LISTS, publication::WITHOUT_COLUMN_LISTS);
    Err(ServiceError::Unready { what: what.to_owned(), remedy: remedy.to_owned() })
}

/// Puts a table back that somebody has taken out, where that is ours to do; whether it is in again. What was changed until
/// then was never sent, and that is written down first: a new history begins.
pub(crate) async fn put_back(
    client: &PgClient,
    state: &PgClient,
    config: &Config,
    table: &TableName,
) -> Result<bool, ServiceError> {
    StateStore::break_history(state, &config.source.slot).await?;
    let added = async {
        let all = published(client, config).await?;
        for published in all.iter().filter(|published| published.table == *table) {
            publication::add_table(client, &config.source.publication, published).await?;
        }
        Ok::<(), ServiceError>(())
    };
    match added.await {
        Ok(()) => {
            tracing::warn!(%table, "somebody has taken the table out of the publication: it was put back");
            Ok(true)
        }
        Err(error) => {
            tracing::error!(%table, %error, "somebody has taken the table out of the publication: put it back");
            Ok(false)
        }
    }
}
