//! Creates the publication if it is missing, and adds tables that were removed from it.

use crate::capture::publication::{self, Published};
use crate::config::{Config, Publish};
use crate::model::{Generation, TableName};
use crate::pg::{PgClient, SqlStateClass};
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::tables_to_publish;
use crate::state::StateStore;

/// Ensures that every table is published, and returns whether the publication was created. Called before the slot is
/// created: the slot sends only what was published at the time of the change.
pub(crate) async fn publish(client: &PgClient, state: &PgClient, config: &Config) -> Result<bool, ServiceError> {
    require_column_lists(client, config.source.publish).await?;
    let (name, tables) = (&config.source.publication, config.users.tables());
    let missing = publication::read_publication(client, name).await?.is_none();
    if missing {
        let published = tables_to_publish(client, config).await?;
        if let Err(error) = publication::create_publication(client, name, &published).await {
            return Err(match error.sqlstate().map(SqlStateClass::of) {
                Some(SqlStateClass::Privilege) => not_created(name, &published),
                _ => error.into(),
            });
        }
        tracing::info!(publication = name, ?tables, "publication created");
    }
    for table in tables {
        if !publication::table_in_publication(client, name, table).await? {
            let known = StateStore::read(state, &config.source.slot).await?;
            // Before the first session the table was never in it.
            let was_in = known.source.is_some_and(|source| source.generation > Generation(0));
            if !was_in || !add_again(client, state, config, table).await? {
                return Err(ServiceError::NotPublished { publication: name.clone(), table: table.clone() });
            }
        }
    }
    Ok(missing)
}

fn not_created(name: &str, published: &[Published]) -> ServiceError {
    let statement = publication::create_statement(name, published, false);
    ServiceError::NoPublication { publication: name.to_owned(), statement }
}

/// The error for a publication that was dropped. What changes until it is there again is never sent.
pub(crate) async fn dropped(client: &PgClient, config: &Config) -> ServiceError {
    match tables_to_publish(client, config).await {
        Ok(published) => not_created(&config.source.publication, &published),
        Err(error) => error,
    }
}

/// An error if `source.publish` needs column lists and the server's version has none.
pub(crate) async fn require_column_lists(client: &PgClient, publish: Publish) -> Result<(), ServiceError> {
    if publish == Publish::Rows || publication::has_column_lists(client).await? {
        return Ok(());
    }
    let (what, remedy) = (publication::NEEDS_COLUMN_LISTS, publication::COLUMN_LISTS_REMEDY);
    Err(ServiceError::Unready { what: what.to_owned(), remedy: remedy.to_owned() })
}

/// Adds a removed table to the publication again, and returns whether that was permitted. The break is recorded first:
/// what changed in between was never sent, so a new generation begins.
pub(crate) async fn add_again(
    client: &PgClient,
    state: &PgClient,
    config: &Config,
    table: &TableName,
) -> Result<bool, ServiceError> {
    StateStore::break_history(state, &config.source.slot).await?;
    let added = async {
        let all = tables_to_publish(client, config).await?;
        for published in all.iter().filter(|published| published.table == *table) {
            publication::add_table(client, &config.source.publication, published).await?;
        }
        Ok::<(), ServiceError>(())
    };
    match added.await {
        Ok(()) => {
            tracing::warn!(%table, "table was removed from the publication: added it again");
            Ok(true)
        }
        Err(error) => {
            tracing::error!(%table, %error, "table was removed from the publication: cannot add it again");
            Ok(false)
        }
    }
}
