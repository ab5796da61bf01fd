//! Reads the facts about a target.

use crate::apply::{Checkpoint, TableColumn, read_checkpoint, statement};
use crate::pg::Statements;
use tokio_postgres::Error;

#[derive(Clone, Debug)]
pub(super) struct TargetFacts {
    pub(super) role: String,
    pub(super) database: String,
    pub(super) is_read_only: bool,
    pub(super) may_create: bool,
    /// A merge stages its rows in a temporary table.
    pub(super) may_make_temporary: bool,
    pub(super) users: TableRights,
    pub(super) checkpoint_table: TableRights,
    /// The columns of `users_sync`; `None` if the table is not usable.
    pub(super) columns: Option<Vec<TableColumn>>,
    /// Row security applies to our role.
    pub(super) row_security: bool,
    /// Whether `users_sync` has rows; `None` if it cannot be read.
    pub(super) has_rows: Option<bool>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// False if a checkpoint may exist that cannot be read.
    pub(super) checkpoint_known: bool,
}

/// The role's privileges on a table.
#[derive(Clone, Debug, Default)]
pub(super) struct TableRights {
    /// `None` if the schema does not exist.
    pub(super) schema: Option<SchemaRights>,
    pub(super) exists: bool,
    /// Those of SELECT, INSERT, UPDATE and DELETE that are not granted.
    pub(super) missing: Vec<String>,
}

/// The role's privileges on a schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchemaRights {
    pub(super) usage: bool,
    pub(super) create: bool,
}

const SERVER: &str = "
    SELECT current_user::text, current_database()::text,
           pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool,
           has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP')";

/// Reads the catalog instead of casting to regclass, which fails without USAGE on the schema.
const RIGHTS: &str = "
    SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'), c.oid IS NOT NULL,
           array(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                 WHERE c.oid IS NOT NULL AND NOT has_table_privilege(c.oid, p)),
           coalesce(row_security_active(c.oid), false)
    FROM pg_catalog.pg_namespace n
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2
    WHERE n.nspname = $1";

pub(super) async fn gather(client: &impl Statements) -> Result<TargetFacts, Error> {
    let row = client.query_typed_one(SERVER, &[]).await?;
    let RightsRow { rights: users, row_security } = read_rights(client, "neon_auth", "users_sync").await?;
    let RightsRow { rights: checkpoint_table, .. } = read_rights(client, "users_sync", "checkpoint").await?;
    let usable = |table: &TableRights| table.exists && table.schema.is_some_and(|schema| schema.usage);
    let readable = |table: &TableRights| usable(table) && !table.missing.iter().any(|right| right == "SELECT");
    let mut columns = None;
    if usable(&users) {
        let rows = client.query_typed(statement::COLUMNS_OF_USERS, &[]).await?;
        columns = Some(rows.iter().map(TableColumn::read).collect::<Result<_, _>>()?);
    }
    let mut has_rows = None;
    if readable(&users) {
        let sql = "SELECT EXISTS (SELECT FROM neon_auth.users_sync)";
        has_rows = Some(client.query_typed_one(sql, &[]).await?.try_get(0)?);
    }
    let checkpoint = if readable(&checkpoint_table) { read_checkpoint(client).await? } else { None };
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

/// A row of `RIGHTS`.
#[derive(Default)]
struct RightsRow {
    rights: TableRights,
    /// Row security hides rows of the table from the role.
    row_security: bool,
}

async fn read_rights(client: &impl Statements, schema: &str, table: &str) -> Result<RightsRow, Error> {
    use tokio_postgres::types::Type;
    let names = [(&schema as _, Type::NAME), (&table as _, Type::NAME)];
    let Some(row) = client.query_typed_opt(RIGHTS, &names).await? else { return Ok(Default::default()) };
    let schema = Some(SchemaRights { usage: row.try_get(0)?, create: row.try_get(1)? });
    let rights = TableRights { schema, exists: row.try_get(2)?, missing: row.try_get(3)? };
    Ok(RightsRow { rights, row_security: row.try_get(4)? })
}
