//! Reads what a role finds in a target: its rights, what has the names of our tables, and the columns of `users_sync`.

use super::shape::TableColumn;
use super::statement;
use crate::pg::Statements;
use tokio_postgres::Error;
use tokio_postgres::types::Type;

#[derive(Clone, Debug)]
pub(crate) struct TargetFacts {
    pub(crate) role: String,
    pub(crate) database: String,
    /// Why the database takes no writes from the role; `None` if it does.
    pub(crate) read_only: Option<ReadOnly>,
    pub(crate) may_create: bool,
    /// A merge stages its rows in a temporary table.
    pub(crate) may_make_temporary: bool,
    pub(crate) users: Place,
    pub(crate) checkpoint: Place,
    pub(crate) rejected: Place,
    /// The columns of `users_sync`; `None` if it is no table, or cannot be used.
    pub(crate) columns: Option<Vec<TableColumn>>,
    /// Row security applies to our role.
    pub(crate) row_security: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadOnly {
    Standby,
    /// `default_transaction_read_only` is on. `source` is that of `pg_settings`.
    Setting {
        source: String,
    },
}

/// The name of one of our tables, and what has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) schema_name: &'static str,
    pub(crate) name: &'static str,
    /// `None` if the schema does not exist.
    pub(crate) schema: Option<SchemaRights>,
    /// `relkind`, or `type` and `typtype`; `None` if nothing has the name.
    pub(crate) kind: Option<String>,
    /// Those of SELECT, INSERT, UPDATE and DELETE that are not granted.
    pub(crate) missing: Vec<String>,
    /// A name in the schema that nothing has.
    pub(crate) free_name: String,
}

/// The role's privileges on a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SchemaRights {
    pub(crate) usage: bool,
    pub(crate) create: bool,
}

impl Place {
    /// Whether it is a table that the role can refer to.
    pub(crate) fn is_usable(&self) -> bool {
        self.kind.as_deref() == Some("r") && self.schema.is_some_and(|schema| schema.usage)
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.is_usable() && !self.missing.iter().any(|right| right == "SELECT")
    }
}

const SERVER: &str = "
    SELECT current_user::text, current_database()::text, pg_is_in_recovery(),
           (SELECT source FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'),
           has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP')";

/// Reads the catalog instead of casting to regclass, which fails without USAGE on the schema. The last column is the first of
/// some names that is free.
const PLACE: &str = "
    SELECT has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'),
           coalesce(c.relkind::text, 'type ' || t.typtype::text),
           array(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(c.oid, p)),
           coalesce(c.relkind IN ('r', 'p') AND row_security_active(c.oid), false),
           (SELECT f.name FROM (SELECT i, $2::text || '_old' || CASE i WHEN 1 THEN '' ELSE i::text END AS name
              FROM generate_series(1, 100) i) f
            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class o WHERE o.relnamespace = n.oid AND o.relname = f.name::name)
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_type o WHERE o.typnamespace = n.oid AND o.typname = f.name::name)
            ORDER BY f.i LIMIT 1)
    FROM pg_catalog.pg_namespace n
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = $2::text::name
    LEFT JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = $2::text::name
    WHERE n.nspname = $1::text::name";

/// Reads the facts.
///
/// # Errors
/// A statement failed.
pub(crate) async fn inspect(client: &impl Statements) -> Result<TargetFacts, Error> {
    let row = client.query_typed_one(SERVER, &[]).await?;
    let (is_standby, read_only_by): (bool, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    let (users, row_security) = read_place(client, "neon_auth", "users_sync").await?;
    let (checkpoint, _) = read_place(client, "users_sync", "checkpoint").await?;
    let (rejected, _) = read_place(client, "users_sync", "rejected").await?;
    let mut columns = None;
    if users.is_usable() {
        let rows = client.query_typed(statement::COLUMNS_OF_USERS, &[]).await?;
        columns = Some(rows.iter().map(TableColumn::read).collect::<Result<_, _>>()?);
    }
    Ok(TargetFacts {
        role: row.try_get(0)?,
        database: row.try_get(1)?,
        read_only: match (is_standby, read_only_by) {
            (true, _) => Some(ReadOnly::Standby),
            (false, source) => source.map(|source| ReadOnly::Setting { source }),
        },
        may_create: row.try_get(4)?,
        may_make_temporary: row.try_get(5)?,
        users,
        checkpoint,
        rejected,
        columns,
        row_security,
    })
}

/// What has a name, and whether row security hides its rows from the role.
async fn read_place(
    client: &impl Statements,
    schema_name: &'static str,
    name: &'static str,
) -> Result<(Place, bool), Error> {
    let names = [(&schema_name as _, Type::TEXT), (&name as _, Type::TEXT)];
    let Some(row) = client.query_typed_opt(PLACE, &names).await? else {
        return Ok((Place { schema_name, name, ..Place::default() }, false));
    };
    let schema = Some(SchemaRights { usage: row.try_get(0)?, create: row.try_get(1)? });
    let free_name: Option<String> = row.try_get(5)?;
    let place = Place {
        schema_name,
        name,
        schema,
        kind: row.try_get(2)?,
        missing: row.try_get(3)?,
        free_name: free_name.unwrap_or_default(),
    };
    Ok((place, row.try_get(4)?))
}
