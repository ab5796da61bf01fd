//! The publication decides what the slot sends. It must exist before the slot is created.

use super::CaptureError;
use crate::model::{Oid, TableName};
use crate::pg::{quote_ident, quote_table};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// A row of `pg_publication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// Whether INSERTs are published.
    pub inserts: bool,
    /// Whether UPDATEs are published.
    pub updates: bool,
    /// Whether DELETEs are published.
    pub deletes: bool,
    /// Whether TRUNCATEs are published.
    pub truncates: bool,
    /// Whether a partition's changes carry the root's name.
    pub via_root: bool,
}

/// Identifies a publication's version, to detect one that was altered and restored. pgoutput leaves out what
/// is committed in between without a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicationVersion {
    /// Changes if the publication is dropped and created again. An older slot cannot use the new one.
    pub(crate) oid: Oid,
    /// The rows in `pg_publication` and `pg_publication_rel`, each with the transaction that wrote it, and
    /// the names of the tables.
    pub(crate) rows: String,
}

/// Reads the version of a publication and of these tables in it; `None` if it does not exist.
pub(crate) async fn read_version(
    client: &Client,
    name: &str,
    tables: &[&TableName],
) -> Result<Option<PublicationVersion>, CaptureError> {
    const QUERY: &str = "
        SELECT p.oid, format('%s:%s', p.oid, p.xmin) || coalesce((
          SELECT string_agg(format(' %s:%s', r.oid, r.xmin), '' ORDER BY r.oid)
          FROM pg_catalog.pg_publication_rel r
          JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN unnest($2::text[], $3::text[]) AS t(schema, name) ON t.schema = n.nspname AND t.name = c.relname
          WHERE r.prpubid = p.oid), '')
        FROM pg_catalog.pg_publication p WHERE p.pubname = $1::text::name";
    let schemas: Vec<&str> = tables.iter().map(|table| &*table.schema).collect();
    let names: Vec<&str> = tables.iter().map(|table| &*table.name).collect();
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&name, Type::TEXT), (&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)];
    let row = client.query_typed_opt(QUERY, &parameters).await?;
    let list = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let version = |row: tokio_postgres::Row| {
        let rows: &str = row.try_get(1)?;
        Ok(PublicationVersion { oid: row.try_get(0)?, rows: format!("{rows} of {list}") })
    };
    row.map(version).transpose()
}

/// Whether the publication was altered between two versions. Versions of different tables cannot be compared.
pub(crate) fn was_altered(known: &str, now: &str) -> bool {
    match (known.split_once(" of "), now.split_once(" of ")) {
        (Some((rows, tables)), Some((rows_now, tables_now))) => tables == tables_now && rows != rows_now,
        // There is no earlier version.
        _ => false,
    }
}

impl PublicationVersion {
    /// Whether `known`, the `rows` of an earlier version, belongs to another publication of the same name. An
    /// empty text means that there is no earlier version.
    pub(crate) fn was_recreated_since(&self, known: &str) -> bool {
        let oid = known.split(':').next().unwrap_or_default();
        !known.is_empty() && oid != self.oid.to_string()
    }
}

/// Reads a publication's settings; `None` if it does not exist.
pub async fn read_publication(client: &Client, name: &str) -> Result<Option<Publication>, CaptureError> {
    const QUERY: &str = "
        SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot
        FROM pg_catalog.pg_publication WHERE pubname = $1::text::name";
    let Some(row) = client.query_typed_opt(QUERY, &[(&name, Type::TEXT)]).await? else { return Ok(None) };
    Ok(Some(Publication {
        all_tables: row.try_get(0)?,
        inserts: row.try_get(1)?,
        updates: row.try_get(2)?,
        deletes: row.try_get(3)?,
        truncates: row.try_get(4)?,
        via_root: row.try_get(5)?,
    }))
}

/// A table to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The table.
    pub table: TableName,
    /// The published columns; empty for all.
    pub columns: Vec<String>,
}

/// The problem where a column list would be a syntax error.
pub(crate) const NEEDS_COLUMN_LISTS: &str = "source.publish: columns needs PostgreSQL 15 or later at the source";
/// Its remedy.
pub(crate) const COLUMN_LISTS_REMEDY: &str = "use source.publish: rows";

/// Whether the server supports column lists (since PostgreSQL 15).
pub(crate) async fn has_column_lists(client: &Client) -> Result<bool, CaptureError> {
    let sql = "SELECT current_setting('server_version_num')::int >= 150000";
    Ok(client.query_typed_one(sql, &[]).await?.try_get(0)?)
}

/// Creates a publication of these tables. Needs CREATE on the database and ownership of the tables.
pub async fn create_publication(client: &Client, name: &str, tables: &[Published]) -> Result<(), CaptureError> {
    Ok(client.batch_execute(&create_statement(name, tables, false)).await?)
}

/// The SQL that drops a publication if it exists.
pub(crate) fn drop_statement(name: &str) -> String {
    format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name))
}

/// Whether the table is published: by name, by schema, or with all tables.
pub async fn table_in_publication(client: &Client, name: &str, table: &TableName) -> Result<bool, CaptureError> {
    const QUERY: &str = "
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_publication_tables
            WHERE pubname = $1::text::name AND schemaname = $2::text::name AND tablename = $3::text::name)";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&name, Type::TEXT), (&table.schema, Type::TEXT), (&table.name, Type::TEXT)];
    Ok(client.query_typed_one(QUERY, &parameters).await?.try_get(0)?)
}

/// Adds a table that was removed from the publication. Needs ownership of both.
pub(crate) async fn add_table(client: &Client, name: &str, table: &Published) -> Result<(), CaptureError> {
    let statement = format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), listed(table));
    Ok(client.batch_execute(&statement).await?)
}

/// The SQL that adds a table to a publication.
pub(crate) fn add_statement(name: &str, table: &TableName) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), quote_table(table))
}

/// The SQL that creates a publication of these tables. `generated`: with their stored generated columns, which PostgreSQL
/// 18 and later can publish.
pub(crate) fn create_statement(name: &str, tables: &[Published], generated: bool) -> String {
    let tables: Vec<_> = tables.iter().map(listed).collect();
    // The root's name covers a partitioned table's changes. ONLY would leave out partitions and inheritance
    // children.
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true{})",
        quote_ident(name),
        tables.join(", "),
        if generated { ", publish_generated_columns = 'stored'" } else { "" }
    )
}

/// A table in the syntax of FOR TABLE and ADD TABLE.
fn listed(published: &Published) -> String {
    let columns: Vec<_> = published.columns.iter().map(|column| quote_ident(column)).collect();
    let list = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    format!("{}{list}", quote_table(&published.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_literally() {
        let published = |schema: &str, name: &str, columns: &[&str]| Published {
            table: TableName { schema: schema.to_owned(), name: name.to_owned() },
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(
            create_statement(
                "p",
                &[published("auth", "users", &[]), published("Odd.Schema", "we\"ird", &["a", "B"])],
                false
            ),
            "CREATE PUBLICATION \"p\" FOR TABLE \"auth\".\"users\", \"Odd.Schema\".\"we\"\"ird\" (\"a\", \"B\") \
             WITH (publish_via_partition_root = true)"
        );
    }
}
