//! Describes the source's table from the catalog, and sets up sessions that read the source.

use crate::model::{Column, Oid, Relation, ReplicaIdentity, TableName};
use crate::pg::reading_statements;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

/// Prepares a connection for reading the source. Where row security applies, an error replaces an empty result.
pub(crate) async fn source_session(client: &Client) -> Result<(), Error> {
    client.batch_execute(&format!("{}; SET row_security = off", reading_statements())).await
}

/// The table's published columns (all except generated ones), in the order of pgoutput; `None` if there is no
/// such table.
pub(crate) async fn read_relation(client: &Client, table: &TableName) -> Result<Option<Relation>, Error> {
    let found = client
        .query_opt(
            "SELECT c.oid, c.relreplident::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[&table.schema, &table.name],
        )
        .await?;
    let Some(found) = found else { return Ok(None) };
    let oid: Oid = found.try_get(0)?;
    let replica_identity = match found.try_get(1)? {
        "d" => ReplicaIdentity::Default,
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index,
        _ => ReplicaIdentity::Nothing,
    };
    let columns = client
        .query(
            "SELECT a.attname::text, a.atttypid, coalesce($2 = 'f' OR a.attnum = ANY(i.indkey), false) \
             FROM pg_catalog.pg_attribute a \
             LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid \
               AND CASE $2 WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END \
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
             ORDER BY a.attnum",
            &[&oid, &found.try_get::<_, &str>(1)?],
        )
        .await?;
    let column =
        |row: &Row| Ok(Column { name: row.try_get(0)?, type_oid: row.try_get(1)?, in_identity: row.try_get(2)? });
    let columns = columns.iter().map(column).collect::<Result<_, tokio_postgres::Error>>()?;
    Ok(Some(Relation { oid, table: table.clone(), replica_identity, columns }))
}

/// Names of a table's generated columns.
pub(crate) async fn generated_columns(client: &Client, table: Oid) -> Result<Vec<String>, Error> {
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated <> ''";
    let rows = client.query_typed(sql, &[(&table, Type::OID)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Describes a query's result as a version of `table` whose rows are always whole.
pub(crate) async fn describe_query(client: &Client, sql: &str, table: &Relation) -> Result<Relation, Error> {
    let statement = client.prepare(&format!("SELECT * FROM {}", query_item(sql))).await?;
    let columns = statement.columns().iter().map(|column| Column {
        name: column.name().to_owned(),
        type_oid: column.type_().oid(),
        in_identity: true,
    });
    Ok(Relation {
        oid: table.oid,
        table: table.table.clone(),
        replica_identity: ReplicaIdentity::Full,
        columns: columns.collect(),
    })
}

/// A query as an item of FROM, on lines of its own: a comment at its end must not continue.
pub(crate) fn query_item(sql: &str) -> String {
    format!("(\n{sql}\n) AS users_sync_query")
}
