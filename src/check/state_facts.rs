//! Reads the facts about the state's database.

use super::deadline::within;
use crate::config::Config;
use crate::state::{Snapshot, StateStore};
use tokio_postgres::{Client, Error};

#[derive(Clone, Debug)]
pub(super) struct StateFacts {
    pub(super) role: String,
    pub(super) database: String,
    pub(super) may_create: bool,
    /// Whether tables can be created in the schema; `None` if it does not exist.
    pub(super) schema: Option<bool>,
    /// Whether the tables are writable; `None` if they do not exist.
    pub(super) tables: Option<bool>,
    pub(super) is_read_only: bool,
}

const STATE: &str = "
    WITH s AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'users_sync'),
         t AS (SELECT c.oid FROM pg_catalog.pg_class c JOIN s ON c.relnamespace = s.oid
               WHERE c.relname IN ('source', 'tenant') AND c.relkind = 'r')
    SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), 'CREATE'),
           (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') FROM s),
           (SELECT bool_and(has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                            AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
                   AND (SELECT has_schema_privilege(oid, 'USAGE') FROM s) FROM t HAVING count(*) = 2),
           pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool";

pub(super) async fn gather(client: &Client) -> Result<StateFacts, Error> {
    let row = client.query_typed_one(STATE, &[]).await?;
    Ok(StateFacts {
        role: row.try_get(0)?,
        database: row.try_get(1)?,
        may_create: row.try_get(2)?,
        schema: row.try_get(3)?,
        tables: row.try_get(4)?,
        is_read_only: row.try_get(5)?,
    })
}

/// The recorded state; `None` if it cannot be read, which another finding reports.
pub(crate) async fn read_state(config: &Config) -> Option<Snapshot> {
    let client = crate::pg::connect_state(&config.state_url).await.ok()?;
    within(StateStore::read(&client, &config.source.slot)).await?.ok()
}
