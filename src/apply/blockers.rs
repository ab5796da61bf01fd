//! Finds the deleted users whose rows stand in the way of live ones, through the index that refused these.

use super::columns::Columns;
use super::isolation::{Isolation, RefusedRow};
use super::statement;
use super::target::TargetError;
use crate::model::{Change, User, UserId};
use crate::pg::Statements;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;

/// The keys of an index of `users_sync`: `$1` is its name. Each key has its expression, the operator that finds a conflict,
/// and its collation. The expressions name columns without a table (`pg_get_indexdef`).
const INDEX_KEYS: &str = "\
SELECT pg_get_indexdef(i.indexrelid, k.n, true), format('OPERATOR(%I.%s)', s.nspname, o.oprname), \
  CASE WHEN c.oid IS NOT NULL THEN format(' COLLATE %I.%I', cs.nspname, c.collname) ELSE '' END, \
  coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false), pg_get_expr(i.indpred, i.indrelid, true) \
FROM pg_catalog.pg_index i \
JOIN pg_catalog.pg_class r ON r.oid = i.indexrelid AND r.relname = $1 \
CROSS JOIN LATERAL generate_series(1, i.indnkeyatts::int) AS k (n) \
JOIN pg_catalog.pg_opclass p ON p.oid = i.indclass[k.n - 1] \
LEFT JOIN pg_catalog.pg_constraint x ON x.conindid = i.indexrelid AND x.conrelid = i.indrelid AND x.conexclop IS NOT NULL \
LEFT JOIN pg_catalog.pg_amop a ON a.amopfamily = p.opcfamily AND a.amoplefttype = p.opcintype \
  AND a.amoprighttype = p.opcintype AND a.amopstrategy = 3 AND a.amopmethod = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'btree') \
JOIN pg_catalog.pg_operator o ON o.oid = coalesce(x.conexclop[k.n], a.amopopr) \
JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace \
LEFT JOIN pg_catalog.pg_collation c ON c.oid = i.indcollation[k.n - 1] \
LEFT JOIN pg_catalog.pg_namespace cs ON cs.oid = c.collnamespace \
WHERE i.indrelid = 'neon_auth.users_sync'::regclass ORDER BY k.n";

/// A key of an index.
struct IndexKey {
    expression: String,
    operator: String,
    collation: String,
    /// Two nulls conflict.
    joins_nulls: bool,
}

impl<S: Statements> Isolation<'_, S> {
    /// The users that are marked as deleted in the target and conflict with the live users among `wanting`.
    pub(super) async fn find_blockers(&self, wanting: &[RefusedRow<'_>]) -> Result<BTreeSet<UserId>, TargetError> {
        let mut by_index: BTreeMap<&str, Vec<&User>> = BTreeMap::new();
        for row in wanting {
            if let (Change::Upsert(user), Some(index)) = (row.change, row.refusal.violated_index())
                && user.deleted_at.is_none()
            {
                by_index.entry(index).or_default().push(user);
            }
        }
        let mut found = BTreeSet::new();
        for (index, users) in by_index {
            self.client.batch_execute(statement::SAVEPOINT).await?;
            match self.find_in(index, &users).await {
                Ok(blockers) => found.extend(blockers),
                // A function of the index may fail on a row that is not stored yet.
                Err(TargetError::Sql(error)) if error.as_db_error().is_some() => {
                    self.client.batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?;
                }
                Err(error) => return Err(error),
            }
            (self.progressed)();
        }
        Ok(found)
    }

    async fn find_in(&self, index: &str, users: &[&User]) -> Result<Vec<UserId>, TargetError> {
        let rows = self.client.query_typed(INDEX_KEYS, &[(&index, Type::TEXT)]).await?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let predicate: Option<String> = first.try_get(4)?;
        let keys = rows.iter().map(|row| {
            Ok::<_, tokio_postgres::Error>(IndexKey {
                expression: row.try_get(0)?,
                operator: row.try_get(1)?,
                collation: row.try_get(2)?,
                joins_nulls: row.try_get(3)?,
            })
        });
        let keys: Vec<IndexKey> = keys.collect::<Result<_, _>>()?;
        let sql = blockers_statement(&keys, predicate.as_deref());
        let columns = Columns::of_users(users);
        let rows = self.client.query_typed(&sql, &columns.parameters()).await?;
        Ok(rows.iter().map(|row| row.try_get::<_, &str>(0).map(Into::into)).collect::<Result<_, _>>()?)
    }
}

/// Finds deleted users whose keys conflict with those of new rows. The parameters are the arrays of whole rows. A new row
/// takes columns that are not ours from the row that it replaces.
fn blockers_statement(keys: &[IndexKey], predicate: Option<&str>) -> String {
    let expressions: Vec<String> =
        keys.iter().enumerate().map(|(n, key)| format!("({}){} AS k{n}", key.expression, key.collation)).collect();
    let expressions = expressions.join(", ");
    let conflicts: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(n, IndexKey { operator, joins_nulls, .. })| match joins_nulls {
            true => format!("(o.k{n} {operator} n.k{n} OR o.k{n} IS NULL AND n.k{n} IS NULL)"),
            false => format!("o.k{n} {operator} n.k{n}"),
        })
        .collect();
    let predicate = predicate.map_or_else(|| "true".to_owned(), |predicate| format!("({predicate})"));
    format!(
        "WITH v AS MATERIALIZED (SELECT unnest($1::text[]) AS id, unnest($2::text[])::jsonb AS raw_json, \
           unnest($3::text[]) AS name, unnest($4::text[]) AS email, unnest($5::timestamptz[]) AS created_at, \
           unnest($6::timestamptz[]) AS updated_at, unnest($7::timestamptz[]) AS deleted_at, \
           unnest($8::bool[]) AS derived), \
         r AS MATERIALIZED (SELECT (jsonb_populate_record(u, to_jsonb(v) - 'derived')).* \
           FROM v LEFT JOIN neon_auth.users_sync u ON u.id = v.id), \
         o AS (SELECT id AS user_id, {expressions} FROM neon_auth.users_sync \
           WHERE deleted_at IS NOT NULL AND {predicate}), \
         n AS (SELECT id AS user_id, {expressions} FROM r WHERE {predicate}) \
         SELECT DISTINCT o.user_id::text FROM o JOIN n ON o.user_id <> n.user_id AND {}",
        conflicts.join(" AND ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_found_as_the_index_finds_them() {
        let key = |joins_nulls| IndexKey {
            expression: "lower(email)".into(),
            operator: "OPERATOR(pg_catalog.=)".into(),
            collation: " COLLATE pg_catalog.\"default\"".into(),
            joins_nulls,
        };
        let sql = blockers_statement(&[key(false), key(true)], Some("deleted_at IS NULL"));
        assert!(sql.contains("(lower(email)) COLLATE pg_catalog.\"default\" AS k0"), "{sql}");
        assert!(sql.contains("o.k0 OPERATOR(pg_catalog.=) n.k0 AND (o.k1 OPERATOR(pg_catalog.=) n.k1 OR"), "{sql}");
        assert!(sql.contains("FROM r WHERE (deleted_at IS NULL)"), "{sql}");
    }
}
