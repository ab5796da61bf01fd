//! What `setup` made, recorded by the role of the state for `teardown`.

use super::error::StateError;
use super::store::StateStore;
use crate::model::{Made, MadeKind};
use crate::pg::create_schema;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};

const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.made (
  slot text NOT NULL,
  kind text NOT NULL,
  schema text NOT NULL,
  name text NOT NULL,
  previous text NOT NULL,
  PRIMARY KEY (slot, kind, schema, name)
)";

impl StateStore {
    /// Records what was made for a slot. What is recorded already stays: its `previous` is the older one.
    pub(crate) async fn record_made(client: &Client, slot: &str, made: &[Made]) -> Result<(), StateError> {
        create_schema(client, "users_sync").await?;
        client.batch_execute(CREATE).await?;
        let sql = "INSERT INTO users_sync.made VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        for Made { kind, schema, name, previous } in made {
            let parameters: [&(dyn ToSql + Sync); 5] = [&slot, &kind.as_str(), schema, name, previous];
            client.execute(sql, &parameters).await?;
        }
        Ok(())
    }

    /// Reads what was recorded for a slot, without the kinds of a newer version.
    pub(crate) async fn read_made(client: &Client, slot: &str) -> Result<Vec<Made>, StateError> {
        if !has_made(client).await? {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT kind, schema, name, previous FROM users_sync.made WHERE slot = $1 ORDER BY kind, schema, name";
        let read = |row: &Row| {
            let Some(kind) = MadeKind::parse(row.try_get(0)?) else { return Ok(None) };
            Ok(Some(Made { kind, schema: row.try_get(1)?, name: row.try_get(2)?, previous: row.try_get(3)? }))
        };
        let rows = client.query(sql, &[&slot]).await?;
        Ok(rows.iter().filter_map(|row| read(row).transpose()).collect::<Result<_, Error>>()?)
    }

    /// Forgets what was recorded for a slot, except what stays. Drops the table with the last row.
    pub(super) async fn forget_made(client: &Client, slot: &str, stays: &[Made]) -> Result<(), StateError> {
        if has_made(client).await? {
            let sql = "DELETE FROM users_sync.made m WHERE slot = $1 AND NOT EXISTS ( \
                         SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS stays(kind, schema, name) \
                         WHERE stays.kind = m.kind AND stays.schema = m.schema AND stays.name = m.name)";
            let column = |of: fn(&Made) -> &str| stays.iter().map(of).collect::<Vec<&str>>();
            let (kinds, schemas) = (column(|made| made.kind.as_str()), column(|made| &made.schema));
            client.execute(sql, &[&slot, &kinds, &schemas, &column(|made| &made.name)]).await?;
            if client.query_opt("SELECT FROM users_sync.made LIMIT 1", &[]).await?.is_none() {
                client.batch_execute("DROP TABLE users_sync.made").await?;
            }
        }
        Ok(())
    }
}

/// Whether the table exists. Reads the catalog: a cast to regclass fails without USAGE on the schema.
async fn has_made(client: &Client) -> Result<bool, StateError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'users_sync' AND c.relname = 'made')";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}
