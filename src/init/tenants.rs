//! Reads which tenants have users at the source.

use crate::map::{Rules, tenant_expression};
use crate::pg::describe;
use crate::replicator::source::mapping::MappedRelation;
use crate::snapshot::source_session;
use tokio_postgres::Client;

/// Keys that are proposed as tenants: a longer list is not written by hand.
const MAX_KEYS: usize = 50;
/// Time for reading a large table.
const TIMEOUT: &str = "SET statement_timeout = '30s'";

/// A key, and how many rows have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyCount {
    pub(crate) key: String,
    pub(crate) users: i64,
}

/// The tenants that a source has users of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The mapping has no tenant: all users belong to one.
    One,
    /// At most [`MAX_KEYS`] keys with the most users, and how many others there are.
    Counted { largest: Vec<KeyCount>, others: i64 },
    /// They cannot be read, for this reason.
    Unknown(String),
}

/// Counts the users of each tenant. Row security makes the result `Unknown` instead of incomplete.
pub(crate) async fn read_keys(client: &Client, rules: &Rules, mapped: &MappedRelation) -> Keys {
    let Some(key) = tenant_expression(rules, &mapped.relation) else { return Keys::One };
    let from = &mapped.from;
    let sql = format!(
        "SELECT k, count(*), count(*) OVER () FROM (SELECT {key} AS k FROM {from}) s WHERE k <> ''
         GROUP BY k ORDER BY count(*) DESC, k LIMIT {MAX_KEYS}"
    );
    let counted = async {
        source_session(client).await?;
        client.batch_execute(TIMEOUT).await?;
        let (mut largest, mut total) = (Vec::new(), 0);
        for row in client.query_typed(&sql, &[]).await? {
            largest.push(KeyCount { key: row.try_get(0)?, users: row.try_get(1)? });
            total = row.try_get(2)?;
        }
        let others = total - i64::try_from(largest.len()).unwrap_or_default();
        Ok(Keys::Counted { largest, others })
    };
    counted.await.unwrap_or_else(|error: tokio_postgres::Error| Keys::Unknown(describe(&error)))
}
