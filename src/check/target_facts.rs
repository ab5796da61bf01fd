//! What a target says of itself: reads only.

use crate::apply::{Checkpoint, read_checkpoint, statement};
use tokio_postgres::{Client, Error};

/// A target as `check` sees it.
#[derive(Clone, Debug)]
pub(super) struct TargetFacts {
    pub(super) role: String,
    pub(super) database: String,
    pub(super) is_read_only: bool,
    pub(super) may_create: bool,
    /// A merge is staged in a temporary table.
    pub(super) may_make_temporary: bool,
    pub(super) users: TableRights,
    pub(super) checkpoint_table: TableRights,
    /// Name, type, generated; of `users_sync`, where it is there and can be used.
    pub(super) columns: Option<Vec<(String, String, bool)>>,
    /// Row security would hide rows of `users_sync`.
    pub(super) row_security: bool,
    /// Whether `users_sync` has rows, where that can be read.
    pub(super) has_rows: Option<bool>,
    /// The checkpoint, where there is one that can be read.
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether `checkpoint` is all there is to know.
    pub(super) checkpoint_known: bool,
}

/// What the role may do with a table.
#[derive(Clone, Debug, Default)]
pub(super) struct TableRights {
    /// The schema is there; whether its use is allowed, and making tables in it.
    pub(super) schema: Option<(bool, bool)>,
    pub(super) exists: bool,
    /// Of SELECT, INSERT, UPDATE, DELETE.
    pub(super) missing: Vec<String>,
}

const SERVER: &str = "
    SELECT current_user::text, current_database()::text,
           pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool,
           has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP')";

/// Not by regclass: that fails where the schema may not be used.
const RIGHTS: &str = "
    SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'), c.oid IS NOT NULL,
           array(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                 WHERE c.oid IS NOT NULL AND NOT has_table_privilege(c.oid, p)),
           coalesce(row_security_active(c.oid), false)
    FROM pg_catalog.pg_namespace n
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2
    WHERE n.nspname = $1";

pub(super) async fn gather(client: &Client) -> Result<TargetFacts, Error> {
    let row = client.query_typed_one(SERVER, &[]).await?;
    let (users, row_security) = rights(client, "neon_auth", "users_sync").await?;
    let (checkpoint_table, _) = rights(client, "users_sync", "checkpoint").await?;
    let usable = |table: &TableRights| table.exists && table.schema.is_some_and(|(usage, _)| usage);
    let readable = |table: &TableRights| usable(table) && !table.missing.iter().any(|right| right == "SELECT");
    let columns = match usable(&users) {
        true => {
            let rows = client.query_typed(statement::COLUMNS_OF_USERS, &[]).await?;
            Some(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
        }
        false => None,
    };
    let has_rows = match readable(&users) {
        true => {
            let sql = "SELECT EXISTS (SELECT FROM neon_auth.users_sync)";
            Some(client.query_typed_one(sql, &[]).await?.try_get(0)?)
        }
        false => None,
    };
    let checkpoint = match readable(&checkpoint_table) {
        true => read_checkpoint(client).await?,
        false => None,
    };
    Ok(TargetFacts {
        role: row.try_get(0)?,
        database: row.try_get(1)?,
        is_read_only: row.try_get(2)?,
        may_create: row.try_get(3)?,
        may_make_temporary: row.try_get(4)?,
        columns,
        row_security,
        has_rows,
        checkpoint,
        checkpoint_known: readable(&checkpoint_table) || !checkpoint_table.exists,
        users,
        checkpoint_table,
    })
}

async fn rights(client: &Client, schema: &str, table: &str) -> Result<(TableRights, bool), Error> {
    use tokio_postgres::types::Type;
    let names = [(&schema as _, Type::NAME), (&table as _, Type::NAME)];
    let Some(row) = client.query_typed_opt(RIGHTS, &names).await? else { return Ok(Default::default()) };
    let schema = Some((row.try_get(0)?, row.try_get(1)?));
    Ok((TableRights { schema, exists: row.try_get(2)?, missing: row.try_get(3)? }, row.try_get(4)?))
}
