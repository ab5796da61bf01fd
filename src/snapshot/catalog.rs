//! Describes the source's table from the catalog, and sets up sessions that read the source.

use crate::map::{Query, query_item};
use crate::model::{Column, LeafIdentity, Oid, Relation, ReplicaIdentity, TableName};
use crate::pg::reading_statements;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

/// A source in SQL_ASCII may hold any bytes: the server must not check them, because one row would end the COPY.
const ANY_BYTES: &str = "SELECT set_config('client_encoding', 'SQL_ASCII', false) \
    WHERE current_setting('server_encoding') = 'SQL_ASCII'";

/// Prepares a connection for reading the source. Where row security applies, an error replaces an empty result.
pub(crate) async fn source_session(client: &Client) -> Result<(), Error> {
    client.batch_execute(&format!("{}; SET row_security = off; {ANY_BYTES}", reading_statements())).await
}

/// The tables that hold the rows of `$1`: its partitions without those that are partitioned themselves, or the table. Reads
/// `pg_inherits` without a lock on any of them.
const ROW_HOLDERS: &str = "\
WITH RECURSIVE tree AS (
  SELECT $1::oid AS oid
  UNION
  SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
SELECT c.oid, n.nspname::text, c.relname::text, c.relreplident::text,
       array(SELECT a.attname::text FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
               AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
FROM tree JOIN pg_catalog.pg_class c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind <> 'p' OR c.oid = $1
ORDER BY c.oid = $1 DESC, c.oid";

/// The table's published columns (all except generated ones), in the order of pgoutput; `None` if there is no
/// such table.
pub(crate) async fn read_relation(client: &Client, table: &TableName) -> Result<Option<Relation>, Error> {
    let found = client
        .query_opt(
            "SELECT c.oid, c.relkind = 'p' FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[&table.schema, &table.name],
        )
        .await?;
    let Some(found) = found else { return Ok(None) };
    let (oid, is_partitioned): (Oid, bool) = (found.try_get(0)?, found.try_get(1)?);
    let mut leaves = read_row_holders(client, oid).await?;
    if leaves.is_empty() {
        return Ok(None);
    }
    let own = leaves.remove(0);
    if !is_partitioned {
        leaves.clear();
    }
    let in_identity = |holder: &LeafIdentity, name: &String| {
        holder.replica_identity == ReplicaIdentity::Full || holder.columns.contains(name)
    };
    let columns = client
        .query(
            "SELECT a.attname::text, a.atttypid FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
             ORDER BY a.attnum",
            &[&oid],
        )
        .await?;
    let column = |row: &Row| {
        let name: String = row.try_get(0)?;
        let in_identity = match &leaves[..] {
            [] if !is_partitioned => in_identity(&own, &name),
            // A partitioned table holds no rows of its own: without partitions it has no old rows.
            leaves => leaves.iter().all(|leaf| in_identity(leaf, &name)),
        };
        Ok(Column { name, type_oid: row.try_get(1)?, in_identity })
    };
    let columns = columns.iter().map(column).collect::<Result<_, tokio_postgres::Error>>()?;
    // A partition with the whole row as its identity decides whether a column list is possible.
    let is_full = |leaf: &&LeafIdentity| leaf.replica_identity == ReplicaIdentity::Full;
    let replica_identity = leaves.iter().find(is_full).or(leaves.first()).unwrap_or(&own).replica_identity;
    Ok(Some(Relation { oid, table: table.clone(), replica_identity, columns, leaves }))
}

/// The partitions of a table, for a relation that the stream sent; empty for a table that is not partitioned.
pub(crate) async fn read_leaves(client: &Client, table: Oid) -> Result<Vec<LeafIdentity>, Error> {
    let mut holders = read_row_holders(client, table).await?;
    holders.retain(|holder| holder.oid != table);
    Ok(holders)
}

/// The table itself first, then its partitions. Empty if there is no such table.
async fn read_row_holders(client: &Client, table: Oid) -> Result<Vec<LeafIdentity>, Error> {
    let holder = |row: &Row| {
        Ok(LeafIdentity {
            oid: row.try_get(0)?,
            table: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
            replica_identity: match row.try_get(3)? {
                "d" => ReplicaIdentity::Default,
                "f" => ReplicaIdentity::Full,
                "i" => ReplicaIdentity::Index,
                _ => ReplicaIdentity::Nothing,
            },
            columns: row.try_get(4)?,
        })
    };
    client.query_typed(ROW_HOLDERS, &[(&table, Type::OID)]).await?.iter().map(holder).collect()
}

/// Names of a table's generated columns.
pub(crate) async fn generated_columns(client: &Client, table: Oid) -> Result<Vec<String>, Error> {
    let sql = "SELECT attname::text FROM pg_catalog.pg_attribute \
               WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated <> ''";
    let rows = client.query_typed(sql, &[(&table, Type::OID)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Describes a query's result as a version of `table` whose rows are always whole.
pub(crate) async fn describe_query(client: &Client, query: &Query, table: &Relation) -> Result<Relation, Error> {
    let statement = client.prepare(&format!("SELECT * FROM {}", query_item(query))).await?;
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
        leaves: Vec::new(),
    })
}
