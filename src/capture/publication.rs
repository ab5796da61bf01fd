//! The publication: what of the source the slot may see. It has to be there before the slot.

use super::CaptureError;
use crate::model::TableName;
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
    /// Whether a partitioned table's changes come under its root's name.
    pub via_root: bool,
}

/// By what a publication that was altered and put back is told from one that nobody has touched: pgoutput leaves out what is
/// committed in between, and PostgreSQL does not say that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationVersion {
    /// Of one that was dropped and made anew it is another one. A slot that is older cannot be read with that.
    pub oid: u32,
    /// Its row in `pg_publication` and those of the tables in `pg_publication_rel`, each with the transaction that wrote it;
    /// and which tables these are.
    pub rows: String,
}

/// The version of a publication, and of these tables in it; `None` where there is none of that name.
pub async fn read_version(
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

/// Whether somebody has altered the publication between these two looks; of other tables nothing can be told.
pub fn was_altered(known: &str, now: &str) -> bool {
    match (known.split_once(" of "), now.split_once(" of ")) {
        (Some((rows, tables)), Some((rows_now, tables_now))) => tables == tables_now && rows != rows_now,
        // Nobody has looked before.
        _ => false,
    }
}

impl PublicationVersion {
    /// Whether these rows, as they were written down, are those of the same publication, altered or not. Nothing was written
    /// down where nobody has looked yet.
    pub fn was_recreated_since(&self, known: &str) -> bool {
        let oid = known.split(':').next().unwrap_or_default();
        !known.is_empty() && oid != self.oid.to_string()
    }
}

/// What the server says of a publication; `None` where there is none of that name.
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

/// A table as it is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which.
    pub table: TableName,
    /// These columns alone; empty for whole rows.
    pub columns: Vec<String>,
}

/// Where this says no, a list of columns would not even be understood.
pub const NEEDS_COLUMN_LISTS: &str = "source.publish: columns needs PostgreSQL 15 or later at the source";
/// What mends that.
pub const WITHOUT_COLUMN_LISTS: &str = "use source.publish: rows";

/// Whether a publication may list columns (since PostgreSQL 15).
pub async fn has_column_lists(client: &Client) -> Result<bool, CaptureError> {
    let sql = "SELECT current_setting('server_version_num')::int >= 150000";
    Ok(client.query_typed_one(sql, &[]).await?.try_get(0)?)
}

/// Makes a publication of these tables. Needs CREATE on the database and the tables' ownership.
pub async fn create_publication(client: &Client, name: &str, tables: &[Published]) -> Result<(), CaptureError> {
    Ok(client.batch_execute(&create_statement(name, tables)).await?)
}

/// Drops a publication, where there is one of that name.
pub async fn drop_publication(client: &Client, name: &str) -> Result<(), CaptureError> {
    Ok(client.batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name))).await?)
}

/// Whether the table is published, by name, by schema, or with all others.
pub async fn table_in_publication(client: &Client, name: &str, table: &TableName) -> Result<bool, CaptureError> {
    const QUERY: &str = "
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_publication_tables
            WHERE pubname = $1::text::name AND schemaname = $2::text::name AND tablename = $3::text::name)";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&name, Type::TEXT), (&table.schema, Type::TEXT), (&table.name, Type::TEXT)];
    Ok(client.query_typed_one(QUERY, &parameters).await?.try_get(0)?)
}

/// Puts a table back that somebody has taken out. Needs the ownership of both.
pub async fn add_table(client: &Client, name: &str, table: &Published) -> Result<(), CaptureError> {
    let statement = format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), listed(table));
    Ok(client.batch_execute(&statement).await?)
}

/// The SQL that adds a table to a publication.
pub fn add_statement(name: &str, table: &TableName) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}", quote_ident(name), quote_table(table))
}

/// The SQL that makes a publication of these tables.
pub fn create_statement(name: &str, tables: &[Published]) -> String {
    let tables: Vec<_> = tables.iter().map(listed).collect();
    // A partitioned table's changes come under its own name. ONLY would leave out what is below a partitioned or inherited table.
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        quote_ident(name),
        tables.join(", ")
    )
}

/// A table as FOR TABLE and ADD TABLE name it.
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
            create_statement("p", &[published("auth", "users", &[]), published("Odd.Schema", "we\"ird", &["a", "B"])]),
            "CREATE PUBLICATION \"p\" FOR TABLE \"auth\".\"users\", \"Odd.Schema\".\"we\"\"ird\" (\"a\", \"B\") \
             WITH (publish_via_partition_root = true)"
        );
    }
}
