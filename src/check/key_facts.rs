//! Reads which tenants the source has users of, in bounded time.

use crate::config::Config;
use crate::map::{Rules, Value, tenant_expression};
use crate::model::TableName;
use crate::pg::{PgClient, connect, describe, quote_ident, quote_table};
use crate::replicator::source::mapping::{compile_current, resolve_layout};
use crate::snapshot::source_session;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// Rows whose keys are candidates for the intended one.
const SAMPLED_ROWS: usize = 100_000;
/// Keys that are kept.
const MAX_KEYS: usize = 10_000;
/// Time for each statement: reading a large table must not delay the other findings.
const TIMEOUT: &str = "SET statement_timeout = '5s'";

#[derive(Debug, Default)]
pub(super) struct KeyFacts {
    /// Keys of users, at most [`MAX_KEYS`] of them.
    pub(super) existing: BTreeSet<String>,
    /// The configured keys that no user has.
    pub(super) missing: BTreeSet<String>,
    /// Keys by the name that a table of tenants gives them, in lower case.
    pub(super) named: BTreeMap<String, NamedKey>,
}

#[derive(Debug)]
pub(super) struct NamedKey {
    pub(super) key: String,
    pub(super) table: TableName,
}

/// `None` if other findings say why nothing can be read, or if there is nothing to compare: no tenant column, or no user.
/// The inner error is a message.
pub(super) async fn gather(config: &Config) -> Option<Result<KeyFacts, String>> {
    let client = connect(&config.source.url).await.ok()?;
    source_session(&client).await.ok()?;
    client.batch_execute(TIMEOUT).await.ok()?;
    let config = resolve_layout(&client, config).await.ok()?;
    let mapped = compile_current(&client, &config.users).await.ok()?;
    let key = tenant_expression(&config.users, &mapped.relation)?;
    let facts = read(&client, &config, &key, &mapped.from).await;
    client.close().await;
    facts.map_err(|error| describe(&error)).transpose()
}

async fn read(client: &PgClient, config: &Config, key: &str, from: &str) -> Result<Option<KeyFacts>, Error> {
    let mut facts = KeyFacts::default();
    let sample = format!(
        "SELECT DISTINCT k FROM (SELECT {key} AS k FROM {from} LIMIT {SAMPLED_ROWS}) s WHERE k <> '' LIMIT {MAX_KEYS}"
    );
    for row in client.query_typed(&sample, &[]).await? {
        facts.existing.insert(row.try_get(0)?);
    }
    if facts.existing.is_empty() {
        return Ok(None);
    }
    let configured = config.tenants.iter().map(|tenant| tenant.key.as_str());
    let unseen: Vec<&str> = configured.filter(|key| !facts.existing.contains(*key)).collect();
    if unseen.is_empty() {
        return Ok(None);
    }
    let lowered: Vec<String> = unseen.iter().map(|key| key.to_lowercase()).collect();
    let others =
        format!("SELECT DISTINCT k FROM (SELECT {key} AS k FROM {from}) s WHERE lower(k) = ANY($1) LIMIT {MAX_KEYS}");
    for row in client.query_typed(&others, &[(&lowered, Type::TEXT_ARRAY)]).await? {
        facts.existing.insert(row.try_get(0)?);
    }
    let missing = unseen.into_iter().filter(|key| !facts.existing.contains(*key));
    facts.missing = missing.map(str::to_owned).collect();
    if !facts.missing.is_empty() {
        facts.named = named(client, &config.users, &lowered).await?;
    }
    Ok(Some(facts))
}

/// Tables that name tenants: the one that the tenant column refers to, and `realm` or `realms` for a column `realm_id`.
const NAMING_TABLES: &str = "
    SELECT n.nspname::text, c.relname::text, k.attname::text, v.attname::text
    FROM pg_catalog.pg_class u JOIN pg_catalog.pg_namespace s ON s.oid = u.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = u.oid AND a.attname = $3::text::name
    JOIN pg_catalog.pg_class c ON c.relkind IN ('r', 'p') AND c.oid <> u.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute k ON k.attrelid = c.oid AND k.attnum > 0
    JOIN pg_catalog.pg_attribute v ON v.attrelid = c.oid AND v.attname IN ('name', 'slug')
    JOIN pg_catalog.pg_type t ON t.oid = v.atttypid AND t.typcategory = 'S'
    WHERE s.nspname = $1::text::name AND u.relname = $2::text::name
      AND (EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.conrelid = u.oid
                     AND f.confrelid = c.oid AND f.conkey = ARRAY[a.attnum] AND f.confkey = ARRAY[k.attnum])
           OR n.oid = s.oid AND k.attname = 'id' AND c.relname IN ($4::text::name, ($4::text || 's')::name))
      AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, k.attnum, 'SELECT')
      AND has_column_privilege(c.oid, v.attnum, 'SELECT') AND NOT row_security_active(c.oid)
    ORDER BY 1, 2, 3, 4 LIMIT 4";

async fn named(client: &Client, rules: &Rules, lowered: &Vec<String>) -> Result<BTreeMap<String, NamedKey>, Error> {
    let mut named = BTreeMap::new();
    let Some(Value::Column(column)) = &rules.tenant else { return Ok(named) };
    let stem = column.strip_suffix("_id").unwrap_or(column);
    let TableName { schema, name } = &rules.table;
    let parameters =
        [(schema as _, Type::TEXT), (name as _, Type::TEXT), (column as _, Type::TEXT), (&stem as _, Type::TEXT)];
    for row in client.query_typed(NAMING_TABLES, &parameters).await? {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let (key, name) = (quote_ident(row.try_get(2)?), quote_ident(row.try_get(3)?));
        let sql = format!(
            "SELECT lower({name}::text), {key}::text FROM {} WHERE lower({name}::text) = ANY($1) AND {key} IS NOT NULL \
             LIMIT {MAX_KEYS}",
            quote_table(&table)
        );
        for row in client.query_typed(&sql, &[(lowered, Type::TEXT_ARRAY)]).await? {
            let key = NamedKey { key: row.try_get(1)?, table: table.clone() };
            named.entry(row.try_get(0)?).or_insert(key);
        }
    }
    Ok(named)
}
