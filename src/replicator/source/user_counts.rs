//! Counts the users of the source by tenant key, in one query with a time limit.

use crate::map::{Rules, Value, query_item, query_with_all_users, tenant_expression, users_condition};
use crate::model::{ExistingKeys, KeyCount, LISTED_KEYS, SHOWN_KEY, TableName, UnusedKey, UserCounts};
use crate::pg::{describe, quote_ident, quote_table};
use crate::replicator::error::ServiceError;
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// Configured keys without users that are reported.
const MAX_UNUSED: usize = 1_000;
/// Existing keys that are compared with a configured one.
const MAX_EXISTING: usize = 10_000;
/// Most characters of an existing key that is compared. A longer one is no key that is typed by hand.
const MAX_KEY: usize = 200;

/// Counts the users that belong to none of these keys. `client` is prepared to read the source, and outside a
/// transaction. The inner error says why the users were not counted.
///
/// # Errors
/// The mapping does not fit the source, or the connection was lost.
pub(crate) async fn count_users(
    client: &Client,
    rules: &Rules,
    keys: &[&str],
    limit: Duration,
) -> Result<Result<UserCounts, String>, ServiceError> {
    let begin = format!("BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = {}", limit.as_millis());
    client.batch_execute(&begin).await?;
    let counted = match statement(client, rules).await {
        Ok(statement) => read(client, rules, &statement, keys).await,
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            return Err(error);
        }
    };
    client.batch_execute("ROLLBACK").await?;
    Ok(counted.map_err(|error| why(&error, limit)))
}

fn why(error: &Error, limit: Duration) -> String {
    match error.code() {
        Some(code) if *code == SqlState::QUERY_CANCELED => {
            format!("counting them took longer than {} s", limit.as_secs())
        }
        _ => describe(error),
    }
}

/// A SELECT of each key `k` with its number of users `n`; null stands for those without a key. `$1` are the configured keys:
/// without a tenant column every user belongs to the only one.
pub(crate) fn users_by_key(rules: &Rules, mapped: &MappedRelation) -> String {
    let key = tenant_expression(rules, &mapped.relation);
    let key = key.map_or_else(|| "$1[1]".to_owned(), |key| format!("nullif({key} COLLATE \"C\", '')"));
    let from = query_with_all_users(rules).map_or_else(|| mapped.from.clone(), |query| query_item(&query));
    let condition = users_condition(rules, &mapped.relation);
    format!("SELECT k, count(*) AS n FROM (SELECT {key} AS k FROM {from} {condition}) s GROUP BY k")
}

/// The query. `$1` are the configured keys, `$2` the same in lower case.
async fn statement(client: &Client, rules: &Rules) -> Result<String, ServiceError> {
    let counted = users_by_key(rules, &compile_current(client, rules).await?);
    Ok(format!(
        "WITH counted AS ({counted}), \
           configured AS (SELECT k COLLATE \"C\" AS k FROM unnest($1) k), \
           unknown AS (SELECT k, n FROM counted WHERE k IS NOT NULL AND k NOT IN (SELECT k FROM configured)), \
           unused AS (SELECT k FROM configured WHERE k NOT IN (SELECT k FROM counted WHERE k IS NOT NULL) \
             AND EXISTS (SELECT FROM counted)) \
         SELECT (SELECT coalesce(sum(n), 0)::int8 FROM counted WHERE k IS NULL), \
           (SELECT coalesce(sum(n), 0)::int8 FROM unknown), (SELECT count(*) FROM unknown), \
           ARRAY(SELECT left(k, {SHOWN_KEY}) FROM unknown ORDER BY n DESC, k LIMIT {LISTED_KEYS}), \
           ARRAY(SELECT n FROM unknown ORDER BY n DESC, k LIMIT {LISTED_KEYS}), \
           ARRAY(SELECT k FROM unused LIMIT {MAX_UNUSED}), \
           ARRAY(SELECT k FROM counted WHERE k IS NOT NULL AND length(k) <= {MAX_KEY} AND EXISTS (SELECT FROM unused) \
             ORDER BY lower(k) = ANY($2) DESC, n DESC LIMIT {MAX_EXISTING})"
    ))
}

async fn read(client: &Client, rules: &Rules, statement: &str, keys: &[&str]) -> Result<UserCounts, Error> {
    let lowered: Vec<String> = keys.iter().map(|key| key.to_lowercase()).collect();
    let parameters = [(&keys as _, Type::TEXT_ARRAY), (&lowered as _, Type::TEXT_ARRAY)];
    let row = client.query_typed_one(statement, &parameters).await?;
    let number = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
    let (listed, counts): (Vec<String>, Vec<i64>) = (row.try_get(3)?, row.try_get(4)?);
    let listed = listed.into_iter().zip(counts).map(|(key, n)| KeyCount { key, users: n.unsigned_abs() }).collect();
    let unused: Vec<String> = row.try_get(5)?;
    let mut existing =
        ExistingKeys { keys: row.try_get::<_, Vec<String>>(6)?.into_iter().collect(), ..Default::default() };
    if !unused.is_empty() {
        let lowered: Vec<String> = unused.iter().map(|key| key.to_lowercase()).collect();
        existing.named = named(client, rules, &lowered).await?;
    }
    Ok(UserCounts {
        without_key: number(0)?,
        with_unknown_key: number(1)?,
        unknown_keys: number(2)?,
        listed,
        unused: UnusedKey::compare(unused, &existing),
    })
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

async fn named(
    client: &Client,
    rules: &Rules,
    lowered: &Vec<String>,
) -> Result<BTreeMap<String, (String, String)>, Error> {
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
             LIMIT {MAX_EXISTING}",
            quote_table(&table)
        );
        for row in client.query_typed(&sql, &[(lowered, Type::TEXT_ARRAY)]).await? {
            named.entry(row.try_get(0)?).or_insert((row.try_get(1)?, table.to_string()));
        }
    }
    Ok(named)
}
